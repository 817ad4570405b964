# SPDX-License-Identifier: BSD-2-Clause
"""The report of a run: one page of HTML that needs nothing else, and the tables of the terminal.

Every sentence about a result is made from the figures; none is written beforehand.
"""

import json
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
    plots.save_png(figures, directory / "plots.png")
    data = {"figures": [asdict(f) for f in figures], "ratios": [_ratio_data(r) for r in ratios]}
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
    figures, ratios = analyse.figures(results), analyse.ratios(results)
    kinds = dict.fromkeys(figure.traffic for figure in figures)
    pictures = {kind: plots.svg([f for f in figures if f.traffic == kind]) for kind in kinds}
    return environment.get_template("report.html.j2").render(
        results=results,
        figures=figures,
        ratios=ratios,
        costs=analyse.costs(results),
        losses=[loss_sentence(ratio) for ratio in analyse.losses(results)],
        failures=analyse.failures(results),
        pictures=pictures,
        kinds=KINDS,
        subject=SUBJECT,
        colours={path: plots.colour(path) for path in results.scenario.paths},
        number=number,
        count=count,
    )


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
    for path in results.scenario.paths:
        table.add_column(path, justify="right")
    figures = {(f.traffic, f.services, f.path): f for f in analyse.figures(results)}
    sizes = sorted({f.services for f in figures.values() if f.services})
    for traffic in results.scenario.seconds:
        for size in sizes:
            found = [
                figures.get((traffic, size, path)) or figures.get((traffic, 0, path))
                for path in results.scenario.paths
            ]
            unit = next((figure.unit for figure in found if figure), "failed")
            title = f"{KINDS[traffic].title}, {unit}"
            table.add_row(title, count(size), *_cells(found), end_section=size == sizes[-1])
    return table


def _cells(figures: Sequence[Figure | None]) -> list[str]:
    return [number(figure.median) if figure else "–" for figure in figures]


def ratios_table(results: Results) -> Table:
    """The mesh divided by the other paths, with intervals and goals."""
    table = Table(title="The mesh compared, round by round", title_justify="left")
    for name in ("figure", "services", "mesh ÷", "ratio", "95 % interval", "goal", ""):
        right = name in ("services", "ratio", "95 % interval")
        table.add_column(name, justify="right" if right else "left")
    for ratio in analyse.ratios(results):
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
