# SPDX-License-Identifier: BSD-2-Clause
"""The report of a run: one page of HTML that needs nothing else, its pictures and tables as files.

Beside report.html stand figures.csv, ratios.csv, figures.json, and in plots/ every picture as SVG,
PDF and PNG, and what is drawn in it as CSV.
"""

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import jinja2
from markupsafe import Markup, escape
from rich.table import Table

from ebpfmesh.bench.kinds import KINDS
from ebpfmesh.bench.report import method, plots, sections, summary
from ebpfmesh.bench.report.pictures import FIGURE_COLUMNS, Data, Picture, figure_row, pictures
from ebpfmesh.bench.report.sections import Section
from ebpfmesh.bench.results import Results
from ebpfmesh.bench.stats import analyse, beside
from ebpfmesh.bench.stats.analyse import SUBJECT, Cost, Ratio
from ebpfmesh.bench.words import count

SECTIONS: tuple[Callable[[Results], Section], ...] = (
    sections.uplink, sections.published, sections.ratios, sections.inner_ratios, sections.stages,
    sections.fits, sections.costs, sections.policy,
)  # fmt: skip
"""The tables of a report, in its order; one without rows is left out."""
RATIO_COLUMNS = (
    "kind", "axis", "at", "base", "ratio", "low", "high", "rounds", "conclusion", "goal", "verdict",
    "coverage",
)  # fmt: skip


def write(results: Results, directory: Path) -> Path:
    """Write the report and its files into the directory of the raw results.

    Returns the path of the page.
    """
    drawn = pictures_of(results)
    folder = directory / "plots"
    folder.mkdir(exist_ok=True)
    for picture in drawn:
        plots.save(picture, folder)
        write_csv(folder / f"{picture.name}.csv", picture.data())
    figures = [*analyse.figures(results), *(cost.figure for cost in analyse.costs(results))]
    write_csv(directory / "figures.csv", (FIGURE_COLUMNS, [figure_row(f) for f in figures]))
    ratios = [*analyse.ratios(results), *analyse.inner_ratios(results)]
    rows: list[tuple[object, ...]] = [
        tuple(_ratio_data(ratio)[name] for name in RATIO_COLUMNS) for ratio in ratios
    ]
    write_csv(directory / "ratios.csv", (RATIO_COLUMNS, rows))
    text = json.dumps(data(results), indent=1, ensure_ascii=False)
    (directory / "figures.json").write_text(text + "\n")
    page = directory / "report.html"
    page.write_text(render(results))
    return page


def pictures_of(results: Results) -> tuple[Picture, ...]:
    """The pictures of a run."""
    return pictures(analyse.figures(results), analyse.ratios(results))


def data(results: Results) -> dict[str, object]:
    """What the report says, for programs."""
    return {
        "summary": [*summary.headlines(results), *map(str, summary.claims(results))],
        "losses": [*map(str, summary.losses(results))],
        "once": [*map(str, summary.once(results))],
        "unclear": [*map(str, summary.unclear(results))],
        "figures": [asdict(figure) for figure in analyse.figures(results)],
        "ratios": [_ratio_data(ratio) for ratio in analyse.ratios(results)],
        "inner_ratios": [_ratio_data(ratio) for ratio in analyse.inner_ratios(results)],
        "uplink": [
            {
                "what": one.what,
                "ratio": one.ratio and _ratio_data(one.ratio),
                "without_generator": one.net and _ratio_data(one.net),
            }
            for one in beside.rows(results)
        ],
        "costs": [_cost_data(cost) for cost in analyse.costs(results)],
        "failures": [asdict(failure) for failure in analyse.failures(results)],
        "missing": dict(results.missing),
    }


def write_csv(file: Path, table: Data) -> None:
    """Write a table with its names of columns."""
    names, rows = table
    with file.open("w", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(rows)


def tables(results: Results) -> Iterator[Section]:
    """The tables of SECTIONS that have rows."""
    return (section for make in SECTIONS if (section := make(results)).rows)


def render(results: Results) -> str:
    """The page as text; the same on every call."""
    drawn = pictures_of(results)
    paths = dict.fromkeys(path for picture in drawn for path in picture.paths)
    order = [path for path in results.paths if path in paths]
    return template("report.html.j2").render(
        results=results,
        rounds=count(results.scenario["rounds"]),
        headlines=summary.headlines(results),
        claims=summary.claims(results),
        losses=summary.losses(results),
        once=summary.once(results),
        glosses=list(summary.glosses(results)),
        unclear=summary.unclear(results),
        failures=list(summary.grouped_failures(analyse.failures(results))),
        compared=bool(analyse.ratios(results)),
        columns=in_columns([(picture, plots.svg(picture)) for picture in drawn]),
        keys=[(path, plots.key(path), results.paths[path]) for path in order],
        tables=list(tables(results)),
        all_figures=sections.figures(results),
        method=list(method.sentences(results)),
        subject=SUBJECT,
        sure=sections.sure(analyse.figures(results)),
    )


def in_columns(drawn: Sequence[tuple[Picture, str]]) -> list[list[tuple[Picture, str]]]:
    """Pictures in two columns of nearly the same height, the first of them in the first."""
    heights = [plots.height(svg) for _, svg in drawn]
    columns: dict[int, tuple[int, ...]] = {heights[0]: (0,)} if drawn else {0: ()}
    for number, height in enumerate(heights[1:], 1):
        columns = {h + height: (*chosen, number) for h, chosen in columns.items()} | columns
    first = min(columns.items(), key=lambda it: abs(2 * it[0] - sum(heights)))[1]
    split = [[d for n, d in enumerate(drawn) if (n in first) == left] for left in (True, False)]
    return [column for column in split if column]


def template(name: str) -> jinja2.Template:
    """A template of this package; what is put into it is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ebpfmesh.bench.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["typed"] = typed
    return environment.get_template(name)


def typed(text: str) -> Markup:
    """A text whose parts between backticks are set as what is typed; all of it is escaped."""
    parts = text.split("`") if text.count("`") % 2 == 0 else [text]
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else escape(part)
        for number, part in enumerate(parts)
    )


def terminal(results: Results) -> Iterable[Table]:
    """The tables for a terminal."""
    shown: Sequence[Section] = [*sections.figures_tables(results), *tables(results)]
    return (sections.table(section) for section in shown)


def told(results: Results) -> Iterator[str]:
    """What a terminal says below the tables: the answer, what is missing, what failed."""
    yield from summary.headlines(results)
    yield from (f"loses in {claim}" for claim in summary.losses(results))
    yield from (f"measured once: {claim}" for claim in summary.once(results))
    yield from (f"unclear: {claim}" for claim in summary.unclear(results))
    yield from (f"missing here: {name}: {why}" for name, why in results.missing.items())
    failures = analyse.failures(results)
    yield from (f"failed: {text}" for text in summary.grouped_failures(failures))
    yield from (f"{path}: {what}" for path, what in summary.glosses(results))


def _cost_data(cost: Cost) -> dict[str, object]:
    return {**asdict(cost), "goal": str(cost.goal), "verdict": cost.verdict}


def _ratio_data(ratio: Ratio) -> dict[str, object]:
    return {
        **{name: _finite(value) for name, value in asdict(ratio).items()},
        "more_is_better": KINDS[ratio.kind].more_is_better,
        "goal": str(ratio.goal or ""),
        "verdict": ratio.verdict,
        "conclusion": ratio.conclusion,
        "noisy": ratio.is_noisy,
        "loss": ratio.is_loss,
    }


def _finite(value: object) -> object:
    """What JSON can say: null for a ratio to nothing."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
