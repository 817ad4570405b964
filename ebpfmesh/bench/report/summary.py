# SPDX-License-Identifier: BSD-2-Clause
"""What a run says, in sentences that are made from its figures; none is written beforehand."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ebpfmesh.bench.kinds import KINDS
from ebpfmesh.bench.report.sections import TONES, Cell
from ebpfmesh.bench.results import Measurement, Results
from ebpfmesh.bench.stats import analyse
from ebpfmesh.bench.stats.analyse import COSTS, RIVALS, SUBJECT, Ratio
from ebpfmesh.bench.words import between, capital, count, number, place

GLOSSES = {
    "iptables-each-packet": (
        "the rules of iptables without the one that accepts established connections first, so that "
        "every packet walks through the list"
    ),
    "iptables-append": "the rules of iptables, to whose end a new one is appended, and no more",
    "mesh-unmetered": "the mesh with a fast path that counts nothing",
    "mesh-counted": "the mesh with `count_flows = true`",
    "mesh-swapped": "the mesh with an injected function, for which another is swapped in",
    "mesh-reattached": "the mesh whose program is detached and attached again, the wrong way",
}


@dataclass(frozen=True)
class Tally:
    """How often the mesh is better than a path, worse, and neither clearly."""

    base: str
    better: int
    worse: int
    unclear: int


@dataclass(frozen=True)
class Extent:
    """What the mesh is beside a path, in one kind of figure, over the places of an axis."""

    ratios: tuple[Ratio, ...]

    @property
    def worst(self) -> Ratio:
        """Where the mesh does worst."""
        return min(self.ratios, key=lambda ratio: ratio.advantage)

    @property
    def best(self) -> Ratio:
        """Where the mesh does best."""
        return max(self.ratios, key=lambda ratio: ratio.advantage)

    @property
    def is_flat(self) -> bool:
        """Whether the worst and the best cannot be told apart: their intervals overlap."""
        return max(self.worst.low, self.best.low) <= min(self.worst.high, self.best.high)


@dataclass(frozen=True)
class Claim:
    """A sentence about a kind of figure: what it is about, and what is said, in parts."""

    about: str
    parts: tuple[Cell, ...]

    def __str__(self) -> str:
        return f"{self.about}: {'; '.join(part.text for part in self.parts)}"


def headlines(results: Results) -> list[str]:
    """Whether the mesh is better than what people use instead: a sentence for each of that."""
    if not any(m.path == SUBJECT and m.kind in KINDS for m in results.measurements):
        return [f"The {SUBJECT} was not part of this run."]
    found = tallies(analyse.beside_rivals(analyse.ratios(results)))
    missing = [name for name in RIVALS if name not in {tally.base for tally in found}]
    said = [tally_sentence(tally) for tally in found]
    if missing:
        said.append(f"This run does not compare the mesh with {' or '.join(missing)}.")
    return said


def tally_sentence(tally: Tally) -> str:
    """Say how often the mesh is better than a path, and how often not."""
    total = tally.better + tally.worse + tally.unclear
    if tally.better == total:
        often = "the only figure" if total == 1 else f"all {total} figures"
        return f"Beside {tally.base} the mesh was better in {often}."
    rest = [f"worse in {tally.worse}"] if tally.worse else ["worse in none"]
    if tally.unclear:
        rest.append(f"neither clearly in {tally.unclear}")
    return (
        f"Beside {tally.base} the mesh was better in {tally.better or 'none'} of {total} "
        f"{'figure' if total == 1 else 'figures'}, {', '.join(rest)}."
    )


def claims(results: Results) -> list[Claim]:
    """By kind and axis, by how much the mesh is better or worse than each of its rivals.

    Beside none of them: what it is beside itself.
    """
    rivals = analyse.beside_rivals(analyse.ratios(results))
    if rivals:
        return _by_kind(rivals)
    return [
        Claim(
            _about(r.kind),
            (Cell(_times(replace(r, base=f"the mesh with {r.base}")), tone=TONES[r.conclusion]),),
        )
        for r in analyse.inner_ratios(results)
    ]


def losses(results: Results) -> list[Claim]:
    """By kind and axis, the paths that the mesh is clearly worse than, and by how much."""
    return _by_kind(analyse.losses(results))


def once(results: Results) -> list[Claim]:
    """By kind, what was measured once and took more of the mesh than of other paths."""
    found: dict[str, list[Cell]] = {}
    for o in analyse.once(results):
        unit = KINDS[o.kind].unit
        said = f"{number(o.mesh)} {unit}, {o.base} {number(o.other)}, at {place(o.axis, o.at)}"
        found.setdefault(o.kind, []).append(Cell(said, tone="bad"))
    return [Claim(_about(kind), tuple(parts)) for kind, parts in found.items()]


def glosses(results: Results) -> Iterator[tuple[str, str]]:
    """The paths of a run whose name does not tell what they are, and what that is."""
    for path, text in results.paths.items():
        if analyse.is_other_build(path):
            yield path, text
        elif path in GLOSSES:
            yield path, GLOSSES[path]


def unclear(results: Results) -> list[Claim]:
    """By kind and axis, where the run is too noisy or too short to say which is better."""
    found: dict[tuple[str, str], list[Cell]] = {}
    for r in analyse.unclear(results):
        said = f"{_times(r)} at {place(r.axis, r.at)}, {count(r.rounds)} rounds"
        found.setdefault((r.kind, r.axis), []).append(Cell(said))
    return [Claim(_about(kind), tuple(parts)) for (kind, _), parts in found.items()]


def _by_kind(ratios: Iterable[Ratio]) -> list[Claim]:
    found: dict[tuple[str, str], list[Cell]] = {}
    for extent in extents(ratios):
        where = extent.worst.kind, extent.worst.axis
        found.setdefault(where, []).append(_said(extent))
    return [Claim(_about(kind), tuple(parts)) for (kind, _), parts in found.items()]


def _about(kind: str) -> str:
    found = KINDS[kind]
    return capital(found.title) + ("" if found.more_is_better else " (less is better)")


def _said(extent: Extent) -> Cell:
    """The worst and the best; one statement for all if those cannot be told apart."""
    worst, best = extent.worst, extent.best
    conclusions = {ratio.conclusion for ratio in extent.ratios}
    tone = TONES[worst.conclusion] if len(conclusions) == 1 else ""
    at = place(worst.axis, worst.at)
    if len(extent.ratios) == 1:
        return Cell(f"{_times(worst)} at {at}", tone=tone)
    if extent.is_flat:
        low, high = min(r.low for r in extent.ratios), max(r.high for r in extent.ratios)
        ends = [r.at for r in extent.ratios]
        at = f"{count(min(ends))} to {place(worst.axis, max(ends))}"
        same = between(*sorted((worst.ratio, best.ratio)))
        return Cell(f"{same}× {worst.base} ({between(low, high)}) at {at}", tone=tone)
    also = f"{number(best.ratio)}× ({between(best.low, best.high)}) at {place(best.axis, best.at)}"
    return Cell(f"{_times(worst)} at {at} to {also}", tone=tone)


def _times(ratio: Ratio) -> str:
    within = f" ({between(ratio.low, ratio.high)})" if ratio.coverage else ""
    return f"{number(ratio.ratio)}× {ratio.base}{within}"


def failure_sentence(measurement: Measurement) -> str:
    """Say what could not be measured, and why."""
    m = measurement
    title = (KINDS.get(m.kind) or COSTS[m.kind]).title
    at = f" at {place(m.axis, m.at)}" if m.axis and m.at else ""
    return f"Round {m.round}, {title} over {m.path}{at}: {m.error}"


def grouped_failures(failures: Sequence[Measurement]) -> Iterator[str]:
    """The failures, those that are the same but for their round as one."""
    groups: dict[tuple[str, str, str, int, str], list[Measurement]] = {}
    for m in failures:
        groups.setdefault((m.kind, m.path, m.axis, m.at, m.error), []).append(m)
    for group in groups.values():
        more = f" (and in {len(group) - 1} more rounds)" if len(group) > 1 else ""
        yield failure_sentence(group[0]) + more


def tallies(ratios: Iterable[Ratio]) -> tuple[Tally, ...]:
    """How often the mesh is better, by each path that it is compared with; RIVALS come first."""
    found = [(r.base, r.conclusion) for r in ratios]
    bases = dict.fromkeys(base for base, _ in found)
    return tuple(
        Tally(base, *(found.count((base, word)) for word in ("better", "worse", "unclear")))
        for base in (*(b for b in RIVALS if b in bases), *(b for b in bases if b not in RIVALS))
    )


def extents(ratios: Iterable[Ratio]) -> tuple[Extent, ...]:
    """Ratios by kind, axis and the path that the mesh is compared with."""
    groups: dict[tuple[str, str, str], list[Ratio]] = {}
    for ratio in ratios:
        groups.setdefault((ratio.kind, ratio.axis, ratio.base), []).append(ratio)
    return tuple(Extent(tuple(group)) for group in groups.values())
