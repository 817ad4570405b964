# SPDX-License-Identifier: BSD-2-Clause
"""Draws figures as dots: a row for each path, or for whatever a picture names."""

import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import blended_transform_factory

from ebpfmesh.bench.report.drawing import (
    GRID,
    INK,
    PAGE,
    WIDTH,
    line,
    log_ticks,
    longest,
    scale,
    tick,
    whiskers,
)
from ebpfmesh.bench.report.pictures import PERCENTILES, Picture, Point, Row, places
from ebpfmesh.bench.stats.analyse import SUBJECT, Figure
from ebpfmesh.bench.words import place

ROW_HEIGHT, TOP, BARE_TOP, GAP, BOTTOM = 0.215, 0.3, 0.06, 0.32, 0.5
"""Inches."""
HEAD, BOLD = 26, 5 * " "
"""Characters of a line of a group's title, which must not reach the axis, and what it is wider."""
SHIFT = 0.16
"""Of a row, by which points in it stand apart."""
LEGEND: dict[str, Any] = {
    "frameon": False, "fontsize": 8, "handletextpad": 0.1, "columnspacing": 1.0, "borderpad": 0.1,
}  # fmt: skip


def draw_dots(picture: Picture) -> Canvas:
    """A row for each path, the best on top, with its figures at one or two places.

    Percentiles of a latency stand in a row together, in a panel for each place.
    """
    figures, ticks = picture.figures, places(picture.figures)
    panels: list[tuple[str, Sequence[Figure]]] = [("", figures)]
    if len(picture.kinds) > 1 and ticks:
        panels = [
            (place(figures[0].axis, at), [f for f in figures if f.everywhere or f.at == at])
            for at in ticks
        ]
    rows = [_best_first(found, picture) for _, found in panels]
    canvas, grid = _sheet(rows, top=TOP if len(ticks) > 1 or len(picture.kinds) > 1 else BARE_TOP)
    for axes, (title, found), paths in zip(grid, panels, rows, strict=True):
        _draw_panel(axes, found, paths, picture)
        axes.set_title(title, loc="left", fontweight="bold")
        scale(axes, figures, "x")
    grid[-1].set_xlabel(picture.unit)
    _explain(grid[0], picture, ticks)
    return canvas


def _sheet(rows: Sequence[Sequence[str]], *, top: float = TOP) -> tuple[Canvas, Sequence[Axes]]:
    """Panels above each other, as high as their rows need, with room at the left for names."""
    heights = [(len(names) + 0.2) * ROW_HEIGHT for names in rows]
    gaps = GAP * (len(rows) - 1)
    whole = top + sum(heights) + gaps + BOTTOM
    canvas = Canvas(figsize=(WIDTH, whole))
    left = longest([name for names in rows for name in names]) + 0.15
    panels: list[Axes] = []
    above = whole - top
    for height in heights:
        box = (left / WIDTH, (above - height) / whole, 1 - (left + 0.2) / WIDTH, height / whole)
        panels.append(canvas.add_axes(box, sharex=panels[0] if panels else None))
        above -= height + GAP
    for axes in panels[:-1]:
        axes.tick_params(axis="x", labelbottom=False)
    return canvas, panels


def _best_first(figures: Sequence[Figure], picture: Picture) -> list[str]:
    """The paths, by their last figure of the first kind."""
    first = figures[0].kind
    last = {figure.path: figure.median for figure in figures if figure.kind == first}
    return sorted(last, key=lambda path: last[path], reverse=picture.is_good_upwards)


def _draw_panel(
    axes: Axes, figures: Sequence[Figure], paths: Sequence[str], picture: Picture
) -> None:
    ticks = places(picture.figures)
    for row, path in enumerate(paths):
        mine = [figure for figure in figures if figure.path == path]
        style = line(path) | {"ls": "none"}
        heights = [row + _shift(figure, ticks, picture) for figure in mine]
        axes.plot([f.median for f in mine], heights, color=style["color"], lw=1.6, alpha=0.55)
        for figure, height in zip(mine, heights, strict=True):
            several = len(picture.kinds) > 1
            inside = _fill_of_kind(figure) if several else _fill(figure, ticks)
            axes.errorbar(
                [figure.median], [height], xerr=whiskers([figure]), elinewidth=0.9, capsize=2,
                **style | inside,
            )  # fmt: skip
    _name_rows(axes, paths)


def _shift(figure: Figure, ticks: Sequence[int], picture: Picture) -> float:
    """The first of two places stands above the other, so that neither hides it."""
    if len(ticks) < 2 or len(picture.kinds) > 1 or figure.everywhere:
        return 0
    return SHIFT if figure.at == ticks[-1] else -SHIFT


