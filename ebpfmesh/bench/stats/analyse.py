# SPDX-License-Identifier: BSD-2-Clause
"""What the raw results say: a pure function of them, the same on every call.

A figure is the median over the rounds, with an exact interval (``intervals``). A ratio is taken
within each round, where both sides met the same machine, and its median is given with such an
interval. What lies on both sides of a goal, or of 1, is unclear: it is neither a success nor a
loss; and so is what was measured in fewer than LEAST_ROUNDS rounds.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ebpfmesh.bench.kinds import AXES, KINDS
from ebpfmesh.bench.results import Measurement, Results
from ebpfmesh.bench.stats.intervals import LEAST_ROUNDS, of_median
from ebpfmesh.bench.words import place
from ebpfmesh.bench.workload import MAX_SERVICES
from ebpfmesh.errors import NotFound

SUBJECT = "mesh"
RIVALS = ("iptables", "nftables")
"""What people use instead: the paths that the summary is about."""
NOISY = 0.2
"""Width of an interval, relative to the ratio, from which it is called noisy."""

Verdict = Literal["holds", "fails", "unclear", ""]
Conclusion = Literal["better", "worse", "unclear"]


@dataclass(frozen=True)
class Goal:
    """A bound for the ratio of the mesh to another path."""

    at_least: bool
    bound: float

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}"

    def judge(self, low: float, high: float) -> Verdict:
        """What an interval says about the goal."""
        met = (low >= self.bound, high >= self.bound)
        if not self.at_least:
            met = (low <= self.bound, high <= self.bound)
        if all(met):
            return "holds"
        return "unclear" if any(met) else "fails"


GOALS = {
    ("pps", "services", 1, "redirect_peer"): Goal(True, 0.85),
    ("pps-100000-flows", "services", 1, "redirect_peer"): Goal(True, 0.55),
    ("pps", "services", 1, "iptables"): Goal(True, 2.5),
    ("pps", "services", 1000, "iptables"): Goal(True, 30),
    ("stream", "services", 1, "routed"): Goal(True, 0.97),
    ("stream", "services", 1000, "iptables"): Goal(True, 2),
    ("stream-two-cores", "services", 1, "routed"): Goal(True, 0.97),
    ("stream-two-cores", "services", 1000, "iptables"): Goal(True, 2),
    ("rr", "services", 1, "iptables"): Goal(False, 0.95),
    ("rr", "services", 1000, "iptables"): Goal(False, 0.5),
    ("pps", "flows", 60_000, "routed"): Goal(True, 1.05),
    ("pps", "flows", 100_000, "routed"): Goal(True, 1.05),
    ("connect", "services", 1, "routed"): Goal(True, 1),
    ("connect", "services", 1, "iptables"): Goal(True, 1.15),
    ("connect", "services", 1000, "iptables"): Goal(True, 2.2),
    ("add-service", "services", MAX_SERVICES, "iptables"): Goal(True, 100),
    ("add-rule", "services", MAX_SERVICES, "iptables"): Goal(True, 100),
}
"""By kind, axis, place, and the path compared with; both ways of iptables are meant."""
OTHER_BUILD = {True: Goal(True, 0.98), False: Goal(False, 1.02)}
"""What another build may be ahead in any figure, by whether more of it is better."""

SAME = {True: Goal(True, 0.95), False: Goal(False, 1.05)}
"""What the most services may do to a figure, by whether more of it is better."""
INSTEAD = {
    "pps-ipv6": ("pps", "IPv4", Goal(True, 0.9)),
    "pps-events": ("pps", "events off", None),
    "pps-capture": ("pps", "events off", None),
}
"""Kinds that the mesh is asked for instead of another, what that is called, and a goal for their
ratio."""


@dataclass(frozen=True)
class CostKind:
    """A figure of ``ebpfmesh.bench.measure.costs``, which is bounded itself."""

    title: str
    unit: str
    goal: Goal


COSTS = {
    "up": CostKind("up of two functions, as installed, the whole command", "s", Goal(False, 1.5)),
    "up-compiling": CostKind("the same where no programs are kept", "s", Goal(False, 1.5)),
    "attach": CostKind("attach an existing namespace, 500 functions up", "ms", Goal(False, 20)),
    "attach-clsact": CostKind("the same with hook = clsact", "ms", Goal(False, 20)),
    "help": CostKind("ebpfmesh --help", "s", Goal(False, 0.2)),
    "idle": CostKind(
        "idle mesh of 10 functions: what runs", "packets/s + processes", Goal(False, 0)
    ),
    "maps": CostKind("idle mesh of 10 functions: memory of its maps", "MiB", Goal(False, 32)),
}

Where = tuple[str, str, str, int]
"""Kind, path, axis, and the place on it."""


@dataclass(frozen=True)
class Figure:
    """A median over the rounds with its interval, and the least and the greatest of them."""

    kind: str
    path: str
    axis: str
    at: int
    median: float
    low: float
    high: float
    coverage: float
    least: float
    greatest: float
    rounds: int
    everywhere: bool
    """Whether the axis means nothing to the path: the figure is the same at any place on it."""

    @property
    def unit(self) -> str:
        """What it is counted in."""
        return (KINDS.get(self.kind) or COSTS[self.kind]).unit

    @property
    def is_noisy(self) -> bool:
        """Whether the rounds differ too much for a second digit."""
        return self.high - self.low > NOISY * self.median


@dataclass(frozen=True)
class Cost:
    """A figure of the control plane beside its goal, judged by the median."""

    title: str
    figure: Figure
    goal: Goal

    @property
    def verdict(self) -> Verdict:
        """Whether the median meets the goal."""
        return self.goal.judge(self.figure.median, self.figure.median)


@dataclass(frozen=True)
class Ratio:
    """The mesh divided by another path, or by itself otherwise, round by round."""

    kind: str
    axis: str
    at: int
    base: str
    ratio: float
    low: float
    high: float
    coverage: float
    rounds: int
    goal: Goal | None

    @property
    def is_enough(self) -> bool:
        """Whether there are enough rounds to conclude something."""
        return self.rounds >= LEAST_ROUNDS

    @property
    def verdict(self) -> Verdict:
        """Whether the goal holds; empty without one."""
        if not self.goal:
            return ""
        return self.goal.judge(self.low, self.high) if self.is_enough else "unclear"

    @property
    def is_noisy(self) -> bool:
        """Whether the rounds differ too much for a second digit."""
        return self.high - self.low > NOISY * self.ratio

    @property
    def conclusion(self) -> Conclusion:
        """Whether the mesh is better or worse, if all of the interval says so."""
        return conclude(
            self.low,
            self.high,
            more_is_better=KINDS[self.kind].more_is_better,
            enough=self.is_enough,
        )

    @property
    def advantage(self) -> tuple[float, float, float]:
        """How many times better the mesh is, and the ends of the interval: above 1 it is better."""
        if KINDS[self.kind].more_is_better:
            return self.ratio, self.low, self.high
        return inverse(self.ratio), inverse(self.high), inverse(self.low)

    @property
    def is_loss(self) -> bool:
        """Whether the mesh is worse, clearly."""
        return self.conclusion == "worse"


def inverse(value: float) -> float:
    """1 ÷ a ratio, where one may be of 0."""
    return 1 / value if value else math.inf


def conclude(low: float, high: float, *, more_is_better: bool, enough: bool) -> Conclusion:
    """What the interval of a ratio says, if it was made from ``enough`` rounds."""
    if not enough or low <= 1 <= high:
        return "unclear"
    return "better" if (low > 1) == more_is_better else "worse"


def values(results: Results) -> dict[Where, dict[int, float]]:
    """By what was measured, the value of each round; in the order of kinds, axes and places.

    Raises NotFound if there is something that this version does not know.
    """
    found: dict[Where, dict[int, float]] = {}
    for m in results.measurements:
        if (m.kind not in KINDS and m.kind not in COSTS) or (m.axis and m.axis not in AXES):
            what = f"the results have {m.kind} by {m.axis}, which this version does not know"
            raise NotFound(what, hint="measure again, or read them with the version they are of")
        if m.value is not None:
            found.setdefault((m.kind, m.path, m.axis, m.at), {})[m.round] = m.value
    kinds, axes = [*KINDS, *COSTS], ["", *AXES]
    paths = list(results.paths)
    return dict(
        sorted(
            found.items(),
            key=lambda item: (
                kinds.index(item[0][0]), axes.index(item[0][2]),
                paths.index(item[0][1]) if item[0][1] in paths else -1, item[0][3],
            ),
        )
    )  # fmt: skip


def figures(results: Results) -> tuple[Figure, ...]:
    """A figure for everything measured, but for the costs."""
    return tuple(_figures(results, costs=False))


def costs(results: Results) -> tuple[Cost, ...]:
    """The figures of the control plane, if they were taken."""
    return tuple(
        Cost(COSTS[figure.kind].title, figure, COSTS[figure.kind].goal)
        for figure in _figures(results, costs=True)
    )


def _figures(results: Results, *, costs: bool) -> Iterator[Figure]:
    for where, by_round in values(results).items():
        if (where[0] in COSTS) == costs:
            found = list(by_round.values())
            ends = min(found), max(found)
            same = is_everywhere(results, where)
            yield Figure(*where, *of_median(found), *ends, len(found), same)


def is_everywhere(results: Results, where: Where) -> bool:
    """Whether place 0 is all places: only on an axis of services or rules, to a path without."""
    _, path, axis, at = where
    if at or not axis or not AXES[axis].needs_services:
        return False
    return AXES[axis].least > 0 or path not in results.connections


def ratios(results: Results) -> tuple[Ratio, ...]:
    """The mesh beside every other path, wherever both were measured.

    A path without services is the same at any number of them.
    """
    return tuple(
        _ratio(where, found, _goal(*where)) for where, found in round_ratios(results).items()
    )


def round_ratios(results: Results) -> dict[Where, list[float]]:
    """The mesh divided by another path in each round; the path of a place is that other one."""
    found = values(results)
    made = {
        (kind, base, axis, at): round_by_round(
            above, _beside(results, found, (kind, base, axis, at))
        )
        for (kind, path, axis, at), above in found.items()
        if path == SUBJECT and _is_compared(kind)
        for base in results.paths
        if base != SUBJECT
    }
    return {where: divided for where, divided in made.items() if divided}


def _beside(
    results: Results, found: dict[Where, dict[int, float]], where: Where
) -> dict[int, float]:
    """The values there, or those of everywhere; empty if there are none."""
    everywhere = (*where[:3], 0)
    if where not in found and is_everywhere(results, everywhere):
        return found.get(everywhere, {})
    return found.get(where, {})


def _goal(kind: str, base: str, axis: str, at: int) -> Goal | None:
    if is_other_build(base):
        return OTHER_BUILD[KINDS[kind].more_is_better]
    return GOALS.get((kind, axis, at, base.removesuffix("-each-packet")))


def is_other_build(path: str) -> bool:
    """Whether a path is the mesh of another build: mesh@ and the name of its directory."""
    return path.startswith(f"{SUBJECT}@")


def beside_rivals(found: Iterable[Ratio]) -> list[Ratio]:
    """The ratios that a run is about: to what people use instead, and to another build.

    By CPU time only to another build: that is the finer figure, and else the same one again.
    """
    return [
        ratio
        for ratio in found
        if is_other_build(ratio.base) or (ratio.base in RIVALS and not KINDS[ratio.kind].by_cpu)
    ]


def inner_ratios(results: Results) -> tuple[Ratio, ...]:
    """The mesh beside itself: with the most of something and with the least, and as INSTEAD."""
    found = values(results)
    made: list[Ratio] = []
    for (kind, path, axis, at), above in found.items():
        if path != SUBJECT or not _is_compared(kind) or not AXES[axis].built:
            continue
        least = min(where[3] for where in found if where[:3] == (kind, path, axis))
        if at == max(where[3] for where in found if where[:3] == (kind, path, axis)) > least:
            divided = round_by_round(above, found[kind, path, axis, least])
            goal = SAME[KINDS[kind].more_is_better]
            made.append(_ratio((kind, place(axis, least), axis, at), divided, goal))
    for kind, (other, name, goal_) in INSTEAD.items():
        for where, above in found.items():
            if where[:2] == (kind, SUBJECT) and (below := found.get((other, *where[1:]))):
                made.append(_ratio((kind, name, *where[2:]), round_by_round(above, below), goal_))
    return tuple(made)


def _is_compared(kind: str) -> bool:
    return kind in KINDS and KINDS[kind].compared


def round_by_round(above: dict[int, float], below: dict[int, float]) -> list[float]:
    """One divided by the other, in each round that has both; nothing by nothing is the same."""
    return [
        above[n] / below[n] if below[n] else math.inf if above[n] else 1.0
        for n in sorted(above.keys() & below.keys())
    ]


def _ratio(where: Where, divided: Sequence[float], goal: Goal | None) -> Ratio:
    """Of what is at ``where``, whose path is the base."""
    kind, base, axis, at = where
    return Ratio(kind, axis, at, base, *of_median(divided), len(divided), goal)


def failures(results: Results) -> tuple[Measurement, ...]:
    """Measurements that failed, which no figure contains."""
    return tuple(m for m in results.measurements if m.value is None)


def losses(results: Results) -> tuple[Ratio, ...]:
    """Where the mesh is clearly worse than another path."""
    return tuple(ratio for ratio in ratios(results) if ratio.is_loss)


@dataclass(frozen=True)
class Once:
    """Something measured once that took more of the mesh than of another path: at its worst."""

    kind: str
    base: str
    axis: str
    at: int
    mesh: float
    other: float


def once(results: Results) -> tuple[Once, ...]:
    """What was measured once and is worse of the mesh, by kind and path; without an interval."""
    found, worst = values(results), dict[tuple[str, str], Once]()
    for (kind, path, axis, at), own in found.items():
        if path != SUBJECT or kind not in KINDS or not KINDS[kind].once:
            continue
        for base in results.paths:
            for number, other in _beside(results, found, (kind, base, axis, at)).items():
                one = Once(kind, base, axis, at, own[number], other)
                before = worst.get((kind, base), one)
                if base != SUBJECT and one.mesh > one.other:
                    worst[kind, base] = max(before, one, key=lambda it: it.mesh - it.other)
    return tuple(worst.values())


def unclear(results: Results) -> tuple[Ratio, ...]:
    """Where the run is too noisy, or too short, to say which is better."""
    return tuple(
        r for r in ratios(results) if r.conclusion == "unclear" and (r.is_noisy or not r.is_enough)
    )
