# SPDX-License-Identifier: BSD-2-Clause
"""The memory of a pool: a sealed memfd, whose members are written down at its begin.

It lives as long as somebody has it: the commands that share it, and who keeps each of them, from
whom the next command gets it (``find``). So it needs no name in a file system, nothing of it is
left after the last member, and whoever comes then finds zeros. Its size is sealed: nobody can have
another fault by cutting it short.

Members write all of it. What is read here is names and numbers, bounded whatever they are; the
layout is ``model.pool.Layout``, what else is in there only members know (``ebpfmesh.port``).
"""

import contextlib
import fcntl
import mmap
import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from ebpfmesh.errors import MeshError
from ebpfmesh.kernel.cgroup import Cgroup
from ebpfmesh.kernel.xsk import Room
from ebpfmesh.model import Pool
from ebpfmesh.model.pool import DESCRIPTOR, ENTRY, LINE

VARIABLE = "EBPFMESH_POOLS"
"""What a command knows them by: NAME:DESCRIPTOR:MEMBER:MEMBERS:SLOTS:BYTES, blanks between."""
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
NAME = 64  # bytes of one, with NUL
COUNTED = 192  # where in an entry the counters are
COUNTERS = ("sent", "received", "malformed", "reclaimed")
FREE, HELD, SENT = range(3)
STATE = 16  # bits of a word that come before it
DESCRIPTORS = 64  # that a keeper may have; it has fewer


@dataclass(frozen=True)
class Member:
    """Who is in a pool: places that it ``holds``, that are on their way to it, and its counters."""

    name: str
    holds: int
    waiting: int
    counters: dict[str, int]


def make(pool: Pool, group: Cgroup) -> int:
    """A descriptor of new memory, all of it charged to a cgroup; MeshError if there is too little.

    The pages are allocated here, by a process that is there for it: who touches them first would
    pay for them otherwise, be it one member or the other.
    """
    memory = os.memfd_create(f"ebpfmesh-pool-{pool.name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.truncate(memory, pool.size)
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, SEALS)
        _allocate(memory, pool, group.charged())
    except BaseException:
        os.close(memory)
        raise
    return memory


def _allocate(memory: int, pool: Pool, procs: Path | None) -> None:
    child = os.fork()
    if not child:
        code = 1
        try:
            if procs:
                procs.write_text("0")
            os.posix_fallocate(memory, 0, pool.size)
            code = 0
        finally:
            os._exit(code)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        what = f"pool {pool.name}: {pool.size >> 10} KiB of memory cannot be had"
        raise MeshError(what, hint="fewer slots, or smaller ones; free -m tells what there is")


def find(pool: Pool, inode: int, keeper: int) -> int | None:
    """A new descriptor of the memory that was made with an inode, if a process has it."""
    for path in _descriptors(keeper):
        with contextlib.suppress(OSError):
            if path.stat().st_ino == inode:
                found = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                if _is(found, pool, inode):
                    return found
                os.close(found)
    return None


def _descriptors(process: int) -> list[Path]:
    with contextlib.suppress(OSError):
        return list(islice(Path(f"/proc/{process}/fd").iterdir(), DESCRIPTORS))
    return []


def _is(descriptor: int, pool: Pool, inode: int) -> bool:
    there = os.fstat(descriptor)
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError:  # no memfd
        return False
    return (there.st_ino, there.st_size, seals) == (inode, pool.size, SEALS)


def enrol(memory: int, pool: Pool, name: str, known: Collection[str]) -> int:
    """The number of a member, the one that it has if it was there; MeshError if all are taken.

    Those that are not ``known`` any more make room, and the others are in it from now on: what is
    sent to who has not begun waits for it.
    """
    with _mapped(memory, pool) as shared:
        names = _forget(memory, shared, pool, known)
        for one in (name, *(other for other in known if other != name)):
            if one not in names and "" in names:
                number = names.index("")
                names[number] = one
                shared[number * ENTRY : number * ENTRY + NAME] = one.encode().ljust(NAME, b"\0")
    if name not in names:
        what = f"pool {pool.name}: all {pool.members} members are there, and {name} is one more"
        raise MeshError(what, hint="take one out first, by an `up` of its own; or raise members")
    return names.index(name)


