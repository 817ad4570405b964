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

from ebpfmesh.bench.results import Measurement, Results

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
    "crr": Kind("new connections per second", True),
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
    ("pps", 1, "iptables"): Goal(True, 2.5),
    ("pps", 1000, "iptables"): Goal(True, 30),
    ("stream", 1, "routed"): Goal(True, 0.97),
    ("stream", 1000, "iptables"): Goal(True, 2),
    ("stream-two-cores", 1, "routed"): Goal(True, 0.97),
    ("stream-two-cores", 1000, "iptables"): Goal(True, 2),
    ("rr", 1, "iptables"): Goal(False, 0.95),
    ("rr", 1000, "iptables"): Goal(False, 0.5),
}
"""By kind of traffic, number of services, and the path compared with; both iptables are meant."""


COSTS = {
    "up": ("up of two functions, cold, the whole command", Goal(False, 1.5)),
    "attach": ("attach an existing namespace, 500 functions up", Goal(False, 20)),
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
    """The mesh divided by another path, round by round."""

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
        for path, sizes in scenario.paths.items()
        for size in sizes
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
    """The mesh beside every other path, at every number of services it was measured with."""
    paths = results.scenario.paths
    return tuple(
        ratio
        for traffic in results.scenario.seconds
        for size in paths.get(SUBJECT, ())
        for base, sizes in paths.items()
        if base != SUBJECT
        for ratio in _ratio(results, traffic, size, base, size if size in sizes else 0)
    )


def _ratio(
    results: Results, traffic: str, services: int, base: str, base_services: int
) -> Iterator[Ratio]:
    above = _by_round(results, traffic, SUBJECT, services)
    below = _by_round(results, traffic, base, base_services)
    shared = sorted(above.keys() & below.keys())
    if shared:
        values = np.array([above[number] / below[number] for number in shared])
        goal = GOALS.get((traffic, services, base.removesuffix("-each-packet")))
        middle, low, high = median_interval(values)
        yield Ratio(traffic, services, base, middle, low, high, len(shared), goal)


def _by_round(results: Results, traffic: str, path: str, services: int) -> dict[int, float]:
    return {
        m.round: m.value
        for m in results.measurements
        if (m.traffic, m.path, m.services) == (traffic, path, services) and m.value is not None
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
