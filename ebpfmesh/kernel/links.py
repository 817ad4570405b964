# SPDX-License-Identifier: BSD-2-Clause
"""Programs at tc: by TCX link, or by clsact filter, as the mesh's hook setting says.

Works on interfaces of the calling thread's network namespace. A link is pinned, so that it
outlives the process; a filter is kept by its interface. Only a filter that carries the name of
the program pinned for it is ever removed; of a mesh's own, where the pin is lost.
"""

import contextlib
import errno
import functools
import os
import socket
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from ebpfmesh.errors import ForeignProgram, Unsupported
from ebpfmesh.kernel import bpf, interface, rtnl
from ebpfmesh.kernel.programs import HOOKS, UPLINK, Direction
from ebpfmesh.model import Hook

HOOK: dict[Direction, int] = {"ingress": bpf.TCX_INGRESS, "egress": bpf.TCX_EGRESS}
CLSACT_PARENT: dict[Direction, int] = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}
PRIORITY, HANDLE, ETH_P_ALL = 1, 1, 0x0003
UPLINK_PIN = "@"
"""Begins the name of a pin that is an uplink's."""
MESH_PROGRAMS = frozenset({*HOOKS.values(), UPLINK})


@functools.cache
def has_tcx() -> bool:
    """Does the kernel have TCX? Asked by a query, which changes nothing."""
    try:
        bpf.attached(1, bpf.TCX_INGRESS)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    return True


def uses_tcx(hook: Hook) -> bool:
    """What a mesh's setting means on this kernel; Unsupported if it cannot be had."""
    if hook == "tcx" and not has_tcx():
        raise Unsupported(
            'the kernel has no TCX, which hook = "tcx" asks for',
            hint='leave out hook under [mesh], or say hook = "clsact"',
        )
    return hook != "clsact" and has_tcx()


def attach(
    ifindex: int,
    direction: Direction,
    program: bpf.Fd,
    pin: Path,
    hook: Hook = "auto",
    *,
    own: bool = False,
) -> None:
    """Attach a program; ``pin`` is where its link goes, and is there after either way.

    It runs before what others have attached by TCX: their verdict would keep packets from it. On an
    interface of our ``own`` "auto" saves the grace period that a second link would wait for
    (tcx_entry_sync() in linux/include/net/tcx.h, under rtnl): a filter is as good where only the
    host's packets come by.
    """
    by_filter = own and hook == "auto" and direction == "egress"
    if uses_tcx(hook) and not by_filter:
        with (
            interface.while_there(ifindex),
            bpf.link_create(program, ifindex, HOOK[direction], bpf.BEFORE) as link,
        ):
            bpf.obj_pin(link, pin)
        return
    with interface.while_there(ifindex):
        _add_filter(ifindex, direction, program)
    bpf.obj_pin(program, pin)


def detach(ip: IPRoute, ifindex: int | None, direction: Direction, pin: Path) -> None:
    """Undo attach; ``ifindex`` is None when the interface is gone. Twice is fine."""
    if ifindex is not None:
        _detach(ip, ifindex, direction, pin)
    pin.unlink(missing_ok=True)


def _detach(ip: IPRoute, ifindex: int, direction: Direction, pin: Path) -> None:
    names: Collection[str] = MESH_PROGRAMS  # where nothing is pinned, as after a crash just before
    with contextlib.suppress(FileNotFoundError), bpf.obj_get(pin) as held:
        if bpf.is_link(held):
            bpf.link_detach(held)  # by itself the kernel would do it some time after
            return
        names = {_name(held)}
    _delete_filter(ip, ifindex, direction, names)


def pinned(top: Path) -> Iterator[tuple[Path, int]]:
    """Links pinned at interfaces, of whatever version, with the interface of each."""
    for pin in (*top.glob("v*/links/*-*gress"), *top.glob("v*/links/*-xdp")):
        with contextlib.suppress(FileNotFoundError), bpf.obj_get(pin) as held:
            if bpf.is_link(held) and (index := bpf.link_interface(held)):
                yield pin, index


def detach_all(ip: IPRoute, ifindex: int, top: Path) -> None:
    """Undo attach at one interface without knowing how it was done. Twice is fine."""
    for pin, index in pinned(top):
        if index == ifindex:
            with bpf.obj_get(pin) as link:
                bpf.link_detach(link)
    for direction in HOOK:
        _delete_filter(ip, ifindex, direction, MESH_PROGRAMS)


