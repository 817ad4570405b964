# SPDX-License-Identifier: BSD-2-Clause
"""How CPU follows load: invented paths, whose answers are known."""

import dataclasses
import tomllib
from collections.abc import Callable

import numpy as np
import pytest

from ebpfmesh.bench.kinds import KINDS
from ebpfmesh.bench.measure.load import LENGTH, MOST_BURST, pace
from ebpfmesh.bench.results import Measurement, Results
from ebpfmesh.bench.scenario import DIRECTORY
from ebpfmesh.bench.stats import fit

LOADS: list[int] = tomllib.loads((DIRECTORY / "load.toml").read_text())["measure"][0]["load"]
ROUNDS = 5
Cpu = Callable[[int, int], float]
"""CPU at a load in a round."""


def made(cpu: Cpu, *, idle: float = 0.0, limit: float = 1e12) -> Results:
    """Results of a path that carries ``limit`` bits per second and no more."""
    lines = []
    for number in range(1, ROUNDS + 1):
        for load in LOADS:
            values = {
                "load": cpu(load, number),
                "load-idle": idle,
                "load-received": min(load, limit),
                "load-machine": 1 + cpu(load, number),
            }
            assert values.keys() == set(fit.KINDS_READ) <= KINDS.keys()
            lines += [
                Measurement(number, kind, "path", "load", load, value, "raw/x.txt")
                for kind, value in values.items()
            ]
    return Results({}, 1, {}, {"path": "invented"}, measurements=tuple(lines))


def proportional(load: int, _number: int) -> float:
    return 80 * load / 1e9


def polling(load: int, _number: int) -> float:
    return 100 + 3 * load / 1e9


def noisy(load: int, number: int) -> float:
    return (2 + 50 * load / 1e9) * (1 + (number - 3) / 10)


def only(results: Results) -> fit.Fit:
    (found,) = fit.fits(results)
    return found


def test_scenario_covers_four_decades() -> None:
    assert (LOADS[0], LOADS[-1], len(LOADS)) == (10**5, 10**9, 13)
    assert sorted(LOADS) == LOADS


def test_path_in_proportion() -> None:
    found = only(made(proportional))
    assert found.slope is not None
    assert found.slope[:3] == pytest.approx((1, 1, 1))
    assert found.r_squared == pytest.approx(1)
    assert (found.fixed, found.cost) == pytest.approx((0, 80), abs=1e-9)
    assert found.tenth is not None
    assert found.tenth[:3] == pytest.approx((0.1, 0.1, 0.1))
    assert (found.dynamic_range, found.proportionality) == pytest.approx((1, 1))
    assert (found.full, found.saturated, found.peak) == (10**9, None, pytest.approx(80))
    assert found.machine == pytest.approx(81)


def test_path_that_polls() -> None:
    found = only(made(polling, idle=100))
    assert found.idle is not None
    assert found.idle[:3] == pytest.approx((100, 100, 100))
    assert found.slope is not None
    assert found.slope[0] == pytest.approx(0, abs=0.01)
    assert (found.fixed, found.cost) == pytest.approx((100, 3))
    assert found.tenth is not None
    assert found.tenth[0] > 0.97
    assert found.dynamic_range == pytest.approx(0.03, abs=0.002)
    assert found.proportionality == pytest.approx(0.03, abs=0.002)


def test_daemon_that_wakes_up_now_and_then_is_not_idle() -> None:
    results = made(proportional)
    seldom = tuple(
        dataclasses.replace(m, value=1.3) if (m.kind, m.at) == ("load-idle", LOADS[0]) else m
        for m in results.measurements
    )
    idle = only(dataclasses.replace(results, measurements=seldom)).idle
    assert idle[:3] == pytest.approx((0.1, 0.1, 0.1))


def test_path_that_jumps_to_a_core() -> None:
    found = only(made(lambda load, _: min(100.0, 100 * load / 1e8)))
    assert found.dynamic_range == pytest.approx(1)
    assert found.tenth is not None
    assert found.tenth[:3] == pytest.approx((1, 1, 1))
    assert found.proportionality == pytest.approx(0.1, abs=0.01)


