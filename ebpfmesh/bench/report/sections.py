# SPDX-License-Identifier: BSD-2-Clause
"""The tables of a report, as data: the page and the terminal show the same ones.

A further table is a function in ``report.SECTIONS``.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, product
from typing import Literal, Protocol

from rich.table import Table
from rich.text import Text

from ebpfmesh.bench.kinds import AXES, BY_CPU, KINDS, MANY_FLOWS
from ebpfmesh.bench.report.pictures import places
from ebpfmesh.bench.results import Results
from ebpfmesh.bench.stats import analyse, beside, fit
from ebpfmesh.bench.stats.analyse import COSTS, Figure, Ratio
from ebpfmesh.bench.stats.intervals import of_median
from ebpfmesh.bench.words import between, capital, compact, count, number, percent, place, short

Tone = Literal["", "good", "bad", "unclear"]
COLOURS = {"good": "green", "bad": "red", "unclear": "yellow"}
"""Of tones, on a terminal."""
TONES: dict[str, Tone] = {
    "better": "good", "worse": "bad", "unclear": "", "holds": "good", "fails": "bad",
}  # fmt: skip
SIGNS = {"holds": "✓", "fails": "✗", "unclear": "?"}
"""Of verdicts on a goal, on a terminal."""
GOAL_NOTE = (
    "A goal is a bound that the mesh sets itself, beside the path and apart from who is better: it "
    "holds where all of the interval is within it, fails where all of it is beyond, and is unclear "
    "between. Those beside iptables at 1 000 services are for rules that every packet walks "
    "through, as iptables-each-packet has them."
)
DASH = "–"
MOST_COLUMNS = 9
"""Of a table on a terminal."""
WIDE = 6
"""Places that a table on a terminal of 100 columns has room for."""


XDP_PAPER = (
    "Høiland-Jørgensen and others: The eXpress Data Path, CoNEXT 2018, doi "
    "10.1145/3281411.3281443; one core of a Xeon E5-1650 v4, ConnectX-5 Ex, 64-byte packets"
)
XDP_BRIEF = "CoNEXT 2018, ConnectX-5, one core"
PUBLISHED = (
    ("packets dropped by DPDK", 43.5, XDP_PAPER, XDP_BRIEF),
    ("packets dropped by XDP", 24.0, XDP_PAPER, XDP_BRIEF),
    ("balanced by XDP (Katran)", 5.2, XDP_PAPER, XDP_BRIEF),
    ("balanced by the kernel (IPVS)", 1.2, XDP_PAPER, XDP_BRIEF),
)
"""As read in the sources of the paper, github.com/tohojo/xdp-paper."""
NO_NIC = (
    "What this machine cannot say: what DPDK does with a NIC and a driver that polls it, which it "
    "is made for. A veth gives it drivers that copy each packet, and testpmd with no network at "
    "all (dpdk-null) is a bound that no NIC reaches. So the ratios above are of veths, as "
    "containers have them. With a NIC others found these; they are of another machine and not to "
    "be divided by the figures here. DPDK's own reports: core.dpdk.org/perf-reports."
)


@dataclass(frozen=True)
class Cell:
    """What stands in a table: ``brief`` instead on a terminal, sorted by ``sort`` if given."""

    text: str
    sort: float | None = None
    tone: Tone = ""
    brief: str = ""


@dataclass(frozen=True)
class Section:
    """A table with its title: ``>`` before a column's name sets it flush right.

    A cell may be a text or a number as well.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell | str | float, ...], ...]
    note: str = ""

    @property
    def cells(self) -> tuple[tuple[Cell, ...], ...]:
        """The rows, with every cell a Cell."""
        return tuple(tuple(_cell(value) for value in row) for row in self.rows)


def _cell(value: Cell | str | float) -> Cell:
    if isinstance(value, Cell):
        return value
    return Cell(value) if isinstance(value, str) else Cell(number(value), float(value))


def title_of(kind: str) -> Cell:
    """A kind by its title, or by its name on a terminal; sorted in the order of kinds."""
    known = list(KINDS) + list(COSTS)
    found = KINDS.get(kind) or COSTS[kind]
    return Cell(capital(found.title), known.index(kind), brief=kind)


def at_of(axis: str, at: int, *, everywhere: bool = False) -> Cell:
    """A place on an axis, in short on a terminal; a dash where it means nothing."""
    if everywhere or not axis:
        return Cell(DASH, -1)
    text = place(axis, at)
    return Cell(text, at, brief=" ".join(text.split(" ")[:2]))


class Measured(Protocol):
    """What has an interval."""

    @property
    def low(self) -> float: ...  # noqa: D102
    @property
    def high(self) -> float: ...  # noqa: D102
    @property
    def coverage(self) -> float: ...  # noqa: D102


