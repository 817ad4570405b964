# SPDX-License-Identifier: BSD-2-Clause
"""The network the baselines share: a host namespace, and one namespace per function behind a veth.

    function eth0 ── veth ── host namespace ── veth ── function eth0

It is wired by the same code as the mesh: /32 and /128 addresses, a link-local gateway, permanent
neighbours. Each path lives in a host namespace of its own, so that the rules and the connection
tracking of one cannot touch another. Must run in a sandbox (``kernel.netns.enter_sandbox``).
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from ebpfmesh.kernel import bpf, interface, links, netns
from ebpfmesh.model import Endpoint, Function, Mesh

PREFIX = "bench."


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


def make_namespace(name: str, stack: ExitStack) -> Path:
    """Make a named network namespace that is removed with ``stack``."""
    path = netns.create(PREFIX + name)
    stack.callback(netns.remove, PREFIX + name)
    return path


def build_host(name: str, mesh: Mesh, stack: ExitStack) -> Host:
    """Make a forwarding host namespace with a routed namespace for each function of ``mesh``.

    Every function needs an IPv4 address. Everything is undone by ``stack``.
    """
    host = make_namespace(name, stack)
    with netns.entered(host):
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
    host = interface.host_name(mesh.name, number)
    plugged = interface.create(mesh.name, function.name, host, inside)
    interface.configure_inside(plugged, function, mesh)
    interface.configure_host(plugged.ifindex, plugged.mac, function.addresses)
    addresses = address4(function), function.address6
    return Member(inside, *addresses, plugged.mac, plugged.ifindex, plugged.gateway)


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
