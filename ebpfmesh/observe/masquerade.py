# SPDX-License-Identifier: BSD-2-Clause
"""Whether the host lets uplinks masquerade, and what its own sockets have of their ports."""

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from ebpfmesh.kernel import interface, netns
from ebpfmesh.model import Address, Mesh, Uplink, parse_ports
from ebpfmesh.observe import listening

_SYSCTL = Path("/proc/sys/net")
_STACK = "what functions open outside goes by the host's stack"


class Finding(NamedTuple):
    """What is wrong; unless ``bad`` it does its work all the same."""

    text: str
    hint: str
    bad: bool = False


def findings(uplink: Uplink, addresses: Collection[Address]) -> Iterator[Finding]:
    """What stands in the way of an uplink that masquerades, or could; ``addresses`` are its own."""
    if not uplink.masquerade:
        return
    versions = {address.version for address in addresses}
    for version in sorted(versions):
        key = f"net.ipv{version}.conf.lo.forwarding"
        if _value(f"ipv{version}/conf/lo/forwarding") == "0":
            what = (
                f"uplink {uplink.name} masquerades, but {key} is 0, so the kernel tells no routes:"
            )
            hint = f"sysctl -w {key}=1: by that alone nothing is forwarded"
            yield Finding(f"{what} {_STACK}", hint, bad=True)
    if 4 not in versions:
        what = f"uplink {uplink.name} masquerades, and {uplink.interface} has no IPv4 address:"
        yield Finding(f"{what} IPv4 is dropped there", "ip address add gives it one", bad=True)
    yield from _ports(uplink, addresses)


def _ports(uplink: Uplink, addresses: Collection[Address]) -> Iterator[Finding]:
    """Ports that sockets of the host's may get, or have."""
    first, last = uplink.ports
    low, _, high = _value("ipv4/ip_local_port_range").partition("\t")
    local = set(range(int(low), int(high) + 1)) if high else set()
    if local.intersection(range(first, last + 1)) - _reserved():
        what = f"uplink {uplink.name} translates to ports {uplink.masquerade_ports}, of which the "
        what += f"host's own sockets get some: net.ipv4.ip_local_port_range is {low}-{int(high)}"
        yield Finding(what, "let the two differ, or name them in net.ipv4.ip_local_reserved_ports")
    for protocol in ("tcp", "udp"):
        for port in sorted(listening.ports(protocol, addresses)):
            if first <= port <= last:
                what = f"a process of the host listens at {protocol} port {port} of "
                what += f"{uplink.interface}, to which uplink {uplink.name} translates too"
                yield Finding(what, "who has a flow by that port does not reach it: move one")


def _reserved() -> set[int]:
    """Ports that the host's own sockets do not get by themselves."""
    found: set[int] = set()
    for text in filter(None, _value("ipv4/ip_local_reserved_ports").split(",")):
        first, last = parse_ports(text)
        found.update(range(first, last + 1))
    return found


def _value(name: str) -> str:
    """A sysctl of this network namespace; empty if there is none."""
    with contextlib.suppress(OSError):
        return (_SYSCTL / name).read_text().strip()
    return ""


def in_mesh(mesh: Mesh) -> Iterator[str]:
    """The same of a mesh that is not up yet, or is; and what it needs of the host without."""
    with netns.rtnetlink() as ip:
        for uplink in mesh.uplinks:
            index = interface.find(uplink.interface)
            addresses = interface.outer(ip, index).addresses if index else ()
            for one in findings(uplink, addresses):
                yield f"{one.text}; {one.hint}"
    by_stack = mesh.uplinks and not any(one.masquerade for one in mesh.uplinks)
    if by_stack and _value("ipv4/ip_forward") == "0":
        yield f"{_STACK}, which forwards nothing: net.ipv4.ip_forward is 0"
