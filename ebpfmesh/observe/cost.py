# SPDX-License-Identifier: BSD-2-Clause
"""What injected programs take live, of the packets that are sampled, and their circuit breakers."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

from ebpfmesh import _abi
from ebpfmesh.observe.view import View
from ebpfmesh.state import chains


@dataclass(frozen=True)
class Live:
    """Nanoseconds a packet, without those of reading the clock, since a program was put in.

    ``breaker``: "open", so that packets pass it by, or "closed". ``lately_ns`` follows the median;
    the others are interpolated in a histogram whose buckets double. None: there is no sample.
    """

    breaker: str
    limit_ns: int
    samples: int
    lately_ns: int | None
    median_ns: float | None
    p99_ns: float | None

    @property
    def open(self) -> bool:
        """Whether packets pass it by."""
        return self.breaker == "open"


def read_live(view: View, program: int) -> Live:
    """What a program takes, by its id."""
    row = chains.breakers(view.maps).of[program]
    cost = view.maps["mesh_cost"].get(ctypes.c_uint32(program)) or _abi.Cost()
    counts = list(cost.histogram)
    return Live(
        breaker="open" if row.open else "closed",
        limit_ns=row.limit,
        samples=sum(counts),
        lately_ns=cost.lately if any(counts) else None,
        median_ns=quantile(counts, 0.5),
        p99_ns=quantile(counts, 0.99),
    )


def quantile(counts: Sequence[int], share: float) -> float | None:
    """Where so large a part of the samples is below; None if there are none."""
    below, wanted = 0, share * sum(counts)
    for bucket, count in enumerate(counts):
        if count and below + count >= wanted:
            first = 1 << bucket if bucket else 0
            return first + (wanted - below) / count * ((2 << bucket) - first)
        below += count
    return None
