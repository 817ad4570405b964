# SPDX-License-Identifier: BSD-2-Clause
"""Ratios of two places each of its own: they are of what is measured, and taken within rounds."""

from ebpfmesh.bench import scenario
from ebpfmesh.bench.report import sections
from ebpfmesh.bench.results import Measurement, Results
from ebpfmesh.bench.scenario import Step
from ebpfmesh.bench.stats import beside
from support import bench_data


def results(*measured: Measurement) -> Results:
    made = bench_data.made("uplink")
    return Results(made.scenario, made.seed, made.environment, made.paths, measurements=measured)


def of(path: str, at: int, values: list[float]) -> list[Measurement]:
    return [
        Measurement(number, "wire-cpu", path, "flows", at, value, "")
        for number, value in enumerate(values, 1)
    ]


def test_each_row_is_of_what_the_scenario_measures() -> None:
    steps = set(scenario.find("uplink").steps)
    for row in beside.ROWS:
        for place in (row.above, row.below):
            assert Step(row.kind, *place) in steps, row.what
    assert len({row.what for row in beside.ROWS}) == len(beside.ROWS)


def test_a_ratio_is_taken_within_each_round() -> None:
    rounds = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    measured = (*of("mesh-xdp", 1, [2 * v for v in rounds]), *of("devmap", 1, rounds[1:]))
    (found,) = beside.rows(results(*measured))
    assert (found.what, found.net) == ("mesh-xdp ÷ devmap, 1 flow", None)
    assert found.ratio is found.judged
    assert (found.judged.rounds, found.judged.ratio, str(found.judged.goal)) == (5, 1.0, "≥ 0.75")


def test_published_figures_stand_beside_dpdk_only() -> None:
    made = bench_data.made("uplink")
    assert "10.1145/3281411.3281443" in sections.published(made).cells[0][2].text
    assert not sections.published(bench_data.made("pps")).rows
    assert not sections.uplink(bench_data.made("pps")).rows
