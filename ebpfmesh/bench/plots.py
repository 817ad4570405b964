# SPDX-License-Identifier: BSD-2-Clause
"""The pictures of a report: one per kind of traffic, a line per path over the number of services.

A path without services is a dashed line across; whiskers go from the least to the greatest round.
The SVGs take their ink from the page, so that they suit a light and a dark one.
"""

from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from ebpfmesh.bench.analyse import KINDS, SUBJECT, Figure

INK = "#010203"
"""Stands for the page's text colour: replaced by currentColor in SVGs."""
COLOURS = {
    "mesh": "#0f9d76",
    "iptables": "#d9822b",
    "iptables-each-packet": "#d1495b",
    "iptables-append": "#b58900",
    "routed": "#8a94a6",
    "redirect_peer": "#5b8def",
}
OTHER_COLOUR = "#a06cd5"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
}
LOG_SPREAD = 8
"""Greatest ÷ least median from which a vertical axis is logarithmic."""


def colour(path: str) -> str:
    """The colour of a path, the same in every picture."""
    return COLOURS.get(path, OTHER_COLOUR)


def svg(figures: Sequence[Figure]) -> str:
    """The picture of one kind of traffic as an SVG element to be put into a page."""
    traffic = figures[0].traffic
    out = StringIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": traffic}):
        canvas = Canvas(figsize=(4.6, 3.0), layout="constrained")
        _draw(canvas.subplots(), figures)
        canvas.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")


def save_png(figures: Sequence[Figure], file: Path) -> None:
    """All kinds of traffic in one picture, with a legend, on white."""
    kinds = list(dict.fromkeys(figure.traffic for figure in figures))
    rows = -(-len(kinds) // 2)
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(10, 3.4 * rows + 0.5), layout="constrained")
        grid = canvas.subplots(rows, 2, squeeze=False).flat
        for axes, kind in zip(grid, kinds, strict=False):
            _draw(axes, [figure for figure in figures if figure.traffic == kind])
            axes.set_title(KINDS[kind].title, fontsize=10, loc="left")
        for axes in list(grid)[len(kinds) :]:
            axes.set_visible(False)
        handles, labels = canvas.axes[0].get_legend_handles_labels()
        canvas.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
        canvas.savefig(file, dpi=150)


def _draw(axes: Axes, figures: Sequence[Figure]) -> None:
    """Draw one kind of traffic; the numbers of services stand at equal distances."""
    sizes = sorted({figure.services for figure in figures if figure.services})
    for path in dict.fromkeys(figure.path for figure in figures):
        mine = [figure for figure in figures if figure.path == path]
        if mine[0].services == 0:
            axes.axhline(mine[0].median, color=colour(path), ls=(0, (4, 3)), lw=1.4, label=path)
            continue
        medians = [figure.median for figure in mine]
        least = [figure.median - figure.least for figure in mine]
        most = [figure.greatest - figure.median for figure in mine]
        axes.errorbar(
            [sizes.index(figure.services) for figure in mine],
            medians,
            yerr=[least, most],
            color=colour(path),
            marker="o",
            ms=5,
            lw=2,
            zorder=3 if path == SUBJECT else 2,
            capsize=3,
            elinewidth=1,
            label=path,
        )
    axes.set_xticks(range(len(sizes)), [f"{size:,}".replace(",", " ") for size in sizes])
    axes.set_xlim(-0.25, max(len(sizes) - 0.75, 0.25))
    axes.set_xlabel("services")
    axes.set_ylabel(figures[0].unit)
    everything = [figure.median for figure in figures]
    if max(everything) > LOG_SPREAD * min(everything):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _position: f"{value:g}")
    else:
        axes.set_ylim(bottom=0, top=max(figure.greatest for figure in figures) * 1.08)
    axes.grid(axis="y", color="#808080", alpha=0.25, lw=0.6)
