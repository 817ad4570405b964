# SPDX-License-Identifier: BSD-2-Clause
"""Who listens to a mesh's events: one process, recorded so that its death is noticed.

Programs send events while somebody listens and no longer: each costs time, and while verdicts are
wanted every packet goes the slow way. Whoever calls ``start`` or ``stop`` holds the mesh's lock.
"""

import ctypes
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from ebpfmesh import _abi
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.state.record import Record

KEY = "listener"


@dataclass(frozen=True)
class Listener:
    """A process; ``started`` (ticks since boot) tells apart two of the same pid."""

    pid: int
    started: int

    @property
    def lives(self) -> bool:
        """Whether the process is still there."""
        return _started(self.pid) == self.started


def this_process() -> Listener:
    """The calling process as a listener."""
    return Listener(os.getpid(), _started(os.getpid()))


def find(record: Record) -> Listener | None:
    """Who listens, alive or not."""
    found = record.get(KEY)
    return Listener(**found) if found else None


def start(record: Record, maps: Maps, *, events: int, snap: int = 0) -> None:
    """Have the programs send events to this process, ``snap`` bytes of the packet with each."""
    record.set(KEY, asdict(this_process()))
    _switch(maps, events=events, snap=snap)


def stop(record: Record, maps: Maps) -> None:
    """Have the programs send no events, and judged flows go the fast way. Twice is fine."""
    _switch(maps, events=0, snap=0)
    record.set(KEY, None)


def stop_dead(record: Record, maps: Maps) -> Listener | None:
    """Undo ``start`` of a listener that was killed; which one it was."""
    found = find(record)
    if found is None or found.lives:
        return None
    stop(record, maps)
    return found


def _switch(maps: Maps, *, events: int, snap: int) -> None:
    key = ctypes.c_uint32(0)
    config = maps.config.get(key) or _abi.Config()
    config.events = events
    config.snap = snap
    config.epoch = 0 if events & _abi.EventKind.VERDICT else config.judged
    maps.config.set(key, config)


def _started(pid: int) -> int:
    """When a process started (proc(5), field 22), or -1 if there is none or it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return -1
    return -1 if fields[0] in "ZX" else int(fields[19])
