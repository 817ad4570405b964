# SPDX-License-Identifier: BSD-2-Clause
"""Commands that ended and are started again by themselves: which, and when.

All of it is told by the record and the files of a command, so that whoever looks comes to the same
answer: ``ebpfmesh serve``, or another that takes its place after a kill.
"""

import time
from dataclasses import dataclass

from ebpfmesh.apply import batch
from ebpfmesh.apply.live import opened
from ebpfmesh.model import Function
from ebpfmesh.operation import StartFunction
from ebpfmesh.runtime import process
from ebpfmesh.state.place import cgroup_of, exit_file, exit_status
from ebpfmesh.state.record import Record
from ebpfmesh.state.rows import CommandRow

FIRST_SECONDS, LAST_SECONDS = 0.1, 30.0
"""From an end to the start after it: twice as long each time, up to the last."""
WELL_SECONDS = 10.0
"""A run this long was a good one: the next wait is the first again."""
AT_ONCE = 0.0


@dataclass(frozen=True)
class Command:
    """A function's command, as it is now.

    ``keeper``: the process that will know how it ends; None if it ended, by ``status`` if that is
    known. ``due``: the Unix time to start it again; None if it runs, or is not to be started.
    ``failures``: how many runs in a row were no good ones before the last.
    """

    keeper: int | None
    status: int | None
    due: float | None
    failures: int

    @property
    def ended(self) -> str:
        """How it did, such as ``exited 137``; empty: it runs."""
        if self.keeper is not None:
            return ""
        return "ended, nobody knows how" if self.status is None else f"exited {self.status}"


def look(record: Record, function: Function) -> Command:
    """How a function's command is, and whether it is to be started again."""
    row, status = record.command(function.name), exit_status(record, function.name)
    keeper = None
    if status is None:
        keeper = process.keeper(cgroup_of(record, function.name).processes())
        # It may have written down how the command ended, and ended, between the two.
        status = exit_status(record, function.name) if keeper is None else None
    if keeper is not None:
        return Command(keeper, None, None, row.failures)
    ended = _ended(record, function, row)
    ran = (time.time() if status is None else ended) - row.started
    failures = 0 if ran >= WELL_SECONDS else row.failures
    due = ended + wait(failures) if _wants(function, row, status) else None
    return Command(None, status, due, failures)


def _wants(function: Function, row: CommandRow, status: int | None) -> bool:
    if row.stopped or not row.started:
        return False
    return function.restart == "always" or (function.restart == "on-failure" and status != 0)


def _ended(record: Record, function: Function, row: CommandRow) -> float:
    """When it did: its start, where that failed or nobody wrote down how it ended."""
    try:
        written = exit_file(record, function.name).stat().st_mtime
    except FileNotFoundError:
        written = 0.0
    return max(written, row.started)


def wait(failures: int) -> float:
    """Seconds to wait after so many runs in a row that were not good."""
    return float(min(LAST_SECONDS, FIRST_SECONDS * 2 ** min(failures, 16)))


def again(mesh: str, name: str) -> Command | None:
    """Start a command again, if that is due; how it was before. Busy if the mesh is changed now."""
    with opened(mesh, patience=AT_ONCE) as live:
        batch.settle(live)
        row = live.record.function(name)
        if row is None or not row.ready:
            return None
        command = look(live.record, row.function)
        if command.due is None or command.due > time.time():
            return None
        live.starting = {name: live.record.probes(row.function)}
        batch.apply(live, (StartFunction(row.function, again=command.failures + 1),))
        return command
