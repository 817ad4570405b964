# SPDX-License-Identifier: BSD-2-Clause
"""What users do to a mesh as a whole: plan, up, revert and down."""

import contextlib
import functools
import shutil
from collections.abc import Collection, Iterable, Iterator

from ebpfmesh.apply import batch, builds, frames, programs
from ebpfmesh.apply.commands import starts
from ebpfmesh.apply.held import OnStep, quiet
from ebpfmesh.apply.live import Live, changing, opened
from ebpfmesh.apply.ready import KEPT, Unready, Waits, together
from ebpfmesh.apply.remove import take_down
from ebpfmesh.config.edit import with_others
from ebpfmesh.errors import MeshError, NotFound
from ebpfmesh.kernel import interface, links, netns, pins
from ebpfmesh.kernel.maps import create_maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.kernel.programs import CALLS
from ebpfmesh.model import Mesh
from ebpfmesh.operation import (
    AddFunction,
    AddUplink,
    Operation,
    Repair,
    RollFunction,
    StartFunction,
)
from ebpfmesh.plan import diff
from ebpfmesh.runtime.sandbox import Sandbox
from ebpfmesh.state import remains
from ebpfmesh.state.lock import locked
from ebpfmesh.state.place import check_place, problem, uplink_problem
from ebpfmesh.state.record import Record
from ebpfmesh.state.remains import check_home
from ebpfmesh.state.writer import Writer


def plan(wanted: Mesh, *, prune: bool = True) -> tuple[Operation, ...]:
    """What ``up`` would do; changes nothing. Fails where ``up`` would for want of something."""
    operations = _plan(wanted, prune=prune)
    _check_there(wanted.name, operations)
    return operations


def _plan(wanted: Mesh, *, prune: bool) -> tuple[Operation, ...]:
    if not Record.exists(wanted.name):
        return diff(None, wanted)
    check_home(wanted.name)
    if remains.damage(wanted.name):
        return diff(None, wanted)
    with contextlib.closing(Record(wanted.name)) as record, netns.rtnetlink() as ip:
        check_place(record)
        gone = [row.function.name for row in record.functions() if problem(ip, row)]
        own = Pins(record.mesh)
        cut = [row.name for row in record.uplinks() if uplink_problem(ip, own, row)]
        return _steps(record, wanted, prune=prune, without=gone, without_uplinks=cut)


def up(
    wanted: Mesh, on_step: OnStep = quiet, *, prune: bool = True, wait: float | None = None
) -> tuple[Operation, ...]:
    """Make the mesh as ``wanted``, whatever is there of it; returns what was done.

    Unless it is to ``prune``, what ``wanted`` does not name stays.

    Repairs what a crash left and functions whose interface went; where there is too little left of
    a mesh for that it is made anew. If it fails, the mesh is as it was before; a mesh that was not
    there is taken down again.

    Commands that ended are started again, unless somebody stopped them. What is started gets flows
    of services once it is ready, and that is waited for: ``wait`` seconds, or each as long as it
    says; with 0 it gets them at once. A new function that does not get ready is a failure; if the
    mesh says so all is kept then, as it is with a function that was there, and ``Unready`` raised
    with what was done. So it is with another command of a function that stays: one after the other.
    """
    links.uses_tcx(wanted.hook)
    with changing(wanted.name):
        Pins(wanted.name).check()
        repaired = _make_room(wanted.name, on_step)
        new = not Record.exists(wanted.name)
        faults: list[Unready] = []
        try:
            wrong: list[str] = []
            with _created(wanted, on_step) as live:
                if not new and (wrong := batch.problems(live)):
                    repaired += tuple(Repair(what) for what in wrong)
                batch.recover(live, wrong)
                operations = diff(None, wanted) if new else _steps(live.record, wanted, prune=prune)
                _check_there(wanted.name, operations)
                if new or operations:
                    whole = wanted if new or prune else with_others(live.record.model(), wanted)
                    operations, faults = _apply_and_wait(live, operations, whole, wait)
                live.record.set_made()
        except BaseException:
            if new:
                take_down(wanted.name, on_step)
            raise
    if faults:
        error = together(faults, KEPT)
        error.done = repaired + operations
        raise error
    return repaired + operations


def _apply_and_wait(
    live: Live, operations: tuple[Operation, ...], wanted: Mesh, wait: float | None
) -> tuple[tuple[Operation, ...], list[Unready]]:
    """Do all; what was done, and what went wrong with functions that are kept though."""
    new = {step.name for step in operations if isinstance(step, AddFunction)}
    some = new | {step.name for step in operations if isinstance(step, StartFunction)}
    if wait != 0 and some:
        live.starting = {name: found for name, found in wanted.probes().items() if name in some}
    rolls = [step for step in operations if isinstance(step, RollFunction)]
    first = tuple(step for step in operations if not isinstance(step, RollFunction))
    needed = () if wanted.on_failure == "keep" else {*new, *(step.name for step in rolls)}
    live.patience = wait
    done, faults = list(first), list[Unready]()

    def wait_for_all() -> None:
        faults.extend(Waits(live, wait).run(needed=needed))
        if not any(one.function in needed for one in faults):
            rolled, failed = batch.roll(live, rolls)
            done.extend(rolled)
            faults.extend(failed)
        if any(one.function in needed for one in faults):
            hint = 'all is as before; on_failure = "keep" under [mesh] leaves what was done'
            raise together(faults, hint)

    batch.apply(live, first, wait_for_all if live.starting or rolls else None)
    return tuple(done), faults


