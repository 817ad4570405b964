# SPDX-License-Identifier: BSD-2-Clause
"""The port of a function: its frames, of which each is in one place at a time.

A frame is with the kernel to be filled, with the program in a batch, with the kernel to be sent, or
spare. Every ring has room for all of them, so that none can overflow: where the program keeps
frames too long, the kernel finds none to fill, and drops and counts what comes (RING_FULL).
"""

import errno
import mmap
import os
import platform
import select
import socket
import struct
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ebpfmesh.port.batch import DESCRIPTOR, Batch
from ebpfmesh.port.ring import Ring, offsets

VARIABLE = "EBPFMESH_PORT"
HEADROOM = 256
"""Free bytes in front of a packet that came (XDP_PACKET_HEADROOM), for headers put before it."""
MOST = 256  # packets in a batch
STUCK = 3  # system calls without progress
SOON = 0.001  # when to try again, in seconds
LATER = (errno.EAGAIN, errno.EBUSY, errno.ENOBUFS, errno.ENETDOWN)
ETHERNET = 14
AF_XDP, SOL_XDP, MMAP_OFFSETS, STATISTICS = 44, 283, 1, 7
AT = {"rx": 0, "tx": 0x80000000, "fill": 0x100000000, "completion": 0x180000000}


class NoPort(RuntimeError):
    """This process was not handed a port, or cannot use it."""


class Statistics(NamedTuple):
    """What the kernel counted at the socket (struct xdp_statistics), in packets.

    ``rx_dropped``: longer than a frame; ``rx_fill_ring_empty``: there was no free frame.
    """

    rx_dropped: int
    rx_invalid: int
    tx_invalid: int
    rx_ring_full: int
    rx_fill_ring_empty: int
    tx_ring_empty: int


