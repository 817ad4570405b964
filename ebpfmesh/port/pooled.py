# SPDX-License-Identifier: BSD-2-Clause
"""A queue of a port whose frames are places of a pool.

What the kernel has of them, to be filled or sent, is held by this member, as the pool's words say,
so that it is taken back like the rest if the member dies. Only places of its own part are filled:
until its socket is gone nobody takes one of these but its next process, which begins after that.
What is sent may be anybody's; whose part it is of takes it again when it was.
"""

import time

import numpy as np
from numpy.typing import NDArray

from ebpfmesh.port.batch import Batch, Memory
from ebpfmesh.port.pool import Pool
from ebpfmesh.port.queue import ETHERNET, HEADROOM, MOST, Rings
from ebpfmesh.port.ring import WORDS

REPAIR = 0.1  # how often it is looked whether somebody died with places of ours, in seconds


class Used(RuntimeError):
    """A process of before has used this queue."""


class PooledQueue(Rings):
    """``share``: places of the member's own part that are to be filled at a time."""

    spares = 0  # as all queues of the port take from the same part

    def __init__(
        self, memory: Memory, descriptor: int, number: int, *, pool: Pool, share: int
    ) -> None:
        super().__init__(memory, descriptor, number, pool.slots)
        if self._fill.ready():
            raise Used
        self._pool, self._share = pool, share
        self._came: NDArray[np.int64] | None = None  # places of the last batch
        self._repaired = 0.0
        self._fill_up()

    def ready(self) -> bool:
        """Whether a packet is there; what was sent is taken back, and what is free is filled."""
        found = super().ready()
        self._fill_up()
        return found

    def receive(self) -> Batch:
        """Up to 256 packets, of which there is one; what of the batch before is left is let go."""
        found = self._rx.take(MOST).copy()
        self._came, good = self._pool.came(found["address"])
        return Batch(self._memory, found if good.all() else found[good], self.number)

    def let_go(self) -> None:
        """Have what of the last batch was not sent be free."""
        if self._came is not None:
            self._pool.drop(self._came)
            self._came = None

    def send(self, batch: Batch) -> None:
        """Send packets, whosever part of the pool they are of; see ``Port.send``."""
        if len(batch) and batch.lengths.min() < ETHERNET:
            raise ValueError("a packet has no Ethernet header")
        self._pool.part(batch)
        found = batch.descriptors.copy()
        found["options"] = 0  # the sender's own in a pool, flags to the kernel
        self._tx.put(found)
        self.flush()

    def take(self, count: int) -> Batch:
        """Places for packets of one's own; see ``Port.take``."""
        found = self._pool.take(count).descriptors
        found["address"] += np.uint64(HEADROOM)
        return Batch(self._memory, found, self.number)

    def give_back(self, batch: Batch) -> None:
        """Do not send these."""
        self._pool.give_back(batch)

    def waits(self) -> bool:
        """Whether there is something that nobody would wake us for."""
        return self.is_sending() or super().waits()

    def is_sending(self) -> bool:
        """Whether some were not yet sent, or not yet taken back: others may need them."""
        return self._tx.mine != self._completion.mine

    def flush(self) -> None:
        """Have the kernel send, and take back what it has sent."""
        super().flush()
        self.collect()
        if not self._fill_up() and not self._fill.left() and time.monotonic() > self._repaired:
            self._repaired = time.monotonic() + REPAIR
            self._pool.repair_dead()

    def _recycle(self, addresses: NDArray[np.uint64]) -> None:
        self._pool.free(addresses)

    def _fill_up(self) -> int:
        """Have free places be filled, until the kernel has enough; how many."""
        short = self._share - (self._fill.mine - self._rx.mine) % WORDS
        if short <= 0:
            return 0
        rows = self._pool.claim(short)
        if len(rows):
            self._fill.put(rows.view(np.uint64) * np.uint64(self._pool.bytes))
        return len(rows)
