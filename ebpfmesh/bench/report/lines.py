# SPDX-License-Identifier: BSD-2-Clause
"""Draws figures as lines over an axis, each with its path's name at the end."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from ebpfmesh.bench.kinds import AXES
from ebpfmesh.bench.report.drawing import WIDTH, line, longest, look, scale, whiskers
from ebpfmesh.bench.report.pictures import PERCENTILES, Picture, places
from ebpfmesh.bench.stats.analyse import SUBJECT, Figure
from ebpfmesh.bench.words import short

LINES_HEIGHT, PANEL_HEIGHT = 2.9, 1.9
"""Inches, of a picture, and of a panel where there are several."""
LABEL_GAP = 10.5
"""Points between the labels beside lines."""
MOST_TICKS = 8
TICK_GAP = 0.13
"""Part of an axis that the number of a tick needs."""


def draw_lines(picture: Picture) -> Canvas:
    """A line for each path over the axis; a panel for each percentile of a latency."""
    kinds = picture.kinds
    height = LINES_HEIGHT if len(kinds) == 1 else PANEL_HEIGHT
    canvas, panels = _stacked(len(kinds), height, longest(picture.paths))
    for axes, kind in zip(panels, kinds, strict=True):
        _draw_panel(axes, [figure for figure in picture.figures if figure.kind == kind])
        axes.set_ylabel(picture.unit)
        if len(kinds) > 1:
            axes.set_title(PERCENTILES[kind], loc="left", fontweight="bold")
    panels[-1].set_xlabel(AXES[picture.figures[0].axis].title)
    return canvas


def _stacked(panels: int, height: float, right: float) -> tuple[Canvas, Sequence[Axes]]:
    """Panels above each other that share their axis, with room at the right for labels."""
    whole = panels * height + 0.1
    canvas = Canvas(figsize=(WIDTH, whole))
    grid = canvas.subplots(panels, 1, sharex=True, squeeze=False)
    canvas.subplots_adjust(
        left=0.68 / WIDTH, right=1 - (right + 0.2) / WIDTH,
        bottom=0.48 / whole, top=1 - 0.2 / whole, hspace=0.3,
    )  # fmt: skip
    return canvas, list(grid[:, 0])


def _draw_panel(axes: Axes, figures: Sequence[Figure]) -> None:
    axis, ticks = figures[0].axis, places(figures)
    at = _positions(axes, axis, ticks)
    ends: dict[str, tuple[float, float]] = {}
    for path in dict.fromkeys(figure.path for figure in figures):
        mine = [figure for figure in figures if figure.path == path]
        style = line(path)
        if mine[0].everywhere:
            low, high, middle = mine[0].low, mine[0].high, mine[0].median
            axes.axhspan(low, high, color=style["color"], alpha=0.12, lw=0)
            axes.axhline(middle, color=style["color"], ls=style["ls"], lw=style["lw"])
            ends[path] = (at[ticks[-1]], middle)
            continue
        spread = whiskers(mine)
        axes.errorbar(
            [at[f.at] for f in mine], [f.median for f in mine], yerr=spread,
            capsize=2, elinewidth=0.9, **style,
        )  # fmt: skip
        ends[path] = (at[mine[-1].at], mine[-1].median)
    scale(axes, figures, "y")
    _label_ends(axes, ends)


def _positions(axes: Axes, axis: str, ticks: Sequence[int]) -> dict[int, float]:
    """Where places stand: at equal distances what a path is built of, else by their logarithm."""
    if AXES[axis].built:
        axes.set_xticks(range(len(ticks)), [short(tick) for tick in ticks])
        axes.set_xlim(-0.25, len(ticks) - 0.75)
        return {tick: float(number) for number, tick in enumerate(ticks)}
    axes.set_xscale("log")
    shown = thin_out(ticks)
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(round(value))))
    axes.xaxis.set_minor_locator(FixedLocator([tick for tick in ticks if tick not in shown]))
    axes.xaxis.set_minor_formatter(NullFormatter())
    step = (ticks[-1] / ticks[0]) ** 0.05
    axes.set_xlim(ticks[0] / step, ticks[-1] * step)
    return {tick: float(tick) for tick in ticks}


def thin_out(ticks: Sequence[int]) -> list[int]:
    """The ticks that get a number on a logarithmic axis, those that would touch left out.

    Of many only the powers of ten, if there are some. The first and the last have one.
    """
    tens = [tick for tick in ticks if str(tick).rstrip("0") == "1"]
    wanted = list(tens if len(ticks) > MOST_TICKS and len(tens) > 1 else ticks)
    gap = (wanted[-1] / wanted[0]) ** TICK_GAP
    found = wanted[:1]
    for tick in wanted[1:-1]:
        if found[-1] * gap <= tick and tick * gap <= wanted[-1]:
            found.append(tick)
    return found + wanted[1:][-1:]


def _label_ends(axes: Axes, ends: dict[str, tuple[float, float]]) -> None:
    """The name of each line at the right, none on another, tied to the line's end."""
    canvas = axes.figure
    height = axes.get_position().height * canvas.get_size_inches()[1] * 72  # type: ignore[union-attr]
    to_axes = axes.transData + axes.transAxes.inverted()
    tips = {path: tuple(to_axes.transform(end)) for path, end in ends.items()}
    heights = spread_out([y * height for _, y in tips.values()], LABEL_GAP, height)
    for (path, (x, y)), labelled in zip(tips.items(), heights, strict=True):
        beside = labelled / height
        axes.plot(
            [x, 1.015, 1.035], [y, y if x > 0.9 else beside, beside], transform=axes.transAxes,
            color=look(path).colour, lw=0.8, clip_on=False, ls=(0, (1, 1.5)) if x < 0.9 else "-",
            alpha=0.8, zorder=2,
        )  # fmt: skip
        axes.text(
            1.045, beside, path, transform=axes.transAxes, va="center_baseline", fontsize=8.5,
            fontweight="bold" if path == SUBJECT else "normal",
        )  # fmt: skip


def spread_out(wanted: Sequence[float], gap: float, top: float) -> list[float]:
    """Positions near ``wanted``, at least ``gap`` apart and in the same order, up to ``top``.

    They go below 0 where there is no room.
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    found = [0.0] * len(wanted)
    lowest = float("-inf")
    for index in order:
        lowest = found[index] = max(wanted[index], lowest + gap)
    above = top + gap
    for index in reversed(order):
        above = found[index] = min(found[index], above - gap)
    return found
