# SPDX-License-Identifier: BSD-2-Clause
"""Functions: where they are, whether they still work, what runs in them."""

from dataclasses import dataclass
from typing import Literal

from ebpfmesh.observe.view import View
from ebpfmesh.runtime import process
from ebpfmesh.state.place import Problem, cgroup_of, exit_file, problem
from ebpfmesh.state.record import FunctionRow

State = Problem | Literal["up", "down"]


@dataclass(frozen=True)
class Function:
    """A function. ``cpu_limit`` is in CPUs, ``memory_limit`` in bytes, None without a limit.

    ``state``: ``up``, ``down`` (its interface is, at one end), or what is broken.
    ``processes`` are all that run in its cgroup. ``command_state``: ``running``, ``exited``
    (with ``exit_status``, as the shell has it), ``lost`` (ended, and nobody knows how), or empty
    for a function that has no command.
    """

    id: int
    name: str
    tenant: str
    addresses: tuple[str, ...]
    interface: str
    ifindex: int
    netns: str
    state: State
    audit: bool
    cpu_limit: float | None
    memory_limit: int | None
    command: tuple[str, ...]
    command_state: Literal["", "running", "exited", "lost"]
    exit_status: int | None
    processes: tuple[int, ...]


def read(view: View) -> list[Function]:
    """All functions, by name."""
    return [_function(view, row) for row in view.functions]


def _function(view: View, row: FunctionRow) -> Function:
    function = row.function
    everything = cgroup_of(view.record, function.name).processes()
    processes = everything - process.keepers(everything)
    exit_status = _exit_status(view, function.name)
    command_state: Literal["", "running", "exited", "lost"] = ""
    if function.command:
        command_state = "running" if everything - processes else "lost"
        command_state = "exited" if exit_status is not None else command_state
    return Function(
        id=row.id,
        name=function.name,
        tenant=function.tenant,
        addresses=tuple(map(str, function.addresses)),
        interface=row.attachment.interface,
        ifindex=row.attachment.ifindex,
        netns=row.attachment.netns,
        state=problem(view.ip, row) or ("down" if row.attachment.ifindex in view.down else "up"),
        audit=function.audit,
        cpu_limit=function.cpu,
        memory_limit=function.memory,
        command=function.command,
        command_state=command_state,
        exit_status=exit_status,
        processes=tuple(sorted(processes)),
    )


def _exit_status(view: View, function: str) -> int | None:
    try:
        return int(exit_file(view.record, function).read_text())
    except (FileNotFoundError, ValueError):
        return None
