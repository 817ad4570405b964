# SPDX-License-Identifier: BSD-2-Clause
"""From raw results to figures, ratios and verdicts; no kernel, invented numbers."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from ebpfmesh.bench import scenario, words
from ebpfmesh.bench.kinds import KINDS
from ebpfmesh.bench.measure import costs
from ebpfmesh.bench.results import Measurement, Results
from ebpfmesh.bench.stats import analyse
from ebpfmesh.bench.stats.analyse import Goal
from ebpfmesh.errors import NotFound
from support import bench_data

Values = Mapping[tuple[str, str, str, int], float]
VALUES: Values = {
    ("pps", "routed", "services", 0): 1.0,
    ("pps", "iptables", "services", 1): 0.8,
    ("pps", "iptables", "services", 1000): 0.08,
    ("pps", "mesh", "services", 1): 2.4,
    ("pps", "mesh", "services", 1000): 2.0,
    ("rr", "routed", "services", 0): 8.0,
    ("rr", "iptables", "services", 1): 10.0,
    ("rr", "iptables", "services", 1000): 10.0,
    ("rr", "mesh", "services", 1): 9.0,
    ("rr", "mesh", "services", 1000): 12.0,
}


def made(values: Values = VALUES, rounds: int = 6) -> Results:
    """Results whose machine gets slower by more than a half from the first round to the sixth."""
    measurements = tuple(
        Measurement(number, *where, value * _speed(where[0], number), "raw/x.txt")
        for number in range(1, rounds + 1)
        for where, value in values.items()
    )
    return Results(
        scenario={"name": "test", "title": "a test", "rounds": rounds, "measure": ()},
        seed=1,
        environment={"kernel": "6.18", "time": "now"},
        paths=dict.fromkeys((path for _, path, *_ in values), "a path"),
        connections={name: {"radio": "open"} for name in ("iptables", "mesh")},
        measurements=measurements,
    )


def _speed(kind: str, number: int) -> float:
    return (1 - number / 10) ** (1 if KINDS[kind].more_is_better else -1)


def ratio(results: Results, kind: str, at: int, base: str, axis: str = "services") -> analyse.Ratio:
    (found,) = (
        r
        for r in analyse.ratios(results)
        if (r.kind, r.axis, r.at, r.base) == (kind, axis, at, base)
    )
    return found


def test_ratios_are_taken_within_rounds() -> None:
    found = ratio(made(), "pps", 1, "iptables")
    assert (found.low, found.ratio, found.high) == pytest.approx((3, 3, 3))
    assert not found.is_noisy
    spread = next(f for f in analyse.figures(made()) if (f.kind, f.path) == ("pps", "routed"))
    assert (spread.least, spread.median, spread.greatest) == pytest.approx((0.4, 0.65, 0.9))
    assert spread.is_noisy
    assert analyse.round_ratios(made())["pps", "iptables", "services", 1] == pytest.approx([3] * 6)


def test_path_without_services_is_the_base_at_every_number() -> None:
    assert ratio(made(), "rr", 1000, "routed").ratio == pytest.approx(1.5)
    assert {f.path for f in analyse.figures(made()) if f.everywhere} == {"routed"}


def test_no_rules_are_a_place_of_their_own_to_a_path_that_has_rules() -> None:
    values = {("pps", path, "rules", 0): 1.0 for path in ("routed", "iptables", "mesh")}
    results = made({**values, ("pps", "mesh", "rules", 10): 3.0})
    assert ratio(results, "pps", 10, "routed", "rules").ratio == pytest.approx(3)
    assert {(r.base, r.at) for r in analyse.ratios(results)} == {
        ("routed", 0), ("iptables", 0), ("routed", 10),
    }  # fmt: skip
    assert {f.path for f in analyse.figures(results) if f.everywhere} == {"routed"}


def test_place_nought_on_another_axis_is_that_place() -> None:
    assert not analyse.is_everywhere(made(), ("pps", "routed", "flows", 0))


def test_mesh_beside_itself_with_the_most_and_the_least() -> None:
    values = {
        ("pps", "mesh", "services", 1): 2.4,
        ("pps", "mesh", "services", 100): 9.0,
        ("pps", "mesh", "services", 10000): 2.4 * 0.96,
        ("rr", "mesh", "rules", 0): 9.0,
        ("rr", "mesh", "rules", 10): 9.9,
    }
    pps, rr = analyse.inner_ratios(made(values))
    assert (pps.ratio, pps.at, pps.base, pps.verdict) == (
        pytest.approx(0.96), 10000, "1 service", "holds",
    )  # fmt: skip
    assert (rr.base, rr.verdict) == ("0 rules besides", "fails")


def test_mesh_beside_itself_with_another_kind_of_traffic() -> None:
    values = {
        ("pps", "mesh", "services", 1): 2.4,
        ("pps-ipv6", "mesh", "services", 1): 1.2,
        ("pps-events", "mesh", "services", 1): 0.6,
    }
    six, events = analyse.inner_ratios(made(values))
    assert (six.base, six.verdict) == ("IPv4", "fails")
    assert (events.base, events.verdict) == ("events off", "")
    assert events.ratio == pytest.approx(0.25)


def test_what_is_taken_once_is_not_compared() -> None:
    results = made()
    once = [
        Measurement(1, "build", path, "services", at, at, "raw/x")
        for path in results.paths
        for at in (1, 1000)
    ]
    more = dataclasses.replace(results, measurements=(*results.measurements, *once))
    assert analyse.ratios(more) == analyse.ratios(results)
    assert analyse.inner_ratios(more) == analyse.inner_ratios(results)
    assert not analyse.unclear(more)
    assert len(analyse.ratios(made(rounds=1))) == len(analyse.ratios(results))


def test_goals() -> None:
    assert ratio(made(), "pps", 1, "iptables").verdict == "holds"
    assert ratio(made(), "pps", 1000, "iptables").verdict == "fails"
    assert ratio(made(), "rr", 1, "iptables").verdict == "holds"
    assert ratio(made(), "pps", 1, "routed").verdict == ""


def test_goals_are_about_services() -> None:
    values = {("pps", path, "rules", 1): 1.0 for path in ("iptables", "mesh")}
    assert ratio(made(values), "pps", 1, "iptables", "rules").goal is None


@pytest.mark.parametrize(
    ("goal", "low", "high", "verdict"),
    [
        (Goal(True, 2), 2, 3, "holds"),
        (Goal(True, 2), 1.9, 3, "unclear"),
        (Goal(True, 2), 1, 1.9, "fails"),
        (Goal(False, 2), 1, 2, "holds"),
        (Goal(False, 2), 1, 2.1, "unclear"),
        (Goal(False, 2), 2.1, 3, "fails"),
    ],
)
def test_interval_across_a_goal_is_unclear(
    goal: Goal, low: float, high: float, verdict: str
) -> None:
    assert goal.judge(low, high) == verdict


@pytest.mark.parametrize(
    ("low", "high", "more", "enough", "conclusion"),
    [
        (1.1, 1.2, True, True, "better"),
        (1.1, 1.2, False, True, "worse"),
        (0.8, 0.9, True, True, "worse"),
        (0.8, 0.9, False, True, "better"),
        (0.9, 1.1, True, True, "unclear"),
        (1.0, 1.1, True, True, "unclear"),
        (1.1, 1.2, True, False, "unclear"),
    ],
)
def test_conclusions(low: float, high: float, more: bool, enough: bool, conclusion: str) -> None:
    assert analyse.conclude(low, high, more_is_better=more, enough=enough) == conclusion


def test_losses_know_what_is_better() -> None:
    lost = {(r.kind, r.at, r.base) for r in analyse.losses(made())}
    assert lost == {("rr", 1, "routed"), ("rr", 1000, "routed"), ("rr", 1000, "iptables")}


def test_advantage_is_above_1_where_the_mesh_is_better() -> None:
    assert ratio(made(), "pps", 1, "iptables").advantage == pytest.approx((3, 3, 3))
    slower = ratio(made(), "rr", 1000, "iptables")
    assert slower.ratio == pytest.approx(1.2)
    assert slower.advantage == pytest.approx((1 / 1.2,) * 3)


def test_nothing_is_concluded_from_five_rounds_and_no_goal_holds_or_fails() -> None:
    few = made(rounds=5)
    assert not analyse.losses(few)
    assert len(analyse.unclear(few)) == len(analyse.ratios(made()))
    assert {r.verdict for r in analyse.ratios(few)} == {"unclear", ""}
    assert {r.verdict for r in analyse.ratios(made())} == {"holds", "fails", ""}
    assert not analyse.unclear(made())


def test_noise_across_1_is_unclear() -> None:
    results = made()
    noisy = tuple(
        dataclasses.replace(m, value=m.value * (4 if m.round % 2 else 0.2))
        if m.path == "mesh" and m.value
        else m
        for m in results.measurements
    )
    unclear = analyse.unclear(dataclasses.replace(results, measurements=noisy))
    assert ("rr", 1, "iptables") in {(r.kind, r.at, r.base) for r in unclear}
    assert all(r.is_noisy for r in unclear)


def test_losing_nothing_beside_nothing_is_the_same_and_beside_something_infinitely_better() -> None:
    where = ("services", 1)
    lost = {("update-lost", "mesh", *where): 0.0, ("update-lost", "iptables", *where): 0.0}
    assert ratio(made(lost), "update-lost", 1, "iptables").ratio == 1
    better = ratio(
        made({**lost, ("update-lost", "iptables", *where): 7.0}), "update-lost", 1, "iptables"
    )
    assert (better.conclusion, better.advantage) == ("better", (math.inf,) * 3)
    results = made({**lost, ("update-lost", "mesh", *where): 7.0})
    worse = ratio(results, "update-lost", 1, "iptables")
    assert (worse.ratio, worse.low, worse.conclusion) == (math.inf, math.inf, "worse")
    assert analyse.losses(results) == (worse,)


def test_failed_measurements_are_left_out_and_told() -> None:
    results = made()
    bad = dataclasses.replace(results.measurements[0], value=None, error="broken pipe")
    results = dataclasses.replace(results, measurements=(bad, *results.measurements[1:]))
    figure = next(f for f in analyse.figures(results) if f.path == bad.path)
    assert figure.rounds == 5
    assert analyse.failures(results) == (bad,)


def test_costs_are_judged_by_their_median() -> None:
    line = Measurement(1, "help", "mesh", "", 0, 0.5, "raw/y.txt")
    results = dataclasses.replace(made(), measurements=(*made().measurements, line))
    (cost,) = analyse.costs(results)
    assert (cost.figure.median, cost.figure.unit, cost.verdict) == (0.5, "s", "fails")
    assert "help" not in {f.kind for f in analyse.figures(results)}


def test_figures_stand_in_the_order_of_kinds_axes_paths_and_places() -> None:
    found = [(f.kind, f.path, f.at) for f in analyse.figures(made(dict(reversed(VALUES.items()))))]
    assert [kind for kind, *_ in found] == ["pps"] * 5 + ["rr"] * 5
    assert [at for _, path, at in found if path == "mesh"] == [1, 1000] * 2


@pytest.mark.parametrize("change", [{"kind": "crr"}, {"axis": "phase"}])
def test_what_this_version_does_not_know_is_an_error(change: dict[str, str]) -> None:
    results = made()
    strange = dataclasses.replace(results.measurements[0], **change)
    results = dataclasses.replace(results, measurements=(strange,))
    with pytest.raises(NotFound, match="this version does not know"):
        analyse.figures(results)


def test_results_survive_the_directory(tmp_path: Path) -> None:
    results = bench_data.made("demo")
    assert Results.load(bench_data.kept(results, tmp_path)) == dataclasses.replace(
        results, scenario=Results.load(tmp_path).scenario
    )
    assert Results.load(tmp_path).scenario["title"] == results.scenario["title"]


def test_no_results_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no results"):
        Results.load(tmp_path)


def test_results_of_an_older_version_are_refused(tmp_path: Path) -> None:
    bench_data.kept(made(), tmp_path)
    line = '{"round": 1, "path": "mesh", "services": 1, "traffic": "pps", "value": 1, "raw": ""}\n'
    (tmp_path / "results.jsonl").write_text(line)
    with pytest.raises(NotFound, match="no results this version can read") as caught:
        Results.load(tmp_path)
    assert "measure again" in caught.value.hint


@pytest.mark.parametrize("name", scenario.names())
def test_every_goal_of_a_scenario_that_has_its_kind_is_measured(name: str) -> None:
    steps = {(step.kind, step.axis, step.at, step.path) for step in scenario.find(name).steps}
    for kind, axis, at, base in analyse.GOALS:
        if (kind, axis, at, base) in steps:
            assert (kind, axis, at, analyse.SUBJECT) in steps


def test_every_figure_of_control_has_a_goal() -> None:
    assert set(costs.FIGURES) == set(analyse.COSTS)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (0.00123, "0.0012"), (0.0731, "0.073"), (2.469, "2.47"), (14.16, "14.2"),
        (14712.4, "14\u202f712"), (-2.5, "-2.50"), (math.inf, "∞"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert words.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1"), (1514, "1\u202f514"), (10_000, "10\u202fk"), (2_500_000, "2.5\u202fM")],
)
def test_ticks_are_short(value: int, text: str) -> None:
    assert words.short(value) == text


@pytest.mark.parametrize(
    ("axis", "at", "text"),
    [
        ("services", 1, "1 service"), ("services", 1000, "1\u202f000 services"),
        ("rules", 1, "1 rule besides"), ("size", 64, "64 bytes a frame"),
        ("flows", 1_000_000, "1\u202fM flows"),
    ],
)  # fmt: skip
def test_places_in_words(axis: str, at: int, text: str) -> None:
    assert words.place(axis, at) == text


def test_words() -> None:
    assert words.compact(5e8) == "500\u202fM"
    assert words.compact(2e9) == "2.00\u202fG"
    assert words.compact(14712.4) == "14\u202f712"
    assert words.count(1000000) == "1\u202f000\u202f000"
    assert words.between(1, 1.5) == "1.00–1.50"
    assert words.between(1.001, 1.002) == "1.00"
    assert words.capital("tCP bulk") == "TCP bulk"
    assert words.plain("`events` on") == "events on"
