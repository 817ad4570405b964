# SPDX-License-Identifier: BSD-2-Clause
"""The network the baselines share: a host namespace, and one namespace per function behind a veth.

    function eth0 ── veth ── host namespace ── veth ── function eth0

It is wired by the same code as the mesh: /32 and /128 addresses, a link-local gateway, permanent
neighbours; behind a bridge, by an on-link route to the mesh's prefix instead. Each path lives in a
host namespace of its own, so that the rules and the connection tracking of one cannot touch
another. Must run in a sandbox (``kernel.netns.enter_sandbox``).
"""

import socket
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from pyroute2 import Ethtool
from pyroute2.netlink.rtnl import ndmsg

from ebpfmesh.kernel import bpf, interface, links, netns, rtnl
from ebpfmesh.model import Endpoint, Function, Mesh

PREFIX = "bench."
INSIDE = "eth0"
"""A function's interface, in its namespace."""


@dataclass(frozen=True)
class Member:
    """A function as the measuring sees it: its namespace and address, and the veth to it."""

    netns: Path
    address: IPv4Address
    address6: IPv6Address | None
    mac: str
    """Of the interface inside, eth0."""
    ifindex: int
    """Of the host-side veth, in the host namespace."""
    gateway_mac: str
    """Where eth0 sends to."""


@dataclass(frozen=True)
class Host:
    """A host namespace and the functions connected to it, by name."""

    netns: Path
    members: Mapping[str, Member]

    def interfaces(self) -> list[str]:
        """Names of the members' host-side veths."""
        with netns.entered(self.netns):
            return [socket.if_indextoname(member.ifindex) for member in self.members.values()]

    def interface(self, member: Member) -> str:
        """The name of one of them."""
        with netns.entered(self.netns):
            return socket.if_indextoname(member.ifindex)


def make_namespace(name: str, stack: ExitStack) -> Path:
    """Make a named network namespace that is removed with ``stack``."""
    path = netns.create(PREFIX + name)
    stack.callback(netns.remove, PREFIX + name)
    return path


def build_host(name: str, mesh: Mesh, stack: ExitStack, *, forwarding: bool = True) -> Host:
    """Make a host namespace with a routed namespace for each function of ``mesh``.

    Every function needs an IPv4 address. Without ``forwarding`` the host's stack carries nothing
    from one to another. Everything is undone by ``stack``.
    """
    host = make_namespace(name, stack)
    with netns.entered(host):
        if forwarding:
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
        members = {
            function.name: _connect(name, number, function, mesh, stack)
            for number, function in enumerate(mesh.functions, 1)
        }
    return Host(host, members)


def _connect(name: str, number: int, function: Function, mesh: Mesh, stack: ExitStack) -> Member:
    """Make a function's namespace and veth; the calling thread is in the host namespace."""
    inside = make_namespace(f"{name}.{function.name}", stack)
    return _member(connect(number, function, mesh, inside), function)


def connect(number: int, function: Function, mesh: Mesh, inside: Path) -> interface.Plugged:
    """Connect a function's namespace to the calling thread's by a veth pair, routed."""
    host = interface.host_name(mesh.name, number)
    plugged = interface.create(mesh.name, function.name, host, inside)
    interface.configure_inside(plugged, function, mesh)
    interface.configure_host(plugged.ifindex, plugged.mac, function.addresses)
    return plugged


def _plug(
    name: str, number: int, function: Function, mesh: Mesh, stack: ExitStack
) -> interface.Plugged:
    inside = make_namespace(f"{name}.{function.name}", stack)
    host = interface.host_name(mesh.name, number)
    return interface.create(mesh.name, function.name, host, inside)


def _member(plugged: interface.Plugged, function: Function) -> Member:
    addresses = address4(function), function.address6
    return Member(plugged.netns, *addresses, plugged.mac, plugged.ifindex, plugged.gateway)


def build_bridge(
    name: str, mesh: Mesh, bridge: str, ends: tuple[str, str], stack: ExitStack
) -> Host:
    """Make a host namespace with a bridge, and a namespace behind it for each function of ``mesh``.

    ``ends`` are who speaks to whom: as there is no gateway, the second is where all but itself
    send to (``Member.gateway_mac``), and it sends to the first.
    """
    host = make_namespace(name, stack)
    with netns.entered(host), netns.rtnetlink() as ip:
        for kind in ("iptables", "ip6tables", "arptables"):
            call = Path(f"/proc/sys/net/bridge/bridge-nf-call-{kind}")
            if call.exists():
                call.write_text("0")
        Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
        ip.link("add", ifname=bridge, kind="bridge", state="up")
        number_of_bridge = socket.if_nametoindex(bridge)
        members = {}
        for number, function in enumerate(mesh.functions, 1):
            plugged = _plug(name, number, function, mesh, stack)
            _configure_on_link(plugged, function, mesh)
            ip.link("set", index=plugged.ifindex, master=number_of_bridge, state="up")
            # Nothing is flooded while a receiver has not said a word; it may have said one already.
            ip.fdb(
                "replace",
                ifindex=plugged.ifindex,
                lladdr=plugged.mac,
                state=ndmsg.NUD_NOARP,
                flags=ndmsg.NTF_MASTER,
            )
            members[function.name] = _member(plugged, function)
    first, second = (members[name].mac for name in ends)
    return Host(
        host,
        {
            name: replace(member, gateway_mac=first if member.mac == second else second)
            for name, member in members.items()
        },
    )


def _configure_on_link(plugged: interface.Plugged, function: Function, mesh: Mesh) -> None:
    """Addresses, routes to all other functions, loopback and the interface up."""
    with netns.entered(plugged.netns), rtnl.Socket() as ip:
        index = socket.if_nametoindex(plugged.inner)
        ip.do(
            rtnl.set_link(interface.LOOPBACK, up=True),
            rtnl.set_link(index, up=True, link_local=False),
        )
        for address, prefix in (
            (function.address4, mesh.prefix4),
            (function.address6, mesh.prefix6),
        ):
            if address is not None:
                ip.do(rtnl.add_address(index, address), rtnl.set_route(index, prefix, on_link=True))


def set_offload(namespace: Path, name: str, *features: str, on: bool) -> None:
    """Switch offload features of an interface, by the names that ``ethtool -k`` gives them."""
    with netns.entered(namespace), Ethtool() as ethtool:
        found = ethtool.get_features(name)
        for feature in features:
            found.features[feature].enable = on
        ethtool.set_features(name, found)


def address4(endpoint: Endpoint) -> IPv4Address:
    """The IPv4 address of a function or service that has one."""
    if endpoint.address4 is None:
        raise ValueError(f"{endpoint.name} has no IPv4 address")
    return endpoint.address4


def address6(endpoint: Member | Endpoint) -> IPv6Address:
    """The IPv6 address of what has one."""
    if endpoint.address6 is None:
        raise ValueError(f"{endpoint} has no IPv6 address")
    return endpoint.address6


def attach_at(namespace: Path, ifindex: int, program: bpf.Fd, pin: Path, stack: ExitStack) -> None:
    """Attach to tc ingress of an interface of ``namespace``, until ``stack`` is unwound."""
    ip = stack.enter_context(netns.rtnetlink(namespace))
    with netns.entered(namespace):
        links.attach(ifindex, "ingress", program, pin)
    stack.callback(links.detach, ip, ifindex, "ingress", pin)
