# SPDX-License-Identifier: BSD-2-Clause
"""Functions that services send no new flows, and why.

What is seen of a function is one mark: ``up``, ``start`` and ``stop`` set it, and so does who looks
at functions all the time (``ebpfmesh serve``), by what the record and the kernel tell: whoever
takes its place after a kill goes on from there. What somebody asked for (``set_ready``) is another,
and neither ends the other.
"""

from collections.abc import Mapping
from typing import NamedTuple

from ebpfmesh.apply import batch, restarts
from ebpfmesh.apply.held import OnStep, quiet
from ebpfmesh.apply.live import opened
from ebpfmesh.apply.lookup import functions
from ebpfmesh.operation import Operation, SetReady
from ebpfmesh.state.record import Record
from ebpfmesh.state.rows import CommandRow, FunctionRow

WHY = 200
"""Characters of a reason that are kept."""


class Seen(NamedTuple):
    """A function at a moment, with the run of its command that there was, and its mark."""

    row: FunctionRow | None
    command: CommandRow
    mark: str


def seen(record: Record, name: str) -> Seen:
    """A function as it is now."""
    return Seen(record.function(name), record.command(name), record.mark(name))


def all_seen(record: Record) -> dict[str, Seen]:
    """All functions as they are now, by name."""
    commands, found = record.commands(), record.marks()
    return {
        name: Seen(row, commands.get(name, CommandRow()), found.get(name, ""))
        for row in record.functions()
        if (name := row.function.name)
    }


def mark(mesh: str, wanted: Mapping[str, tuple[Seen, str]]) -> list[str]:
    """Mark functions, or end their marks, if they are as they were seen; those that were.

    Nobody is waited for: Busy if the mesh is changed now.
    """
    with opened(mesh, patience=restarts.AT_ONCE) as live:
        batch.settle(live)
        operations = tuple(
            SetReady(name, why=why[:WHY])
            for name, (before, why) in wanted.items()
            if seen(live.record, name) == before
        )
        if operations:
            batch.apply(live, operations)
        return [one.object for one in operations]


def set_ready(
    mesh: str, name: str, ready: bool, why: str = "", on_step: OnStep = quiet
) -> tuple[Operation, ...]:
    """Have a function, a group or a remote get new flows of services, or none; what was done.

    Old flows live, and whatever the mesh file says of weights stays. ``why`` is shown to people,
    its first WHY characters. What is not ready by itself does not get any by this. Raises NotFound
    if there is no such function.
    """
    with opened(mesh, on_step) as live:
        batch.settle(live)
        remote = live.record.remote(name)
        names = [name] if remote else [r.function.name for r in functions(live.record, name)]
        reason = "" if ready else (why or "not ready")[:WHY]
        operations = tuple(
            SetReady(one, why=reason, asked=True)
            for one in names
            if live.unready(one, asked=True) != reason
        )
        if operations:
            batch.apply(live, operations)
        return operations
