# SPDX-License-Identifier: BSD-2-Clause
"""Maglev's table: which backend takes which part of all flows.

Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section
3.4. Each backend goes through all slots in an order of its own; they take turns claiming the next
free one. Shares differ by about a slot. A backend of less weight than another takes fewer turns.

When a backend goes or comes, some slots of the others change their owners too (section 5.3 there);
Maglev accepts that because its machines do not know each other's tables. Here the table in use is
known: ``nearest`` moves none but those that the new shares demand.
"""

import functools
import hashlib
from collections import Counter
from collections.abc import Sequence

from ebpfmesh._abi import MAGLEV_ROW

SLOTS_PER_BACKEND = 32  # shares differ by a slot: by 3 % at most
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


def nearest(old: Sequence[int], fresh: Sequence[int], weights: Sequence[int]) -> tuple[int, ...]:
    """The shares of ``fresh``, a table for these weights, with as many slots as can be of ``old``.

    ``old`` has the backend of each slot in use, -1 where it has gone. What has to move goes where
    it is in ``fresh`` as far as there is room: a change that is undone leads back to it.
    """
    room = _shares(old, fresh, weights)
    slots = [-1] * len(fresh)
    both = [a if a == b else -1 for a, b in zip(old, fresh, strict=True)]
    for wanted in (both, old, fresh):
        for slot, backend in enumerate(wanted):
            if slots[slot] < 0 and room[backend] > 0:
                slots[slot] = backend
                room[backend] -= 1
    left = room.elements()
    return tuple(backend if backend >= 0 else next(left) for backend in slots)


def _shares(old: Sequence[int], fresh: Sequence[int], weights: Sequence[int]) -> Counter[int]:
    """Slots for each backend, as many as in ``fresh``; of a weight, who has most gets most."""
    has, due = Counter(old), Counter(fresh)
    shares = Counter[int]()
    for weight in set(weights):
        alike = [backend for backend, its in enumerate(weights) if its == weight]
        alike.sort(key=lambda backend: (has[backend], due[backend]))
        shares |= dict(zip(alike, sorted(due[backend] for backend in alike), strict=True))
    return shares


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
