# SPDX-License-Identifier: BSD-2-Clause
"""Maglev's table: which backend takes which part of all flows.

Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section
3.4. Each backend goes through all slots in an order of its own; they take turns claiming the next
free one. Shares differ by about a slot, and a backend that goes gives its slots to the others and
moves few more. A backend of less weight than another takes fewer turns.
"""

import functools
import hashlib
from collections.abc import Sequence

from ebpfmesh._abi import MAGLEV_ROW

SLOTS_PER_BACKEND = 32  # with fewer, a backend that goes moves more flows of the others
SLOTS_OF_LIGHTEST = 4


@functools.lru_cache(maxsize=1024)
def table(backends: tuple[str, ...], weights: tuple[int, ...], size: int) -> tuple[int, ...]:
    """For each of ``size`` slots (a prime) the index of a backend; empty if none has a weight.

    The heaviest take every turn; another takes one whenever its weight has added up to theirs.
    """
    most = max(weights, default=0)
    if not most:
        return ()
    starts, steps = zip(*(_permutation(name, size) for name in backends), strict=True)
    turn, due = [0] * len(backends), [most // 2] * len(backends)  # half: late as often as early
    slots = [-1] * size
    filled = 0
    while True:
        for backend, weight in enumerate(weights):
            due[backend] += weight
            if due[backend] < most:
                continue
            due[backend] -= most
            while True:
                slot = (starts[backend] + turn[backend] * steps[backend]) % size
                turn[backend] += 1
                if slots[slot] < 0:
                    break
            slots[slot] = backend
            filled += 1
            if filled == size:
                return tuple(slots)


def rows_for(weights: Sequence[int]) -> int:
    """Rows of mesh_maglev a table for backends of these weights needs: a power of two."""
    some = [weight for weight in weights if weight]
    slots = SLOTS_PER_BACKEND * len(some)
    if some:  # so that even the lightest has its part
        slots = max(slots, SLOTS_OF_LIGHTEST * sum(some) // min(some))
    rows = 1
    while size_of(rows) < slots:
        rows *= 2
    return rows


@functools.cache
def size_of(rows: int) -> int:
    """Length of the table in so many rows: the largest prime that fits."""
    size = rows * MAGLEV_ROW - 1
    while any(size % divisor == 0 for divisor in range(2, int(size**0.5) + 1)):
        size -= 1
    return size


def _permutation(name: str, size: int) -> tuple[int, int]:
    digest = hashlib.sha256(name.encode()).digest()
    start, step = int.from_bytes(digest[:8]), int.from_bytes(digest[8:16])
    return start % size, step % (size - 1) + 1
