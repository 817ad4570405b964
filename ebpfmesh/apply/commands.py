# SPDX-License-Identifier: BSD-2-Clause
"""Commands of functions that are stopped, started and restarted; all else of a function stays.

As with systemd, what somebody stopped is stopped until somebody starts it: an ``up`` that finds the
function as its file says leaves it alone, but starts what ended otherwise. A function that is made,
be it anew, is started.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator

from ebpfmesh.apply import batch, restarts
from ebpfmesh.apply.held import OnStep, quiet
from ebpfmesh.apply.live import Live, opened
from ebpfmesh.apply.lookup import functions
from ebpfmesh.apply.ready import KEPT, Unready, Waits, together
from ebpfmesh.errors import UsageError
from ebpfmesh.model import Function, Mesh
from ebpfmesh.operation import (
    AddFunction,
    Operation,
    RemoveFunction,
    StartFunction,
    StopFunction,
)
from ebpfmesh.state.record import Record

Steps = Callable[[Live, tuple[Function, ...]], Iterable[Operation]]


def stop(mesh: str, name: str, on_step: OnStep = quiet) -> tuple[Operation, ...]:
    """End the command of a function, or of all of a group, until it is started; what was done.

    First services send its new flows elsewhere.
    """

    def steps(live: Live, some: tuple[Function, ...]) -> Iterator[Operation]:
        return (StopFunction(one) for one in some if not live.is_stopped(one.name))

    return _change(mesh, name, steps, on_step, wait=0)


def start(
    mesh: str, name: str, on_step: OnStep = quiet, *, wait: float | None = None
) -> tuple[Operation, ...]:
    """Start the command of a function, or of all of a group, where it does not run.

    It is waited for as ``up`` does, also where it runs and is not ready; what was done stays
    whatever comes of that.
    """

    def steps(live: Live, some: tuple[Function, ...]) -> Iterator[Operation]:
        return (
            StartFunction(one, was=was)
            for one in some
            if (was := _ended(live.record, one)) or live.is_stopped(one.name)
        )

    return _change(mesh, name, steps, on_step, wait=wait)


def restart(
    mesh: str, name: str, on_step: OnStep = quiet, *, wait: float | None = None
) -> tuple[Operation, ...]:
    """End the command of a function, or of all of a group, and start it; waits as ``start``."""

    def steps(live: Live, some: tuple[Function, ...]) -> Iterator[Operation]:
        # What runs is stopped first, so that it runs again if the start fails or is killed.
        stopped = {one.name for one in some if live.is_stopped(one.name)}
        runs = (one for one in some if one.name not in stopped and not _ended(live.record, one))
        yield from map(StopFunction, runs)
        yield from map(StartFunction, some)

    return _change(mesh, name, steps, on_step, wait=wait)


def _change(
    mesh: str, name: str, steps: Steps, on_step: OnStep, *, wait: float | None
) -> tuple[Operation, ...]:
    with opened(mesh, on_step) as live:
        batch.settle(live)
        some = tuple(row.function for row in functions(live.record, name))
        if not all(one.command for one in some):
            what = f"function {name} has no command in the mesh file"
            raise UsageError(what, hint="what runs in it was started by others, who can end it")
        operations = tuple(steps(live, some))
        started = {one.name for one in operations if isinstance(one, StartFunction)}
        if wait != 0:
            late = (one for one in some if one.name in started or live.unready(one.name))
            live.starting = {one.name: found for one in late if (found := live.record.probes(one))}
        faults: list[Unready] = []
        if operations or live.starting:
            waits = lambda: faults.extend(Waits(live, wait).run())  # noqa: E731
            batch.apply(live, operations, waits if live.starting else None)
    if faults:
        error = together(faults, KEPT)
        error.done = operations
        raise error
    return operations


def starts(record: Record, wanted: Mesh, steps: Iterable[Operation]) -> Iterator[Operation]:
    """Starts of commands that ended and were not stopped, of functions that stay in these steps."""
    made = {one.name for one in steps if isinstance(one, AddFunction | RemoveFunction)}
    begun = {name for name, row in record.commands().items() if row.started and not row.stopped}
    for one in wanted.functions:
        if one.command and one.name in begun - made and (was := _ended(record, one)):
            yield StartFunction(one, was=was)


def _ended(record: Record, function: Function) -> str:
    """How its command ended; empty: it runs."""
    return restarts.look(record, function).ended


def stay_stopped(mesh: str, operations: Iterable[Operation]) -> list[str]:
    """Names of the functions that are stopped, and that these operations do not start."""
    if not Record.exists(mesh):
        return []
    added = {one.name for one in operations if isinstance(one, AddFunction)}
    with contextlib.closing(Record(mesh)) as record:
        stopped = {name for name, row in record.commands().items() if row.stopped}
        return sorted(stopped - added)
