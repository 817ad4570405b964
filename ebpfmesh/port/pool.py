# SPDX-License-Identifier: BSD-2-Clause
"""A pool: places for messages that functions of one tenant share, and who has which.

Nothing is locked. Between any two members is a ring in each direction, which one of them writes and
the other reads, and each place has a word that only who has the place writes: free, held by M, or
sent by M to N. Each member begins with an equal part of the places; only it takes free ones of
these, whoever gave them back. So whatever a member was about to do when it died, the words tell
what it had: who is the same member next, or who runs short meanwhile, takes that back while it has
the lock of that member's byte (fcntl(2)), which ends with a process.

What others wrote is checked before it is used, but a message can change while it is read. That
words are seen in the order in which they were written is what x86 does (``ring``).
"""

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ebpfmesh.port.batch import DESCRIPTOR, Batch, Memory

POOLS = "EBPFMESH_POOLS"
MOST = 256  # messages in a batch
PAGE, LINE = 4096, 64
ENTRY = np.dtype(
    {
        "names": ["name", "sleeps", "hungry", "counters"],
        "formats": ["S64", "=u4", "=u4", ("=u8", 4)],
        "offsets": [0, 64, 128, 192],
        "itemsize": 256,
    }
)
"""What there is of a member; whom it sleeps on, for messages or for a free place, clears a word."""
SENT_COUNT, RECEIVED, MALFORMED, RECLAIMED = range(4)
FREE, HELD, SENT = 0, 1 << 16, 2 << 16
IN_HAND, CAME = 1, 2  # with the program; of the last batch of a port
SOON = 0.001  # when to look again at what nobody wakes us for, in seconds
WORDS = 1 << 32
FUTEX, WAIT, WAKE_OP = 202, 0, 5  # the system call's number, on x86-64
SET_TO_ZERO = 0  # FUTEX_OP(FUTEX_OP_SET, 0, FUTEX_OP_CMP_EQ, 0)
LOOK_AGAIN = 1.0  # seconds of one sleep at most, whatever others do to the word we sleep on
PATIENCE = 2.0  # for a process of before to end


class NoPool(RuntimeError):
    """This process was not handed a pool, or cannot use it."""


class NoMember(LookupError):
    """There is no member of this name, or not any more."""


class Statistics(NamedTuple):
    """What a member counted: messages, those that were none, and places taken back of the dead."""

    sent: int
    received: int
    malformed: int
    reclaimed: int


class Messages(Batch):
    """Messages of one ``sender``, or of nobody yet (empty)."""

    __slots__ = ("sender",)

    def __init__(self, memory: Memory, descriptors: NDArray[Any], sender: str = "") -> None:
        super().__init__(memory, descriptors)
        self.sender = sender

    def __getitem__(self, which: Any) -> "Messages":
        """Those that a slice, a mask (bool [n]) or indices choose; of a slice no copy is made."""
        return Messages(self._memory, self.descriptors[which], self.sender)


class _Ring:
    """From one member to another: a word of who writes, one of who reads, and descriptors."""

    def __init__(self, shared: NDArray[np.uint8], begin: int, slots: int) -> None:
        self.produced = shared[begin : begin + 4].view(np.uint32)
        self.consumed = shared[begin + LINE : begin + LINE + 4].view(np.uint32)
        self._entries: NDArray[Any] = shared[
            begin + 2 * LINE : begin + 2 * LINE + slots * DESCRIPTOR.itemsize
        ].view(DESCRIPTOR)
        self._mask = slots - 1

    def put(self, values: NDArray[Any]) -> None:
        """Write some; there is always room, as there are no more of them than of places."""
        index = int(self.produced[0])
        at = np.arange(index, index + len(values)) & self._mask
        self._entries[at] = values
        self.produced[0] = (index + len(values)) % WORDS

    def waiting(self) -> int:
        """How many there are to be read, or more than that can be."""
        return (int(self.produced[0]) - int(self.consumed[0])) % WORDS

    def peek(self, count: int) -> NDArray[Any]:
        """A copy of the next ones."""
        index = int(self.consumed[0])
        found: NDArray[Any] = self._entries[np.arange(index, index + count) & self._mask]
        return found

    def drop(self, count: int) -> None:
        """They were read."""
        self.consumed[0] = (int(self.consumed[0]) + count) % WORDS


