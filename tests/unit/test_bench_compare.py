# SPDX-License-Identifier: BSD-2-Clause
"""Two runs beside each other: verdicts, refusals, the page and the command; invented numbers."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from ebpfmesh.bench.report import compare_page
from ebpfmesh.bench.results import Measurement, Results
from ebpfmesh.bench.stats.compare import Change, compare, say
from ebpfmesh.cli.main import cli
from ebpfmesh.errors import UsageError
from support import bench_data

SCENARIO: dict[str, Any] = {
    "name": "test", "title": "a <test>", "about": "", "rounds": 9, "control": 6,
    "measure": [
        {
            "kinds": ["pps", "rr"], "seconds": 1, "services": [1, 1000],
            "paths": ["routed", "iptables", "mesh"],
        }
    ],
}  # fmt: skip
OTHER = {**SCENARIO, "control": 0, "measure": [{"kinds": ["http"], "paths": ["mesh"]}]}


def run(seed: int, **changes: Any) -> Results:
    return bench_data.made(changes.pop("of", SCENARIO), seed=seed, noise=0.01, **changes)


def scaled(results: Results, factor: float) -> Results:
    """The same run on a machine that is so much faster."""
    slower = {"rr", "rr-p99", "rr-p999", "build", *bench_data.COSTS}
    lines = tuple(
        dataclasses.replace(m, value=m.value / factor if m.kind in slower else m.value * factor)
        for m in results.measurements
        if m.value is not None
    )
    return dataclasses.replace(results, measurements=lines)


def test_what_became_worse_is_found_whichever_way_is_better() -> None:
    found = compare(run(1), run(1, mesh=0.5))
    worse = {(c.kind, c.path) for c in found.changes if c.verdict == "worse"}
    assert worse == {(kind, "mesh") for kind in ("pps", "pps-cpu", "rr", "rr-p99", "rr-p999")}
    pps = next(c for c in found.changes if (c.kind, c.path) == ("pps", "mesh"))
    assert pps.ratio == pytest.approx(0.5)
    assert pps.low <= pps.ratio <= pps.high < 1
    latency = next(c for c in found.changes if (c.kind, c.path) == ("rr", "mesh"))
    assert latency.ratio == pytest.approx(2)
    assert latency.advantage[0] == pytest.approx(0.5)
    assert latency.size == pytest.approx(2)


def test_what_became_better_is_found() -> None:
    found = compare(run(1), run(1, mesh=2.0))
    assert {c.verdict for c in found.changes if c.path == "mesh" and c.kind == "rr"} == {"better"}
    assert {c.verdict for c in found.changes if c.path == "routed"} == {"unclear"}


def test_the_greatest_change_comes_first() -> None:
    sizes = [c.size for c in compare(run(1), run(2, mesh=0.7)).changes]
    assert sizes == sorted(sizes, reverse=True)


def test_a_slower_machine_cancels_out_of_the_ratios() -> None:
    found = compare(run(1), scaled(run(1), 0.5))
    assert found.drift == pytest.approx(0.5)
    assert {c.verdict for c in found.changes if c.rounds_after > 1 and c.axis} == {"worse"}
    assert {c.verdict for c in found.relative} == {"unclear"}
    assert [c.ratio for c in found.relative] == pytest.approx([1] * len(found.relative))
    assert "the machine, or its kernel, changed as well" in compare_page.headlines(found)[1]


def test_the_mesh_beside_others_is_compared_too() -> None:
    found = compare(run(1), scaled(run(1, mesh=0.5), 0.8))
    bases = {(c.base, c.verdict) for c in found.relative if c.kind == "pps"}
    assert bases == {("routed", "worse"), ("iptables", "worse")}
    assert found.drift == pytest.approx(0.8)


def test_five_rounds_conclude_nothing() -> None:
    short = {**SCENARIO, "rounds": 5}
    found = compare(run(1), run(1, of=short, mesh=0.1))
    assert {c.verdict for c in found.changes if c.axis} == {"unclear"}


def test_costs_are_compared_and_less_of_them_is_better() -> None:
    before, after = run(1), run(1)
    lines = [
        dataclasses.replace(m, value=m.value * 3) if m.kind == "help" and m.value else m
        for m in after.measurements
    ]
    found = compare(before, dataclasses.replace(after, measurements=tuple(lines)))
    (change,) = (c for c in found.changes if c.verdict != "unclear")
    assert (change.kind, change.verdict) == ("help", "worse")


def test_what_was_nothing_and_no_longer_is_is_told() -> None:
    before, after = run(1), run(1)
    lines = [dataclasses.replace(m, value=4.0) if m.kind == "idle" else m
             for m in after.measurements]  # fmt: skip
    found = compare(before, dataclasses.replace(after, measurements=tuple(lines)))
    assert found.undivided == (("idle over mesh", 0, 4),)
    assert "idle over mesh: 0 before, 4.00 after." in compare_page.headlines(found)
    assert compare(before, before).undivided == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [("machine", "ffffffffffff"), ("cpu", "Another"), ("cpus", "4"), ("memory", "8000000 kB"),
     ("memory", "much")],
)  # fmt: skip
def test_runs_of_different_machines_are_refused(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"different machines: {name} is ") as caught:
        compare(run(1), run(2, **{name: value}))
    assert caught.value.exit_code == 2
    assert caught.value.hint


def test_a_kernel_that_keeps_a_little_more_memory_is_the_same_machine() -> None:
    found = compare(run(1), run(2, memory="3960000 kB", kernel="6.19.0 x86_64"))
    assert found.environment == (
        ("kernel", "6.18.0 x86_64", "6.19.0 x86_64"), ("memory", "4000000 kB", "3960000 kB"),
    )  # fmt: skip


def test_what_is_different_in_every_run_is_not_told() -> None:
    assert compare(run(1), run(2, time="later")).environment == ()


def test_only_what_both_have_is_compared() -> None:
    both = {**SCENARIO, "measure": [*SCENARIO["measure"], *OTHER["measure"]]}
    found = compare(run(1, of=both), run(2))
    kinds = {"pps", "pps-cpu", "rr", "rr-p99", "rr-p999", "build"}
    assert {c.kind for c in found.changes if c.axis} == kinds
    assert ("http over mesh, 1 service", "before") in found.alone
    assert ("http over mesh, 1 service", "after") in compare(run(2), run(1, of=both)).alone


def test_nothing_in_common_is_refused() -> None:
    other = run(2, of=OTHER)
    kept = tuple(m for m in other.measurements if m.kind == "http")
    with pytest.raises(UsageError, match="no figure in common"):
        compare(run(1), dataclasses.replace(other, measurements=kept))


def test_figures_in_words() -> None:
    assert say(("pps", "mesh", "rules", 10)) == "pps over mesh, 10 rules besides"
    assert say(("help", "mesh", "", 0)) == "help over mesh"


def test_page_says_all_and_escapes_it() -> None:
    before, after = run(1), run(2, mesh=0.6, kernel="<6.19>")
    found = compare(before, after)
    page = compare_page.render(before, after, found)
    assert page == compare_page.render(before, after, found)
    assert "a &lt;test&gt;" in page
    assert "&lt;6.19&gt;" in page
    assert "<6.19>" not in page
    assert "://" not in page
    assert page.count("<svg") == 2 + len({"mesh", "routed", "iptables"})
    for text in ("What else differs", "Figures, after beside before", "neither clearly"):
        assert text in page


def test_pictures_have_the_greatest_changes_and_stay_finite() -> None:
    found = compare(run(1), run(2, mesh=0.5))
    many = dataclasses.replace(found, changes=found.changes * 9)
    pictures = {picture.name: picture for picture in compare_page.pictures(many)}
    assert len(pictures["changes"].rows) == compare_page.MOST_ROWS
    assert "40 greatest" in pictures["changes"].title
    points = [p for row in pictures["relative"].rows for p in row.points]
    assert all(0 < p.low <= p.high < math.inf for p in points)
    assert {p.path for p in points} == {"routed", "iptables"}


def test_data_is_for_programs() -> None:
    found = compare(run(1), run(2, mesh=0.5))
    data = json.loads(json.dumps(compare_page.data(found), allow_nan=False))
    assert len(data["changes"]) == len(found.changes)
    assert data["changes"][0]["verdict"] == found.changes[0].verdict
    assert data["drift"] == found.drift


def test_terminal_has_every_change() -> None:
    found = compare(run(1), run(2, kernel="7.0"))
    console = Console(width=110)
    with console.capture() as captured:
        for table in compare_page.terminal(found):
            console.print(table)
    text = captured.get()
    assert "What else differs" in text
    assert "mesh ÷ iptables" in text
    assert text.count("unclear") + text.count("better") + text.count("worse") >= len(found.changes)


def test_change_knows_which_way_is_better() -> None:
    change = Change("pps", "mesh", "services", 1, "", False, 1, 2, 2.0, 1.5, 2.5, 0.94, 6, 6)
    assert (change.more_is_better, change.verdict) == (True, "better")
    cost = dataclasses.replace(change, kind="help", axis="", at=0)
    assert (cost.more_is_better, cost.verdict) == (False, "worse")
    assert cost.advantage == (0.5, 0.4, 1 / 1.5)


def told(*words: str) -> tuple[int, str]:
    """Exit code and output of the command; a refusal is what it raises."""
    done = CliRunner().invoke(cli, ["bench", "report", *words])
    if done.exception and not isinstance(done.exception, SystemExit):
        return getattr(done.exception, "exit_code", 1), str(done.exception)
    return done.exit_code, done.output


@pytest.fixture
def two(tmp_path: Path) -> tuple[str, str]:
    before = bench_data.kept(run(1), tmp_path / "before")
    after = bench_data.kept(run(2, mesh=0.5), tmp_path / "after")
    return str(before), str(after)


def test_command_compares_two_directories(two: tuple[str, str]) -> None:
    code, text = told(*two)
    assert code == 0
    assert "Figures, after beside before" in text
    assert "worse" in text
    assert (Path(two[1]) / "compare.html").read_text().startswith("<!doctype html>")


def test_command_writes_where_it_is_told_and_speaks_json(
    two: tuple[str, str], tmp_path: Path
) -> None:
    page = tmp_path / "new" / "page.html"
    code, text = told(*two, "-o", str(page), "--json")
    assert code == 0
    data = json.loads(text)
    assert data["schema"] == 1
    assert data["comparisons"][0]["report"] == str(page)
    assert data["comparisons"][0]["changes"]
    assert page.is_file()
    assert not (Path(two[1]) / "compare.html").exists()


def test_command_compares_each_of_several_with_the_first(
    two: tuple[str, str], tmp_path: Path
) -> None:
    third = str(bench_data.kept(run(3), tmp_path / "third"))
    code, text = told(*two, third, "--json")
    assert code == 0
    pages = [Path(found["report"]) for found in json.loads(text)["comparisons"]]
    assert pages == [Path(two[1]) / "compare.html", Path(third) / "compare.html"]
    assert told(*two, third, "-o", str(tmp_path / "x.html"))[0] == 2


def test_command_refuses_another_machine(two: tuple[str, str], tmp_path: Path) -> None:
    other = bench_data.kept(run(3, cpu="Another"), tmp_path / "other")
    code, text = told(two[0], str(other))
    assert code == 2
    assert "different machines" in text
    assert not (other / "compare.html").exists()


def test_command_reports_one_directory(two: tuple[str, str]) -> None:
    code, text = told(two[0])
    assert code == 0
    assert "Medians, by services" in text
    assert "Beside iptables the mesh was better" in text
    assert (Path(two[0]) / "report.html").is_file()
    code, text = told(two[0], "--json")
    (data,) = json.loads(text)["runs"]
    assert data["scenario"] == "test"
    assert data["summary"][0].startswith("Beside iptables")
    assert data["figures"]


def test_command_needs_a_report_of_one_directory_in_its_place(two: tuple[str, str]) -> None:
    code, text = told(two[0], "-o", "/nowhere/x.html")
    assert code == 2
    assert "comparison of two" in text


def test_command_says_what_is_wrong_with_old_results(two: tuple[str, str]) -> None:
    (Path(two[0]) / "results.jsonl").write_text('{"traffic": "pps", "services": 1}\n')
    code, text = told(two[0])
    assert code == 3
    assert "no results this version can read" in text


def test_a_measurement_that_failed_is_not_compared() -> None:
    before = run(1)
    gone = tuple(
        Measurement(m.round, m.kind, m.path, m.axis, m.at, None, m.raw, "broke")
        if m.kind == "pps"
        else m
        for m in before.measurements
    )
    found = compare(before, dataclasses.replace(before, measurements=gone))
    assert "pps" not in {c.kind for c in found.changes}
    assert ("pps over mesh, 1 service", "before") in found.alone
