# SPDX-License-Identifier: BSD-2-Clause
"""Whether commands of functions run, and how those that do not have ended."""

from typing import Literal, NamedTuple

from ebpfmesh.model import Function
from ebpfmesh.runtime import process
from ebpfmesh.state.place import cgroup_of, exit_status
from ebpfmesh.state.record import Record
from ebpfmesh.state.rows import CommandRow

CommandState = Literal["", "running", "exited", "lost", "stopped"]


class Life(NamedTuple):
    """A command: ``running``, ``exited`` (by ``status``, as shells have it), ``lost``, ``stopped``.

    Lost: it ended, and nobody knows how; stopped: somebody asked for it; empty: there is none.
    """

    state: CommandState
    status: int | None

    @property
    def ended(self) -> str:
        """How it did, such as ``exited 137``; empty: it did not."""
        match self.state:
            case "exited":
                return f"exited {self.status}"
            case "lost":
                return "ended, nobody knows how"
        return self.state if self.state == "stopped" else ""


def life(record: Record, function: Function, ran: CommandRow, *, kept: bool) -> Life:
    """That of a function's command; ``kept``: there is a process that keeps it."""
    if not function.command:
        return Life("", None)
    status = exit_status(record, function.name)
    state: CommandState = "running" if kept else "lost"
    state = "exited" if status is not None else state
    return Life("stopped" if ran.stopped and state != "running" else state, status)


def lives(record: Record, functions: dict[str, Function]) -> dict[str, Life]:
    """Those of several, by name."""
    rows, found = record.commands(), {}
    for name, function in functions.items():
        kept = function.command and process.keeper(cgroup_of(record, name).processes())
        found[name] = life(record, function, rows.get(name, CommandRow()), kept=bool(kept))
    return found
