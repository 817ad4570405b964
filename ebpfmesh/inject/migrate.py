# SPDX-License-Identifier: BSD-2-Clause
"""From the entries of a map to those of one with another layout, by the author's MESH_MIGRATE.

That is a program of its own out of the author's text (``source.MIGRATION``), checked as the main
one is, and more strictly: it reaches old and new values and nothing else. It meets no packet: each
run of BPF_PROG_TEST_RUN makes one new value of an old one, in two arrays that are ours. So an entry
costs what its program does and no system call.
"""

import contextlib
import errno
import mmap
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice

from ebpfmesh.errors import FunctionRefused
from ebpfmesh.inject import check as checks
from ebpfmesh.inject import maps
from ebpfmesh.inject.budget import WORDS, Budget
from ebpfmesh.inject.compile import Compiled
from ebpfmesh.inject.instructions import with_maps
from ebpfmesh.inject.maps import Layout
from ebpfmesh.inject.source import Source
from ebpfmesh.inject.verify import checked, loaded, without_addresses
from ebpfmesh.kernel import bpf

LIKE = {
    "hash": "hash", "lru_hash": "hash", "percpu_hash": "percpu_hash",
    "lru_percpu_hash": "percpu_hash", "array": "array", "percpu_array": "percpu_array",
}  # fmt: skip
"""Kinds between which entries migrate."""

RUNS = 256  # in a system call: what is slow is noticed after that
ENTRIES = 4096  # written in one call, and told as a step
SCRATCH = 1 << 20  # bytes of old and new values at a time, if one is not larger
SECONDS = 10
"""All values of a map. 65536 take a fraction of one; runs that do all they may take longer."""
WORD = 8  # bytes before each new value
MMAPABLE = 1 << 10  # BPF_F_MMAPABLE
FRAME = bytes(64)  # a packet, as BPF_PROG_TEST_RUN wants one


def check(source: Source, program: Compiled, budget: Budget) -> None:
    """Raise FunctionRefused unless all migrations of a text may run."""
    for name, migration in program.migrations.items():
        old, new = migration.tables
        line = source.migrations[name]
        kind, value = next(
            (maps.KINDS[one.kind], one.value_size) for one in program.tables if one.name == name
        )
        if kind not in LIKE:
            raise source.refuse(f"map {name} is a {kind}, whose entries stay with its reader", line)
        if not old.value_size or 2 * (old.value_size + new.value_size) > budget.map_bytes:
            raise source.refuse(f"{old.value_size} bytes are no old value of map {name}", line)
        if new.value_size != WORD + _whole(value):
            raise source.refuse("a value is aligned to 8 bytes at most", line)
        numbers = {old.number, new.number}
        checked(source, migration, checks.MIGRATION, budget, maps=numbers, values={})
        with without_addresses(), _loaded(source, migration, 1) as (verified, _):
            cost = {
                "verified": int(bpf.fdinfo(verified).get("verified_insns") or 0),
                "jited_bytes": bpf.prog_info(verified).jited_prog_len,
            }
        for what, has in cost.items():
            if has > getattr(budget, what):
                most = getattr(budget, what)
                raise source.refuse(f"{WORDS[what]}: {has}, of {most} it may have", line)


def check_layouts(source: Source, name: str, old: Layout, new: Layout, declared: int) -> None:
    """Raise FunctionRefused unless a map's entries can be made those of its new layout.

    ``declared`` is the size of the old value that MESH_MIGRATE names.
    """
    line = source.migrations[name]
    if LIKE.get(old.kind, old.kind) != LIKE.get(new.kind, ""):
        hint = "hash and lru_hash migrate to each other, and percpu_hash and lru_percpu_hash"
        what = f"map {name} cannot migrate from {old.kind} to {new.kind}"
        raise source.refuse(what, line, hint)
    if old.key_size != new.key_size:
        what = f"a key of map {name} has {new.key_size} bytes, and had {old.key_size}"
        raise source.refuse(what, line, "a key stays as it is: call the map otherwise")
    if old.value_size != declared:
        what = f"a value of map {name} has {old.value_size} bytes, the old type here {declared}"
        raise source.refuse(what, line, "the type is that of the version that runs now")