def _steps(
    record: Record,
    wanted: Mesh,
    *,
    prune: bool,
    without: Collection[str] = (),
    without_uplinks: Collection[str] = (),
) -> tuple[Operation, ...]:
    """What is left to do, of a mesh whose record, maps and programs are there."""
    current = record.model(without, without_uplinks)
    wanted = wanted if prune else with_others(current, wanted)
    steps = diff(current, wanted, (record.build, builds.ours(record)))
    return (*steps, *starts(record, wanted, steps))


def plan_revert(mesh: str) -> tuple[Operation, ...]:
    """What ``revert`` would do; changes nothing."""
    with contextlib.closing(Record(mesh)) as record:
        check_place(record)
        Pins(mesh).check()
        return (builds.back(record),)


def revert(mesh: str, on_step: OnStep = quiet) -> tuple[Operation, ...]:
    """Return to the programs that the last ``up`` of another version replaced; what was done.

    All else stays. The next ``up`` puts those of its own version back. Raises NotFound if none are
    kept.
    """
    with opened(mesh, on_step) as live:
        batch.settle(live)
        operations = (builds.back(live.record),)
        batch.apply(live, operations)
        return operations


def _check_there(mesh: str, operations: Iterable[Operation]) -> None:
    """Raise what is wrong with what new functions and uplinks name of the host's."""
    which = functools.cache(shutil.which)
    faults: list[MeshError] = []
    for step in operations:
        if isinstance(step, AddUplink) and interface.find(step.object.interface) is None:
            what = f"uplink {step.name}: there is no interface {step.object.interface} here"
            hint, about = "ip link lists them", (step.name, "interface")
            faults.append(NotFound(what, hint=hint, about=about))
        if not isinstance(step, AddFunction | RollFunction):
            continue
        name, command, where = step.object.name, step.object.command, step.object.netns
        frames.check(step.object)
        if step.object.sandboxed:
            try:
                Sandbox(mesh, step.object).check()
            except MeshError as error:
                error.message = f'function "{name}": {error.message}'
                error.about = (name, "command")
                faults.append(error)
        elif command and which(command[0]) is None:
            what = f'function "{name}": there is no program {command[0]}'
            hint = "install it, or change command in the file"
            faults.append(MeshError(what, hint=hint, about=(name, "command")))
        try:
            _ = where and netns.find(where)
        except NotFound as error:
            what = f'function "{name}": {error.message}'
            faults.append(NotFound(what, hint=error.hint, about=(name, "netns")))
    if faults:
        faults[0].others = tuple(faults[1:])
        raise faults[0]


def _make_room(mesh: str, on_step: OnStep) -> tuple[Operation, ...]:
    """Remove what is there of a mesh that can only be made anew; what there is to say of it."""
    check_home(mesh)
    with netns.rtnetlink() as ip:
        why = remains.damage(mesh) if mesh in remains.meshes(ip) else ""
    if not why:
        return ()
    on_step("recover")
    told = take_down(mesh, on_step)
    return tuple(Repair(text) for text in (f"mesh {mesh}: {why}", *told))


@contextlib.contextmanager
def _created(wanted: Mesh, on_step: OnStep) -> Iterator[Live]:
    """The mesh open, its record, maps and programs made as far as they are missing."""
    own = Pins(wanted.name)
    on_step("record")
    if Record.exists(wanted.name):
        record = Writer(wanted.name)
    else:
        record = Writer.create(wanted, netns.current())
    with contextlib.closing(record):
        on_step("bpffs")
        pins.mount_bpffs()
        on_step("maps")
        own.create(str(netns.current()))
        create_maps(own, record.limits(), count_flows=record.base().count_flows)
        on_step("programs")
        programs.load_missing(own, services=bool(wanted.services))
        if record.making:
            record.set_build(builds.ours(record))
        programs.set_calls(own, "mesh_tc_calls", CALLS)
        with contextlib.closing(Live(record, on_step)) as live:
            yield live


def snapshot(mesh: str) -> tuple[Mesh, frozenset[str]]:
    """The mesh as it is between two changes, and the functions whose interfaces are not its own."""
    with locked(mesh), contextlib.closing(Record(mesh)) as record:
        check_place(record)
        if record.cut_short:
            hint = "ebpfmesh gc, or up FILE, makes it whole"
            raise MeshError(f"the last change of mesh {mesh} was cut short", hint=hint)
        rows = record.functions()
        kept = (row.function.name for row in rows if not row.attachment.made_interface)
        return record.model(), frozenset(kept)


def down(mesh: str, on_step: OnStep = quiet) -> list[str]:
    """Remove a mesh and all that was made for it; what there is to say, nothing if it was not."""
    with changing(mesh):
        check_home(mesh)
        with netns.rtnetlink() as ip:
            if mesh not in remains.meshes(ip):
                return []
        return [f"mesh {mesh}", *take_down(mesh, on_step, asked=True)]
