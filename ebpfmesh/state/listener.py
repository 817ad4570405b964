# SPDX-License-Identifier: BSD-2-Clause
"""Who listens to a mesh's events: one process, recorded so that its death is noticed."""

import os
from dataclasses import dataclass
from pathlib import Path

from ebpfmesh.kernel import clock
from ebpfmesh.state.record import Record


@dataclass(frozen=True)
class Listener:
    """A process; ``started`` (ticks since boot) tells apart two of the same pid."""

    pid: int
    started: int

    @property
    def lives(self) -> bool:
        """Whether the process is still there."""
        found = _started(self.pid)
        return found >= 0 and abs(found - self.started) <= 1  # another time namespace rounds anew


def this_process() -> Listener:
    """The calling process as a listener."""
    return Listener(os.getpid(), _started(os.getpid()))


def find(record: Record) -> Listener | None:
    """Who listens, alive or not."""
    found = record.listener
    return Listener(*found) if found else None


def _started(pid: int) -> int:
    """When a process started (proc(5), field 22), or -1 if there is none or it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return -1
    if fields[0] in "ZX":
        return -1
    return int(fields[19]) - round(clock.offset("boottime") * os.sysconf("SC_CLK_TCK"))
