# SPDX-License-Identifier: BSD-2-Clause
"""From raw results to figures, ratios, verdicts and the report; no kernel, invented numbers."""

import dataclasses
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from ebpfmesh.bench import analyse, control, report
from ebpfmesh.bench.results import CONTROL_FIGURES, Measurement, Results, Scenario
from ebpfmesh.bench.run import round_steps
from ebpfmesh.bench.scenarios import SCENARIOS
from ebpfmesh.bench.traffic import parse_iperf3, parse_sockperf, parse_wrk
from ebpfmesh.errors import CommandFailed, NotFound

SCENARIO = Scenario(
    name="test",
    title="a test & its <title>",
    paths={"routed": (0,), "iptables": (1, 1000), "mesh": (1, 1000)},
    seconds={"pps": 0.1, "rr": 1},
    rounds=5,
    control=1,
)
VALUES = {
    ("pps", "routed", 0): 1.0,
    ("pps", "iptables", 1): 0.8,
    ("pps", "iptables", 1000): 0.08,
    ("pps", "mesh", 1): 2.4,
    ("pps", "mesh", 1000): 2.0,
    ("rr", "routed", 0): 8.0,
    ("rr", "iptables", 1): 10.0,
    ("rr", "iptables", 1000): 10.0,
    ("rr", "mesh", 1): 9.0,
    ("rr", "mesh", 1000): 12.0,
}


def made(values: Mapping[tuple[str, str, int], float] = VALUES) -> Results:
    """Results whose machine gets slower by a half from the first round to the last."""
    measurements = [
        Measurement(
            number, path, size, kind, value * (1 - number / 10) ** (1 if kind == "pps" else -1),
            "Mpps" if kind == "pps" else "µs", "raw/x.txt",
        )
        for number in range(1, 6)
        for (kind, path, size), value in values.items()
    ]  # fmt: skip
    return Results(
        SCENARIO,
        seed=1,
        environment={"kernel": "6.18", "time": "now"},
        paths={"routed": "no rules", "iptables": "rules", "mesh": "programs"},
        connections={"mesh": {"radio": "open", "guest": "no answer"}},
        measurements=tuple(measurements),
    )


def ratio(results: Results, traffic: str, services: int, base: str) -> analyse.Ratio:
    return next(
        r
        for r in analyse.ratios(results)
        if (r.traffic, r.services, r.base) == (traffic, services, base)
    )


def test_ratios_are_taken_within_rounds() -> None:
    found = ratio(made(), "pps", 1, "iptables")
    assert (found.low, found.ratio, found.high) == pytest.approx((3, 3, 3))
    assert not found.is_noisy
    spread = next(f for f in analyse.figures(made()) if (f.traffic, f.path) == ("pps", "routed"))
    assert (spread.least, spread.median, spread.greatest) == pytest.approx((0.5, 0.7, 0.9))


def test_path_without_services_is_the_base_at_every_number() -> None:
    assert ratio(made(), "rr", 1000, "routed").ratio == pytest.approx(1.5)


def test_mesh_beside_itself_with_many_services() -> None:
    many = dataclasses.replace(SCENARIO, paths={**SCENARIO.paths, "mesh": (1, 10000)})
    values = {**VALUES, ("pps", "mesh", 10000): 2.4 * 0.96, ("rr", "mesh", 10000): 9.9}
    results = dataclasses.replace(made(values), scenario=many)
    found = {r.traffic: r for r in analyse.inner_ratios(results)}
    assert found["pps"].ratio == pytest.approx(0.96)
    assert (found["pps"].services, found["pps"].base) == (10000, "1 service")
    assert (found["pps"].verdict, found["rr"].verdict) == ("holds", "fails")
    assert "mesh ÷ mesh with" in report.render(results)


def test_mesh_beside_itself_with_another_kind_of_traffic() -> None:
    seconds = {**SCENARIO.seconds, "pps-ipv6": 1.0, "pps-events": 1.0}
    only = {"pps-ipv6": {"mesh": (1,)}, "pps-events": {"mesh": (1,)}}
    scenario = dataclasses.replace(SCENARIO, seconds=seconds, only=only)
    values = {**VALUES, ("pps-ipv6", "mesh", 1): 1.2, ("pps-events", "mesh", 1): 0.6}
    made_of = [
        dataclasses.replace(m, traffic=kind, value=values[kind, "mesh", 1] / 2.4 * m.value)
        for m in made().measurements
        for kind in only
        if (m.traffic, m.path, m.services) == ("pps", "mesh", 1) and m.value
    ]
    results = dataclasses.replace(
        made(), scenario=scenario, measurements=(*made().measurements, *made_of)
    )
    six, events = analyse.inner_ratios(results)
    assert (six.base, six.verdict) == ("IPv4", "fails")
    assert (events.base, events.verdict) == ("events off", "")
    assert events.ratio == pytest.approx(0.25)


def test_goals() -> None:
    assert ratio(made(), "pps", 1, "iptables").verdict == "holds"
    assert ratio(made(), "pps", 1000, "iptables").verdict == "fails"
    assert ratio(made(), "rr", 1, "iptables").verdict == "holds"
    assert ratio(made(), "pps", 1, "routed").verdict == ""


@pytest.mark.parametrize(
    ("goal", "low", "high", "verdict"),
    [
        (analyse.Goal(True, 2), 2, 3, "holds"),
        (analyse.Goal(True, 2), 1.9, 3, "unclear"),
        (analyse.Goal(True, 2), 1, 1.9, "fails"),
        (analyse.Goal(False, 2), 1, 2, "holds"),
        (analyse.Goal(False, 2), 1, 2.1, "unclear"),
        (analyse.Goal(False, 2), 2.1, 3, "fails"),
    ],
)
def test_interval_across_a_goal_is_unclear(
    goal: analyse.Goal, low: float, high: float, verdict: str
) -> None:
    assert goal.judge(low, high) == verdict


