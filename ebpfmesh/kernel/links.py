# SPDX-License-Identifier: BSD-2-Clause
"""Programs at tc: a TCX link where the kernel has it, a clsact filter where not.

Works on interfaces of the calling thread's network namespace. A link is pinned, so that it
outlives the process; a filter is kept by its interface. Only what carries our program names is
ever replaced or removed.
"""

import errno
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from ebpfmesh.errors import ForeignProgram
from ebpfmesh.kernel import bpf

Direction = Literal["ingress", "egress"]
HOOK = {"ingress": bpf.TCX_INGRESS, "egress": bpf.TCX_EGRESS}
CLSACT_PARENT = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}
PRIORITY, HANDLE, ETH_P_ALL = 1, 1, 0x0003


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
    try:
        ip.tc("add", "clsact", ifindex)
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            raise
    ip.tc(
        "replace-filter", "bpf", ifindex, HANDLE, fd=program.fileno(), direct_action=True,
        name=bpf.prog_info(program).name.decode(), parent=CLSACT_PARENT[direction],
        prio=PRIORITY, protocol=ETH_P_ALL,
    )  # fmt: skip
    bpf.obj_pin(program, pin)


def detach(ip: IPRoute, ifindex: int | None, direction: Direction, pin: Path) -> None:
    """Undo attach; ``ifindex`` is None when the interface is gone. Twice is fine."""
    if not has_tcx() and ifindex is not None and pin.exists():
        ip.tc(
            "del-filter", "bpf", ifindex, HANDLE,
            parent=CLSACT_PARENT[direction], prio=PRIORITY, protocol=ETH_P_ALL,
        )  # fmt: skip
    pin.unlink(missing_ok=True)


def programs(ip: IPRoute, ifindex: int) -> Iterator[tuple[str, str]]:
    """(hook, program) of everything in BPF at an interface: TCX, clsact and XDP."""
    if has_tcx():
        for direction, hook in HOOK.items():
            for number in bpf.attached(ifindex, hook):
                with bpf.prog_by_id(number) as program:
                    name = bpf.prog_info(program).name.decode()
                yield direction, f"{name} (id {number})"
    for direction, parent in CLSACT_PARENT.items():
        for message in ip.get_filters(index=ifindex, parent=parent):
            options = message.get_attr("TCA_OPTIONS")
            if options is not None and message.get_attr("TCA_KIND") == "bpf":
                yield direction, str(options.get_attr("TCA_BPF_NAME"))
    xdp: Any = ip.link("get", index=ifindex)[0].get_attr("IFLA_XDP")
    if xdp is not None and xdp.get_attr("IFLA_XDP_PROG_ID"):
        yield "xdp", f"program id {xdp.get_attr('IFLA_XDP_PROG_ID')}"


def refuse_foreign(ip: IPRoute, ifindex: int, interface: str) -> None:
    """Raise ForeignProgram if anything is attached to the interface already."""
    for hook, program in programs(ip, ifindex):
        raise ForeignProgram(
            f"interface {interface} already has {program} at {hook}",
            hint="detach it first, or attach beside it with --force",
        )