def _fill(figure: Figure, ticks: Sequence[int]) -> dict[str, Any]:
    """How a marker is filled: not at the first of two places, by half if both are meant."""
    if len(ticks) > 1 and figure.everywhere:
        return {"fillstyle": "left", "markerfacecoloralt": PAGE}
    return {"mfc": PAGE} if len(ticks) > 1 and figure.at == ticks[0] else {}


def _fill_of_kind(figure: Figure) -> dict[str, Any]:
    """The median is filled, the next percentile is not, the last is a stroke."""
    number = list(PERCENTILES).index(figure.kind)
    return ({}, {"mfc": PAGE}, {"marker": "|", "mew": 1.8, "ms": 7})[number]


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Names at the left, from the top; the mesh's in bold."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    for label in axes.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() == SUBJECT else "normal")


def _explain(axes: Axes, picture: Picture, ticks: Sequence[int]) -> None:
    """Say what the ways to fill a marker mean, where there are several."""
    plain: dict[str, Any] = {"marker": "o", "ls": "none", "color": INK, "ms": 5}
    hollow: dict[str, Any] = plain | {"mfc": PAGE}
    if len(picture.kinds) > 1:
        stroke = plain | {"marker": "|", "mew": 1.8, "ms": 7}
        shown = zip((plain, hollow, stroke), PERCENTILES.values(), strict=True)
    elif len(ticks) > 1:
        axis = picture.figures[0].axis
        names = [place(axis, ticks[0]), place(axis, ticks[-1]), "the same at both"]
        half = plain | {"fillstyle": "left", "markerfacecoloralt": PAGE}
        styles = [hollow, plain]
        if any(figure.everywhere for figure in picture.figures):
            styles.append(half)
        shown = zip(styles, names, strict=False)
    else:
        return
    axes.legend(
        handles=[Line2D([], [], label=name, **style) for style, name in shown],
        loc="lower right", bbox_to_anchor=(1.02, 0.99), ncols=3, **LEGEND,
    )  # fmt: skip


def draw_rows(picture: Picture) -> Canvas:
    """A row for whatever the picture names, with a point for each path; titles above groups."""
    several = any(len(row.points) > 1 for row in picture.rows)
    groups = dict.fromkeys(row.group for row in picture.rows)
    rows = [(textwrap.wrap(g, HEAD), [r for r in picture.rows if r.group == g]) for g in groups]
    names = [text + BOLD for head, _ in rows for text in head]
    names += [row.label for row in picture.rows]
    canvas, (axes,) = _sheet([names], top=TOP if several else BARE_TOP)
    beside = blended_transform_factory(canvas.transFigure, axes.transData)
    labels: list[str] = []
    for head, found in rows:
        for text in head:
            axes.text(0.012, len(labels), text, fontweight="bold", va="center", transform=beside)
            labels.append("")
        for row in found:
            _draw_row(axes, len(labels), row)
            labels.append(row.label)
    _name_rows(axes, labels)
    _scale_rows(axes, [point for row in picture.rows for point in row.points], picture)
    axes.set_xlabel(picture.unit)
    if several:
        _explain_paths(axes, picture)
    return canvas


def _draw_row(axes: Axes, number: int, row: Row) -> None:
    for index, point in enumerate(row.points):
        axes.errorbar(
            [point.value], [number + SHIFT * (2 * index - len(row.points) + 1)],
            xerr=([point.value - point.low], [point.high - point.value]),
            elinewidth=1, capsize=2, **line(point.path) | {"ls": "none", "ms": 5},
        )  # fmt: skip


def _scale_rows(axes: Axes, points: Sequence[Point], picture: Picture) -> None:
    """Logarithmic about where neither side is better; else from nothing."""
    axes.grid(axis="x", **GRID)
    low, high = min(point.low for point in points), max(point.high for point in points)
    if picture.even is None:
        axes.set_xlim(0, high * 1.06)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
        return
    low, high = min(low, picture.even), max(high, picture.even)
    room = max((high / low) ** 0.05, 1.02)
    axes.set_xscale("log")
    axes.set_xlim(low / room, high * room)
    log_ticks(axes, "x", high / low)
    axes.axvline(picture.even, color=INK, lw=1)


def _explain_paths(axes: Axes, picture: Picture) -> None:
    """Name the paths above the rows."""
    axes.legend(
        handles=[Line2D([], [], label=p, **line(p) | {"ls": "none"}) for p in picture.paths],
        loc="lower right", bbox_to_anchor=(1.02, 0.99), ncols=3, **LEGEND,
    )  # fmt: skip
