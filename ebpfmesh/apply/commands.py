# SPDX-License-Identifier: BSD-2-Clause
"""Commands of functions that are stopped, started and restarted; all else of a function stays.

As with systemd, what somebody stopped is stopped until somebody starts it: an ``up`` that finds the
function as its file says leaves it alone. A function that is made, be it anew, is started.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator

from ebpfmesh.apply import batch
from ebpfmesh.apply.held import OnStep, quiet
from ebpfmesh.apply.live import Live, opened
from ebpfmesh.apply.lookup import functions
from ebpfmesh.errors import UsageError
from ebpfmesh.model import Function
from ebpfmesh.operation import AddFunction, Operation, SetReady, StartFunction, StopFunction
from ebpfmesh.runtime import process
from ebpfmesh.state.place import exit_status
from ebpfmesh.state.record import Record

STOPPED = "stopped"
"""Why a function whose command is stopped gets no new flows of services."""


def stop(mesh: str, name: str, on_step: OnStep = quiet) -> tuple[Operation, ...]:
    """End the command of a function, or of all of a group, until it is started; what was done.

    First services send their new flows elsewhere.
    """

    def steps(live: Live, some: tuple[Function, ...]) -> Iterator[Operation]:
        running = [one for one in some if not live.is_stopped(one.name)]
        ready = (one.name for one in running if not live.unready(one.name))
        yield from (SetReady(one, why=STOPPED) for one in ready)
        yield from (StopFunction(one) for one in running)

    return _change(mesh, name, steps, on_step)


def start(mesh: str, name: str, on_step: OnStep = quiet) -> tuple[Operation, ...]:
    """Start the command of a function, or of all of a group, where it does not run."""

    def steps(live: Live, some: tuple[Function, ...]) -> Iterator[Operation]:
        return _starts(live, [one for one in some if not _runs(live, one)])

    return _change(mesh, name, steps, on_step)


def restart(mesh: str, name: str, on_step: OnStep = quiet) -> tuple[Operation, ...]:
    """End the command of a function, or of all of a group, and start it."""

    def steps(live: Live, some: tuple[Function, ...]) -> Iterator[Operation]:
        # What runs is stopped first, so that it runs again if the start fails or is killed.
        yield from (StopFunction(one) for one in some if _runs(live, one))
        yield from _starts(live, some)

    return _change(mesh, name, steps, on_step)


def _starts(live: Live, some: Iterable[Function]) -> Iterator[Operation]:
    for one in some:
        yield StartFunction(one)
        if live.unready(one.name) == STOPPED:
            yield SetReady(one.name)


def _change(
    mesh: str,
    name: str,
    steps: Callable[[Live, tuple[Function, ...]], Iterable[Operation]],
    on_step: OnStep,
) -> tuple[Operation, ...]:
    with opened(mesh, on_step) as live:
        batch.settle(live)
        some = tuple(row.function for row in functions(live.record, name))
        if not all(one.command for one in some):
            what = f"function {name} has no command in the mesh file"
            raise UsageError(what, hint="what runs in it was started by others, who can end it")
        operations = tuple(steps(live, some))
        if operations:
            batch.apply(live, operations)
        return operations


def _runs(live: Live, function: Function) -> bool:
    if live.is_stopped(function.name) or exit_status(live.record, function.name) is not None:
        return False
    return bool(process.keepers(live.cgroup(function.name).processes()))


def stay_stopped(mesh: str, operations: Iterable[Operation]) -> list[str]:
    """Names of the functions that are stopped, and that these operations do not start."""
    if not Record.exists(mesh):
        return []
    added = {one.name for one in operations if isinstance(one, AddFunction)}
    with contextlib.closing(Record(mesh)) as record:
        stopped = {name for name, row in record.commands().items() if row.stopped}
        return sorted(stopped - added)
