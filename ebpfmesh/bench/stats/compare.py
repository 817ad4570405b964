# SPDX-License-Identifier: BSD-2-Clause
"""Two runs on the same machine, before and after a change: a pure function of their results.

A change is the ratio of the medians, after ÷ before, with the far ends of both intervals as its
own, since rounds of different runs have nothing in common (``intervals.of_quotient``). The machine
itself may have become slower or faster between the runs: ``drift`` says what the paths without the
mesh tell of that, and ``relative`` compares what does not depend on it, the ratios within rounds.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from ebpfmesh.bench.kinds import KINDS
from ebpfmesh.bench.results import Results
from ebpfmesh.bench.stats import analyse
from ebpfmesh.bench.stats.analyse import COSTS, SUBJECT, Conclusion, conclude
from ebpfmesh.bench.stats.intervals import LEAST_ROUNDS, of_quotient
from ebpfmesh.bench.words import place
from ebpfmesh.errors import UsageError

MACHINE = ("machine", "cpu", "cpus", "memory")
"""What must be the same of both runs, by its name in the environment."""
MEMORY_SPREAD = 0.03
"""How much of the memory may differ: kernels keep different amounts of it for themselves."""
OF_A_RUN = ("time", "load before", "generator", "connecting client")
"""What is different in every run."""


@dataclass(frozen=True)
class Change:
    """A figure after divided by the same figure before; ``base`` if it is a ratio to that path."""

    kind: str
    path: str
    axis: str
    at: int
    base: str
    everywhere: bool
    before: float
    after: float
    ratio: float
    low: float
    high: float
    coverage: float
    rounds_before: int
    rounds_after: int

    @property
    def more_is_better(self) -> bool:
        """Whether a greater figure is a better one."""
        known = KINDS.get(self.kind)
        return known.more_is_better if known else COSTS[self.kind].goal.at_least

    @property
    def verdict(self) -> Conclusion:
        """Better or worse, if all of the interval says so."""
        enough = min(self.rounds_before, self.rounds_after) >= LEAST_ROUNDS
        return conclude(self.low, self.high, more_is_better=self.more_is_better, enough=enough)

    @property
    def size(self) -> float:
        """How far the figure went, whichever way: 1 is not at all."""
        return max(self.ratio, 1 / self.ratio)

    @property
    def advantage(self) -> tuple[float, float, float]:
        """How many times better it became, and the ends of the interval."""
        if self.more_is_better:
            return self.ratio, self.low, self.high
        return 1 / self.ratio, 1 / self.high, 1 / self.low


@dataclass(frozen=True)
class Comparison:
    """All that two runs have in common, the greatest change first."""

    changes: tuple[Change, ...]
    relative: tuple[Change, ...]
    undivided: tuple[tuple[str, float, float], ...]
    """What changed from nothing or to it: in words, before and after."""
    environment: tuple[tuple[str, str, str], ...]
    """What differs: name, before and after."""
    drift: float | None
    """How many times better the paths without the mesh became: the median, if there are any."""
    alone: tuple[tuple[str, str], ...]
    """What only one of the runs has, and which."""


def compare(before: Results, after: Results) -> Comparison:
    """Compare two runs; raises UsageError if they are of different machines, or share no figure."""
    _need_same_machine(before.environment, after.environment)
    old, new = analyse.values(before), analyse.values(after)
    shared = [where for where in old if where in new]
    if not shared:
        raise UsageError(
            "the runs have no figure in common",
            hint="compare runs of the same scenario, or of some that share kinds and paths",
        )
    pairs = {where: ([*old[where].values()], [*new[where].values()]) for where in shared}
    changes = [
        _change(where, *pair, everywhere=analyse.is_everywhere(before, where))
        for where, pair in pairs.items()
        if _can_be_divided(*pair)
    ]
    others = [c.advantage[0] for c in changes if c.path != SUBJECT and c.kind in KINDS]
    return Comparison(
        changes=_greatest_first(changes),
        relative=_greatest_first(_relative(before, after)),
        undivided=tuple(
            (say(where), median(pair[0]), median(pair[1]))
            for where, pair in pairs.items()
            if not _can_be_divided(*pair) and median(pair[0]) != median(pair[1])
        ),
        environment=_differences(before.environment, after.environment),
        drift=median(others) if others else None,
        alone=(
            *((say(where), "before") for where in old if where not in new),
            *((say(where), "after") for where in new if where not in old),
        ),
    )


def _need_same_machine(before: Mapping[str, str], after: Mapping[str, str]) -> None:
    for name in MACHINE:
        old, new = before.get(name, ""), after.get(name, "")
        if old != new and not (name == "memory" and _is_near(old, new)):
            what = f"the runs are of different machines: {name} is {old or 'unknown'} before"
            raise UsageError(
                f"{what} and {new or 'unknown'} after",
                hint="run both on one machine: only the change may differ",
            )


def _is_near(old: str, new: str) -> bool:
    """Whether two amounts, as "16318480 kB", differ by less than MEMORY_SPREAD."""
    try:
        first, second = (float(text.removesuffix(" kB")) for text in (old, new))
    except ValueError:
        return False
    return abs(first - second) <= MEMORY_SPREAD * max(first, second)


def _differences(
    before: Mapping[str, str], after: Mapping[str, str]
) -> tuple[tuple[str, str, str], ...]:
    return tuple(
        (name, before.get(name, "–"), after.get(name, "–"))
        for name in dict.fromkeys((*before, *after))
        if before.get(name) != after.get(name) and name not in OF_A_RUN
    )


def _relative(before: Results, after: Results) -> list[Change]:
    """The ratios within rounds that both runs have."""
    old, new = analyse.round_ratios(before), analyse.round_ratios(after)
    return [
        _change((kind, SUBJECT, axis, at), old[where], new[where], base=base)
        for where in old.keys() & new.keys()
        for kind, base, axis, at in [where]
        if _can_be_divided(old[where], new[where])
    ]


def _can_be_divided(before: Sequence[float], after: Sequence[float]) -> bool:
    return min(*before, *after) > 0 and max(*before, *after) < math.inf


def _change(
    where: analyse.Where,
    before: Sequence[float],
    after: Sequence[float],
    *,
    base: str = "",
    everywhere: bool = False,
) -> Change:
    rounds = len(before), len(after)
    ends = median(before), median(after)
    return Change(*where, base, everywhere, *ends, *of_quotient(after, before), *rounds)


def _greatest_first(changes: Iterable[Change]) -> tuple[Change, ...]:
    order = [*KINDS, *COSTS]
    return tuple(
        sorted(changes, key=lambda c: (-c.size, order.index(c.kind), c.path, c.base, c.axis, c.at))
    )


def say(where: analyse.Where) -> str:
    """A figure in words, by what identifies it."""
    kind, path, axis, at = where
    return f"{kind} over {path}" + (f", {place(axis, at)}" if axis and at else "")
