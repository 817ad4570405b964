# SPDX-License-Identifier: BSD-2-Clause
"""The report of a run: what the page says, how it is made, and its files; invented numbers."""

import csv
import dataclasses
import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ebpfmesh.bench.kinds import KINDS
from ebpfmesh.bench.report import method, run_page, sections, summary
from ebpfmesh.bench.report.sections import Cell, Section
from ebpfmesh.bench.results import Measurement, Results
from ebpfmesh.bench.stats import analyse
from support import bench_data

SCENARIO: dict[str, Any] = {
    "name": "test", "title": "a test & its <title>", "about": "What `x` is: <b>", "rounds": 6,
    "control": 2,
    "measure": [
        {
            "kinds": ["pps", "rr"], "seconds": 1, "services": [1, 1000],
            "paths": ["redirect_peer", "iptables", "nftables", "mesh"],
        },
        {"kinds": ["pps-events"], "seconds": 1, "paths": ["mesh"]},
    ],
}  # fmt: skip
VOID = {"meta", "link", "br", "use"}
MISSING = {"ovs": "no <module>"}


@pytest.fixture(scope="module")
def results() -> Results:
    """A run with everything in it that can be told."""
    found = bench_data.made(SCENARIO, missing=MISSING)
    bad = dataclasses.replace(found.measurements[0], value=None, error="broken <pipe>")
    return dataclasses.replace(found, measurements=(bad, *found.measurements[1:]))


@pytest.fixture(scope="module")
def page(results: Results) -> str:
    return run_page.render(results)


