# SPDX-License-Identifier: BSD-2-Clause
"""The report of a run: one page of HTML that needs nothing else, and the tables of the terminal.

Every sentence about a result is made from the figures; none is written beforehand.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import jinja2
from rich.table import Table

from ebpfmesh.bench import analyse, plots
from ebpfmesh.bench.analyse import KINDS, SUBJECT, Cost, Figure, Ratio
from ebpfmesh.bench.results import Results

VERDICTS = {"holds": "green", "fails": "red", "unclear": "yellow", "": ""}


def write(results: Results, directory: Path) -> Path:
    """Write report.html, plots.png and figures.json into the directory of the raw results.

    Returns the path of the page.
    """
    figures, ratios = analyse.figures(results), analyse.ratios(results)
    plots.save_png(_compared(figures), directory / "plots.png")
    data = {"figures": [asdict(f) for f in figures], "ratios": [_ratio_data(r) for r in ratios]}
    data["inner_ratios"] = [_ratio_data(r) for r in analyse.inner_ratios(results)]
    data["costs"] = [_cost_data(c) for c in analyse.costs(results)]
    (directory / "figures.json").write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    page = directory / "report.html"
    page.write_text(render(results))
    return page


def render(results: Results) -> str:
    """The page as text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ebpfmesh.bench", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    figures = analyse.figures(results)
    drawn = _compared(figures)
    kinds = dict.fromkeys(figure.traffic for figure in drawn)
    pictures = {kind: plots.svg([f for f in drawn if f.traffic == kind]) for kind in kinds}
    return environment.get_template("report.html.j2").render(
        results=results,
        figures=figures,
        tables=_ratio_tables(results),
        costs=analyse.costs(results),
        losses=[loss_sentence(ratio) for ratio in analyse.losses(results)],
        failures=analyse.failures(results),
        pictures=pictures,
        kinds=KINDS,
        subject=SUBJECT,
        colours={path: plots.colour(path) for path in dict.fromkeys(f.path for f in drawn)},
        number=number,
        count=count,
    )


def _compared(figures: Sequence[Figure]) -> list[Figure]:
    """The figures of kinds that several paths have: those there is something to see in."""
    paths = Counter(traffic for traffic, _ in {(f.traffic, f.path) for f in figures})
    return [figure for figure in figures if paths[figure.traffic] > 1]


def _ratio_tables(results: Results) -> list[tuple[str, str, Sequence[Ratio]]]:
    """Title, what the mesh is divided by, and rows of the tables of ratios that have some."""
    tables = [
        ("The mesh compared, round by round", "mesh ÷", analyse.ratios(results)),
        ("The mesh beside itself", "mesh ÷ mesh with", analyse.inner_ratios(results)),
    ]
    return [table for table in tables if table[2]]


def number(value: float) -> str:
    """Three significant digits, without an exponent, thousands apart."""
    digits = max(0, 3 - len(f"{abs(value):.0f}")) if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}".replace(",", "\u202f")


def count(services: int) -> str:
    """A number of services, or a dash for a path that has none."""
    return f"{services:,}".replace(",", "\u202f") if services else "–"


def loss_sentence(ratio: Ratio) -> str:
    """Say how much worse the mesh is than another path."""
    kind = KINDS[ratio.traffic]
    size = f" at {count(ratio.services)} services" if ratio.services else ""
    return f"{kind.title}{size}: {number(ratio.ratio)} × {ratio.base}"


def figures_table(results: Results) -> Table:
    """Medians: a row per kind of traffic and number of services, a column per path."""
    table = Table(title=results.scenario.title, title_justify="left")
    table.add_column("figure")
    table.add_column("services", justify="right")
    paths = list(dict.fromkeys(path for path, _ in results.scenario.all_places))
    for path in paths:
        table.add_column(path, justify="right")
    figures = {(f.traffic, f.services, f.path): f for f in analyse.figures(results)}
    for traffic in results.scenario.seconds:
        places = results.scenario.places(traffic)
        sizes = sorted({size for _, size in places if size}) or [0]
        for size in sizes:
            found = [
                figures.get((traffic, size, path)) or figures.get((traffic, 0, path))
                for path in paths
            ]
            unit = next((figure.unit for figure in found if figure), "failed")
            title = f"{KINDS[traffic].title}, {unit}"
            table.add_row(title, count(size), *_cells(found), end_section=size == sizes[-1])
    return table


def _cells(figures: Sequence[Figure | None]) -> list[str]:
    return [number(figure.median) if figure else "–" for figure in figures]


def ratios_tables(results: Results) -> list[Table]:
    """The mesh divided by other paths, and by itself, with intervals and goals."""
    return [_ratios_table(*table) for table in _ratio_tables(results)]


def _ratios_table(title: str, over: str, ratios: Sequence[Ratio]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in ("figure", "services", over, "ratio", "95 % interval", "goal", ""):
        right = name in ("services", "ratio", "95 % interval")
        table.add_column(name, justify="right" if right else "left")
    for ratio in ratios:
        colour = VERDICTS[ratio.verdict] or ("red" if ratio.is_loss else "")
        table.add_row(
            KINDS[ratio.traffic].title,
            count(ratio.services),
            ratio.base,
            number(ratio.ratio),
            f"{number(ratio.low)} – {number(ratio.high)}{' noisy' if ratio.is_noisy else ''}",
            str(ratio.goal or ""),
            ratio.verdict,
            style=colour,
        )
    return table


def costs_table(results: Results) -> Table:
    """What changes to a mesh cost, and what it costs while nobody uses it."""
    table = Table(title="The mesh's own cost", title_justify="left")
    for name in ("figure", "median", "unit", "goal", ""):
        table.add_column(name, justify="right" if name == "median" else "left")
    for cost in analyse.costs(results):
        cells = (cost.title, number(cost.figure.median), cost.figure.unit, str(cost.goal))
        table.add_row(*cells, cost.verdict, style=VERDICTS[cost.verdict])
    return table


def connections_table(results: Results) -> Table:
    """What became of a connection from each client, over each path."""
    table = Table(title="The policy: a connection to the same service", title_justify="left")
    table.add_column("path")
    clients = dict.fromkeys(c for tried in results.connections.values() for c in tried)
    for client in clients:
        table.add_column(f"from {client}")
    for path, tried in results.connections.items():
        table.add_row(path, *(tried.get(client, "–") for client in clients))
    return table


def _cost_data(cost: Cost) -> dict[str, object]:
    return {**asdict(cost), "goal": str(cost.goal), "verdict": cost.verdict}


def _ratio_data(ratio: Ratio) -> dict[str, object]:
    return {
        **asdict(ratio),
        "goal": str(ratio.goal or ""),
        "verdict": ratio.verdict,
        "noisy": ratio.is_noisy,
        "loss": ratio.is_loss,
    }
