# SPDX-License-Identifier: BSD-2-Clause
"""Where a mesh and its functions are: what those who change them and those who look share."""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pyroute2 import IPRoute

from ebpfmesh.errors import NotFound
from ebpfmesh.kernel import host, interface, links, netns, xsk
from ebpfmesh.kernel.cgroup import Cgroup, Stop
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.kernel.programs import HOOKS, Program
from ebpfmesh.model import Address, Function, Uplink
from ebpfmesh.state.record import Record
from ebpfmesh.state.rows import Attachment, FunctionRow, UplinkRow

SIZE_WIDTH = 16
POOL_GROUP = "pool:"
FOUND = ".offloads"
"""Ends the name of a file that has offloads as they were found."""
Problem = Literal["", "unfinished", "interface gone", "namespace gone", "programs missing"]
UplinkProblem = Literal["", "unfinished", "interface gone", "program missing"]


def check_place(record: Record) -> None:
    """Raise NotFound if the mesh belongs to another network namespace, or is not all made."""
    if record.home != netns.current():
        raise NotFound(
            f"mesh {record.mesh} is in another network namespace (inode {record.home.inode})",
            hint="enter it first: nsenter --net=…, or run gc if it is gone",
        )
    if record.making:
        raise NotFound(
            f"mesh {record.mesh} is not up: its first up goes on, or was cut short",
            hint="ebpfmesh up FILE makes it anew, ebpfmesh gc removes what is left",
        )


def problem(ip: IPRoute, row: FunctionRow) -> Problem:
    """What is wrong with a function; empty if nothing is. Needs CAP_NET_ADMIN."""
    if not row.ready:
        return "unfinished"
    if interface.find(row.attachment.interface) != row.attachment.ifindex:
        return "interface gone"
    if _moved(row.attachment):
        return "namespace gone"
    for direction in HOOKS:
        pin = Pins(row.mesh).links / f"{row.function.name}-{direction}"
        if not links.holds(ip, row.attachment.ifindex, direction, pin):
            return "programs missing"
    has_program = row.function.datapath == "af_xdp" or row.function.source is not None
    if has_program and not xsk.interface(port_pins(row)):
        return "programs missing"
    if row.function.datapath == "xdp":
        pin = frames_pin(Pins(row.mesh), row.function.name)
        if not links.holds_xdp(row.attachment.ifindex, pin):
            return "programs missing"
    return ""


def port_pins(row: FunctionRow) -> Path:
    """Where what is at XDP of a function's own interface is pinned, if it is of the mesh."""
    return Pins(row.mesh).ports / row.function.name


def at_host(record: Record) -> tuple[Program, ...]:
    """The programs at sockets of the host's own processes that a mesh shall have."""
    if not record.base().host:
        return ()
    return host.wanted(service.protocol for service in record.services())


def frames_pin(pins: Pins, function: str) -> Path:
    """Where XDP at the host side of a function that sends raw frames is pinned."""
    return pins.links / f"{function}-xdp"


def offloads_file(record: Record, function: str) -> Path:
    """Offloads of an interface of others as they were before its function had raw frames."""
    return record.directory / f"{function}{FOUND}"


def uplink_pin(pins: Pins, name: str) -> Path:
    """Where the program of an uplink is pinned; no function is called so."""
    return pins.links / f"{links.UPLINK_PIN}{name}-ingress"


def uplink_problem(ip: IPRoute, pins: Pins, row: UplinkRow) -> UplinkProblem:
    """What is wrong with an uplink; empty if nothing is. Needs CAP_NET_ADMIN."""
    if not row.ready:
        return "unfinished"
    if interface.find(row.uplink.interface) != row.ifindex:
        return "interface gone"
    if not links.holds(ip, row.ifindex, "ingress", uplink_pin(pins, row.name)):
        return "program missing"
    return ""


def published_at(uplink: Uplink, there: Sequence[Address]) -> tuple[Address, ...]:
    """Where services are published: what an uplink says, and else the first of each family."""
    by_family = {one.version: one for one in (*reversed(there), *uplink.addresses)}
    return tuple(one for _, one in sorted(by_family.items()))


def moved(ip: IPRoute, row: UplinkRow) -> tuple[Address, ...] | None:
    """Where services of an uplink would be published now, if that is another place; else None.

    Not while it is down: the kernel then keeps no IPv6 address.
    """
    if not interface.exists(row.ifindex):
        return None
    found = interface.outer(ip, row.ifindex)
    now = published_at(row.uplink, found.addresses)
    return now if found.up and now != row.addresses else None


def _moved(attachment: Attachment) -> bool:
    """Whether the path of a namespace leads to it no more.

    That of a process may end before its namespace does; then the function is still there.
    """
    try:
        found = netns.inode(Path(attachment.netns))
    except NotFound:
        found = 0
    if found == attachment.netns_inode:
        return False
    return not (attachment.netns.startswith("/proc/") and netns.lives(attachment.netns_inode))


def group_of(record: Record) -> str:
    """What the cgroups of a mesh's functions have in common."""
    return f"{record.mesh}.{record.home}"


def cgroup_of(record: Record, function: str) -> Cgroup:
    """The cgroup of a function."""
    return Cgroup(group_of(record), function)


def pool_cgroup(record: Record, pool: str) -> Cgroup:
    """The cgroup that the memory of a pool is charged to; no function is called so."""
    return Cgroup(group_of(record), f"{POOL_GROUP}{pool}")


def hosts_file(record: Record) -> Path:
    """What functions see as /etc/hosts."""
    return record.directory / "hosts"


def log_files(record: Record, function: str) -> tuple[Path, ...]:
    """What a function's command said: two files of this run, and two of the run before."""
    return tuple(record.directory / f"{function}.log.{number}" for number in range(4))


def log_sizes(record: Record) -> Path:
    """How many bytes each of these may have, by tenant; blanks: as usual."""
    return record.directory / "logs"


def log_size(record: Record, tenant: str) -> tuple[Path, int]:
    """Where that of a tenant's functions begins, SIZE_WIDTH digits and blanks."""
    return log_sizes(record), SIZE_WIDTH * (record.find_id("tenant", tenant) or 0)


def exit_file(record: Record, function: str) -> Path:
    """Exit status of a function's command; empty until it ended."""
    return record.directory / f"{function}.exit"


def maps_file(record: Record, function: str) -> Path:
    """Which maps are in the places of those that a function's command reads."""
    return record.directory / f"{function}.maps"


def exit_status(record: Record, function: str) -> int | None:
    """How a function's command ended, as the shell has it; None if it did not, or nobody knows."""
    try:
        return int(exit_file(record, function).read_text())
    except (FileNotFoundError, ValueError):
        return None


def stop_of(record: Record, function: Function) -> Stop:
    """How a function's processes are ended."""
    number = signal.Signals[function.stop_signal]
    return Stop(cgroup_of(record, function.name), number, function.stop_seconds)
