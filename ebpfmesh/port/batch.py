# SPDX-License-Identifier: BSD-2-Clause
"""Some packets at a time: where they are in the port's memory, and how long they are."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

DESCRIPTOR = np.dtype([("address", "=u8"), ("length", "=u4"), ("options", "=u4")])
"""struct xdp_desc of linux/if_xdp.h."""


class Memory:
    """All of a port's memory, and views of it that begin a field of some kind at every byte."""

    __slots__ = ("_views", "raw")

    def __init__(self, raw: NDArray[np.uint8]) -> None:
        self.raw = raw
        self._views: dict[str, NDArray[Any]] = {}

    def fields(self, kind: str) -> NDArray[Any]:
        """Its element i is the field at byte i."""
        found = self._views.get(kind)
        if found is None:
            one = np.dtype(kind)
            count = len(self.raw) - one.itemsize + 1
            found = self._views[kind] = np.ndarray((count,), one, self.raw.data, 0, (1,))
        return found


class Batch:
    """Whole Ethernet frames; nothing is copied but what is asked for.

    ``addresses``: uint64 [n], offsets of the frames in ``memory``; ``lengths``: uint32 [n], bytes
    of each. Both may be written, to send other bytes of the same places. ``memory``: uint8, all of
    the port's. ``queue``: number of the queue that they came by, or are from.
    """

    __slots__ = ("_memory", "descriptors", "queue")

    def __init__(self, memory: Memory, descriptors: NDArray[Any], queue: int = 0) -> None:
        self._memory = memory
        self.descriptors = descriptors
        self.queue = queue

    @property
    def memory(self) -> NDArray[np.uint8]:
        """All of the port's: uint8."""
        return self._memory.raw

    @property
    def addresses(self) -> NDArray[np.uint64]:
        """Where each begins in memory: uint64 [n]."""
        found: NDArray[np.uint64] = self.descriptors["address"]
        return found

    @addresses.setter
    def addresses(self, values: Any) -> None:
        self.descriptors["address"] = values

    @property
    def lengths(self) -> NDArray[np.uint32]:
        """Bytes of each: uint32 [n]."""
        found: NDArray[np.uint32] = self.descriptors["length"]
        return found

    @lengths.setter
    def lengths(self, values: Any) -> None:
        self.descriptors["length"] = values

    def __len__(self) -> int:
        return len(self.descriptors)

    def __getitem__(self, which: Any) -> "Batch":
        """Those that a slice, a mask (bool [n]) or indices choose; of a slice no copy is made."""
        return Batch(self._memory, self.descriptors[which], self.queue)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Each packet as a view, uint8 [length]."""
        memory = self.memory
        for start, length in zip(self.addresses.tolist(), self.lengths.tolist(), strict=True):
            yield memory[start : start + length]

    def read(self, at: int, kind: str) -> NDArray[Any]:
        """A field of every packet, at so many bytes from its start: [n] of a dtype such as ``>u2``.

        A copy; what is behind a packet's end is whatever is there.
        """
        found: NDArray[Any] = self._fields(at, kind)[self._starts(at)]
        return found

    def write(self, at: int, values: Any, kind: str) -> None:
        """Set a field of every packet to a value, or each to its own of [n]."""
        self._fields(at, kind)[self._starts(at)] = values

    def swap(self, at: int, other: int, size: int) -> None:
        """Have every packet's ``size`` bytes at ``at`` and at ``other`` change places."""
        kind = f"V{size}"
        first, second = self.read(at, kind), self.read(other, kind)
        self.write(at, second, kind)
        self.write(other, first, kind)

    def checksum(self, at: int, size: int) -> NDArray[np.uint16]:
        """Of every packet, what completes the checksum of RFC 1071 over some bytes, an even number.

        Of an IPv4 header, with 0 in its place, it is what goes there.
        """
        raw = self.read(at, f"V{size}").view(">u2").reshape(len(self), -1)
        sums = raw.sum(axis=1, dtype=np.uint32)
        for _ in range(2):
            sums = (sums & np.uint32(0xFFFF)) + (sums >> np.uint32(16))
        found: NDArray[np.uint16] = ~sums.astype(np.uint16)
        return found

    def _fields(self, at: int, kind: str) -> NDArray[Any]:
        found = self._memory.fields(kind)
        return found[at:] if at > 0 else found

    def _starts(self, at: int) -> NDArray[np.int64]:
        starts = self.addresses.view(np.int64)
        return starts + at if at < 0 else starts
