# SPDX-License-Identifier: BSD-2-Clause
"""Intervals hold what is true as often as they say: by counting, and by drawing many samples."""

import math
import random
from collections.abc import Callable, Sequence
from itertools import product
from statistics import median

import pytest

from ebpfmesh.bench.stats.intervals import LEAST_ROUNDS, WANTED, of_median, of_quotient, rank

SAMPLES = 4000
TOLERANCE = 4 * math.sqrt(0.25 / SAMPLES)  # four standard errors, at most
Draw = Callable[[random.Random], float]
SHAPES: dict[str, tuple[Draw, float]] = {
    "even": (lambda chance: chance.uniform(0, 2), 1.0),
    "skewed": (lambda chance: chance.lognormvariate(0, 1.5), 1.0),
    "two humps": (lambda chance: chance.gauss(chance.choice([-9, 9]), 9), 0.0),
    "far outliers": (lambda chance: math.tan(math.pi * (chance.random() - 0.5)), 0.0),
}
"""How figures may be distributed, with the true median."""


@pytest.mark.parametrize("rounds", range(1, 13))
def test_coverage_is_the_share_of_all_ways_to_lie_about_the_median(rounds: int) -> None:
    """Each round is below it or above: all these ways are as likely, and are counted."""
    k, coverage = rank(rounds)
    inside = sum(k <= sum(above) <= rounds - k for above in product((0, 1), repeat=rounds))
    assert coverage == inside / 2**rounds
    narrower = sum(k < sum(above) < rounds - k for above in product((0, 1), repeat=rounds))
    assert coverage >= WANTED or k == 1
    assert narrower / 2**rounds < WANTED


def test_the_fewest_rounds_to_conclude_from_are_the_first_that_are_sure_enough() -> None:
    assert [rank(n)[1] for n in (1, 2, 3, 4, 5, 6)] == [0, 0.5, 0.75, 0.875, 0.9375, 0.96875]
    assert min(n for n in range(1, 100) if rank(n)[1] >= WANTED) == LEAST_ROUNDS
    assert all(rank(n)[1] >= WANTED for n in range(LEAST_ROUNDS, 1001))


@pytest.mark.parametrize("rounds", [3, 5, 6, 9, 20])
@pytest.mark.parametrize("shape", SHAPES)
def test_interval_holds_the_median_as_often_as_it_says(shape: str, rounds: int) -> None:
    chance, (draw, true) = random.Random(f"{shape} {rounds}"), SHAPES[shape]
    found = [of_median([draw(chance) for _ in range(rounds)]) for _ in range(SAMPLES)]
    held = sum(one.low <= true <= one.high for one in found) / SAMPLES
    assert held == pytest.approx(rank(rounds)[1], abs=TOLERANCE)
    assert {one.coverage for one in found} == {rank(rounds)[1]}


@pytest.mark.parametrize("sizes", [(3, 5), (6, 6), (9, 6)])
def test_interval_of_two_runs_holds_the_quotient_at_least_as_often(sizes: Sequence[int]) -> None:
    chance = random.Random(str(sizes))
    above, below = sizes

    def drawn(true: float, rounds: int) -> list[float]:
        return [true * chance.lognormvariate(0, 0.5) for _ in range(rounds)]

    found = [of_quotient(drawn(3, above), drawn(2, below)) for _ in range(SAMPLES)]
    held = sum(one.low <= 1.5 <= one.high for one in found) / SAMPLES
    assert held >= found[0].coverage == rank(above)[1] * rank(below)[1]


def test_values_stand_in_any_order_and_may_be_without_bounds() -> None:
    values = [1.0, 1.5, 0.5, 1.25, 3.0, math.inf]
    assert of_median(values) == of_median(values[::-1]) == (1.375, 0.5, math.inf, 0.96875)
    assert of_median([math.inf] * 6)[:3] == (math.inf,) * 3
    assert all(map(math.isnan, of_median([])[:3]))
    many = list(map(float, range(1, 21)))
    assert of_median(many)[:3] == (median(many), 6, 15)


def test_quotient_of_two_runs_is_of_their_far_ends() -> None:
    found = of_quotient([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert found == (2, 2 / 3, 6, 0.75**2)  # rounds that were paired would give 2 and 2
