# SPDX-License-Identifier: BSD-2-Clause
"""What users do to a mesh that is up: attach, detach, and any other edit of its model."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ebpfmesh.apply import batch, frames, target
from ebpfmesh.apply.held import OnStep, quiet
from ebpfmesh.apply.live import opened
from ebpfmesh.apply.lookup import functions
from ebpfmesh.config import parse_address
from ebpfmesh.config.edit import add_uplink, delete_uplink, new_function, scope_of_function
from ebpfmesh.errors import MeshError, NotFound, UsageError
from ebpfmesh.model import Function, Mesh, Scope
from ebpfmesh.operation import AddFunction, AddUplink, Operation, SetInjection
from ebpfmesh.plan import diff
from ebpfmesh.state.record import Record
from ebpfmesh.state.rows import FunctionRow, UplinkRow


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to become a function.

    One of ``namespace``, ``pid``, ``container`` and ``iface`` says where it is. Without
    ``addresses`` it is assigned some, or has those of the interface ``iface``, which it keeps;
    ``force`` attaches beside programs of others there. ``settings`` are further keys of its.
    """

    mesh: str
    name: str
    tenant: str = "default"
    audit: bool = False
    addresses: tuple[str, ...] = ()
    namespace: str | None = None
    pid: int | None = None
    container: str | None = None
    iface: str | None = None
    force: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


def attach(request: Request, on_step: OnStep = quiet) -> FunctionRow:
    """Make a container a function; where it is, and what it is called by.

    All that is chosen and checked is so under the mesh's lock. Raises UsageError for what is taken
    or cannot be meant, NotFound for what is not there, ForeignProgram as ``add_function``.
    """
    with opened(request.mesh, on_step) as live:
        batch.settle(live)
        found = target.find(
            live.record,
            namespace=request.namespace,
            pid=request.pid,
            container=request.container,
            iface=request.iface,
        )
        function = _as_asked(live.record, request, found)
        frames.check(function)
        step = AddFunction(function, adopt=found.iface, force=request.force)
        batch.apply(live, (step,))
        (row,) = functions(live.record, function.name)
        return row


def _as_asked(record: Record, request: Request, found: target.Target) -> Function:
    """The function of a request. Of the rest of the mesh only what it meets is read.

    But where another has the address that its name stands for, all is: it gets the next free one.
    """
    addresses = request.addresses or found.addresses
    settings = {
        "addresses": addresses,
        "tenant": request.tenant,
        "audit": request.audit,
        "netns": found.netns,
        **request.settings,
    }

    def ask(known: Mesh) -> Function:
        return new_function(known, request.name, **settings)

    function = ask(record.part(scope_of_function(request.name, addresses=addresses)))
    if any(map(record.address_owner, function.addresses)):
        return ask(record.model())
    return function


def add_function(
    mesh: str, function: Function, *, iface: str = "", force: bool = False, on_step: OnStep = quiet
) -> None:
    """Add a function as it is; ``iface`` is an existing host-side interface that it takes over.

    Raises UsageError for a name or an address that is taken, ForeignProgram for a program on
    ``iface`` unless ``force``.
    """
    with opened(mesh, on_step) as live:
        batch.settle(live)
        if live.record.function(function.name) or live.record.group(function.name):
            raise UsageError(
                f"there is a function {function.name} already",
                hint="detach it first, or choose another name",
            )
        for address in function.addresses:
            if owner := live.record.address_owner(address):
                raise UsageError(f"{address} is the address of {owner}", hint="choose another --ip")
        batch.apply(live, (AddFunction(function, adopt=iface, force=force),))


def attach_uplink(
    mesh: str,
    name: str,
    interface: str,
    *,
    addresses: Iterable[str] = (),
    force: bool = False,
    on_step: OnStep = quiet,
    **settings: object,
) -> UplinkRow:
    """Make an interface of the host's an uplink, with these ``settings``; what it was found to be.

    Raises UsageError for what is taken or cannot be one, NotFound for what is not there,
    ForeignProgram for programs of others there unless ``force``.
    """
    with opened(mesh, on_step) as live:
        batch.settle(live)
        known = live.record.part(Scope(addresses=tuple(map(parse_address, addresses))))
        uplink = add_uplink(known, name, interface, addresses, **settings).uplinks[-1]
        batch.apply(live, (AddUplink(uplink, force=force),))
        row = live.record.uplink(name)
        assert row is not None  # noqa: S101  (it was just made)
        return row


def detach_uplink(
    mesh: str, name: str, on_step: OnStep = quiet, *, missing_ok: bool = False
) -> tuple[Operation, ...]:
    """The interface is the host's alone again, and nothing is published there; what was done.

    With ``missing_ok`` it is fine if there is none, or no such mesh.
    """
    if missing_ok and not Record.exists(mesh):
        return ()
    with opened(mesh, on_step) as live:
        batch.settle(live)
        if missing_ok and not live.record.uplink(name):
            return ()
        current = live.record.model()
        operations = diff(current, delete_uplink(current, name))
        batch.apply(live, operations)
        return operations


def detach(
    mesh: str, name: str, on_step: OnStep = quiet, *, missing_ok: bool = False
) -> tuple[str, ...]:
    """Remove a function, or all of a group; services lose them as backends, rules about them go.

    Returns the names of what was removed. With ``missing_ok`` it is fine if there is none, or no
    such mesh.
    """
    if missing_ok and not Record.exists(mesh):
        return ()
    with opened(mesh, on_step) as live:
        batch.settle(live)
        if missing_ok and not (live.record.function(name) or live.record.group(name)):
            return ()
        rows = functions(live.record, name)
        batch.apply(live, diff(*live.record.around([row.function for row in rows])))
        return tuple(row.function.name for row in rows)


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
        batch.settle(live)
        operations = within(live.record, change, scope) if scope else None
        if operations is None:
            current = live.record.model()
            operations = diff(current, change(current))
        if operations:
            batch.apply(live, operations)
        return operations


def rollback(mesh: str, name: str, on_step: OnStep = quiet) -> tuple[Operation, ...]:
    """End a canary, or else put back what was injected under a name before; what was done.

    Raises NotFound if there is neither.
    """
    with opened(mesh, on_step) as live:
        batch.settle(live)
        row = live.record.injection(name)
        if row and row.canary:
            operation = SetInjection(row.injection.alone, row.injection)
            batch.apply(live, (operation,))
            return (operation,)
        if row is None or not row.before:
            what = f'nothing was injected as "{name}" before what is now'
            raise NotFound(what, hint="ebpfmesh show injected says what there is")
        before = live.record.program(row.before).injection
        wanted = before.model_copy(update={"at": row.injection.at, "rank": row.injection.rank})
        operations = (SetInjection(wanted, row.injection),)
        batch.apply(live, operations)
        return operations


def reset(mesh: str, name: str, on_step: OnStep = quiet) -> None:
    """Have packets meet what is injected under a name again, whose circuit breaker is open.

    Raises NotFound if nothing is, UsageError if the breaker is closed.
    """
    with opened(mesh, on_step) as live:
        batch.settle(live)
        live.chains.breakers.reset(name)


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