def forget(memory: int, pool: Pool, known: Collection[str]) -> None:
    """Members that are not known any more are none: what was sent to them is taken back."""
    with _mapped(memory, pool) as shared:
        _forget(memory, shared, pool, known)


def _forget(memory: int, shared: mmap.mmap, pool: Pool, known: Collection[str]) -> list[str]:
    names = [_name(shared, number) for number in range(pool.members)]
    for number, name in enumerate(names):
        if name and name not in known:
            shared[number * ENTRY : number * ENTRY + NAME] = bytes(NAME)
            names[number] = ""
            with contextlib.suppress(BlockingIOError, PermissionError):  # it is not dead yet
                fcntl.lockf(memory, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
                _take_back(shared, pool, number)
                fcntl.lockf(memory, fcntl.LOCK_UN, 1, number)
    return names


def _take_back(shared: mmap.mmap, pool: Pool, number: int) -> None:
    """Free what a member held and was sent, as whose lock we have: nobody else is to get that.

    Who sleeps for a place looks again by itself, a second later at most.
    """
    layout = pool.layout
    with memoryview(shared) as raw, raw[layout.owners :][: 4 * pool.slots].cast("I") as owners:
        for slot, owner in enumerate(owners):
            if owner == HELD << STATE | number:
                owners[slot] = FREE
        for sender in range(pool.members):
            ring = raw[layout.rings + (sender * pool.members + number) * layout.ring :]
            with ring[: layout.ring].cast("Q") as words:
                produced, consumed = (words[at] & 0xFFFFFFFF for at in (0, LINE // 8))
                for at in range(
                    consumed, consumed + min((produced - consumed) % (1 << 32), pool.slots)
                ):
                    slot = words[(2 * LINE + at % pool.slots * DESCRIPTOR) // 8] // pool.bytes
                    if slot < pool.slots and owners[slot] == SENT << STATE | sender << 8 | number:
                        owners[slot] = FREE
                words[LINE // 8] = produced
            ring.release()


def members(memory: int, pool: Pool) -> list[Member]:
    """Who is in it, as they say."""
    with _mapped(memory, pool) as shared:
        begin = pool.layout.owners
        words = Counter(memoryview(shared[begin : begin + 4 * pool.slots]).cast("I"))
        found = []
        for number in range(pool.members):
            if not (name := _name(shared, number)):
                continue
            at = number * ENTRY + COUNTED
            counted = memoryview(shared[at : at + 8 * len(COUNTERS)]).cast("Q")
            holds = words[HELD << STATE | number]
            waiting = sum(words[SENT << STATE | one << 8 | number] for one in range(pool.members))
            counters = dict(zip(COUNTERS, counted, strict=True))
            found.append(Member(name, holds, waiting, counters))
        return found


def _name(shared: mmap.mmap, number: int) -> str:
    raw = shared[number * ENTRY : number * ENTRY + NAME]
    return raw.partition(b"\0")[0].decode("ascii", errors="replace")


@contextlib.contextmanager
def _mapped(memory: int, pool: Pool) -> Iterator[mmap.mmap]:
    with mmap.mmap(memory, pool.layout.places) as shared:
        yield shared


class Share(NamedTuple):
    """A pool's memory on its way to a command, and which member that is."""

    pool: Pool
    memory: int
    number: int

    @property
    def text(self) -> str:
        """What the variable says of it."""
        pool = self.pool
        numbers = self.memory, self.number, pool.members, pool.slots, pool.bytes
        return ":".join((pool.name, *map(str, numbers)))


class Handed:
    """The pools of a command (``runtime.process.Handed``)."""

    def __init__(self, pools: Collection[Share]) -> None:
        self._pools = pools

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What the command inherits."""
        return tuple(one.memory for one in self._pools)

    def room(self, name: str) -> Room:
        """The places of one of them, as memory of frames."""
        one = next(one for one in self._pools if one.pool.name == name)
        begin, end = one.pool.layout.places, one.pool.size
        return Room(one.memory, begin, end - begin, name)

    @property
    def env(self) -> dict[str, str]:
        """And the variable that says so."""
        return {VARIABLE: " ".join(one.text for one in self._pools)}

    def bind(self) -> None:
        """There is nothing to do."""
