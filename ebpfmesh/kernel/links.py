# SPDX-License-Identifier: BSD-2-Clause
"""Programs at tc: a TCX link where the kernel has it, a clsact filter where not.

Works on interfaces of the calling thread's network namespace. A link is pinned, so that it
outlives the process; a filter is kept by its interface. Only what carries our program names is
ever replaced or removed.
"""

import contextlib
import errno
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from ebpfmesh.errors import ForeignProgram
from ebpfmesh.kernel import bpf

Direction = Literal["ingress", "egress"]
HOOK: dict[Direction, int] = {"ingress": bpf.TCX_INGRESS, "egress": bpf.TCX_EGRESS}
CLSACT_PARENT: dict[Direction, int] = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}
PRIORITY, HANDLE, ETH_P_ALL = 1, 1, 0x0003
OUR_PROGRAMS = ("mesh_from_fn", "mesh_to_fn")


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


def attach(ip: IPRoute, ifindex: int, direction: Direction, program: bpf.Fd, pin: Path) -> None:
    """Attach a program; ``pin`` is where its link goes, and is there after either way."""
    if has_tcx():
        with bpf.link_create(program, ifindex, HOOK[direction]) as link:
            bpf.obj_pin(link, pin)
        return
    _add_filter(ip, ifindex, direction, program)
    bpf.obj_pin(program, pin)


def detach(ip: IPRoute, ifindex: int | None, direction: Direction, pin: Path) -> None:
    """Undo attach; ``ifindex`` is None when the interface is gone. Twice is fine."""
    if not has_tcx():
        if ifindex is not None:
            _delete_filter(ip, ifindex, direction)
    elif pin.exists():
        with bpf.obj_get(pin) as link:  # by itself the kernel would do it some time after
            bpf.link_detach(link)
    pin.unlink(missing_ok=True)


def _add_filter(ip: IPRoute, ifindex: int, direction: Direction, program: bpf.Fd) -> None:
    with contextlib.suppress(NetlinkError):  # there is one already, maybe of others
        ip.tc("add", "clsact", ifindex)
    try:
        ip.tc(
            "add-filter", "bpf", ifindex, HANDLE, fd=program.fileno(), direct_action=True,
            name=bpf.prog_info(program).name.decode(), parent=CLSACT_PARENT[direction],
            prio=PRIORITY, protocol=ETH_P_ALL,
        )  # fmt: skip
    except NetlinkError as error:
        others = ", ".join(one.name for one in _filters(ip, ifindex, direction)) or "a filter"
        raise ForeignProgram(
            f"interface number {ifindex} has {others} at {direction}, priority {PRIORITY}",
            hint="move it to another priority: tc filter show lists it",
        ) from error


def _delete_filter(ip: IPRoute, ifindex: int, direction: Direction) -> None:
    """Delete our filter, and the qdisc if nobody has another filter in it."""
    if any(one.name in OUR_PROGRAMS for one in _filters(ip, ifindex, direction)):
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
    """A BPF program at an interface; ``id`` is 0 where the kernel does not tell it."""

    hook: Literal["ingress", "egress", "xdp"]
    how: Literal["TCX link", "clsact filter", "XDP"]
    name: str
    id: int = 0

    def __str__(self) -> str:
        number = f" (id {self.id})" if self.id else ""
        return f"{self.name}{number} at {self.hook}"


def attached(ip: IPRoute, ifindex: int, direction: Direction) -> Iterator[Attached]:
    """Programs at the kind of hook ``attach`` uses here, in the order they run."""
    if has_tcx():
        for number in bpf.attached(ifindex, HOOK[direction]):
            yield Attached(direction, "TCX link", _program_name(number), number)
    else:
        yield from _filters(ip, ifindex, direction)


def programs(ip: IPRoute, ifindex: int) -> Iterator[Attached]:
    """Everything in BPF at an interface, whoever put it there: TCX, clsact and XDP."""
    for direction in HOOK:
        yield from attached(ip, ifindex, direction)
        if has_tcx():
            yield from _filters(ip, ifindex, direction)
    xdp: Any = ip.link("get", index=ifindex)[0].get_attr("IFLA_XDP")
    if xdp is not None and (number := xdp.get_attr("IFLA_XDP_PROG_ID")):
        yield Attached("xdp", "XDP", _program_name(number), number)


def _program_name(number: int) -> str:
    with bpf.prog_by_id(number) as program:
        return str(bpf.prog_info(program).name.decode())


def _filters(ip: IPRoute, ifindex: int, direction: Direction) -> Iterator[Attached]:
    for message in ip.get_filters(index=ifindex, parent=CLSACT_PARENT[direction]):
        options = message.get_attr("TCA_OPTIONS")
        if options is not None and message.get_attr("TCA_KIND") == "bpf":
            yield Attached(direction, "clsact filter", str(options.get_attr("TCA_BPF_NAME")))


def refuse_foreign(ip: IPRoute, ifindex: int, interface: str) -> None:
    """Raise ForeignProgram if anything is attached to the interface already."""
    for program in programs(ip, ifindex):
        raise ForeignProgram(
            f"interface {interface} already has {program}",
            hint="detach it first, or attach beside it with --force",
        )
