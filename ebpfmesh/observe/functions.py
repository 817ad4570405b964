# SPDX-License-Identifier: BSD-2-Clause
"""Functions: where they are, whether they still work, what runs in them, what they used."""

from dataclasses import dataclass
from typing import Literal

from ebpfmesh.observe import ports, usage
from ebpfmesh.observe.commands import CommandState, life
from ebpfmesh.observe.usage import Usage
from ebpfmesh.observe.view import View
from ebpfmesh.state.place import Problem, exit_file, problem
from ebpfmesh.state.rows import CommandRow, FunctionRow

State = Problem | Literal["up", "down"]


@dataclass(frozen=True)
class Function:
    """A function. ``cpu_limit`` is in CPUs, ``memory_limit`` in bytes, None without a limit.

    ``rate_limit`` has the keys of ``rate`` in a mesh file, in bits and packets a second.
    ``state``: ``up``, ``down`` (its interface is, at one end), or what is broken.
    ``processes`` are all that run in its cgroup. ``command_state``: ``running``, ``exited``
    (with ``exit_status``, as the shell has it), ``lost`` (ended, and nobody knows how), ``stopped``
    (by somebody who asked for it), or empty for a function that has no command. ``command_since``
    is the Unix time since when it runs, or when it ended; ``last_exit`` the status of the run
    before, ``restarts`` how often it was started again by itself. ``unready`` says why it gets no
    new flows of services; it is empty if it is ``ready`` for them. ``port_taken``: whether a
    process has its port, None if it is to have none; while nobody has, its own stack gets all.
    """

    id: int
    name: str
    tenant: str
    addresses: tuple[str, ...]
    interface: str
    ifindex: int
    netns: str
    state: State
    ready: bool
    unready: str
    audit: bool
    datapath: str
    port_taken: bool | None
    cpu_limit: float | None
    memory_limit: int | None
    rate_limit: dict[str, int] | None
    command: tuple[str, ...]
    command_state: CommandState
    exit_status: int | None
    command_since: float | None
    last_exit: int | None
    restarts: int
    processes: tuple[int, ...]
    cpu_seconds: float | None
    throttled_seconds: float | None
    kernel_seconds: float | None
    memory: int | None
    oom_kills: int | None
    tx_packets: int
    tx_bytes: int
    rx_packets: int
    rx_bytes: int
    drops: dict[str, int]
    flows: int


def read(view: View) -> list[Function]:
    """All functions, by name."""
    means, flows = usage.means(view), usage.flows(view)
    commands = view.record.commands()
    with usage.Reader(view) as reader:
        used = reader.read(view.functions)
    return [
        _function(view, row, one := used[row.function.name], usage.kernel_seconds(one.ran, means),
                  flows[row.attachment.ifindex], commands.get(row.function.name, CommandRow()))
        for row in view.functions
    ]  # fmt: skip


def _function(
    view: View,
    row: FunctionRow,
    used: Usage,
    kernel: float | None,
    flows: int,
    ran: CommandRow,
) -> Function:
    function = row.function
    state, status = life(view.record, function, ran, kept=used.kept)
    return Function(
        id=row.id,
        name=function.name,
        tenant=function.tenant,
        addresses=tuple(map(str, function.addresses)),
        interface=row.attachment.interface,
        ifindex=row.attachment.ifindex,
        netns=row.attachment.netns,
        state=problem(view.ip, row) or ("down" if row.attachment.ifindex in view.down else "up"),
        ready=function.name not in view.unready,
        unready=view.unready.get(function.name, ""),
        audit=function.audit,
        datapath=function.datapath,
        port_taken=ports.taken(row),
        cpu_limit=function.cpu,
        memory_limit=function.memory,
        rate_limit=function.rate.numbers if function.rate else None,
        command=function.command,
        command_state=state,
        exit_status=status,
        command_since=_since(view, function.name, ran, state),
        last_exit=ran.last_exit,
        restarts=ran.restarts,
        processes=used.processes,
        cpu_seconds=used.cpu_seconds,
        throttled_seconds=used.throttled_seconds,
        kernel_seconds=kernel,
        memory=used.memory,
        oom_kills=used.oom_kills,
        tx_packets=used.tx_packets,
        tx_bytes=used.tx_bytes,
        rx_packets=used.rx_packets,
        rx_bytes=used.rx_bytes,
        drops=used.drops,
        flows=flows,
    )


def _since(view: View, function: str, ran: CommandRow, state: CommandState) -> float | None:
    if state == "running":
        return ran.started
    try:
        file = exit_file(view.record, function).stat()
    except FileNotFoundError:
        return None
    return file.st_mtime if file.st_size else None