def _whole(size: int) -> int:
    return -(-size // 8) * 8


@contextlib.contextmanager
def _loaded(
    source: Source, program: Compiled, count: int
) -> Iterator[tuple[bpf.Fd, tuple[bpf.Fd, bpf.Fd]]]:
    """The program, and arrays for ``count`` old and new values; theirs of index 0 is the word."""
    with ExitStack() as stack:
        fds = []
        for table in program.tables:
            sizes = (4, table.value_size, count + 1)
            made = bpf.map_create(bpf.MAP_TYPE["array"], "mesh_migration", *sizes, MMAPABLE)
            fds.append(stack.enter_context(made))
        numbers = {one.number: fd.fileno() for one, fd in zip(program.tables, fds, strict=True)}
        code = with_maps(program.instructions, numbers)
        fd = stack.enter_context(loaded(source, program, code, checks.MIGRATION))
        yield fd, (fds[0], fds[1])


class Converter:
    """Makes new values of old ones; use ``converter``."""

    def __init__(
        self, slow: FunctionRefused, program: bpf.Fd, old: "_Values", new: "_Values"
    ) -> None:
        self._slow = slow
        self._program = program
        self._old, self._new = old, new
        self._end = time.monotonic() + SECONDS

    def __call__(self, values: Iterable[bytes]) -> Iterator[bytes | None]:
        """The new one of each, None: it is left out. FunctionRefused if it takes too long."""
        remaining = iter(values)
        while some := list(islice(remaining, self._old.count)):
            self._old.fill(some)
            self._new.clear()
            self._run(len(some))
            yield from self._new.made(len(some))

    def _run(self, count: int) -> None:
        """So many runs; a signal ends them early."""
        while (done := self._new.runs) < count:
            if time.monotonic() > self._end:
                raise self._slow
            with contextlib.suppress(InterruptedError):
                bpf.prog_test_run(self._program, FRAME, repeat=count - done)


class _Values:
    """The memory of an array of values; the first has none."""

    def __init__(self, fd: bpf.Fd, size: int, count: int, stack: ExitStack) -> None:
        self.count = count
        self._size, self._stride = size, _whole(size)
        memory = mmap.mmap(fd.fileno(), self._stride * (count + 1))
        self._memory = stack.enter_context(contextlib.closing(memory))

    def fill(self, values: Sequence[bytes]) -> None:
        for at, value in enumerate(values, 1):
            start = at * self._stride
            self._memory[start : start + len(value)] = value

    def clear(self) -> None:
        self._memory[:] = bytes(len(self._memory))

    @property
    def runs(self) -> int:
        return int.from_bytes(self._memory[:WORD], "little")

    def made(self, count: int) -> Iterator[bytes | None]:
        for at in range(1, count + 1):
            start = at * self._stride
            made = self._memory[start : start + self._size]
            yield made[WORD:] if any(made[:WORD]) else None


@contextlib.contextmanager
def converter(source: Source, name: str, program: Compiled) -> Iterator[Converter]:
    """What converts values of a map by its migration, a checked one, for SECONDS at most."""
    old, new = (one.value_size for one in program.tables)
    count = max(1, min(RUNS, SCRATCH // (_whole(old) + _whole(new))))
    slow = source.refuse(f"map {name} is not migrated after {SECONDS} s", source.migrations[name])
    with _loaded(source, program, count) as (fd, (olds, news)), ExitStack() as stack:
        yield Converter(
            slow, fd, _Values(olds, old, count, stack), _Values(news, new, count, stack)
        )


@dataclass
class Migration:
    """Of one map of a program; what became of its entries.

    ``late`` came into the old map while it was copied, ``lost`` are those of them for which there
    was no room.
    """

    source: Source
    name: str
    program: Compiled
    old: Layout
    new: Layout
    kept: int = 0
    left_out: int = 0
    late: int = 0
    lost: int = 0
    _known: set[bytes] = field(default_factory=set)

    def copy(self, old: bpf.Fd, new: bpf.Fd, step: Callable[[str], None]) -> None:
        """All entries. ``step`` is told before some are written.

        Raises FunctionRefused if not all fit, or it takes too long.
        """
        step(f"migrate {self.name}")
        with converter(self.source, self.name, self.program) as convert:
            entries = self._converted(old, convert)
            while some := list(islice(entries, ENTRIES)):
                step(f"migrate {self.name}: {len(self._known)} entries")
                kept = [(key, value) for key, value in some if value is not None]
                self.left_out += len(some) - len(kept)
                self.kept += len(kept)
                if kept:
                    self._put(new, *zip(*kept, strict=True))

    def _put(self, new: bpf.Fd, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        try:
            bpf.map_update_batch(new, keys, values)
        except OSError as error:
            what = f"map {self.name}: {os.strerror(error.errno or 0)}"
            if error.errno == errno.E2BIG:
                what = f"map {self.name}, of {self.new.entries} entries, cannot hold the old ones"
            hint = "MESH_MIGRATE returns 0 for what may be left out; or an lru_hash"
            raise self.source.refuse(what, self.source.maps[self.name], hint) from error

    def copy_late(self, old: bpf.Fd, new: bpf.Fd) -> None:
        """The entries that came meanwhile, unless the new version has one of that key already."""
        with converter(self.source, self.name, self.program) as convert:
            for key, value in self._converted(old, convert):
                if value is None:
                    self.left_out += 1
                    continue
                try:
                    bpf.map_update(new, key, value, bpf.NOEXIST)
                    self.late += 1
                except FileExistsError:
                    continue
                except OSError:
                    self.lost += 1

    def _converted(self, old: bpf.Fd, convert: Converter) -> Iterator[tuple[bytes, bytes | None]]:
        """Entries whose keys were not known, and now are; None for a value that is left out."""
        cpus = bpf.possible_cpus() if "percpu" in self.old.kind else 0
        size = self.old.value_size
        whole = _whole(size) * cpus if cpus else size
        entries = bpf.map_items(old, self.old.key_size, whole)
        unknown = ((key, value) for key, value in entries if key not in self._known)
        while some := list(islice(unknown, RUNS)):
            self._known.update(key for key, _ in some)
            parts = [
                value[at : at + size] for _, value in some for at in range(0, whole, _whole(size))
            ]
            made = convert(parts)
            for key, _ in some:
                yield key, self._joined(list(islice(made, cpus or 1)), bool(cpus))

    def _joined(self, made: Sequence[bytes | None], percpu: bool) -> bytes | None:
        """The value of an entry; of all CPUs, where one that left it out has zeros."""
        if not any(one is not None for one in made):
            return None
        size = self.new.value_size
        if percpu:  # as the kernel has them: with nothing between that was not written
            size = _whole(size)
        return b"".join((one or bytes(size))[:size] for one in made)
