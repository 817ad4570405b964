# SPDX-License-Identifier: BSD-2-Clause
"""The port of a function: one queue or several, each with its own part of one memory."""

import mmap
import os
import platform
import select
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ebpfmesh.port.batch import Batch, Memory
from ebpfmesh.port.pool import Pool
from ebpfmesh.port.pooled import PooledQueue, Used
from ebpfmesh.port.queue import SOL_XDP, Queue

VARIABLE = "EBPFMESH_PORT"
POOL = "pool:"  # stands before the name of one whose memory it is
SOON = 0.001  # when to try again, in seconds
LOOK = 1.0
PATIENCE = 60.0  # for who hands over a port, in seconds
STATISTICS = 7


class NoPort(RuntimeError):
    """This process was not handed a port, or cannot use it."""


class Statistics(NamedTuple):
    """What the kernel counted at the sockets (struct xdp_statistics), in packets.

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

    ``memory``: uint8 [bytes], where all packets are. ``frame``: bytes of a frame's place.
    ``frames``: how many it has. ``queue``: use this queue alone, so that other processes or threads
    can use others, each by a Port of its own. ``busy``: look for packets without sleeping, for less
    delay and all of a CPU. ``pool``: what ``frames_in`` names; batches of either are of both.
    """

    def __init__(
        self, *, queue: int | None = None, busy: bool = False, pool: Pool | None = None
    ) -> None:
        asked = os.environ.get(VARIABLE, "").startswith("/")
        memory, self.frame, sockets = (
            _asked(os.environ[VARIABLE]) if asked and not pool else _handed(pool)
        )
        self._look = LOOK if asked else None  # until it is seen whether its interface is gone
        if queue is not None and not 0 <= queue < len(sockets):
            raise NoPort(f"there is no queue {queue}: queues = {len(sockets)}")
        if platform.machine() not in ("x86_64", "AMD64"):
            raise NoPort("from Python only x86-64 keeps its stores in order: use the C header")
        chosen = {n: one for n, one in enumerate(sockets) if queue in (None, n)}
        self._queues: Mapping[int, Queue | PooledQueue]
        if pool:
            self._share(pool, chosen)
        else:
            self._own(memory, len(sockets), chosen)
        self._busy = busy
        self._order: list[Queue | PooledQueue] = [*self._queues.values()]  # as they are looked at
        self._last = self._order[0]  # that a batch was received from
        self._poll = select.epoll()
        for one in self._order:
            self._poll.register(one.socket, select.EPOLLIN)

    def _own(self, memory: int, all_queues: int, sockets: Mapping[int, int]) -> None:
        size = os.fstat(memory).st_size
        whole = mmap.mmap(memory, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        self.memory: NDArray[np.uint8] = np.frombuffer(whole, np.uint8)
        shared, frames = Memory(self.memory), size // self.frame // all_queues
        self._queues = {
            number: Queue(shared, descriptor, number, frames=frames, frame=self.frame)
            for number, descriptor in sockets.items()
        }
        self.frames = frames * len(self._queues)

    def _share(self, pool: Pool, sockets: Mapping[int, int]) -> None:
        """Half of its part of a pool is for what comes, the rest for what it makes itself."""
        self.memory, self.frames = pool.memory, pool.each
        shared, share = Memory(self.memory), pool.each // 2 // len(sockets)
        try:
            self._queues = queues = {
                number: PooledQueue(shared, descriptor, number, pool=pool, share=share)
                for number, descriptor in sockets.items()
            }
        except Used as error:
            raise NoPort("a process of before has used it") from error

        def idle() -> bool:
            for one in queues.values():
                one.flush()
            return any(one.is_sending() for one in queues.values())

        pool.idle = idle

    def fileno(self) -> int:
        """A descriptor that is readable when packets are there."""
        return self._poll.fileno()

    def receive(self, timeout: float | None = None) -> Iterator[Batch]:
        """Batches of packets as they come, each of one queue: up to 256, never empty.

        Ends after so many seconds without a packet; None: never. What of a batch was not sent by
        the time the next one is asked for is let go. NoPort once its interface is gone.
        """
        while found := self._wait(timeout):
            self._last = found
            if len(batch := found.receive()):
                yield batch

    def send(self, batch: Batch) -> None:
        """Send the packets of a batch, or of a part of one; each of them once.

        ValueError for what is in no batch (any more), or is no frame within its place.
        """
        self._queue_of(batch).send(batch)

    def take(self, count: int) -> Batch:
        """Places for packets of one's own: as many, or fewer where one queue has none left.

        ``lengths`` are 0; they go with ``send``, or ``give_back``.
        """
        return max(self._order, key=lambda one: one.spares).take(count)

    def give_back(self, batch: Batch) -> None:
        """Do not send what was taken."""
        self._queue_of(batch).give_back(batch)

    def _queue_of(self, batch: Batch) -> Queue | PooledQueue:
        """The one that it came by, or one for what came by the pool."""
        return self._queues.get(batch.queue, self._order[0])

    @property
    def statistics(self) -> Statistics:
        """Of its sockets, since the command began."""
        options = (one.socket.getsockopt(SOL_XDP, STATISTICS, 48) for one in self._order)
        rows = (struct.unpack("=6Q", one) for one in options)
        return Statistics(*map(sum, zip(*rows, strict=True)))

    def _wait(self, timeout: float | None) -> Queue | PooledQueue | None:
        """A queue that has a packet, or None: the time is over. What waits to be sent is sent."""
        self._last.let_go()
        found = self._ready()
        if found or timeout == 0:
            return found
        deadline = None if timeout is None else time.monotonic() + timeout
        while not found:
            if not self._busy and not self._poll.poll(self._longest(deadline)):
                self._check()
            for one in self._order:
                one.flush()
            found = self._ready()
            if deadline is not None and time.monotonic() > deadline:
                break
        return found

    def _longest(self, deadline: float | None) -> float | None:
        """How long to sleep: what nobody wakes us for is looked at."""
        longest = self._look
        for one in self._order:
            if one.waits():
                longest = SOON
        if deadline is None:
            return longest
        left = max(0.0, deadline - time.monotonic())
        return left if longest is None else min(left, longest)

    def _check(self) -> None:
        """Nothing came for a time: raise NoPort if nothing ever can, since nobody else tells."""
        if self._order[0].socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise NoPort("its interface is gone")

    def _ready(self) -> Queue | PooledQueue | None:
        """A queue that has a packet: they take turns."""
        for one in self._order:
            if one.ready():
                if len(self._order) > 1:
                    self._order.remove(one)
                    self._order.append(one)
                return one
        return None


def _handed(pool: Pool | None) -> tuple[int, int, list[int]]:
    """Descriptor of the memory if it is no pool's, bytes of a frame, descriptors of the sockets."""
    said = os.environ.get(VARIABLE, "").split()
    if len(said) < 3:
        raise NoPort(f'no {VARIABLE}: only commands with datapath = "af_xdp" are handed one')
    memory, first, frame, *others = said
    of_pool = memory.removeprefix(POOL)
    if memory != of_pool and (not pool or pool.pool != of_pool):
        raise NoPort(f'its frames are in pool {of_pool}: Port(pool=Pool("{of_pool}"))')
    if pool and memory == of_pool:
        raise NoPort(f'its frames are in no pool: frames_in = "{pool.pool}" in the mesh file')
    return 0 if pool else int(memory), int(frame), [int(first), *map(int, others)]


def _asked(path: str) -> tuple[int, int, list[int]]:
    """The same, of `ebpfmesh port` at a path, which may come later; NoPort if it refuses."""
    deadline = time.monotonic() + PATIENCE
    while True:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asked:
            try:
                asked.connect(path)
                said, found, _, _ = socket.recv_fds(asked, 1024, 32)
            except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError) as error:
                if time.monotonic() > deadline:
                    raise NoPort(f"nobody hands over a port at {path}") from error
                said, found = b"", []
        if found:
            memory, *sockets = found
            return memory, int(said), sockets
        if said:
            raise NoPort(said.decode(errors="replace"))
        time.sleep(0.05)
