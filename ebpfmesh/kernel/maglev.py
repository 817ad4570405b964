# SPDX-License-Identifier: BSD-2-Clause
"""Maglev's table: which backend takes which part of all flows.

Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section
3.4. Each backend goes through all slots in an order of its own; they take turns claiming the next
free one. Shares differ by about a slot, and a backend that goes gives its slots to the others and
moves few more.
"""

import functools
import hashlib

from ebpfmesh._abi import MAGLEV_ROW

SLOTS_PER_BACKEND = 8  # a smaller share is uneven


@functools.lru_cache(maxsize=1024)
def table(backends: tuple[str, ...], size: int) -> tuple[int, ...]:
    """For each of ``size`` slots (a prime) the index of a backend; empty without backends."""
    if not backends:
        return ()
    starts, steps = zip(*(_permutation(name, size) for name in backends), strict=True)
    turn = [0] * len(backends)
    slots = [-1] * size
    filled = 0
    while True:
        for backend in range(len(backends)):
            while True:
                slot = (starts[backend] + turn[backend] * steps[backend]) % size
                turn[backend] += 1
                if slots[slot] < 0:
                    break
            slots[slot] = backend
            filled += 1
            if filled == size:
                return tuple(slots)


def rows_for(backends: int) -> int:
    """Rows of mesh_maglev a table for so many backends needs: a power of two."""
    rows = 1
    while size_of(rows) < SLOTS_PER_BACKEND * backends:
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
