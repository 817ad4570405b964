# SPDX-License-Identifier: BSD-2-Clause
"""Exact intervals of a median, whatever the rounds are distributed like.

Of n independent rounds each is below the median with probability 1/2. So the median lies between
the k-th lowest and the k-th highest of them unless fewer than k are below it, or above:

    coverage = 1 - 2 · P(B < k)        with B binomial, n trials of 1/2

(order statistics: David and Nagaraja, "Order Statistics", 2003, 7.1). k is as large as WANTED
allows. The least and the greatest of five rounds cover 93.75 %, of three 75 %: what is left of
WANTED there is said, not hidden.
"""

import math
from collections.abc import Sequence
from functools import cache
from statistics import median
from typing import NamedTuple

WANTED = 0.95
LEAST_ROUNDS = 6
"""The fewest of which an interval covers WANTED: from fewer nothing is concluded."""


class Interval(NamedTuple):
    """A value, the ends that the true one lies between, and how probably it does."""

    value: float
    low: float
    high: float
    coverage: float


@cache
def rank(rounds: int) -> tuple[int, float]:
    """k, at least 1, and the coverage of the k-th lowest to the k-th highest of ``rounds``."""
    outside = 2 / 2**rounds  # as if the least and the greatest were the ends
    k = 1
    while outside + (more := 2 * math.comb(rounds, k) / 2**rounds) <= 1 - WANTED:
        outside += more
        k += 1
    return k, 1 - outside


def of_median(values: Sequence[float]) -> Interval:
    """The median of independent values and its interval; nan without any."""
    if not values:
        return Interval(math.nan, math.nan, math.nan, 0)
    k, coverage = rank(len(values))
    ranked = sorted(values)
    return Interval(median(ranked), ranked[k - 1], ranked[-k], coverage)


def of_quotient(above: Sequence[float], below: Sequence[float]) -> Interval:
    """Median ÷ median of two runs that have nothing in common.

    It is between the quotients of the far ends at least when both medians are in their intervals:
    the coverage is that product or more.
    """
    over, under = of_median(above), of_median(below)
    return Interval(
        over.value / under.value,
        over.low / under.high,
        over.high / under.low,
        over.coverage * under.coverage,
    )