class Port:
    """What ``datapath = "af_xdp"`` hands to a command; there is one, and one object for it.

    ``memory``: uint8 [frames * frame], where all packets are. ``frame``: bytes of a frame's place.
    ``busy``: look for packets without sleeping, for less delay and all of a CPU.
    """

    def __init__(self, *, busy: bool = False) -> None:
        descriptors = os.environ.get(VARIABLE, "").split()
        if len(descriptors) != 3:
            raise NoPort(f'no {VARIABLE}: only commands with datapath = "af_xdp" are handed one')
        if platform.machine() not in ("x86_64", "AMD64"):
            raise NoPort("from Python only x86-64 keeps its stores in order: use the C header")
        memory, number, self.frame = map(int, descriptors)
        size = os.fstat(memory).st_size
        self.frames = size // self.frame
        self.memory: NDArray[np.uint8] = np.frombuffer(mmap.mmap(memory, size), np.uint8)
        self._socket = socket.socket(AF_XDP, socket.SOCK_RAW, 0, os.dup(number))
        where = offsets(self._socket.getsockopt(SOL_XDP, MMAP_OFFSETS, 128))
        kinds = (DESCRIPTOR, DESCRIPTOR, np.dtype("=u8"), np.dtype("=u8"))
        self._rx, self._tx, self._fill, self._completion = (
            Ring(number, AT[name], found, (self.frames, kind))
            for name, found, kind in zip(AT, where, kinds, strict=True)
        )
        self._busy = busy
        self._poll = select.poll()
        self._poll.register(number, select.POLLIN)
        half = self.frames // 2  # the first half was put in to be filled when the command began
        self._fill.mine = half
        self._spare = np.arange(half, self.frames, dtype=np.uint64) * np.uint64(self.frame)
        self._spares = half
        self._shift = np.uint64(self.frame.bit_length() - 1)
        self._sent = 0  # or given back
        self._held = np.zeros(self.frames, bool)  # in a batch of receive(), or of take()

    def fileno(self) -> int:
        """The socket, which is readable when packets are there."""
        return self._socket.fileno()

    def receive(self, timeout: float | None = None) -> Iterator[Batch]:
        """Batches of packets as they come: up to 256, never empty.

        Ends after so many seconds without a packet; None: never. What of a batch was not sent by
        the time the next one is asked for is let go.
        """
        while self._wait(timeout):
            found = self._rx.take(MOST)
            rows = self._rows(found["address"])
            self._held[rows] = True
            sent = self._sent
            yield Batch(self.memory, found)
            if self._sent != sent:
                rows = rows[self._held[rows]]
            self._let_go(rows)

    def send(self, batch: Batch) -> None:
        """Send the packets of a batch, or of a part of one; each of them once.

        ValueError for what is in no batch (any more), or is no frame within its place.
        """
        rows = self._rows(batch.addresses)
        ends = batch.addresses % np.uint64(self.frame) + batch.lengths
        if not ((ends <= self.frame) & (batch.lengths >= ETHERNET)).all():
            raise ValueError("a packet does not fit its place, or has no Ethernet header")
        was, held = self._held[rows], np.count_nonzero(self._held)
        self._held[rows] = False
        if held - np.count_nonzero(self._held) != len(rows):
            self._held[rows] = was
            raise ValueError("a packet is there twice, or was sent or let go already")
        self._tx.put(batch.descriptors)
        self._sent += len(rows)
        self._flush()

    def take(self, count: int) -> Batch:
        """Places for packets of one's own: as many, or fewer where there are none left.

        ``lengths`` are 0; they go with ``send``, or ``give_back``.
        """
        self._collect()
        count = min(count, self._spares)
        self._spares -= count
        found = np.zeros(count, DESCRIPTOR)
        found["address"] = self._spare[self._spares : self._spares + count] + np.uint64(HEADROOM)
        self._held[self._rows(found["address"])] = True
        return Batch(self.memory, found)

    def give_back(self, batch: Batch) -> None:
        """Do not send what was taken."""
        rows = self._rows(batch.addresses)
        self._sent += len(rows)
        self._let_go(rows[self._held[rows]])

    @property
    def statistics(self) -> Statistics:
        """Of the socket, since the command began."""
        return Statistics(*struct.unpack("=6Q", self._socket.getsockopt(SOL_XDP, STATISTICS, 48)))

    def _rows(self, addresses: NDArray[np.uint64]) -> NDArray[np.int64]:
        return (addresses >> self._shift).view(np.int64)

    def _let_go(self, rows: NDArray[np.int64]) -> None:
        if len(rows):
            self._held[rows] = False
            self._recycle(rows.view(np.uint64) << self._shift)

    def _wait(self, timeout: float | None) -> bool:
        """Until there is a packet, or the time is over: False. What waits to be sent is sent."""
        self._collect()
        if self._rx.ready():
            return True
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._rx.ready():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left < 0:
                return False
            if not self._busy:
                left = SOON if self._tx.left() or not self._fill.left() else left
                self._poll.poll(None if left is None else left * 1000)
            self._flush()
            self._collect()
        return True

    def _flush(self) -> None:
        """Have the kernel send: it takes some at a time, and may have no room for more now."""
        stuck, before = 0, self._tx.left()
        while before and stuck < STUCK and self._tx.wants_wake_up():
            try:
                self._socket.send(b"", socket.MSG_DONTWAIT)
            except OSError as error:
                if error.errno not in LATER:
                    raise
            now = self._tx.left()
            stuck = stuck + 1 if now == before else 0
            before = now

    def _collect(self) -> None:
        """Take back the frames that were sent."""
        while self._completion.ready():
            found = self._completion.take(self.frames)
            self._recycle(found >> self._shift << self._shift)

    def _recycle(self, addresses: NDArray[np.uint64]) -> None:
        """Half of all frames are spare, the others are for what comes."""
        count = min(len(self._spare) - self._spares, len(addresses))
        if count:
            self._spare[self._spares : self._spares + count] = addresses[:count]
            self._spares += count
        if count < len(addresses):
            self._fill.put(addresses[count:])
