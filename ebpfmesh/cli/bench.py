# SPDX-License-Identifier: BSD-2-Clause
"""The bench commands, and demo, which is one of its scenarios with a story."""

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ebpfmesh.cli import complete, output
from ebpfmesh.cli.base import Command, Group, settings
from ebpfmesh.cli.choose import need_change, need_packages
from ebpfmesh.cli.generate import bench_generate
from ebpfmesh.cli.output import Column

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ebpfmesh.bench.results import Results
    from ebpfmesh.bench.run import Progress
    from ebpfmesh.bench.scenario import Scenario

DIRECTORY = click.Path(path_type=Path, file_okay=False)
OUTPUT = click.option(
    "-o", "--output", "directory", metavar="DIR", type=DIRECTORY,
    help="Where the results go; a new directory. Default: build/bench/NAME-TIME.",
)  # fmt: skip
SEED = click.option("--seed", type=int, default=1, show_default=True, help="Of the random order.")


@click.group(
    cls=Group,
    examples=(
        "ebpfmesh bench list",
        "ebpfmesh bench run quick",
        "ebpfmesh bench report build/bench/quick-20260101-120000",
    ),
)
def bench() -> None:
    """Measure the mesh beside other paths, in namespaces of its own."""


@bench.command(
    "list",
    examples=("ebpfmesh bench list", "ebpfmesh bench list --json", "ebpfmesh bench list -q"),
)
def bench_list() -> None:
    """The scenarios that can be run."""
    from ebpfmesh.bench.scenario import find, names

    found = [find(name) for name in names()]
    if settings().json:
        output.data(scenarios=[s.model_dump(mode="json") for s in found])
        return
    columns = (
        Column("name", lambda s: s.name),
        Column("what", lambda s: s.title),
        Column("paths", lambda s: len(s.paths), right=True, drop=2),
        Column("rounds", lambda s: s.rounds, right=True, drop=1),
        Column("measurements", lambda s: s.measurements, right=True, drop=3),
        Column("minutes at least", lambda s: f"{s.seconds / 60:.1f}", right=True),
    )
    output.table(columns, found, empty="no scenarios")


@bench.command(
    "run",
    examples=(
        "ebpfmesh bench run quick",
        "ebpfmesh bench run services my-own.toml --paths nftables,mesh --repeat 20",
        "ebpfmesh bench run builds --beside ../before",
    ),
)
@click.argument(
    "scenarios",
    metavar="SCENARIO...",
    nargs=-1,
    required=True,
    shell_complete=complete.scenarios,
)
@click.option("--quick", is_flag=True, help="Fewer places, rounds and seconds: rough figures.")
@click.option("--paths", metavar="NAME,...", help="Only over these paths.")
@click.option(
    "--repeat", "rounds", metavar="ROUNDS", type=click.IntRange(1, 1000),
    help="How many rounds, instead of the scenario's.",
)  # fmt: skip
@click.option(
    "--beside",
    metavar="DIR",
    type=DIRECTORY,
    help="Another checkout, whose mesh is measured in the same rounds.",
)
@OUTPUT
@SEED
def bench_run(
    scenarios: tuple[str, ...],
    *,
    quick: bool,
    paths: str | None,
    beside: Path | None,
    rounds: int | None,
    directory: Path | None,
    seed: int,
) -> None:
    """Run scenarios, keep the raw results and write a report.

    A SCENARIO is a name of `bench list` or a file of your own that ends in .toml. All traffic
    stays in namespaces made for it, which are gone afterwards. A mesh of another checkout, with
    packages of its own in DIR/.venv or else this one's, is brought up and down by its own command.
    """
    from ebpfmesh.bench.scenario import find

    need_packages("bench run")
    need_change("bench run")
    if directory and len(scenarios) > 1:
        raise click.UsageError("one directory cannot hold the results of several scenarios")
    wanted = []
    for scenario in map(find, scenarios):
        chosen = scenario.quick() if quick else scenario
        chosen = chosen.over(paths.split(",")) if paths else chosen
        chosen = chosen.beside(beside) if beside else chosen
        wanted.append(chosen.model_copy(update={"rounds": rounds}) if rounds else chosen)
    _tell([_run(scenario, directory, seed) for scenario in wanted])