class Checked(HTMLParser):
    """Reads a page; what is opened must be closed in order, and an id is given once."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.heads: list[int] = []
        self.rows: list[int] = []
        self.text: dict[str, str] = {}
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if (name := named.get("id")) is not None:
            assert name not in self.ids
            self.ids.add(name)
        self.links += [v for k, v in attrs if k in ("href", "src", "action", "data") and v]
        if tag == "table":
            self.heads.append(0)
        if tag == "th":
            self.heads[-1] += 1
        if tag == "tr":
            self.rows.append(0)
        if tag == "td":
            self.rows[-1] += 1
            if "data-sort" in named:
                float(named["data-sort"] or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == "tr" and self.rows[-1]:
            assert self.rows[-1] == self.heads[-1]
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.text[self.open[-1]] = self.text.get(self.open[-1], "") + data


def test_page_is_well_formed_and_needs_nothing_else(page: str, results: Results) -> None:
    read = Checked(page)
    own = {f"plots/{picture.name}" for picture in run_page.pictures_of(results)}
    beside = {"figures.csv", "ratios.csv", "figures.json", "results.jsonl", "run.json", "raw/"}
    for link in read.links:
        if link.startswith("#"):
            assert link[1:] in read.ids
        else:
            assert link in beside or link.rpartition(".")[0] in own
    assert "://" not in page
    assert not re.search(r"@import|url\((?!#)", page)
    assert "default-src 'none'" in page


def test_every_reference_within_a_picture_is_to_the_picture(page: str) -> None:
    ids = Checked(page).ids
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= ids


def test_names_and_texts_are_escaped(page: str) -> None:
    assert "a test &amp; its &lt;title&gt;" in page
    assert "What <code>x</code> is: &lt;b&gt;" in page
    assert "no &lt;module&gt;" in page
    assert "broken &lt;pipe&gt;" in page
    assert "<pipe>" not in page


def test_two_renderings_are_the_same_to_the_byte(results: Results, page: str) -> None:
    assert run_page.render(results) == page


def test_tables_sort_by_script_and_stand_without(page: str) -> None:
    assert "aria-sort" in page
    assert "<button" not in page  # they are made by the script, so there is none without it
    assert 'data-sort="1000"' in page


def test_page_says_all_there_is_to_say(page: str, results: Results) -> None:
    read = Checked(page)
    for title in (
        "In short", "Where the mesh loses", "Missing here", "Measurements that failed", "Pictures",
        "The mesh compared, round by round", "The mesh beside itself", "The mesh's own cost",
        "The policy at work", "All figures", "How it was measured", "Where it was measured",
    ):  # fmt: skip
        assert title in read.text["h2"]
    assert "An invented processor" in read.text["dd"]
    assert "what mesh is" in read.text["dd"]
    for claim in summary.losses(results):
        assert all(part.text in page for part in claim.parts)
    for path in ("redirect_peer", "iptables", "nftables", "mesh"):
        assert page.count(f'id="key-{path}-') > 0


def test_what_was_measured_once_is_said_where_the_mesh_loses() -> None:
    """At its worst beside each path, in figures, and never as a conclusion."""
    found = bench_data.made({**SCENARIO, "control": 0, "rounds": 1}, noise=0.001)
    took = {("mesh", 1): 2.0, ("mesh", 1000): 9.0, ("iptables", 1): 4.0, ("iptables", 1000): 1.5}
    lines = [m for m in found.measurements if m.kind != "build"]
    lines += [Measurement(1, "build", path, "services", at, value, "raw/built.json")
              for (path, at), value in took.items()]  # fmt: skip
    found = dataclasses.replace(found, measurements=tuple(lines))
    (claim,) = summary.once(found)
    assert str(claim) == (
        "All of the path built (less is better): 9.00 s, iptables 1.50, at 1\u202f000 services"
    )
    page = run_page.render(found)
    assert page.index("Where the mesh loses") < page.index("Measured once") < page.index("Pictures")
    assert claim.parts[0].text in page
    assert not summary.losses(found)
    assert f"measured once: {claim}" in run_page.told(found)
    assert run_page.data(found)["once"] == [str(claim)]


def test_names_and_goals_are_explained_before_they_are_used() -> None:
    part = {"kinds": ["pps"], "seconds": 1, "services": [1000],
            "paths": ["iptables", "iptables-each-packet", "mesh"]}  # fmt: skip
    found = bench_data.made({**SCENARIO, "measure": [part]})
    page = run_page.render(found)
    what = summary.GLOSSES["iptables-each-packet"]
    first = page.index("iptables-each-packet")
    assert page[first:].startswith(f"iptables-each-packet</b>: {what}")
    assert sections.GOAL_NOTE in page
    assert f"iptables-each-packet: {what}" in run_page.told(found)


def test_page_says_what_is_too_noisy() -> None:
    noisy = bench_data.made(SCENARIO, noise=0.6)
    assert analyse.unclear(noisy)
    page = run_page.render(noisy)
    assert "Too noisy to conclude" in page
    assert summary.unclear(noisy)[0].parts[0].text in page


def test_page_leaves_out_what_there_is_not() -> None:
    page = run_page.render(bench_data.made({**SCENARIO, "control": 0}, noise=0.001))
    for title in ("Too noisy", "Missing here", "that failed", "own cost"):
        assert title not in page


def test_a_run_without_the_mesh_says_so() -> None:
    part = {"kinds": ["pps"], "seconds": 1, "paths": ["iptables", "nftables"], "services": [1]}
    found = bench_data.made({**SCENARIO, "control": 0, "measure": [part]})
    assert summary.headlines(found) == ["The mesh was not part of this run."]
    assert "does not compare the mesh with another path" in run_page.render(found)


def test_a_run_of_the_mesh_alone_is_about_itself() -> None:
    kinds = {"kinds": ["pps", "pps-events"], "seconds": 1, "paths": ["mesh"]}
    found = bench_data.made({**SCENARIO, "control": 0, "measure": [kinds]})
    (sentence,) = summary.headlines(found)
    assert sentence == "This run does not compare the mesh with iptables or nftables."
    assert str(summary.claims(found)[0]).startswith("Packets per second, `events` on: 0.6")
    assert "the mesh with events off" in str(summary.claims(found)[0])
    assert [picture.form for picture in run_page.pictures_of(found)] == ["rows"]


@pytest.mark.parametrize(
    ("tally", "sentence"),
    [
        ((1, 0, 0), "the only figure."),
        ((4, 0, 0), "all 4 figures."),
        ((3, 1, 0), "3 of 4 figures, worse in 1."),
        ((1, 1, 2), "1 of 4 figures, worse in 1, neither clearly in 2."),
        ((0, 0, 1), "none of 1 figure, worse in none, neither clearly in 1."),
    ],
)  # fmt: skip
def test_tallies_in_words(tally: tuple[int, int, int], sentence: str) -> None:
    told = summary.tally_sentence(summary.Tally("x", *tally))
    assert told == f"Beside x the mesh was better in {sentence}"


def of(at: int, value: float, spread: float = 0.01, kind: str = "pps") -> analyse.Ratio:
    ends = value * (1 - spread), value * (1 + spread)
    return analyse.Ratio(kind, "services", at, "iptables", value, *ends, 0.97, 6, None)


def test_tallies_count_the_conclusions_by_rival() -> None:
    others = [dataclasses.replace(of(1, 2), base=base) for base in ("mesh@x", "routed")]
    ratios = analyse.beside_rivals([*others, of(1, 2), of(10, 0.5), of(100, 1)])
    assert summary.tallies(ratios) == (
        summary.Tally("iptables", 1, 1, 1), summary.Tally("mesh@x", 1, 0, 0),
    )  # fmt: skip


def test_by_cpu_time_only_another_build_is_told() -> None:
    by_cpu = [dataclasses.replace(of(1, 2), kind="pps-cpu", base=b) for b in ("iptables", "mesh@x")]
    assert [ratio.base for ratio in analyse.beside_rivals(by_cpu)] == ["mesh@x"]


def test_extents_know_the_worst_and_the_best() -> None:
    (rate,) = summary.extents([of(10, 3), of(1, 2), of(100, 30)])
    assert (rate.worst.at, rate.best.at, rate.is_flat) == (1, 100, False)
    (latency,) = summary.extents([of(1, 0.9, kind="rr"), of(10, 0.3, kind="rr")])
    assert (latency.worst.at, latency.best.at) == (1, 10)
    (flat,) = summary.extents([of(1, 2, 0.2), of(10, 2.1, 0.2)])
    assert flat.is_flat


def test_claims_name_both_ends_or_what_is_the_same(results: Results) -> None:
    said = {claim.about: str(claim) for claim in summary.claims(results)}
    assert re.fullmatch(
        r"Packets per second, UDP: 2\.\d\d× iptables \([^)]+\) at 1 service to "
        r"\d\d\.\d× \([^)]+\) at 1\u202f000 services; "
        r"2\.\d\d(–2\.\d\d)?× nftables \([^)]+\) at 1 to 1\u202f000 services",
        said["Packets per second, UDP"],
    )
    assert "Half round trip (less is better)" in said
    assert {part.tone for claim in summary.claims(results)[:2] for part in claim.parts} == {"good"}


def test_the_same_failure_is_told_once() -> None:
    one = Measurement(2, "pps", "mesh", "services", 1, None, "raw/x", "it broke")
    other = dataclasses.replace(one, kind="help", axis="", at=0)
    told = list(summary.grouped_failures([one, dataclasses.replace(one, round=3), other]))
    where = "packets per second, UDP over mesh at 1 service"
    assert told == [
        f"Round 2, {where}: it broke (and in 1 more rounds)",
        "Round 2, ebpfmesh --help over mesh: it broke",
    ]


def test_files_beside_the_page(results: Results, tmp_path: Path) -> None:
    page = run_page.write(results, tmp_path)
    assert page == tmp_path / "report.html"
    drawn = run_page.pictures_of(results)
    for link in Checked(page.read_text()).links:
        if link.startswith(("plots/", "figures", "ratios")):
            assert (tmp_path / link).is_file()
    for picture in drawn:
        for suffix in ("csv", "svg", "pdf", "png"):
            assert (tmp_path / f"plots/{picture.name}.{suffix}").stat().st_size
    rows = list(csv.DictReader((tmp_path / "figures.csv").open()))
    assert len(rows) == len(analyse.figures(results)) + len(analyse.costs(results))
    assert float(rows[0]["median"]) == analyse.figures(results)[0].median
    ratios = list(csv.DictReader((tmp_path / "ratios.csv").open()))
    assert len(ratios) == len(analyse.ratios(results)) + len(analyse.inner_ratios(results))
    data = json.loads((tmp_path / "figures.json").read_text())
    assert data == json.loads(json.dumps(run_page.data(results)))
    assert data["missing"] == MISSING
    assert data["failures"][0]["error"] == "broken <pipe>"
    assert len(data["ratios"]) == len(analyse.ratios(results))
    assert data["losses"] == [*map(str, summary.losses(results))]


def test_a_ratio_to_nothing_is_null_in_json() -> None:
    lines = tuple(
        Measurement(n, "update-lost", path, "services", 1, lost, "raw/x")
        for n in range(1, 7)
        for path, lost in (("iptables", 0.0), ("mesh", 3.0))
    )
    found = dataclasses.replace(bench_data.made(SCENARIO), measurements=lines)
    (ratio,) = json.loads(json.dumps(run_page.data(found), allow_nan=False))["ratios"]
    assert (ratio["ratio"], ratio["conclusion"]) == (None, "worse")
    page = run_page.render(found)
    assert "∞× iptables" in page
    assert 'data-sort="Infinity">∞</td>' in page
    assert 'data-sort="nan"' not in page


def test_a_further_table_needs_a_function_only(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = Section("Fits", ("path", ">slope"), (("mesh", 0.0123),), "By least squares.")
    monkeypatch.setattr(run_page, "SECTIONS", (*run_page.SECTIONS, lambda _: fits))
    page = run_page.render(results)
    assert "<h2>Fits</h2>" in page
    assert '<td class="n " data-sort="0.0123">0.012</td>' in page
    assert "By least squares." in page


def test_cells_of_a_section() -> None:
    section = Section("t", ("a", ">b", "c"), (("x", 1.5, Cell("y", 3, "bad")),))
    assert section.cells == ((Cell("x"), Cell("1.50", 1.5), Cell("y", 3, "bad")),)


def test_fits_are_told_where_a_load_was_measured(results: Results) -> None:
    found = bench_data.made("load")
    assert "CPU in proportion to the load" in run_page.render(found)
    assert sections.fits(found).rows[0][0] in found.paths
    assert not sections.fits(results).rows


def test_what_a_packet_costs_is_told_by_how_far_it_goes() -> None:
    """ns by CPU time: 1000 by millions per CPU second, and what that is more in each round."""
    kinds = {"pps-cpu": (2.0, 1.0), "pps-new-flows-cpu": (0.5, 0.4), "pps-denied-cpu": (1.0, 0.5)}
    lines = tuple(
        Measurement(number, kind, "mesh", "services", 1, value, "raw/x")
        for kind, values in kinds.items()
        for number, value in enumerate(values * 3, 1)
    )
    found = dataclasses.replace(bench_data.made("flow-cost"), measurements=lines)
    rows = [(row[1].brief, row[2].sort, row[4].sort) for row in sections.stages(found).cells]
    assert rows == [("pps", 750, 0), ("pps-denied", 1500, 750), ("pps-new-flows", 2250, 1500)]
    assert not sections.stages(bench_data.made("pps")).rows


def test_a_wide_table_is_turned_on_a_terminal() -> None:
    names = tuple(f">c{number}" for number in range(12))
    section = Section("t", ("path", *names), (("mesh", *map(float, range(12))),))
    printed = sections.table(section)
    assert [column.header for column in printed.columns] == ["path", "mesh"]
    assert printed.row_count == 12


def shown(results: Results, width: int = 100) -> str:
    console = Console(width=width)
    with console.capture() as captured:
        for table in run_page.terminal(results):
            console.print(table)
    return captured.get()


@pytest.mark.parametrize("name", bench_data.names())
def test_terminal_of_100_columns_shows_all_paths_unbroken(name: str) -> None:
    results = bench_data.made(name)
    text = shown(results)
    for path in results.paths:
        assert re.search(rf"\b{path}\b", text)
    text, wide = (t.partition("CPU in proportion")[0] for t in (text, shown(results, 300)))
    assert text.count("\n") == wide.count("\n")  # no line was broken


def test_terminal_has_a_path_without_services_at_every_place(results: Results) -> None:
    found = re.search(r"^rr +µs +redirect_peer +(\S+) +(\S+) *$", shown(results), re.MULTILINE)
    assert found
    first, second = found.groups()
    assert first == second


def test_more_places_than_fit_are_split() -> None:
    part = {"kinds": ["pps"], "seconds": 1, "paths": ["iptables", "mesh"],
            "flows": [1, 2, 5, 10, 20, 50, 100, 1000]}  # fmt: skip
    found = list(sections.figures_tables(bench_data.made({**SCENARIO, "measure": [part]})))
    assert [len(section.columns) - 3 for section in found] == [6, 2]


def test_terminal_tells_what_the_page_does(results: Results) -> None:
    told = list(run_page.told(results))
    assert told[: len(summary.headlines(results))] == summary.headlines(results)
    assert "missing here: ovs: no <module>" in told
    assert any(line.startswith("loses in ") for line in told)
    assert any(line.startswith("failed: Round 1") and "broken <pipe>" in line for line in told)


def test_policy_table_has_every_client(results: Results) -> None:
    section = sections.policy(results)
    assert section.columns == ("path", "connection from radio", "connection from guest")
    assert ("mesh", "open", "no answer") in section.rows


def test_method_speaks_of_what_was_measured() -> None:
    watched = " ".join(method.sentences(bench_data.made("observation")))
    assert "9 rounds" in watched
    assert "Packets per second: frames" in watched
    assert "iperf3" not in watched
    assert "nginx" in " ".join(method.sentences(bench_data.made("http")))
    changes = {"kinds": ["add-service"], "seconds": 1, "paths": ["mesh"]}
    added = bench_data.made({**SCENARIO, "control": 0, "measure": [changes]})
    assert method.ONE_CORE not in list(method.sentences(added))


def test_everything_that_measures_has_its_method() -> None:
    assert {kind.take for kind in KINDS.values() if kind.take} <= set(method.TAKES)


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a `b` c", "a <code>b</code> c"),
        ("`<b>`", "<code>&lt;b&gt;</code>"),
        ("it`s <", "it`s &lt;"),
    ],
)
def test_what_is_typed_is_marked_and_escaped(text: str, html: str) -> None:
    assert run_page.typed(text) == html
