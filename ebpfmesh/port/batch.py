# SPDX-License-Identifier: BSD-2-Clause
"""Some packets at a time: where they are in the port's memory, and how long they are."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

DESCRIPTOR = np.dtype([("address", "=u8"), ("length", "=u4"), ("options", "=u4")])
"""struct xdp_desc of linux/if_xdp.h."""


class Batch:
    """Whole Ethernet frames; nothing is copied but what is asked for.

    ``addresses``: uint64 [n], offsets of the frames in ``memory``; ``lengths``: uint32 [n], bytes
    of each. Both may be written, to send other bytes of the same places. ``memory``: uint8, all of
    the port's.
    """

    __slots__ = ("addresses", "descriptors", "lengths", "memory")

    def __init__(self, memory: NDArray[np.uint8], descriptors: NDArray[Any]) -> None:
        self.memory = memory
        self.descriptors = descriptors
        self.addresses: NDArray[np.uint64] = descriptors["address"]
        self.lengths: NDArray[np.uint32] = descriptors["length"]

    def __len__(self) -> int:
        return len(self.descriptors)

    def __getitem__(self, which: Any) -> "Batch":
        """Those that a slice, a mask (bool [n]) or indices choose; of a slice no copy is made."""
        return Batch(self.memory, self.descriptors[which])

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Each packet as a view, uint8 [length]."""
        for start, length in zip(self.addresses.tolist(), self.lengths.tolist(), strict=True):
            yield self.memory[start : start + length]

    def read(self, at: int, kind: str) -> NDArray[Any]:
        """A field of every packet, at so many bytes from its start: [n] of a dtype such as ``>u2``.

        A copy; what is behind a packet's end is whatever is there.
        """
        size = np.dtype(kind).itemsize
        return self._gather(at, size).view(kind)[:, 0]

    def write(self, at: int, values: Any, kind: str) -> None:
        """Set a field of every packet to a value, or each to its own of [n]."""
        column = np.empty((len(self), 1), kind)
        column[:, 0] = values
        raw = column.view(np.uint8)
        self.memory[self._places(at, raw.shape[1])] = raw

    def swap(self, at: int, other: int, size: int) -> None:
        """Have every packet's ``size`` bytes at ``at`` and at ``other`` change places."""
        first, second = self._places(at, size), self._places(other, size)
        kept = self.memory[first]
        self.memory[first] = self.memory[second]
        self.memory[second] = kept

    def checksum(self, at: int, size: int) -> NDArray[np.uint16]:
        """Of every packet, what completes the checksum of RFC 1071 over some bytes, an even number.

        Of an IPv4 header, with 0 in its place, it is what goes there.
        """
        sums = self._gather(at, size).view(">u2").sum(axis=1, dtype=np.uint32)
        for _ in range(2):
            sums = (sums & np.uint32(0xFFFF)) + (sums >> np.uint32(16))
        found: NDArray[np.uint16] = ~sums.astype(np.uint16)
        return found

    def _gather(self, at: int, size: int) -> NDArray[np.uint8]:
        return self.memory[self._places(at, size)]

    def _places(self, at: int, size: int) -> NDArray[np.int64]:
        starts = self.addresses.view(np.int64) + at
        places: NDArray[np.int64] = starts[:, None] + np.arange(size)
        return places
