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
from ipaddress import IPv4Address
from pathlib import Path

from ebpfmesh.kernel import bpf, interface, links, netns
from ebpfmesh.model import Function, Mesh

PREFIX = "bench."


@dataclass(frozen=True)
class Member:
    """A function as the measuring sees it: its namespace and address, and the veth to it."""

    netns: Path
    address: IPv4Address
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
    with netns.rtnetlink() as ip:
        plugged = interface.create(ip, mesh.name, function.name, host, inside)
        interface.configure_inside(inside, function, mesh)
        interface.configure_host(ip, plugged.ifindex, plugged.mac, function.addresses)
    return Member(inside, address4(function), plugged.mac, plugged.ifindex, plugged.gateway)


def address4(function: Function) -> IPv4Address:
    """The IPv4 address of a function that has one."""
    if function.address4 is None:
        raise ValueError(f"function {function.name} has no IPv4 address")
    return function.address4


def attach_at(namespace: Path, ifindex: int, program: bpf.Fd, pin: Path, stack: ExitStack) -> None:
    """Attach to tc ingress of an interface of ``namespace``, until ``stack`` is unwound."""
    ip = stack.enter_context(netns.rtnetlink(namespace))
    with netns.entered(namespace):
        links.attach(ip, ifindex, "ingress", program, pin)
    stack.callback(links.detach, ip, ifindex, "ingress", pin)
