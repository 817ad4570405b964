# SPDX-License-Identifier: BSD-2-Clause
"""What the raw results say: a pure function of them, the same on every call.

A figure is the median over the rounds. A ratio is taken within each round, where both sides met
the same machine, and its median is given with a 95 % bootstrap interval. What lies on both sides
of a goal, or of 1, is unclear: it is neither a success nor a loss.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ebpfmesh.bench.results import Measurement, Place, Results
from ebpfmesh.bench.workload import MAX_SERVICES

SUBJECT = "mesh"
RESAMPLES = 4000
NOISY = 0.2
"""Width of an interval, relative to the ratio, from which it is called noisy."""

Verdict = Literal["holds", "fails", "unclear", ""]


@dataclass(frozen=True)
class Kind:
    """How a kind of traffic is spoken of, and whether more of it is better."""

    title: str
    more_is_better: bool


KINDS = {
    "pps": Kind("packets per second, 64 B UDP", True),
    "pps-answered": Kind("packets per second, answered flow", True),
    "stream": Kind("TCP bulk", True),
    "stream-two-cores": Kind("TCP bulk, two cores", True),
    "rr": Kind("half round trip", False),
    "crr": Kind("HTTP requests per second, one a connection", True),
    "connect": Kind("new connections per second", True),
    "pps-100000-flows": Kind("packets per second, 100 000 flows", True),
    "pps-ipv6": Kind("packets per second, IPv6", True),
    "pps-events": Kind("packets per second, `events` on", True),
    "pps-capture": Kind("packets per second, `capture` on", True),
    "add-service": Kind("services added per second", True),
    "add-rule": Kind("rules added per second", True),
    "add-service-command": Kind("services added per second, command line", True),
    "add-rule-command": Kind("rules added per second, command line", True),
}


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
    ("pps", 1, "redirect_peer"): Goal(True, 0.85),
    ("pps-100000-flows", 1, "redirect_peer"): Goal(True, 0.55),
    ("pps", 1, "iptables"): Goal(True, 2.5),
    ("pps", 1000, "iptables"): Goal(True, 30),
    ("stream", 1, "routed"): Goal(True, 0.97),
    ("stream", 1000, "iptables"): Goal(True, 2),
    ("stream-two-cores", 1, "routed"): Goal(True, 0.97),
    ("stream-two-cores", 1000, "iptables"): Goal(True, 2),
    ("rr", 1, "iptables"): Goal(False, 0.95),
    ("rr", 1000, "iptables"): Goal(False, 0.5),
    ("connect", 1, "iptables"): Goal(True, 1.15),
    ("connect", 1000, "iptables"): Goal(True, 2.2),
    ("add-service", MAX_SERVICES, "iptables"): Goal(True, 100),
    ("add-rule", MAX_SERVICES, "iptables"): Goal(True, 100),
}
"""By kind of traffic, number of services, and the path compared with; both iptables are meant."""


FEW, MANY = 1, MAX_SERVICES
SAME = {True: Goal(True, 0.95), False: Goal(False, 1.05)}
"""What MANY services may do to a figure, by whether more of it is better."""
INSTEAD = {
    "pps-ipv6": ("pps", "IPv4", Goal(True, 0.9)),
    "pps-events": ("pps", "events off", None),
    "pps-capture": ("pps", "events off", None),
}
"""Kinds of traffic that the mesh is asked for instead of another, what that is called, and a goal
for their ratio."""

COSTS = {
    "up": ("up of two functions, cold, the whole command", Goal(False, 1.5)),
    "attach": ("attach an existing namespace, 500 functions up", Goal(False, 20)),
    "attach-clsact": ("the same with hook = clsact", Goal(False, 20)),
    "help": ("ebpfmesh --help", Goal(False, 0.2)),
    "idle": ("idle mesh of 10 functions: what runs", Goal(False, 0)),
    "maps": ("idle mesh of 10 functions: memory of its maps", Goal(False, 32)),
}
"""The figures of ``ebpfmesh.bench.control``, which are bounded themselves."""


@dataclass(frozen=True)
class Figure:
    """A median over the rounds, and the least and the greatest of them."""

    traffic: str
    path: str
    services: int
    median: float
    least: float
    greatest: float
    unit: str
    rounds: int


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

    traffic: str
    services: int
    base: str
    ratio: float
    low: float
    high: float
    rounds: int
    goal: Goal | None

    @property
    def verdict(self) -> Verdict:
        """Whether the goal holds; empty without one."""
        return self.goal.judge(self.low, self.high) if self.goal else ""

    @property
    def is_noisy(self) -> bool:
        """Whether the rounds differ too much for a second digit."""
        return (self.high - self.low) / self.ratio > NOISY

    @property
    def is_loss(self) -> bool:
        """Whether the mesh is worse, clearly."""
        return self.high < 1 if KINDS[self.traffic].more_is_better else self.low > 1


def figures(results: Results) -> tuple[Figure, ...]:
    """A figure for everything measured, in the order of the scenario."""
    scenario = results.scenario
    return tuple(
        figure
        for traffic in scenario.seconds
        for path, size in scenario.places(traffic)
        for figure in _figure(results, traffic, path, size)
    )


def _figure(results: Results, traffic: str, path: str, services: int) -> Iterator[Figure]:
    found = [
        m
        for m in results.measurements
        if (m.traffic, m.path, m.services) == (traffic, path, services)
    ]
    values = [m.value for m in found if m.value is not None]
    if values:
        yield Figure(
            traffic, path, services, float(np.median(values)), min(values), max(values),
            next(m.unit for m in found if m.value is not None), len(values),
        )  # fmt: skip


def costs(results: Results) -> tuple[Cost, ...]:
    """The figures of the control plane, if they were taken."""
    return tuple(
        Cost(title, figure, goal)
        for name, (title, goal) in COSTS.items()
        for figure in _figure(results, name, SUBJECT, 0)
    )


def ratios(results: Results) -> tuple[Ratio, ...]:
    """The mesh beside every other path, at every number of services it was measured with.

    With MANY only beside paths that have as many; ``inner_ratios`` say what they do to it.
    """
    found: list[Ratio] = []
    for traffic in results.scenario.seconds:
        places = results.scenario.places(traffic)
        for size in (size for path, size in places if path == SUBJECT):
            above = _by_round(results, traffic, (SUBJECT, size))
            for base in dict.fromkeys(path for path, _ in places if path != SUBJECT):
                if size == MANY and (base, size) not in places:
                    continue
                below = _by_round(results, traffic, (base, size if (base, size) in places else 0))
                goal = GOALS.get((traffic, size, base.removesuffix("-each-packet")))
                found += _ratio(traffic, size, above, below, base, goal)
    return tuple(found)


def inner_ratios(results: Results) -> tuple[Ratio, ...]:
    """The mesh beside itself: with MANY services and with FEW, and with what is in INSTEAD."""
    found: list[Ratio] = []
    for traffic in results.scenario.seconds:
        many, few = (_by_round(results, traffic, (SUBJECT, size)) for size in (MANY, FEW))
        goal = SAME[KINDS[traffic].more_is_better]
        found += _ratio(traffic, MANY, many, few, f"{FEW} service", goal)
    for traffic, (other, name, instead_goal) in INSTEAD.items():
        for place in results.scenario.places(traffic):
            above, below = (_by_round(results, kind, place) for kind in (traffic, other))
            found += _ratio(traffic, place[1], above, below, name, instead_goal)
    return tuple(found)


def _ratio(
    traffic: str,
    services: int,
    above: dict[int, float],
    below: dict[int, float],
    base: str,
    goal: Goal | None,
) -> Iterator[Ratio]:
    shared = sorted(above.keys() & below.keys())
    if shared:
        values = np.array([above[number] / below[number] for number in shared])
        middle, low, high = median_interval(values)
        yield Ratio(traffic, services, base, middle, low, high, len(shared), goal)


def _by_round(results: Results, traffic: str, place: Place) -> dict[int, float]:
    return {
        m.round: m.value
        for m in results.measurements
        if m.traffic == traffic and (m.path, m.services) == place and m.value is not None
    }


def median_interval(
    values: "np.ndarray[tuple[int], np.dtype[np.float64]]",
) -> tuple[float, float, float]:
    """The median and its 95 % interval: percentiles of resampled medians, always the same."""
    draws = np.random.default_rng(0).choice(values, size=(RESAMPLES, len(values)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return float(np.median(values)), float(low), float(high)


def failures(results: Results) -> tuple[Measurement, ...]:
    """Measurements that failed, which no figure contains."""
    return tuple(m for m in results.measurements if m.value is None)


def losses(results: Results) -> tuple[Ratio, ...]:
    """Where the mesh is clearly worse than another path."""
    return tuple(ratio for ratio in ratios(results) if ratio.is_loss)