def test_losses_know_what_is_better() -> None:
    lost = {(r.traffic, r.services, r.base) for r in analyse.losses(made())}
    assert lost == {
        ("rr", 1, "routed"),
        ("rr", 1000, "routed"),
        ("rr", 1000, "iptables"),
    }


def test_interval_is_the_same_on_every_call_and_holds_the_median() -> None:
    values = np.array([1.0, 1.1, 0.9, 1.05, 3.0])
    first, second = analyse.median_interval(values), analyse.median_interval(values)
    assert first == second
    middle, low, high = first
    assert low <= middle <= high
    assert middle == pytest.approx(1.05)


def test_failed_measurements_are_left_out_and_told() -> None:
    results = made()
    bad = dataclasses.replace(results.measurements[0], value=None, error="broken <pipe>")
    results = dataclasses.replace(results, measurements=(bad, *results.measurements[1:]))
    figure = next(f for f in analyse.figures(results) if f.path == bad.path)
    assert figure.rounds == 4
    assert analyse.failures(results) == (bad,)
    assert "broken &lt;pipe&gt;" in report.render(results)


def test_costs_are_judged_by_their_median() -> None:
    line = Measurement(1, "mesh", 0, "help", 0.5, "s", "raw/y.txt")
    results = dataclasses.replace(made(), measurements=(*made().measurements, line))
    (cost,) = analyse.costs(results)
    assert (cost.figure.median, cost.verdict) == (0.5, "fails")


def test_results_survive_the_directory(tmp_path: Path) -> None:
    scenario = dataclasses.replace(SCENARIO, only={"rr": {"mesh": (1, 1000)}})
    results = dataclasses.replace(made(), scenario=scenario)
    results.save_head(tmp_path)
    lines = [json.dumps(asdict(m)) for m in results.measurements]
    (tmp_path / "results.jsonl").write_text("\n".join(lines) + "\n")
    assert Results.load(tmp_path) == results


def test_no_results_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no results"):
        Results.load(tmp_path)


def test_report_needs_nothing_else(tmp_path: Path) -> None:
    page = report.write(made(), tmp_path).read_text()
    assert "a test &amp; its &lt;title&gt;" in page
    assert page.count("<svg") == len(SCENARIO.seconds)
    assert "currentColor" in page
    assert not any(found in page for found in ("http-equiv", "src=", "@import", "<script"))
    assert "half round trip at 1\u202f000 services: 1.20 × iptables" in page
    assert (tmp_path / "plots.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "figures.json").read_text())["figures"]


def test_report_says_when_the_mesh_was_not_part() -> None:
    without = {key: value for key, value in VALUES.items() if key[1] != "mesh"}
    assert "was not part of this run" in report.render(made(without))


@pytest.mark.parametrize(
    "make",
    [report.figures_table, lambda r: report.ratios_tables(r)[0], report.connections_table],
)
def test_tables_name_the_mesh(make: Callable[[Results], Table]) -> None:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(make(made()))
    assert "mesh" in captured.get()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0731, "0.073"), (2.469, "2.47"), (14.16, "14.2"), (14712.4, "14\u202f712")],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert report.number(value) == text


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_round_has_everything_once_and_keeps_together_what_is_compared(
    scenario: Scenario,
) -> None:
    steps = list(round_steps(scenario, random.Random(3)))
    assert len(steps) == len(set(steps)) == scenario.per_round
    kinds = [kind for kind, _ in steps]
    for together in (kinds, [kind.partition("-")[0] for kind in kinds]):
        assert sum(a != b for a, b in pairwise(together)) + 1 == len(set(together))
    assert steps == list(round_steps(scenario, random.Random(3)))
    assert steps != list(round_steps(scenario, random.Random(4)))


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_every_goal_of_a_scenario_that_has_its_kind_is_measured(scenario: Scenario) -> None:
    for traffic, size, base in analyse.GOALS:
        if traffic in scenario.seconds and base in scenario.paths and size in (1, 1000):
            names = {path for path, _ in scenario.places(traffic)}
            assert (analyse.SUBJECT, size) in scenario.places(traffic)
            assert base in names


def test_every_kind_of_traffic_has_a_title() -> None:
    for scenario in SCENARIOS.values():
        assert set(scenario.seconds) <= set(analyse.KINDS)


def test_sockperf_report() -> None:
    text = "sockperf: ---> percentile 99.000 =   65.7\nsockperf: ---> percentile 50.000 =   37.3\n"
    assert parse_sockperf(text) == {99.0: 65.7, 50.0: 37.3}
    with pytest.raises(CommandFailed):
        parse_sockperf("sockperf: ERROR: connection refused")


@pytest.mark.parametrize(
    "text",
    [
        "iperf3: error",
        '{"end": {}}',
        '{"end": {"sum_received": {"bits_per_second": 1}}, "error": "control socket closed"}',
    ],
)
def test_iperf3_without_result_is_a_failure(text: str) -> None:
    with pytest.raises(CommandFailed):
        parse_iperf3(text)


def test_iperf3_report() -> None:
    assert parse_iperf3('{"end": {"sum_received": {"bits_per_second": 2e9}}}') == 2e9


def test_wrk_report() -> None:
    assert parse_wrk("  12345 requests in 1.00s\nRequests/sec:  12344.50\n") == 12344.5
    with pytest.raises(CommandFailed):
        parse_wrk("  Socket errors: connect 0, read 3\nRequests/sec:  12.0\n")


def test_every_figure_of_control_has_a_goal() -> None:
    assert set(control.FIGURES) == set(analyse.COSTS)
    assert len(control.FIGURES) == CONTROL_FIGURES