@bench.command(
    "report",
    examples=(
        "ebpfmesh bench report build/bench/quick-20260101-120000",
        "ebpfmesh bench report build/bench/before build/bench/after -o compare.html",
        "ebpfmesh bench report build/bench/before --json",
    ),
)
@click.argument("directories", metavar="DIR...", nargs=-1, required=True, type=DIRECTORY)
@click.option(
    "-o", "--output", "page", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False),
    help="Where the page of a comparison goes. Default: compare.html in the second DIR.",
)  # fmt: skip
def bench_report(directories: tuple[Path, ...], page: Path | None) -> None:
    """Tables and the HTML report of results in DIR, made anew.

    Of two directories, how the figures of the second changed from those of the first, which must
    be of the same machine. Of more, how each changed from the first.
    """
    from ebpfmesh.bench.results import Results

    need_packages("bench report")
    first, *later = directories
    if page and len(later) != 1:
        raise click.UsageError("-o FILE is for a comparison of two directories")
    if not later:
        _tell([(Results.load(first), first)])
        return
    before = Results.load(first)
    _tell_changes(before, [(Results.load(d), page or d / "compare.html") for d in later])


@click.command(
    cls=Command,
    examples=("ebpfmesh demo", "ebpfmesh demo -o /tmp/demo", "ebpfmesh demo --json >demo.json"),
)
@OUTPUT
@SEED
def demo(directory: Path | None, seed: int) -> None:
    """See a mesh work: the same traffic over iptables and over the mesh.

    Functions of two tenants, a service, a policy that lets one of them in and keeps another out;
    at 1, 100 and 1 000 services. All of it in namespaces that are gone afterwards.
    """
    from ebpfmesh.bench.scenario import find

    need_packages("demo")
    need_change("demo")
    _tell([_run(find("demo"), directory, seed)])


def _run(scenario: "Scenario", directory: Path | None, seed: int) -> tuple["Results", Path]:
    """Run a scenario in a sandbox, with its progress on stderr."""
    from ebpfmesh.bench.run import run, total
    from ebpfmesh.kernel import netns

    name = f"{scenario.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    where = directory or Path("build/bench") / name
    netns.enter_sandbox()
    with _progress(scenario.title, total(scenario)) as progress:
        return run(scenario, where, seed=seed, progress=progress), where


@contextlib.contextmanager
def _progress(title: str, total: int) -> Iterator["Progress"]:
    """A bar on a terminal; elsewhere ten lines, or one for each measurement with -v."""
    if settings().verbose or settings().quiet or not sys.stderr.isatty():
        every = 1 if settings().verbose else max(total // 10, 1)
        wanted = range(0, 0 if settings().quiet else total + 1, every)
        output.say(title)
        yield (
            lambda done, _, what: (
                output.say(f"{done:>4}/{total} {what}") if done in wanted else None
            )
        )
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (BarColumn(), MofNCompleteColumn(), Remaining(), TextColumn("{task.description}"))
    output.say(title)
    with Progress(*columns, console=output.console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda done, _, what: bar.update(task, completed=done, description=what)


def _tell(runs: "list[tuple[Results, Path]]") -> None:
    """Write the reports beside the results and print the tables."""
    from ebpfmesh.bench.report import run_page

    told = []
    for results, where in runs:
        page = run_page.write(results, where)
        if settings().json:
            found = {"scenario": results.scenario["name"], "directory": where, "report": page}
            told.append({**found, **run_page.data(results)})
            continue
        _say(run_page.terminal(results), run_page.told(results), page)
    if settings().json:
        output.data(runs=told)


def _tell_changes(before: "Results", runs: "list[tuple[Results, Path]]") -> None:
    """Write the pages of comparisons with ``before`` and print their tables."""
    from ebpfmesh.bench.report import compare_page
    from ebpfmesh.bench.stats.compare import compare

    told = []
    found = [(after, compare(before, after), page) for after, page in runs]
    for after, comparison, page in found:
        compare_page.write(before, after, comparison, page)
        if settings().json:
            told.append({"report": page, **compare_page.data(comparison)})
            continue
        _say(compare_page.terminal(comparison), compare_page.headlines(comparison), page)
    if settings().json:
        output.data(comparisons=told)


def _say(tables: "Iterable[RenderableType]", sentences: Iterable[str], page: Path) -> None:
    """What a terminal shows of a page."""
    for table in tables:
        output.show(table)
        output.echo()
    for sentence in sentences:
        output.echo(sentence)
    output.echo(f"report: {page.resolve()}")


bench.add_command(bench_generate)

COMMANDS = (bench, demo)
