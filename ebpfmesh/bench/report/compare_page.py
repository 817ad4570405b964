# SPDX-License-Identifier: BSD-2-Clause
"""The report of a comparison: a page of HTML like that of a run, and tables for the terminal."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from ebpfmesh.bench.kinds import AXES, KINDS
from ebpfmesh.bench.report import plots, sections
from ebpfmesh.bench.report.pictures import Picture, Point, Row, title_of
from ebpfmesh.bench.report.run_page import in_columns, template
from ebpfmesh.bench.report.sections import TONES, Cell, Section
from ebpfmesh.bench.results import Results
from ebpfmesh.bench.stats.analyse import COSTS
from ebpfmesh.bench.stats.compare import Change, Comparison
from ebpfmesh.bench.words import count, number

KIND_ORDER = [*KINDS, *COSTS]
MOST_ROWS = 40
"""Changes in a picture: the greatest ones."""
DRIFT = 0.03
"""How far the paths without the mesh may go before it is said that the machine changed."""


def render(before: Results, after: Results, comparison: Comparison) -> str:
    """The page as text; the same on every call."""
    drawn = list(pictures(comparison))
    return template("compare.html.j2").render(
        before=before,
        after=after,
        headlines=headlines(comparison),
        tables=list(tables(comparison)),
        columns=in_columns([(picture, plots.svg(picture)) for picture in drawn]),
        keys=[
            (path, plots.key(path))
            for path in dict.fromkeys(path for picture in drawn for path in picture.paths)
        ],
        alone=[f"{what}: only {when}" for what, when in comparison.alone],
    )


def headlines(comparison: Comparison) -> list[str]:
    """What changed, in sentences."""
    found = Counter(change.verdict for change in comparison.changes)
    total = len(comparison.changes)
    by_chance = round(sum(1 - change.coverage for change in comparison.changes if change.coverage))
    verdicts = (
        f"Of {total} figures {found['better']} are better than before, {found['worse']} worse, "
        f"{found['unclear']} neither clearly. By chance alone {max(by_chance, 1)} at most would "
        "seem to differ."
    )
    said = [verdicts]
    if comparison.drift is not None:
        far = abs(comparison.drift - 1) > DRIFT
        said.append(
            f"The paths without the mesh are {number(comparison.drift)} times as good as before "
            f"(median){': the machine, or its kernel, changed as well' if far else ''}. What "
            "follows for the mesh is best read from the ratios to those paths."
        )
    said += [
        f"{what}: {number(old)} before, {number(new)} after."
        for what, old, new in comparison.undivided
    ]
    return said


def tables(comparison: Comparison) -> Iterator[Section]:
    """What differs around the figures, then the changes; those that have rows."""
    around = tuple(comparison.environment)
    yield from _if_rows(Section("What else differs", ("what", "before", "after"), around))
    note = "After ÷ before, by medians; the ends of both intervals divided. Greatest first."
    yield from _if_rows(_changes("Figures, after beside before", comparison.changes, note))
    note = "The mesh ÷ another path within rounds, after ÷ before: a slower machine cancels out."
    title = "The mesh beside other paths, after beside before"
    yield from _if_rows(_changes(title, comparison.relative, note))


def _if_rows(section: Section) -> Iterator[Section]:
    if section.rows:
        yield section


def _changes(title: str, changes: Sequence[Change], note: str) -> Section:
    rows = tuple(
        (
            sections.title_of(c.kind), f"{c.path} ÷ {c.base}" if c.base else c.path,
            sections.at_of(c.axis, c.at, everywhere=c.everywhere), c.before, c.after,
            Cell(number(c.ratio), c.size, TONES[c.verdict]),
            sections.interval(c), Cell(c.verdict, None, TONES[c.verdict]),
        )
        for c in changes
    )  # fmt: skip
    columns = (
        "figure", "path", ">at", ">before", ">after", ">ratio",
        f">{sections.sure(changes)} interval", "it is",
    )  # fmt: skip
    return Section(title, columns, rows, note)


def pictures(comparison: Comparison) -> Iterator[Picture]:
    """How many times better things became, with intervals; the greatest changes."""
    for name, title, changes in (
        ("changes", "Figures, after beside before", comparison.changes),
        ("relative", "The mesh beside other paths, after beside before", comparison.relative),
    ):
        if not changes:
            continue
        most = f": the {MOST_ROWS} greatest changes" if len(changes) > MOST_ROWS else ""
        shown = sorted(changes[:MOST_ROWS], key=lambda c: (KIND_ORDER.index(c.kind), c.axis))
        yield Picture(
            name, title + most, "to the right of 1 it became better", "rows", "times better",
            rows=tuple(_row(change) for change in shown), even=1.0,
        )  # fmt: skip


def _row(change: Change) -> Row:
    """A change below the title of its kind, by path and place."""
    name = change.base or change.path
    group, label = title_of(change.kind), name
    if change.axis:
        group += f", by {AXES[change.axis].title}"
        label += "" if change.everywhere else f", {count(change.at)}"
    return Row(group, label, (Point(name, *change.advantage),))


def data(comparison: Comparison) -> dict[str, object]:
    """The comparison, for programs."""
    return {
        "summary": headlines(comparison),
        "changes": [_change_data(change) for change in comparison.changes],
        "relative": [_change_data(change) for change in comparison.relative],
        "environment": [
            {"name": name, "before": old, "after": new} for name, old, new in comparison.environment
        ],
        "drift": comparison.drift,
        "alone": [{"figure": what, "run": when} for what, when in comparison.alone],
    }


def _change_data(change: Change) -> dict[str, object]:
    return {
        **asdict(change), "more_is_better": change.more_is_better, "verdict": change.verdict
    }  # fmt: skip


def terminal(comparison: Comparison) -> Iterator[Table]:
    """The tables for a terminal."""
    return (sections.table(section) for section in tables(comparison))


def write(before: Results, after: Results, comparison: Comparison, file: Path) -> None:
    """Write the page; a missing directory is made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(render(before, after, comparison))
