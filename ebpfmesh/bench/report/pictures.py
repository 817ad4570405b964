# SPDX-License-Identifier: BSD-2-Clause
"""Which pictures a report has and what is in each: pure data, which ``plots`` draws.

A kind of figure that several paths have is drawn over its axis: as lines from three places on, else
as a row of dots for each path. The percentiles of a latency share a picture.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ebpfmesh.bench.kinds import AXES, KINDS
from ebpfmesh.bench.stats.analyse import COSTS, INSTEAD, SUBJECT, Figure, Ratio, beside_rivals
from ebpfmesh.bench.words import capital, place, plain

PERCENTILES = {"rr": "50 %", "rr-p99": "99 %", "rr-p999": "99.9 %"}
"""Kinds that are one latency, each as a part of the way up its distribution."""
LINES_FROM = 3
"""Places on an axis from which there is a line to see."""
Form = Literal["lines", "dots", "rows"]
Data = tuple[tuple[str, ...], list[tuple[object, ...]]]
"""Names of columns, and rows."""
FIGURE_COLUMNS = (
    "kind", "path", "axis", "at", "unit", "median", "low", "high", "least", "greatest", "rounds",
    "coverage",
)  # fmt: skip


@dataclass(frozen=True)
class Point:
    """Something in a row of a picture: a value, its interval, and whose it is."""

    path: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """A row of a picture that has several points in each, below the title of its group if any."""

    group: str
    label: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Picture:
    """A picture by the name of its files: of ``figures``, or of ``rows``."""

    name: str
    title: str
    better: str
    """Which way is better, in words."""
    form: Form
    unit: str
    figures: tuple[Figure, ...] = ()
    rows: tuple[Row, ...] = ()
    even: float | None = None
    """Where neither side is better."""

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths in it, in the order in which they come."""
        names = [f.path for f in self.figures] + [p.path for r in self.rows for p in r.points]
        return tuple(dict.fromkeys(names))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of its figures: more than one for the percentiles of a latency."""
        return tuple(dict.fromkeys(figure.kind for figure in self.figures))

    @property
    def is_good_upwards(self) -> bool:
        """Whether more is better."""
        return not self.better.startswith("less")

    def data(self) -> Data:
        """All that is drawn, as a table."""
        if not self.rows:
            return FIGURE_COLUMNS, [figure_row(figure) for figure in self.figures]
        rows: list[tuple[object, ...]] = [
            (row.group, row.label, p.path, p.value, p.low, p.high)
            for row in self.rows
            for p in row.points
        ]
        return ("group", "row", "path", self.unit, "low", "high"), rows


def figure_row(figure: Figure) -> tuple[object, ...]:
    """A figure by FIGURE_COLUMNS."""
    return tuple(getattr(figure, name) for name in FIGURE_COLUMNS)


def pictures(figures: Sequence[Figure], ratios: Sequence[Ratio]) -> tuple[Picture, ...]:
    """The pictures of a run, the one that sums it up first."""
    groups: dict[tuple[str, str], list[Figure]] = {}
    for figure in figures:
        family = "rr" if figure.kind in PERCENTILES else figure.kind
        groups.setdefault((family, figure.axis), []).append(figure)
    kinds = Counter(kind for kind, _ in groups)
    several = [
        _over_axis(kind, axis, group, say_axis=kinds[kind] > 1)
        for (kind, axis), group in groups.items()
        if len({figure.path for figure in group}) > 1 and not KINDS[kind].by_cpu
    ]
    return (*_beside_rivals(ratios), *several, *_of_the_mesh(figures))


def places(figures: Iterable[Figure]) -> list[int]:
    """The places that figures are at, but for those of everywhere."""
    return sorted({figure.at for figure in figures if not figure.everywhere})


def _over_axis(kind: str, axis: str, figures: Sequence[Figure], *, say_axis: bool) -> Picture:
    title = KINDS[kind].title
    kinds = dict.fromkeys(figure.kind for figure in figures)
    if len(kinds) > 1:
        title += ", " + ", ".join(PERCENTILES[name] for name in kinds)
    if say_axis:
        title += f", by {AXES[axis].title}"
    return Picture(
        f"{kind}-{axis}", _title(title), _better(kind),
        "lines" if len(places(figures)) >= LINES_FROM else "dots",
        KINDS[kind].unit, tuple(figures),
    )  # fmt: skip


def title_of(kind: str) -> str:
    """The title of a kind as a picture has it."""
    return _title((KINDS.get(kind) or COSTS[kind]).title)


def _title(text: str) -> str:
    return plain(capital(text))


def _better(kind: str) -> str:
    return f"{'more' if KINDS[kind].more_is_better else 'less'} is better"


def _beside_rivals(ratios: Sequence[Ratio]) -> Iterable[Picture]:
    """How many times better the mesh is than its rivals, at the ends of each axis."""
    wanted = [r for r in beside_rivals(ratios) if _can_be_drawn(r.advantage)]
    ends: dict[tuple[str, str], list[int]] = {}
    for ratio in wanted:
        ends.setdefault((ratio.kind, ratio.axis), []).append(ratio.at)
    rows: dict[tuple[str, str, int], list[Point]] = {}
    for ratio in wanted:
        mine = ends[ratio.kind, ratio.axis]
        if ratio.at in (min(mine), max(mine)):
            point = Point(ratio.base, *ratio.advantage)
            rows.setdefault((ratio.kind, ratio.axis, ratio.at), []).append(point)
    if rows:
        names = " and ".join(dict.fromkeys(ratio.base for ratio in wanted))
        yield Picture(
            "summary", f"The mesh beside {names}", "to the right of 1 the mesh is better",
            "rows", "times better", even=1.0,
            rows=tuple(
                Row(title_of(kind), place(axis, at), tuple(points))
                for (kind, axis, at), points in rows.items()
            ),
        )  # fmt: skip


def _of_the_mesh(figures: Sequence[Figure]) -> Iterable[Picture]:
    """The mesh beside itself, where it was asked for something else."""
    for other in dict.fromkeys(other for other, *_ in INSTEAD.values()):
        kinds = [other, *(kind for kind, found in INSTEAD.items() if found[0] == other)]
        found = {(f.kind, f.axis, f.at): f for f in figures if f.path == SUBJECT}
        for axis, at in [where[1:] for where in found if where[0] == other]:
            mine = [f for kind in kinds if (f := found.get((kind, axis, at)))]
            if len(mine) > 1:
                yield Picture(
                    f"{other}-{SUBJECT}-{axis}-{at}", f"The mesh itself, at {place(axis, at)}",
                    _better(other), "rows", KINDS[other].unit,
                    rows=tuple(
                        Row("", title_of(f.kind), (_point(f),)) for f in mine
                    ),
                )  # fmt: skip


def _point(figure: Figure) -> Point:
    return Point(figure.path, figure.median, figure.low, figure.high)


def _can_be_drawn(values: Iterable[float]) -> bool:
    """Whether a logarithmic axis has room for them."""
    return all(0 < value < math.inf for value in values)
