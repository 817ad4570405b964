# SPDX-License-Identifier: BSD-2-Clause
"""A queue of a port: a socket, its rings, and its own frames, each in one place at a time.

A frame is with the kernel to be filled, with the program in a batch, with the kernel to be sent, or
spare. Every ring has room for all of them, so that none can overflow: where the program keeps
frames too long, the kernel finds none to fill, and drops and counts what comes (RING_FULL).
"""

import abc
import errno
import os
import socket

import numpy as np
from numpy.typing import NDArray

from ebpfmesh.port.batch import DESCRIPTOR, Batch, Memory
from ebpfmesh.port.ring import Ring, offsets

HEADROOM = 256
"""Free bytes in front of a packet that came (XDP_PACKET_HEADROOM), for headers put before it."""
MOST = 256  # packets in a batch
STUCK = 3  # system calls without progress
LATER = (errno.EAGAIN, errno.EBUSY, errno.ENOBUFS, errno.ENETDOWN)
ETHERNET = 14
TAKEN, PARTED = 1, 2  # is in a batch of take(), or of receive() of which some was sent
AF_XDP, SOL_XDP, MMAP_OFFSETS = 44, 283, 1
AT = {"rx": 0, "tx": 0x80000000, "fill": 0x100000000, "completion": 0x180000000}


class Rings(abc.ABC):
    """Socket and rings of queue ``number`` of a port, each with room for ``frames``."""

    def __init__(self, memory: Memory, descriptor: int, number: int, frames: int) -> None:
        self._memory, self.number = memory, number
        self.socket = socket.socket(AF_XDP, socket.SOCK_RAW, 0, os.dup(descriptor))
        where = offsets(self.socket.getsockopt(SOL_XDP, MMAP_OFFSETS, 128))
        kinds = (DESCRIPTOR, DESCRIPTOR, np.dtype("=u8"), np.dtype("=u8"))
        self._rx, self._tx, self._fill, self._completion = (
            Ring(descriptor, AT[name], found, (frames, kind))
            for name, found, kind in zip(AT, where, kinds, strict=True)
        )

    def ready(self) -> bool:
        """Whether a packet is there; what was sent is taken back."""
        if self._completion.ready():
            self.collect()
        return self._rx.ready()

    def waits(self) -> bool:
        """Whether the kernel has none to fill, or some to send: nobody would wake us for these."""
        return bool(self._tx.left()) or not self._fill.left()

    def flush(self) -> None:
        """Have the kernel send: it takes some at a time, and may have no room for more now."""
        stuck, before = 0, self._tx.left()
        while before and stuck < STUCK and self._tx.wants_wake_up():
            try:
                self.socket.send(b"", socket.MSG_DONTWAIT)
            except OSError as error:
                if error.errno not in LATER:
                    raise
            now = self._tx.left()
            stuck = stuck + 1 if now == before else 0
            before = now

    def collect(self) -> None:
        """Take back the frames that were sent."""
        while self._completion.ready():
            self._recycle(self._completion.take(self._completion.size))

    @abc.abstractmethod
    def _recycle(self, addresses: NDArray[np.uint64]) -> None:
        """These are free."""


class Queue(Rings):
    """With ``frames`` of a memory that is the port's own, of ``frame`` bytes each."""

    def __init__(
        self, memory: Memory, descriptor: int, number: int, *, frames: int, frame: int
    ) -> None:
        super().__init__(memory, descriptor, number, frames)
        self._frame = frame
        half = frames // 2  # the first half was put in to be filled when the command began
        self._fill.mine = half
        self._shift, self._first = np.uint64(frame.bit_length() - 1), np.uint64(number * frames)
        spare = np.arange(half, frames, dtype=np.uint64) + self._first
        self._spare: NDArray[np.uint64] = spare << self._shift
        self.spares = half
        self._with = np.zeros(frames, np.uint8)  # whom each is with: 0, TAKEN or PARTED
        self._count = 0  # that are not 0
        self._hand: NDArray[np.uint64] | None = None  # addresses in the last batch, all of it here
        self._rest: NDArray[np.int64] | None = None  # rows of the last batch, of which some is not

    def receive(self) -> Batch:
        """Up to 256 packets, of which there is one; what of the batch before is left is let go."""
        found = self._rx.take(MOST)
        self._hand = found["address"]
        return Batch(self._memory, found.copy(), self.number)

    def let_go(self) -> None:
        """Have what of the last batch was not sent be filled again."""
        if self._hand is not None:
            self._recycle(self._hand)
            self._hand = None
        elif self._rest is not None:
            rows = self._rest[self._with[self._rest] == PARTED]
            self._part(rows)
            self._free(rows)
            self._rest = None

    def send(self, batch: Batch) -> None:
        """Send packets of this queue; see ``Port.send``."""
        addresses, size = batch.addresses, self._frame
        ends = addresses % np.uint64(size) + batch.lengths
        if len(batch) and (ends.max() > size or batch.lengths.min() < ETHERNET):
            raise ValueError("a packet does not fit its place, or has no Ethernet header")
        rows = self._rows(addresses)
        hand = self._hand
        if hand is not None and len(hand) == len(rows) and (self._rows(hand) == rows).all():
            self._hand = None
        else:
            self._part(rows)
        self._tx.put(batch.descriptors)
        self.flush()

    def take(self, count: int) -> Batch:
        """Places for packets of one's own; see ``Port.take``."""
        self.collect()
        count = min(count, self.spares)
        self.spares -= count
        found = np.zeros(count, DESCRIPTOR)
        found["address"] = self._spare[self.spares : self.spares + count] + np.uint64(HEADROOM)
        self._mark(self._rows(found["address"]), TAKEN)
        return Batch(self._memory, found, self.number)

    def give_back(self, batch: Batch) -> None:
        """Do not send these."""
        rows = self._rows(batch.addresses)
        self._part(rows)
        self._free(rows)

    def _rows(self, addresses: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Their numbers among the frames of this queue."""
        rows = addresses >> self._shift
        return (rows - self._first if self._first else rows).view(np.int64)

    def _part(self, rows: NDArray[np.int64]) -> None:
        """Take these out of the hands of the program; ValueError if they are not all there."""
        if self._hand is not None:
            self._rest = self._rows(self._hand)
            self._mark(self._rest, PARTED)
            self._hand = None
        if len(rows) and rows.view(np.uint64).max() >= len(self._with):
            raise ValueError("a packet is in no place of this queue")
        was = self._with[rows]
        self._with[rows] = 0
        if self._count - np.count_nonzero(self._with) != len(rows):
            self._with[rows] = was
            raise ValueError("a packet is there twice, or was sent or let go already")
        self._count -= len(rows)

    def _mark(self, rows: NDArray[np.int64], how: int) -> None:
        self._with[rows] = how
        self._count += len(rows)

    def _free(self, rows: NDArray[np.int64]) -> None:
        self._recycle(rows.view(np.uint64) + self._first << self._shift)

    def _recycle(self, addresses: NDArray[np.uint64]) -> None:
        """Half of all frames are spare, the others are for what comes.

        The kernel takes an address for that of the frame it is in (xp_check_aligned() in
        linux/net/xdp/xsk_buff_pool.c), and so does what is spare.
        """
        short = len(self._spare) - self.spares
        if short:
            begin = addresses[:short] >> self._shift << self._shift
            self._spare[self.spares : self.spares + len(begin)] = begin
            self.spares += len(begin)
            addresses = addresses[short:]
        if len(addresses):
            self._fill.put(addresses)
