# SPDX-License-Identifier: BSD-2-Clause
"""A ring that one side writes and the other reads, the kernel or we (linux/if_xdp.h).

Each index is written by one side alone, after what it speaks of. That the other side sees both in
this order is what x86 does with every store, and Python has no other word for it (``Port`` refuses
other machines).
"""

import mmap
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

WAKE_UP = 1  # XDP_RING_NEED_WAKEUP
WORDS = 1 << 32


class Ring:
    """``entries`` is a view of the shared memory, and so are the three words beside it."""

    def __init__(self, descriptor: int, where: int, offsets: tuple[int, ...], entries: Any) -> None:
        size, kind = entries
        producer, consumer, start, flags = offsets
        shared = mmap.mmap(
            descriptor, start + size * kind.itemsize, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE,
            offset=where,
        )  # fmt: skip
        self._producer, self._consumer, self._flags = (
            memoryview(shared)[at : at + 4].cast("I") for at in (producer, consumer, flags)
        )
        self.entries: NDArray[Any] = np.frombuffer(shared, kind, size, start)
        self.size, self._mask = size, size - 1
        self.mine = 0
        """Our own index: of what was written here so far, or read."""

    def wants_wake_up(self) -> bool:
        """Whether the kernel looks at it only when it is told to."""
        return bool(self._flags[0] & WAKE_UP)

    def ready(self) -> bool:
        """Whether the kernel wrote what we have not read."""
        return self._producer[0] != self.mine

    def left(self) -> int:
        """How many entries that we wrote the kernel has not read."""
        return (self.mine - self._consumer[0]) % WORDS

    def put(self, values: NDArray[Any]) -> None:
        """Write entries; there is always room, as there are no more of them than of frames."""
        at, count = self.mine & self._mask, len(values)
        first = self.size - at
        if count <= first:
            self.entries[at : at + count] = values
        else:
            self.entries[at:] = values[:first]
            self.entries[: count - first] = values[first:]
        self.mine = (self.mine + count) % WORDS
        self._producer[0] = self.mine

    def take(self, most: int) -> NDArray[Any]:
        """Read what the kernel wrote: a view, up to ``most``, and fewer at the ring's end.

        It stays as it is for as long as the kernel is not given back what the entries speak of.
        """
        at = self.mine & self._mask
        count = min((self._producer[0] - self.mine) % WORDS, most, self.size - at)
        self.mine = (self.mine + count) % WORDS
        self._consumer[0] = self.mine
        found: NDArray[Any] = self.entries[at : at + count]
        return found


def offsets(raw: bytes) -> list[tuple[int, ...]]:
    """struct xdp_mmap_offsets: of the rings rx, tx, fill, completion, as ``Ring`` takes them."""
    return list(struct.iter_unpack("=4Q", raw))
