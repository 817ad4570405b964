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
    RollFunction,
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
    """End the command of a function, or of all of a group, and start it; waits as ``start``.

    One after the other, as ``up`` has another command take its place, so that services go on. The
    first that does not get ready ends it; those after it run on.
    """
    with _of(mesh, name, on_step) as (live, some):
        first = tuple(StartFunction(one) for one in some if live.is_stopped(one.name))
        begun = {one.name for one in first}
        rolls = [live.rolls.again(one) for one in some if one.name not in begun]
        live.patience = wait
        if wait != 0:
            live.starting = {one.name: live.record.probes(one) for one in some if one.name in begun}
        done, faults = list[Operation](first), list[Unready]()

        def one_by_one() -> None:
            faults.extend(Waits(live, wait).run())
            rolled, failed = batch.roll(live, rolls)
            done.extend(rolled)
            faults.extend(failed)

        batch.apply(live, first, one_by_one)
    return _told(tuple(done), faults)


@contextlib.contextmanager
def _of(mesh: str, name: str, on_step: OnStep) -> Iterator[tuple[Live, tuple[Function, ...]]]:
    """The mesh, whole, and the functions of this name, which have commands."""
    with opened(mesh, on_step) as live:
        batch.settle(live)
        some = tuple(row.function for row in functions(live.record, name))
        if not all(one.command for one in some):
            what = f"function {name} has no command in the mesh file"
            raise UsageError(what, hint="what runs in it was started by others, who can end it")
        yield live, some


def _told(done: tuple[Operation, ...], faults: list[Unready]) -> tuple[Operation, ...]:
    """What was done; raised, if not all of it got ready."""
    if faults:
        error = together(faults, KEPT)
        error.done = done
        raise error
    return done


def _change(
    mesh: str, name: str, steps: Steps, on_step: OnStep, *, wait: float | None
) -> tuple[Operation, ...]:
    with _of(mesh, name, on_step) as (live, some):
        operations = tuple(steps(live, some))
        started = {one.name for one in operations if isinstance(one, StartFunction)}
        if wait != 0:
            late = (one for one in some if one.name in started or live.unready(one.name))
            live.starting = {one.name: found for one in late if (found := live.record.probes(one))}
        faults: list[Unready] = []
        if operations or live.starting:
            waits = lambda: faults.extend(Waits(live, wait).run())  # noqa: E731
            batch.apply(live, operations, waits if live.starting else None)
    return _told(operations, faults)


def starts(record: Record, wanted: Mesh, steps: Iterable[Operation]) -> Iterator[Operation]:
    """Starts of commands that ended and were not stopped, of functions that stay in these steps."""
    made = {
        one.name for one in steps if isinstance(one, AddFunction | RemoveFunction | RollFunction)
    }
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