class Pool:
    """A pool of the mesh file, by its name; one object in one process, used by one thread.

    ``memory``: uint8 [slots * bytes], where all messages are. ``bytes``: of one place. ``name``:
    who this is. NoPool if this process was not handed it, or another one has it.
    """

    def __init__(self, pool: str) -> None:
        said = dict(one.split(":", 1) for one in os.environ.get(POOLS, "").split())
        if pool not in said:
            raise NoPool(f"no pool {pool}: only members in its [[pool]] are handed it")
        if platform.machine() not in ("x86_64", "AMD64"):
            raise NoPool("from Python only x86-64 keeps its stores in order: use the C header")
        self._file, self.number, self._count, self.slots, self.bytes = map(
            int, said[pool].split(":")
        )
        self.pool = pool
        self._own_byte()
        self._map()
        self.each = self.slots // self._count
        self._mine = self._owners[self.number * self.each :][: self.each]
        self._held = np.zeros(self.slots, np.uint8)  # 0, IN_HAND or CAME
        self._seen = np.zeros(self.slots, np.int64)
        self._given = self._turn = 0  # sent or given back; whose ring is read next
        self.idle: Callable[[], bool] | None = None
        """What a port has to do while this waits, and whether soon again."""
        self._fence = threading.Lock()
        self._syscall = ctypes.CDLL(None, use_errno=True).syscall
        self._repair(self.number)
        self.name = self._name(self.number)

    def _own_byte(self) -> None:
        """Be this member; a process of before may be about to end."""
        deadline = time.monotonic() + PATIENCE
        while not self._lock(self.number):
            if time.monotonic() > deadline:
                raise NoPool("another process of this function has the pool")
            time.sleep(0.01)

    def _lock(self, number: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            return False
        return True

    def _map(self) -> None:
        """The parts of the memory, as ebpfmesh/model/pool.py has them."""
        size = os.fstat(self._file).st_size
        self._shared: NDArray[np.uint8] = np.frombuffer(mmap.mmap(self._file, size), np.uint8)
        owners = _whole(self._count * ENTRY.itemsize)
        rings = owners + _whole(self.slots * 4)
        ring = 2 * LINE + self.slots * DESCRIPTOR.itemsize
        places = rings + _whole(self._count**2 * ring)
        self._table: NDArray[Any] = self._shared[: self._count * ENTRY.itemsize].view(ENTRY)
        self._counters: NDArray[np.uint64] = self._table["counters"][self.number]
        self._owners: NDArray[np.uint32] = self._shared[owners:][: self.slots * 4].view(np.uint32)
        begins = [rings + number * ring for number in range(self._count**2)]
        made = [_Ring(self._shared, begin, self.slots) for begin in begins]
        self._rings = [made[at : at + self._count] for at in range(0, len(made), self._count)]
        self._inbox = [self._rings[sender][self.number] for sender in range(self._count)]
        self.memory: NDArray[np.uint8] = self._shared[places:][: self.slots * self.bytes]
        self._memory = Memory(self.memory)

    @property
    def members(self) -> dict[str, int]:
        """Names of those who are in it now, and their numbers."""
        names = ((self._name(number), number) for number in range(self._count))
        return {name: number for name, number in names if name}

    def _name(self, number: int) -> str:
        name: bytes = self._table["name"][number]
        return name.decode("ascii", errors="replace")

    @property
    def statistics(self) -> Statistics:
        """Of this member, since the pool is there."""
        return Statistics(*map(int, self._counters))

    # ---- to others

    def take(self, count: int, timeout: float = 0.0) -> Messages:
        """Places for messages of one's own: as many, or fewer where there are none left.

        Where there is none at all, one is waited for so many seconds. ``lengths`` are 0.
        """
        if count and not len(self._free(1)) and not self.repair_dead() and timeout > 0:
            self._sleep("hungry", lambda: len(self._free(1)) > 0 or self.repair_dead(), timeout)
        rows = self.claim(count)
        self._held[rows] = IN_HAND
        found = np.zeros(len(rows), DESCRIPTOR)
        found["address"] = rows * self.bytes
        return Messages(self._memory, found)

    def _free(self, count: int) -> NDArray[np.int64]:
        return np.flatnonzero(self._mine == FREE)[:count]

    def send(self, to: str, batch: Batch) -> None:
        """Send messages, all that are in a batch or in a part of one; each of them once.

        NoMember if there is nobody of that name; ValueError for what is in no batch (any more), or
        does not fit its place.
        """
        number = self._number(to)
        rows = self.part(batch)
        self._owners[rows] = SENT | self.number << 8 | number
        self._rings[self.number][number].put(batch.descriptors)
        self._count_more(SENT_COUNT, len(rows))
        self._wake("sleeps", (number,))

    def _number(self, name: str) -> int:
        found = np.flatnonzero(self._table["name"] == name.encode())
        if not name or not len(found):
            raise NoMember(f"no member is called {name}")
        return int(found[0])

    def _rows(self, batch: Batch) -> NDArray[np.int64]:
        return (batch.addresses // np.uint64(self.bytes)).view(np.int64)

    def give_back(self, batch: Batch) -> None:
        """Do not send what was taken or came."""
        rows = self._rows(batch)
        self._given += len(rows)
        self._let_go(rows[self._held[rows] != 0])

    def _let_go(self, rows: NDArray[np.int64]) -> None:
        if len(rows):
            self._held[rows] = 0
            self._owners[rows] = FREE
            self._wake_hungry()

    # ---- for a port whose frames are here

    def claim(self, count: int) -> NDArray[np.int64]:
        """Free places, up to as many, that are held from now on, and not in the program's hands."""
        rows = self._free(count)
        self._mine[rows] = HELD | self.number
        return rows + self.number * self.each

    def part(self, batch: Batch) -> NDArray[np.int64]:
        """Take messages out of the program's hands; ValueError as ``send`` has it."""
        rows = self._rows(batch)
        ends = batch.addresses % np.uint64(self.bytes) + batch.lengths
        if not ((ends <= self.bytes) & (rows < self.slots)).all():
            raise ValueError("a message does not fit its place")
        was, held = self._held[rows], np.count_nonzero(self._held)
        self._held[rows] = 0
        if held - np.count_nonzero(self._held) != len(rows):
            self._held[rows] = was
            raise ValueError("a message is there twice, or was sent or given back already")
        self._given += len(rows)
        return rows

    def came(self, addresses: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Places that the kernel has filled are in the program's hands, and which were right."""
        rows, good = self._of_kernel(addresses)
        self._held[rows] = CAME
        return rows, good

    def drop(self, rows: NDArray[np.int64]) -> None:
        """What of these ``came`` and is still in hand is free."""
        self._let_go(rows[self._held[rows] == CAME])

    def free(self, addresses: NDArray[np.uint64]) -> None:
        """Places that the kernel has sent are free."""
        self._let_go(self._of_kernel(addresses)[0])

    def _of_kernel(
        self, addresses: NDArray[np.uint64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Places that it had, and which these are: held, and not in the program's hands."""
        places = addresses // np.uint64(self.bytes)
        good = places < self.slots
        rows = np.where(good, places, 0).astype(np.int64)
        good &= (self._owners[rows] == HELD | self.number) & (self._held[rows] == 0)
        if not good.all():  # a member has written to words that are not its own
            self._count_more(MALFORMED, len(rows) - int(np.count_nonzero(good)))
        return rows[good], good

    # ---- from others

    def receive(self, timeout: float | None = None) -> Iterator[Messages]:
        """Batches of messages as they come, each of one sender: up to 256, never empty.

        Ends after so many seconds without a message; None: never. What of a batch was not sent on
        by the time the next one is asked for is given back; who asks for no more still has it.
        """
        begun = time.monotonic()
        while self._sleep("sleeps", self._is_something, timeout):
            batch = self._next()
            if len(batch):
                given = self._given
                rows = self._rows(batch)
                yield batch
                self._let_go(rows if self._given == given else rows[self._held[rows] == IN_HAND])
                begun = time.monotonic()
            elif timeout is not None and time.monotonic() - begun > timeout:
                return  # what comes without end may be no message

    def _is_something(self) -> bool:
        return any(ring.waiting() for ring in self._inbox)

    def _next(self) -> Messages:
        """Of the next sender that has sent something; empty if that was no good."""
        for step in range(self._count):
            sender = (self._turn + step) % self._count
            ring = self._inbox[sender]
            if waiting := ring.waiting():
                self._turn = sender + 1
                return self._taken(ring, sender, waiting)
        return Messages(self._memory, np.zeros(0, DESCRIPTOR))

    def _taken(self, ring: _Ring, sender: int, waiting: int) -> Messages:
        """What is good of a ring's next messages. A place is marked before its entry is read."""
        if waiting > self.slots:  # whoever wrote this is no Pool
            self._count_more(MALFORMED, 1)
            ring.drop(waiting)
            waiting = 0
        count = min(waiting, MOST)
        found = ring.peek(count)
        rows, good = self._checked(found, SENT | sender << 8 | self.number)
        if not good.all():
            self._count_more(MALFORMED, count - int(np.count_nonzero(good)))
            found, rows = found[good], rows[good]
        self._owners[rows] = HELD | self.number
        self._held[rows] = IN_HAND
        ring.drop(count)
        self._count_more(RECEIVED, len(rows))
        return Messages(self._memory, found, self._name(sender))

    def _checked(
        self, found: NDArray[Any], owner: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The places of descriptors, and which are within one that has this owner."""
        size = np.uint64(self.bytes)
        places = found["address"] // size
        good = places < self.slots
        rows = np.where(good, places, 0).astype(np.int64)
        good &= found["address"] % size + found["length"] <= size
        good &= self._owners[rows] == owner
        order = np.arange(len(rows))
        self._seen[rows] = order
        good &= self._seen[rows] == order  # a place that is there twice is so once
        return rows, good

    # ---- what the dead had

    def repair_dead(self) -> bool:
        """Take back what members had that are no more, as far as they cannot need it again."""
        before = int(self._counters[RECLAIMED])
        for number in range(self._count):
            if number != self.number and self._lock(number):
                self._repair(number)
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number)
        return int(self._counters[RECLAIMED]) != before

    def _repair(self, number: int) -> None:
        """As a member, whose lock we have: free what it held, and what it had not yet sent.

        What others have sent to it waits for it, unless it is no member any more.
        """
        gone = not self._name(number)
        held = np.flatnonzero(self._owners == HELD | number)
        for sender in range(self._count):
            ring = self._rings[sender][number]
            rows, _ = self._checked(ring.peek(min(ring.waiting(), self.slots)), 0)
            again = rows[self._owners[rows] == HELD | number]
            self._owners[again] = SENT | sender << 8 | number  # it died before it went on
            held = np.setdiff1d(held, again)
            if gone:
                sent = rows[self._owners[rows] == SENT | sender << 8 | number]
                ring.drop(len(rows))
                self._reclaim(sent)
        self._reclaim(held)
        for to in range(self._count):
            owner = SENT | number << 8 | to
            lost = np.flatnonzero(self._owners == owner)
            if len(lost):
                ring = self._rings[number][to]
                rows, _ = self._checked(ring.peek(min(ring.waiting(), self.slots)), 0)
                lost = np.setdiff1d(lost, rows)
                self._reclaim(lost[self._owners[lost] == owner])  # not read meanwhile

    def _reclaim(self, rows: NDArray[np.int64]) -> None:
        if len(rows):
            self._count_more(RECLAIMED, len(rows))
            self._owners[rows] = FREE
            self._wake_hungry()

    def _count_more(self, counter: int, count: int) -> None:
        self._counters[counter] += np.uint64(count)

    # ---- sleep

    def _sleep(self, kind: str, is_there: Callable[[], bool], timeout: float | None) -> bool:
        """Until something is there, or the time is over: False."""
        if is_there():
            return True
        deadline = None if timeout is None else time.monotonic() + timeout
        word = self._table[kind][self.number : self.number + 1]
        while not is_there():
            left = SOON if self.idle and self.idle() else LOOK_AGAIN
            left = left if deadline is None else min(left, deadline - time.monotonic())
            if left <= 0:
                return False
            word[0] = 1
            self._order()
            if not is_there():
                self._futex(word, WAIT, left)
            word[0] = 0
        return True

    def _wake(self, kind: str, numbers: Iterable[int]) -> None:
        """Who sleeps; its word is cleared by the same call, so that no death is between."""
        self._order()
        words = self._table[kind]
        for number in numbers:
            if words[number]:
                self._futex(words[number : number + 1], WAKE_OP, 0)

    def _wake_hungry(self) -> None:
        self._wake("hungry", range(self._count))

    def _order(self) -> None:
        """What was written is seen by all before anything is read: as a lock's instruction does."""
        self._fence.acquire()
        self._fence.release()

    def _futex(self, word: NDArray[np.uint32], what: int, seconds: float) -> None:
        at = ctypes.c_void_p(word.ctypes.data)
        time_ = ctypes.byref(_Time(int(seconds), int(seconds % 1 * 1e9))) if seconds else None
        self._syscall(FUTEX, at, what, 1, time_, at, SET_TO_ZERO)


class _Time(ctypes.Structure):
    """struct timespec."""

    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def _whole(size: int) -> int:
    return -(-size // PAGE) * PAGE