def interval(of: Measured) -> Cell:
    """Both ends of an interval, sorted by its width; a dash where there is one value only."""
    if not of.coverage:
        return Cell(DASH)
    return Cell(between(of.low, of.high), of.high - of.low if math.isfinite(of.high) else math.inf)


def sure(items: Iterable[Measured]) -> str:
    """How probably the intervals hold what is true: 97 %, or from what to what."""
    found = sorted({item.coverage for item in items if item.coverage})
    return " to ".join(dict.fromkeys(map(percent, found[:1] + found[-1:]))) or DASH


def figures(results: Results) -> Section:
    """All figures."""
    found = analyse.figures(results)
    rows = tuple(
        (
            title_of(f.kind), f.path, at_of(f.axis, f.at, everywhere=f.everywhere), f.median,
            interval(f), f.least, f.greatest, f.unit, Cell(count(f.rounds), f.rounds),
        )
        for f in found
    )  # fmt: skip
    columns = (
        "figure", "path", ">at", ">median", f">{sure(found)} interval", ">least", ">greatest",
        "unit", ">rounds",
    )  # fmt: skip
    return Section("All figures", columns, rows, "Medians over the rounds.")


def ratios(results: Results) -> Section:
    """The mesh divided by other paths."""
    return _ratios("The mesh compared, round by round", "mesh ÷", analyse.ratios(results))


def inner_ratios(results: Results) -> Section:
    """The mesh divided by itself."""
    found = analyse.inner_ratios(results)
    return _ratios("The mesh beside itself", "mesh ÷ mesh with", found)


def _ratios(title: str, over: str, found: Sequence[Ratio]) -> Section:
    with_goals = any(ratio.goal for ratio in found)
    rows = []
    for r in found:
        noisy: Tone = "unclear" if r.is_noisy else ""
        row = (
            title_of(r.kind), at_of(r.axis, r.at), r.base,
            Cell(number(r.ratio), r.ratio, TONES[r.conclusion]),
            replace(interval(r), tone=noisy),
            Cell(r.conclusion, None, TONES[r.conclusion]),
            _goal(r),
        )  # fmt: skip
        rows.append(row if with_goals else row[:-1])
    columns = ("figure", ">at", over, ">ratio", f">{sure(found)} interval", "mesh is", "goal")
    note = "Medians of the ratios within rounds. An interval on both sides of 1 is unclear."
    if with_goals:
        note += f" {GOAL_NOTE}"
    return Section(title, columns if with_goals else columns[:-1], tuple(rows), note)


def _goal(ratio: Ratio) -> Cell:
    """The goal and whether it is met."""
    if not ratio.goal:
        return Cell("")
    text, verdict = f"{ratio.goal} {ratio.verdict}", ratio.verdict
    return Cell(text, None, TONES[verdict], f"{ratio.goal} {SIGNS[verdict]}")


def uplink(results: Results) -> Section:
    """What comes in by an uplink, beside other ways of it."""
    rows = tuple(
        (Cell(one.what), *_of(one.ratio), *_of(one.net), _goal(one.judged))
        for one in beside.rows(results)
    )
    columns = ("what", ">ratio", ">interval", ">without", ">interval ", "goal")
    note = (
        "Medians of the ratios within rounds, per CPU second unless said otherwise. What makes the "
        "frames is in the first ratio and not in the second. Goals are for the first, but those of "
        "programs and of the flood. Of testpmd only the core counts that forwards, neither the "
        "generator's nor the softirq that hands it the frames."
    )
    return Section("From an uplink, beside other ways", columns, rows, note)


def _of(ratio: Ratio | None) -> tuple[Cell, Cell]:
    """A ratio and its interval; dashes for none."""
    if ratio is None:
        return Cell(DASH), Cell(DASH)
    tone: Tone = "unclear" if ratio.is_noisy else ""
    return Cell(number(ratio.ratio), ratio.ratio), replace(interval(ratio), tone=tone)


def published(results: Results) -> Section:
    """What others found for DPDK and XDP with a NIC, where DPDK was measured here without one."""
    known = PUBLISHED if any(path.startswith("dpdk") for path in results.paths) else ()
    rows = tuple((what, mpps, Cell(where, brief=brief)) for what, mpps, where, brief in known)
    return Section("Beside DPDK: with a NIC", ("what", ">Mpps", "where"), rows, NO_NIC)


def costs(results: Results) -> Section:
    """What changes to a mesh cost, and what it costs while nobody uses it."""
    rows = tuple(
        (
            c.title, c.figure.median, c.figure.unit, str(c.goal),
            Cell(c.verdict, None, TONES.get(c.verdict, "")),
        )
        for c in analyse.costs(results)
    )  # fmt: skip
    return Section("The mesh's own cost", ("figure", ">median", "unit", "goal", "goal is"), rows)


