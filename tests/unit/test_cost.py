# SPDX-License-Identifier: BSD-2-Clause
"""Quantiles of a histogram whose buckets double."""

import pytest

from ebpfmesh.observe.cost import quantile


@pytest.mark.parametrize(
    ("counts", "share", "found"),
    [
        ([0, 0, 0], 0.5, None),
        ([4, 0, 0], 0.5, 1.0),  # from 0 to 2 ns
        ([0, 4, 0], 0.5, 3.0),
        ([0, 4, 0], 1.0, 4.0),
        ([2, 0, 2], 0.75, 6.0),
        ([2, 0, 2], 0.5, 2.0),
        ([98, 0, 0, 0, 2], 0.99, 24.0),
    ],
)
def test_quantile(counts: list[int], share: float, found: float | None) -> None:
    assert quantile(counts, share) == found
