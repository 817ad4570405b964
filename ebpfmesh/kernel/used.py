# SPDX-License-Identifier: BSD-2-Clause
"""What the processes of functions use, as their cgroups tell.

A file that stays open is read in a tenth of the time that opening it anew takes: so a thousand
functions can be looked at each second. Where descriptors run out, files are opened each time.
"""

import os
import resource
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ebpfmesh.kernel.cgroup import Cgroup, Hierarchies

SPARE = 256
"""Descriptors that are left for all else."""
USUAL, MOST = 2048, 1 << 20
"""Bytes that are read of a file, and of one that has more: cgroup.procs of 100 000 processes."""
PAGE = resource.getpagesize()


@dataclass(frozen=True)
class Used:
    """What a cgroup used since it is there. None: no hierarchy tells.

    ``cpu`` is in seconds; ``throttled`` too: how long its limit kept it from CPUs, added up over
    them. ``memory`` is what the cgroup is charged, in bytes; ``oom_kills`` are processes that were
    killed for its limit.
    """

    cpu: float | None
    throttled: float | None
    memory: int | None
    oom_kills: int | None
    processes: tuple[int, ...]


NOTHING = Used(None, None, None, None, ())


class _File:
    """A file that may stay open. What it says is empty once it is gone."""

    def __init__(self, path: Path, opened: "Files") -> None:
        self._path = os.fspath(path)
        self._number = opened.keep(self._path)

    def read(self) -> bytes:
        with suppress(OSError):
            return _whole(self._number) if self._number >= 0 else _read(self._path)
        return b""


def _number(text: bytes, name: bytes, unit: float = 1) -> float | None:
    """The number behind a name, as cpu.stat has them, a line each; None without the name."""
    at = text.find(name + b" ")
    return int(text[at + len(name) : text.index(b"\n", at)]) / unit if at >= 0 else None


def _whole(number: int) -> bytes:
    found = os.pread(number, USUAL, 0)
    return found if len(found) < USUAL else os.pread(number, MOST, 0)


def _read(path: str) -> bytes:
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _whole(number)
    finally:
        os.close(number)


class Group:
    """The files of one cgroup that tell what it uses (cgroups(7), Documentation/admin-guide)."""

    def __init__(self, group: Cgroup, opened: "Files") -> None:
        mounted = Hierarchies.mounted()

        def file(hierarchy: Path | None, name: str) -> _File | None:
            path = hierarchy and group.directory(hierarchy) / name
            return _File(path, opened) if path and path.exists() else None

        cpu, memory = (mounted.v1.get(name) for name in ("cpu", "memory"))
        self._procs = file(mounted.tracking(), "cgroup.procs")
        self._stat = file(mounted.unified, "cpu.stat")  # there without any controller
        self._old_stat = file(cpu, "cpu.stat")
        self._old_usage = file(mounted.v1.get("cpuacct"), "cpuacct.usage")
        self._memory = file(memory, "memory.usage_in_bytes") or file(
            mounted.unified, "memory.current"
        )
        self._events = file(memory, "memory.oom_control") or file(mounted.unified, "memory.events")

    def used(self) -> Used:
        """What it used; NOTHING if it is not there."""
        if self._procs is None:
            return NOTHING
        processes = tuple(map(int, self._procs.read().split()))
        cpu, throttled = self._cpu()
        return Used(cpu, throttled, self._memory_now(), self._oom_kills(), processes)

    def _cpu(self) -> tuple[float | None, float | None]:
        """Seconds of CPU, and throttled."""
        text = self._stat.read() if self._stat else b""
        cpu, throttled = _number(text, b"usage_usec", 1e6), _number(text, b"throttled_usec", 1e6)
        if self._old_usage and not self._stat:
            cpu = _number(b"usage " + self._old_usage.read(), b"usage", 1e9)
        if self._old_stat:
            throttled = _number(self._old_stat.read(), b"throttled_time", 1e9)
        return cpu, throttled

    def _memory_now(self) -> int | None:
        text = self._memory.read() if self._memory else b""
        return int(text) if text else None

    def _oom_kills(self) -> int | None:
        found = _number(self._events.read(), b"oom_kill") if self._events else None
        return None if found is None else int(found)


def resident(process: int) -> int:
    """Bytes of memory that a process has, what it shares too (proc(5), statm); 0 once it ended."""
    with suppress(OSError):
        if words := _read(f"/proc/{process}/statm").split():
            return int(words[1]) * PAGE
    return 0


class Files:
    """Files of many cgroups; those there is room for stay open until the end of the ``with``."""

    def __init__(self) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._room = soft - SPARE if soft >= 0 else MOST
        self._open: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all: nothing can be read any more."""
        while self._open:
            os.close(self._open.pop())

    def of(self, group: Cgroup) -> Group:
        """Those of a cgroup."""
        return Group(group, self)

    def keep(self, path: str) -> int:
        """A descriptor of a file that is closed with the others; -1 if there is no room."""
        if len(self._open) < self._room:
            with suppress(OSError):
                self._open.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
                return self._open[-1]
        return -1