def test_noise_makes_the_intervals_wide_and_hides_nothing() -> None:
    found = only(made(noisy))
    assert (found.fixed, found.cost) == pytest.approx((2, 50))
    rough = np.random.default_rng(4)
    other = only(made(lambda load, _: proportional(load, 0) * rough.lognormal(0, 0.3)))
    assert other.slope is not None
    value, low, high, _ = other.slope
    assert low < value < high
    assert 0.005 < high - low < 0.5
    assert value == pytest.approx(1, abs=0.1)


def test_nothing_is_fitted_from_saturation_on() -> None:
    found = only(made(lambda load, _: min(proportional(load, 0), 16.0), limit=2.05e8))
    assert (found.full, found.saturated) == (2 * 10**8, 5 * 10**8)
    assert found.peak == pytest.approx(16)
    assert found.slope is not None
    assert found.slope[:3] == pytest.approx((1, 1, 1))
    assert found.tenth is not None
    assert found.tenth[:3] == pytest.approx((0.1, 0.1, 0.1))


def test_load_that_the_machine_disturbed_is_not_saturation() -> None:
    results = made(proportional)
    late = tuple(
        dataclasses.replace(m, value=0.9 * m.at)
        if (m.kind, m.at) == ("load-received", LOADS[1])
        else dataclasses.replace(m, value=40.0)
        if (m.kind, m.at) == ("load", LOADS[1])
        else m
        for m in results.measurements
    )
    found = only(dataclasses.replace(results, measurements=late))
    assert (found.full, found.saturated) == (10**9, None)
    assert found.slope is not None
    assert found.slope[:3] == pytest.approx((1, 1, 1))


def test_cpu_in_the_noise_does_not_bend_the_slope() -> None:
    found = only(made(lambda load, _: max(8 * load / 1e9, 0.009)))
    assert found.slope is not None
    assert found.slope[:3] == pytest.approx((1, 1, 1), abs=1e-6)


def test_path_that_carries_nothing_has_no_fit() -> None:
    found = only(made(polling, limit=10))
    assert (found.full, found.saturated) == (None, LOADS[0])
    assert {found.peak, found.slope, found.cost, found.tenth, found.proportionality} == {None}
    table = fit.table(made(polling, limit=10))
    assert table is not None
    assert "–" in table.rows[0]


def test_nothing_is_below_zero() -> None:
    assert fit.line(np.array([1e8, 2e8, 1e9]), np.array([1.0, 3.0, 20.0]))[0] == 0
    assert fit.line(np.array([1e8, 2e8, 1e9]), np.array([20.0, 10.0, 9.0]))[1] == 0


def test_round_that_failed_is_left_out() -> None:
    results = made(noisy)
    bad = next(m for m in results.measurements if (m.kind, m.round) == ("load", 3))
    gone = dataclasses.replace(bad, value=None, error="broken")
    rest = tuple(gone if m is bad else m for m in results.measurements)
    found = only(dataclasses.replace(results, measurements=rest))
    assert found.cost == pytest.approx(50, rel=0.01)


def test_table_is_the_same_on_every_call() -> None:
    table = fit.table(made(noisy, idle=1))
    assert table is not None
    assert table == fit.table(made(noisy, idle=1))
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert dict(zip(table.columns, table.rows[0], strict=True))["full load, b/s"] == "1 G"


def test_no_load_is_no_table() -> None:
    assert fit.table(dataclasses.replace(made(noisy), measurements=())) is None


@pytest.mark.parametrize("load", [1000, *LOADS, 10**11])
def test_pace_is_the_load(load: int) -> None:
    timer, burst = pace(load)
    assert 1 <= burst <= MOST_BURST
    if LOADS[0] <= load <= LOADS[-1]:
        assert burst * LENGTH * 8 * 1e6 / timer == pytest.approx(load, rel=0.15)