def fits(results: Results) -> Section:
    """How the CPU of each path follows the load."""
    found = fit.table(results)
    return Section(*found) if found else Section("", (), ())


STAGES = {
    "pps": "a packet of a flow that is known",
    "pps-100000-flows": f"one of {count(MANY_FLOWS)} flows in turn, which no cache holds",
    "pps-spoofed": "refused: parsed, and its sender known",
    "pps-denied": "refused: its service and the policy looked up besides",
    "pps-new-flows": "the first of a flow: allowed, kept in two entries for which others make room",
}
"""Kinds that end at a stage of what a packet may meet, and what that is."""


def stages(results: Results) -> Section:
    """What a packet costs by how far it goes, and what more that is than one of a known flow."""
    found, rows = analyse.values(results), []
    for path, at in product(results.paths, (0, 1)):
        known = found.get(("pps" + BY_CPU, path, "services", at), {})
        for order, (kind, what) in enumerate(STAGES.items()):
            by_round = found.get((kind + BY_CPU, path, "services", at), {})
            if common := known.keys() & by_round:
                stage = Cell(what, order, brief=kind)
                cost = of_median([1e3 / by_round[n] for n in common])
                more = of_median([1e3 / by_round[n] - 1e3 / known[n] for n in common])
                rows.append((path, stage, cost.value, interval(cost), more.value, interval(more)))
    if not any(row[1].brief == "pps-new-flows" for row in rows):
        return Section("", (), ())
    columns = ("path", "what", ">ns of CPU", ">interval", ">more than known", ">interval ")
    note = "By CPU time, with what making the packet and, if it arrives, counting it takes."
    return Section("What a packet costs, stage by stage", columns, tuple(rows), note)


def policy(results: Results) -> Section:
    """What became of a connection from each client, over each path."""
    clients = dict.fromkeys(c for tried in results.connections.values() for c in tried)
    rows = tuple(
        (path, *(tried.get(client, DASH) for client in clients))
        for path, tried in results.connections.items()
    )
    columns = ("path", *(f"connection from {client}" for client in clients))
    return Section("The policy at work", columns, rows, "A connection to the same service.")


def table(section: Section) -> Table:
    """A section as the terminal shows it: a wide one with its columns as rows."""
    if len(section.columns) > MOST_COLUMNS:
        section = _turned(section)
    printed = Table(
        title=section.title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0),
        title_style="bold", header_style="dim",
    )  # fmt: skip
    for name in section.columns:
        right = name.startswith(">")
        printed.add_column(
            name.removeprefix(">"), justify="right" if right else "left", overflow="fold"
        )
    kinds = [row[0].brief for row in section.cells]
    grouped = len(set(kinds)) == sum(1 for _ in groupby(kinds))
    for index, row in enumerate(section.cells):
        texts = [Text(c.brief or c.text, style=COLOURS.get(c.tone, "")) for c in row]
        if grouped and index and kinds[index] and kinds[index] == kinds[index - 1]:
            texts[0] = Text("")
        printed.add_row(*texts)
    return printed


def _turned(section: Section) -> Section:
    first, *names = section.columns
    columns = (first, *(f">{row[0].text}" for row in section.cells))
    rows = tuple(
        (Cell(name.removeprefix(">")), *(row[number] for row in section.cells))
        for number, name in enumerate(names, 1)
    )
    return Section(section.title, columns, rows, section.note)


def figures_tables(results: Results) -> Iterator[Section]:
    """The medians for a terminal: per axis, a row per kind and path, a column per place."""
    found = analyse.figures(results)
    for axis in dict.fromkeys(figure.axis for figure in found):
        mine = [figure for figure in found if figure.axis == axis]
        ticks = places(mine)
        for first in range(0, max(len(ticks), 1), WIDE):
            yield _medians(axis, mine, ticks[first : first + WIDE])


def _medians(axis: str, figures: Sequence[Figure], ticks: Sequence[int]) -> Section:
    by_row: dict[tuple[str, str], dict[int, Figure]] = {}
    for figure in figures:
        at = [figure.at]
        if figure.everywhere:
            at = places(f for f in figures if f.kind == figure.kind) or list(ticks[:1])
        by_row.setdefault((figure.kind, figure.path), {}).update(dict.fromkeys(at, figure))
    rows = tuple(
        (
            title_of(kind), Cell(KINDS[kind].unit), Cell(path),
            *(_median(found.get(at)) for at in ticks),
        )
        for (kind, path), found in by_row.items()
    )  # fmt: skip
    columns = ("figure", "unit", "path", *(f">{short(at)}" for at in ticks))
    return Section(f"Medians, by {AXES[axis].title}", columns, rows)


def _median(figure: Figure | None) -> Cell:
    if figure is None:
        return Cell(DASH)
    return Cell(number(figure.median), figure.median, brief=compact(figure.median))
