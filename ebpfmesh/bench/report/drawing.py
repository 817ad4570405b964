# SPDX-License-Identifier: BSD-2-Clause
"""What all pictures share: how each path looks, type and ink, and the scales of values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ebpfmesh.bench.stats.analyse import SUBJECT, Figure, is_other_build
from ebpfmesh.bench.words import short

INK = "#010203"
"""Stands for the page's text colour: replaced by currentColor in SVGs."""
PAGE = "#fefdfc"
"""Stands for the colour behind a picture, in the same way."""


@dataclass(frozen=True)
class Look:
    """How a path is drawn.

    All colours have a contrast of 3 on the light page and on the dark one (WCAG 2, 1.4.11), and so
    cannot differ much in lightness: markers, dashes and names tell the paths apart as well.
    """

    colour: str
    marker: str
    dash: Any = "-"


LOOKS = {
    "mesh": Look("#009e73", "o"),
    "mesh@": Look("#3d8fb5", "H", (0, (5, 1))),
    "mesh-unmetered": Look("#2b98a8", "8", (0, (8, 1.5))),
    "mesh-counted": Look("#4f8a9e", "+", (0, (8, 1.5, 1, 1.5))),
    "mesh-swapped": Look("#2f9c5f", "1", (0, (3, 1.5, 1, 3))),
    "mesh-reattached": Look("#b0703a", "2", (0, (1, 4))),
    "iptables": Look("#d55e00", "s"),
    "iptables-legacy": Look("#b98200", "D", (0, (5, 1.5))),
    "iptables-each-packet": Look("#cf3f4f", "X", (0, (1.5, 1.5))),
    "iptables-append": Look("#a8705a", "p", (0, (5, 1.5, 1, 1.5))),
    "nftables": Look("#c65f96", "^", (0, (6, 1.5))),
    "routed": Look("#7d8f4e", "v", (0, (4, 2.5))),
    "bridge": Look("#9a7350", "<", (0, (4, 1.5, 1, 1.5))),
    "ovs": Look("#9a63c4", "P", (0, (2.5, 1.5))),
    "ovs-kernel": Look("#b07cd8", "h", (0, (6, 1.5, 1, 1.5, 1, 1.5))),
    "redirect_peer": Look("#2f8fd0", ">", (0, (3, 2))),
    "xdp_redirect": Look("#5a6fd0", "d", (0, (3, 1.5, 1, 1.5))),
    "loopback": Look("#7c858c", "*", (0, (1, 2))),
    "mesh-xdp": Look("#238e66", "x", (0, (4, 2, 1, 1.5))),
    "mesh-uplink": Look("#238e8e", "3", (0, (5, 2, 2, 2.5))),
    "mesh-deny": Look("#238e3e", "4", (0, (6, 2, 3, 1.5))),
    "mesh-af-xdp": Look("#318e23", "$c$", (0, (7, 2, 1, 2.5))),
    "mesh-af-xdp-python": Look("#598e23", "$p$", (0, (8, 2, 2, 1.5))),
    "devmap": Look("#4769d1", "$d$", (0, (9, 2, 3, 2.5))),
    "iptables-raw": Look("#cd3737", "$r$", (0, (10, 2, 1, 1.5))),
    "iptables-recvmmsg": Look("#ab5b2a", "$m$", (0, (11, 2, 2, 2.5))),
    "recvmmsg": Look("#8e7423", "$u$", (0, (12, 2, 3, 1.5))),
    "tpacket-v3": Look("#818e23", "$t$", (0, (13, 2, 1, 2.5))),
    "dpdk-af-packet": Look("#914fd3", "$P$", (0, (14, 2, 2, 1.5))),
    "dpdk-af-xdp": Look("#b531c7", "$X$", (0, (15, 2, 3, 2.5))),
    "dpdk-null": Look("#6e5fd7", "$0$", (0, (16, 2, 1, 1.5))),
}
OTHER = Look("#7c858c", ".", (0, (2, 2)))
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
}
WIDTH = 4.7
"""Inches, of every picture."""
CHARACTER = 0.068
"""Inches that a character of a label takes, on the average."""
LOG_SPREAD = 8
"""Greatest ÷ least median from which an axis of values is logarithmic."""
FEW_TENS = 4
"""Greatest ÷ least on a logarithmic axis below which it is numbered as a linear one is."""
GRID: dict[str, Any] = {"color": "#808080", "alpha": 0.28, "lw": 0.6}


def look(path: str) -> Look:
    """How a path is drawn, the same in every picture."""
    return LOOKS.get("mesh@" if is_other_build(path) else path, OTHER)


def line(path: str) -> dict[str, Any]:
    """What matplotlib is told about a path's line and markers."""
    chosen, first = look(path), path == SUBJECT
    return {
        "color": chosen.colour, "marker": chosen.marker, "ls": chosen.dash,
        "lw": 2.2 if first else 1.3, "ms": 6 if first else 5, "zorder": 4 if first else 3,
        "mec": chosen.colour, "mew": 1.1,
    }  # fmt: skip


def longest(labels: Sequence[str]) -> float:
    """Inches that the longest of some labels takes."""
    return CHARACTER * max(map(len, labels), default=0)


def whiskers(figures: Sequence[Figure]) -> tuple[list[float], list[float]]:
    """How far intervals go below the medians, and above."""
    return [f.median - f.low for f in figures], [f.high - f.median for f in figures]


def scale(axes: Axes, figures: Sequence[Figure], which: str) -> None:
    """From nothing up, or logarithmic where the medians are far apart."""
    medians = [figure.median for figure in figures]
    top, bottom = max(f.high for f in figures), min(f.low for f in figures)
    limits = axes.set_ylim if which == "y" else axes.set_xlim
    if min(medians) > 0 and bottom > 0 and max(medians) > LOG_SPREAD * min(medians):
        (axes.set_yscale if which == "y" else axes.set_xscale)("log")
        limits(bottom / 1.3, top * 1.3)
        log_ticks(axes, which, top / bottom)
    else:
        limits(0, top * 1.06 or 1)
        numbered = axes.yaxis if which == "y" else axes.xaxis
        numbered.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    axes.grid(axis="y" if which == "y" else "x", **GRID)


def log_ticks(axes: Axes, which: str, spread: float) -> None:
    """Numbers at powers of ten, and between them where there are few."""
    ticks = axes.yaxis if which == "y" else axes.xaxis
    steps = (1, 2, 5) if spread < 100 else (1, 3) if spread < 1000 else (1,)
    few = spread < FEW_TENS
    ticks.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]) if few else LogLocator(subs=steps))
    ticks.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    ticks.set_minor_locator(NullLocator())


def tick(value: float) -> str:
    """A number beside an axis: 0.02, 1.5, 2 000, 100 k."""
    whole = value >= 10 and value == round(value)
    return short(round(value)) if whole else f"{value:.6f}".rstrip("0").rstrip(".")