def holds(ip: IPRoute, ifindex: int, direction: Direction, pin: Path) -> bool:
    """Whether what is pinned is attached: to this interface, as far as can be told."""
    try:
        held = bpf.obj_get(pin)
    except FileNotFoundError:
        return False
    with held:
        if bpf.is_link(held):
            return bpf.link_interface(held) == ifindex
        name = _name(held)
    return any(one.name == name for one in _filters(ip, ifindex, direction))


def replace(ip: IPRoute, ifindex: int, direction: Direction, program: bpf.Fd, pin: Path) -> None:
    """Have ``program`` run where ours is attached, which it is at any time; else do nothing."""
    if not holds(ip, ifindex, direction, pin):
        return
    with bpf.obj_get(pin) as held:
        if bpf.is_link(held):
            with _may_be_gone():
                bpf.link_update(held, program)
            return
    info = PRIORITY << 16 | socket.htons(ETH_P_ALL)
    what = (CLSACT_PARENT[direction], info, HANDLE, program.fileno(), _name(program))
    with rtnl.Socket() as raw, _may_be_gone():
        raw.do(rtnl.add_filter(ifindex, *what, replace=True))
        bpf.obj_repin(program, pin)


@contextlib.contextmanager
def _may_be_gone() -> Iterator[None]:
    """Nothing is left to do where an interface goes meanwhile."""
    try:
        yield
    except NetlinkError as error:
        if error.code != errno.ENODEV:
            raise
    except OSError as error:
        if error.errno != errno.ENOLINK:
            raise


def _add_filter(ifindex: int, direction: Direction, program: bpf.Fd) -> None:
    parent, name = CLSACT_PARENT[direction], _name(program)
    info = PRIORITY << 16 | socket.htons(ETH_P_ALL)
    with rtnl.Socket() as ip:
        with contextlib.suppress(NetlinkError):  # there is one already, maybe of others
            ip.do(rtnl.add_clsact(ifindex))
        try:
            ip.do(rtnl.add_filter(ifindex, parent, info, HANDLE, program.fileno(), name))
            return
        except NetlinkError as error:
            failed = error
    if not interface.exists(ifindex):
        raise failed
    with IPRoute() as there:
        others = ", ".join(one.name for one in _filters(there, ifindex, direction)) or "a filter"
    raise ForeignProgram(
        f"interface number {ifindex} has {others} at {direction}, priority {PRIORITY}",
        hint="move it to another priority: tc filter show lists it",
    ) from failed


def _delete_filter(ip: IPRoute, ifindex: int, direction: Direction, names: Collection[str]) -> None:
    """Delete our filter, by its name, and the qdisc if nobody has another filter in it."""
    if any(one.name in names for one in _filters(ip, ifindex, direction)):
        ip.tc(
            "del-filter", "bpf", ifindex, HANDLE,
            parent=CLSACT_PARENT[direction], prio=PRIORITY, protocol=ETH_P_ALL,
        )  # fmt: skip
        if not any(
            ip.get_filters(index=ifindex, parent=parent) for parent in CLSACT_PARENT.values()
        ):
            ip.tc("del", "clsact", ifindex)


@dataclass(frozen=True)
class Attached:
    """A BPF program and its place; ``id`` is 0 where the kernel does not tell it."""

    hook: str
    how: Literal["TCX link", "clsact filter", "XDP", "cgroup link"]
    name: str
    id: int = 0

    def __str__(self) -> str:
        number = f" (id {self.id})" if self.id else ""
        return f"{self.name}{number} at {self.hook}"


def attached(ip: IPRoute, ifindex: int, direction: Direction) -> Iterator[Attached]:
    """Programs at tc, in the order they run: TCX comes before clsact."""
    if has_tcx():
        for number in bpf.attached(ifindex, HOOK[direction]):
            yield Attached(direction, "TCX link", _program_name(number), number)
    yield from _filters(ip, ifindex, direction)


def programs(ip: IPRoute, ifindex: int) -> Iterator[Attached]:
    """Everything in BPF at an interface, whoever put it there: TCX, clsact and XDP."""
    for direction in HOOK:
        yield from attached(ip, ifindex, direction)
    yield from at_xdp(ip, ifindex)


def at_xdp(ip: IPRoute, ifindex: int) -> Iterator[Attached]:
    """The program at XDP of an interface, if there is one."""
    xdp: Any = ip.link("get", index=ifindex)[0].get_attr("IFLA_XDP")
    if xdp is not None and (number := xdp.get_attr("IFLA_XDP_PROG_ID")):
        yield Attached("xdp", "XDP", _program_name(number), number)


