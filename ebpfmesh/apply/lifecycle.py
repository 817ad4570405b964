# SPDX-License-Identifier: BSD-2-Clause
"""What users do to a mesh: plan, up, down, attach, detach, and any other edit of its model."""

import contextlib
from collections.abc import Callable, Iterator

from ebpfmesh.apply import programs
from ebpfmesh.apply.live import Live, OnStep, opened, quiet
from ebpfmesh.errors import MeshError, NotFound, UsageError
from ebpfmesh.kernel import links, netns, pins, rcu, sockets
from ebpfmesh.kernel.maps import create_maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.kernel.place import check_place, fault
from ebpfmesh.kernel.record import Record, locked
from ebpfmesh.model import Function, Mesh, Scope
from ebpfmesh.plan import Operation, diff


def plan(wanted: Mesh) -> tuple[Operation, ...]:
    """What ``up`` would do; changes nothing."""
    try:
        record = Record(wanted.name)
    except NotFound:
        return diff(None, wanted)
    try:
        check_place(record)
        if record.get("mesh") is None:
            return diff(None, wanted)
        with netns.rtnetlink() as ip:
            gone = [row.function.name for row in record.functions() if fault(ip, row)]
        return diff(record.model(without=gone), wanted)
    finally:
        record.close()


def up(wanted: Mesh, on_step: OnStep = quiet) -> tuple[Operation, ...]:
    """Make the mesh as ``wanted``, whatever is there of it; returns what was done.

    Repairs what a crash left and functions whose interface went. If it fails, the mesh is as it
    was before; a mesh that was not there is taken down again.
    """
    links.uses_tcx(wanted.hook)
    with locked(wanted.name):
        rcu.put_back()
        Pins(wanted.name).check()
        new = not Record.exists(wanted.name)
        try:
            with _created(wanted, on_step) as live:
                live.recover()
                operations = diff(None if new else live.record.model(), wanted)
                if new or operations:
                    live.apply(operations)
                return operations
        except BaseException:
            if new:
                take_down(wanted.name, on_step)
            raise


@contextlib.contextmanager
def _created(wanted: Mesh, on_step: OnStep) -> Iterator[Live]:
    """The mesh open, its record, maps and programs made as far as they are missing."""
    own = Pins(wanted.name)
    on_step("record")
    record = Record(wanted.name, create=True)
    try:
        check_place(record)
        if record.get("mesh") is None:
            record.set("netns", netns.current().inode)
            record.set("limits", wanted.limits.model_dump())
            empty = wanted.model_copy(update={"functions": (), "services": (), "policies": ()})
            record.set("mesh", empty.model_dump(mode="json"))
        on_step("bpffs")
        if pins.mount_bpffs():
            record.set("mounted_bpffs", True)
        on_step("maps")
        own.create()
        if create_maps(own, record.limits()):
            own.clear_programs()
            record.set("dirty", True)
        on_step("programs")
        programs.load_missing(own, services=bool(wanted.services))
        programs.set_calls(own, "mesh_tc_calls", programs.TC_CALLS)
        with contextlib.closing(Live(record, on_step)) as live:
            yield live
    finally:
        record.close()


def down(mesh: str, on_step: OnStep = quiet) -> bool:
    """Remove a mesh and all that was made for it; False if there was nothing of it."""
    with locked(mesh):
        rcu.put_back()
        if not Record.exists(mesh) and mesh not in pins.all_meshes():
            return False
        if Record.exists(mesh):
            record = Record(mesh)
            try:
                check_place(record)
            finally:
                record.close()
        take_down(mesh, on_step)
        return True


def take_down(mesh: str, on_step: OnStep) -> None:
    """Remove a mesh, as far as it is there; the caller holds its lock."""
    mounted = False
    if Record.exists(mesh):
        record = Record(mesh, create=True)
        mounted = record.get("mounted_bpffs", False)
        if record.get("mesh") is not None:
            with (
                rcu.expedited(record.base().expedited),
                contextlib.closing(Live(record, on_step)) as live,
            ):
                live.remove_functions([row.function.name for row in record.functions()])
        on_step("pins")
        sockets.detach(Pins(mesh))
        Pins(mesh).remove()
        on_step("record")
        record.remove()
    else:
        Pins(mesh).remove()
    if mounted:
        pins.unmount_bpffs()


def attach(
    mesh: str, function: Function, *, iface: str = "", force: bool = False, on_step: OnStep = quiet
) -> None:
    """Add one function; ``iface`` is an existing host-side interface that it takes over.

    Raises UsageError for a name or an address that is taken, ForeignProgram for a program on
    ``iface`` unless ``force``.
    """
    with opened(mesh, on_step) as live:
        live.settle()
        if live.record.function(function.name):
            raise UsageError(
                f"there is a function {function.name} already",
                hint="detach it first, or choose another name",
            )
        for address in function.addresses:
            if owner := live.record.address_owner(address):
                raise UsageError(f"{address} is the address of {owner}", hint="choose another --ip")
        live.apply((Operation("add-function", function),), adopt=iface, force=force)


def detach(mesh: str, name: str, on_step: OnStep = quiet) -> None:
    """Remove one function; services lose it as a backend, rules about it go."""
    with opened(mesh, on_step) as live:
        live.settle()
        row = live.record.function(name)
        if row is None:
            live.home(name)  # raises NotFound with the names there are
            return
        live.apply(diff(*live.record.around(row.function)))


def edit(
    mesh: str,
    change: Callable[[Mesh], Mesh],
    on_step: OnStep = quiet,
    *,
    scope: Scope | None = None,
) -> tuple[Operation, ...]:
    """Apply what ``change`` makes of the mesh as it is; returns what was done.

    With a ``scope`` the change is shown only that part of the mesh, however large the rest is.
    """
    with opened(mesh, on_step) as live:
        live.settle()
        operations = within(live.record, change, scope) if scope else None
        if operations is None:
            current = live.record.model()
            operations = diff(current, change(current))
        if operations:
            live.apply(operations)
        return operations


def within(
    record: Record, change: Callable[[Mesh], Mesh], scope: Scope
) -> tuple[Operation, ...] | None:
    """The operations of a change that sees a part only; None if it needs to be shown all.

    What is wrong with it is said by the whole mesh, which knows the names that were meant.
    """
    part = record.part(scope)
    try:
        wanted = change(part)
    except MeshError:
        return None
    used, before, after = record.sizes(), part.sizes(), wanted.sizes()
    limits = part.limits.model_dump()
    if any(used[key] - before[key] + after[key] > limits[key] for key in used):
        return None
    return diff(part, wanted)
