# SPDX-License-Identifier: BSD-2-Clause
"""Intervals of shares and of their difference, beside published ones."""

import pytest

from ebpfmesh.observe.canary import Version, newcombe, wilson
from ebpfmesh.observe.cost import Live

LIVE = Live("closed", 500, 0, None, None, None)


def version(hits: int, total: int) -> Version:
    share = hits / total if total else 0.0
    return Version("x.c", total, {"why": hits}, share, wilson(hits, total), {}, 1, 1.0, 1.0, LIVE)


@pytest.mark.parametrize(
    ("hits", "total", "lower", "upper"),
    [  # Newcombe, Statistics in Medicine 17, 857 (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson(hits: int, total: int, lower: float, upper: float) -> None:
    assert wilson(hits, total) == pytest.approx((lower, upper), abs=5e-5)


@pytest.mark.parametrize(
    ("after", "before", "lower", "upper"),
    [  # Newcombe, Statistics in Medicine 17, 873 (1998), table II, method 10
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
    ],
)
def test_newcombe(
    after: tuple[int, int], before: tuple[int, int], lower: float, upper: float
) -> None:
    found = newcombe(version(*before), version(*after))
    assert found == pytest.approx((lower, upper), abs=5e-5)


def test_nothing_is_known_of_no_packets() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