def _program_name(number: int) -> str:
    with bpf.prog_by_id(number) as program:
        return _name(program)


def _name(program: bpf.Fd) -> str:
    return str(bpf.prog_info(program).name.decode())


def _filters(ip: IPRoute, ifindex: int, direction: Direction) -> Iterator[Attached]:
    for message in ip.get_filters(index=ifindex, parent=CLSACT_PARENT[direction]):
        options = message.get_attr("TCA_OPTIONS")
        if options is not None and message.get_attr("TCA_KIND") == "bpf":
            yield Attached(direction, "clsact filter", str(options.get_attr("TCA_BPF_NAME")))


_AS_IT_IS_SET = {errno.EINVAL, errno.ERANGE, errno.ENOSPC, errno.ENOMEM}
"""How a driver that has XDP says no, for its MTU, LRO or queues."""


def attach_xdp(
    ifindex: int, name: str, program: bpf.Fd, pin: Path, needed_by: str, *, generic: bool = False
) -> None:
    """Attach a program to XDP of interface ``name``, native, by a link that is pinned.

    Raises Unsupported, saying what it is ``needed_by``, where the interface's driver has no XDP or
    not for its MTU, ForeignProgram if another program is there: XDP has room for one.
    """
    mode = bpf.XDP_GENERIC if generic else bpf.XDP_NATIVE
    try:
        with (
            interface.while_there(ifindex),
            bpf.link_create(program, ifindex, bpf.XDP, mode) as link,
        ):
            bpf.obj_pin(link, pin)
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.EEXIST):
            with IPRoute() as ip:
                others = [str(one) for one in programs(ip, ifindex) if one.how == "XDP"]
            raise ForeignProgram(
                f"interface {name} already has {others[0] if others else 'a program at XDP'}",
                hint=f"detach it first: ip link set dev {name} xdp off",
            ) from error
        if error.errno != errno.EOPNOTSUPP and error.errno not in _AS_IT_IS_SET:
            raise
        raise _no_xdp(name, error.errno, needed_by, generic=generic) from error


def _no_xdp(name: str, number: int, needed_by: str, *, generic: bool) -> Unsupported:
    """Why an interface cannot have a program at XDP, of what the kernel said."""
    as_it_is = number in _AS_IT_IS_SET
    what = f"interface {name} has no {'generic' if generic else 'native'} XDP"
    what += f"{' as it is set' if as_it_is else ''} ({os.strerror(number)})"
    hint = 'XDP is a driver\'s: name its NIC, or leave it out by xdp = "off" at [[uplink]]'
    if as_it_is:
        hint = "a smaller MTU, ethtool -K lro off or more queues may be what its driver asks for"
    return Unsupported(what + (f", which {needed_by} needs" if needed_by else ""), hint=hint)


def replace_xdp(program: bpf.Fd, pin: Path) -> None:
    """Have ``program`` run where the pinned one does, which one of the two does at any time."""
    with bpf.obj_get(pin) as link, _may_be_gone():
        bpf.link_update(link, program)


def runs(pin: Path) -> str:
    """The name of the program that a pinned link has."""
    with bpf.obj_get(pin) as link:
        return _program_name(bpf.link_program(link))


def holds_xdp(ifindex: int, pin: Path) -> bool:
    """Whether what is pinned is at XDP of this interface."""
    with contextlib.suppress(FileNotFoundError), bpf.obj_get(pin) as link:
        return bpf.link_interface(link) == ifindex
    return False


def detach_xdp(pin: Path) -> None:
    """Undo attach_xdp. Twice is fine."""
    with contextlib.suppress(FileNotFoundError), bpf.obj_get(pin) as link:
        bpf.link_detach(link)  # by itself the kernel would do it some time after
    pin.unlink(missing_ok=True)


def refuse_foreign(ip: IPRoute, ifindex: int, interface: str, hook: Hook, *, force: bool) -> None:
    """Raise ForeignProgram if something is attached to the interface that ours cannot be beside.

    By force that is only a TCX program where ours is a filter: it would run first, and what it
    lets pass would never come to ours.
    """
    for program in programs(ip, ifindex):
        if not force:
            raise ForeignProgram(
                f"interface {interface} already has {program}",
                hint="detach it first, or attach beside it with --force",
            )
        if program.how == "TCX link" and not uses_tcx(hook):
            raise ForeignProgram(
                f"interface {interface} has {program}, which runs before any clsact filter",
                hint='detach it first, or have the mesh use TCX: hook = "tcx"',
            )
