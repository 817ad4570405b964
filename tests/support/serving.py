# SPDX-License-Identifier: BSD-2-Clause
"""A service of three backends, sockets of both kinds that speak to it, and what became of them.

client, other (tenant one) ──▶ web:80, names:53/udp ──▶ web-0, web-1, web-2 (tenant two)
"""

import contextlib
import ctypes
import itertools
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from ipaddress import IPv6Address, ip_address

import pytest

from ebpfmesh import apply
from ebpfmesh._abi import FlowFlag
from ebpfmesh.kernel import libc
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.model import Address, Mesh, Policy
from support.sockets import SECONDS, datagrams, family_of, listener, made
from support.topology import SLOWER, poll

WEB = ("web-0", "web-1", "web-2")
MESH = """
[mesh]
name = "sock"
[[function]]
name = "client"
tenant = "one"
[[function]]
name = "other"
tenant = "one"
address = ["198.18.0.99", "2001:db8::99:0:0"]
[[function]]
name = "web"
replicas = 3
tenant = "two"
[[service]]
name = "web"
address = ["198.19.0.1", "2001:db8:1::1"]
port = 80
target_port = 8080
functions = ["web"]
[[service]]
name = "names"
address = ["198.19.0.2", "2001:db8:1::2"]
port = 53
target_port = 5353
protocol = "udp"
functions = ["web"]
[[service]]
name = "pinned"
address = "198.19.0.3"
port = 80
target_port = 8080
affinity = "source"
functions = ["web"]
[[policy]]
from = "tenant:one"
to = "any"
"""
ADDRESSES = {
    "web": ("198.19.0.1", "2001:db8:1::1", "::ffff:198.19.0.1"),
    "names": ("198.19.0.2", "2001:db8:1::2", "::ffff:198.19.0.2"),
}
Maker = Callable[[Mesh, str, int, int], socket.socket]
Server = Callable[[Mesh, str, Address, int], AbstractContextManager[socket.socket]]
Sockets = dict[str, socket.socket]
"""By the function they are in."""
UNUSED = itertools.count(10_000)
"""Ports below those that the kernel chooses from, which may be of a flow that is remembered yet."""


def own(mesh: Mesh, function: str, family: int, kind: int, *, stays: bool = True) -> socket.socket:
    """A socket as a process of the function makes it; such a process makes it and hands it over.

    One that does not stay has gone back to the network it came from.
    """
    return _with_new_flows(own_many(mesh, function, family, kind, 1, stays=stays)[0])


def packets(mesh: Mesh, function: str, family: int, kind: int) -> socket.socket:
    """A socket whose packets are translated: of the function's network, but not of its cgroup."""
    return _with_new_flows(made(mesh, function, family, kind))


def _with_new_flows(sock: socket.socket) -> socket.socket:
    """Its datagrams are of no flow of another one: it has a port that nobody had."""
    if sock.type == socket.SOCK_DGRAM:
        sock.bind(("", next(UNUSED)))
    return sock


def own_many(
    mesh: Mesh, function: str, family: int, kind: int, count: int, *, stays: bool = True
) -> list[socket.socket]:
    """So many such sockets, 253 at most (SCM_MAX_FD)."""
    with apply.opened(mesh.name) as live:
        home = live.home(function)
    here, there = socket.socketpair()
    with here, there:
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
                home.enter()
                if not stays:
                    libc.setns(outside, libc.CLONE_NEWNET)
                mine = [socket.socket(family, kind).detach() for _ in range(count)]
                socket.send_fds(there, [b"."], mine)
            os._exit(0)
        there.close()
        _, numbers, _, _ = socket.recv_fds(here, 1, count)
        os.waitpid(child, 0)
    assert len(numbers) == count, f"no socket of {function}"
    made = [socket.socket(fileno=number) for number in numbers]
    for sock in made:
        sock.settimeout(SECONDS)
    return made


def family(address: str) -> int:
    return family_of(ip_address(address))


def plain(address: str) -> Address:
    """The address that packets have."""
    found = ip_address(address)
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found


def peer(sock: socket.socket) -> tuple[str, int]:
    address, port, *_ = sock.getpeername()
    return address, port


def backends(mesh: Mesh, version: int, port: int = 5353) -> AbstractContextManager[Sockets]:
    """A UDP socket in each backend."""
    return _in_each(datagrams, mesh, version, port)


def listeners(mesh: Mesh, version: int, port: int = 8080) -> AbstractContextManager[Sockets]:
    """A listening TCP socket in each backend."""
    return _in_each(listener, mesh, version, port)


@contextlib.contextmanager
def _in_each(server: Server, mesh: Mesh, version: int, port: int) -> Iterator[Sockets]:
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(server(mesh, name, at(mesh, name, version), port))
            for name in WEB
        }


def at(mesh: Mesh, function: str, version: int) -> Address:
    return next(a for a in mesh.function(function).addresses if a.version == version)


def answered_by(socks: Sockets, question: bytes = b"question", *, seconds: float = SECONDS) -> str:
    """Who got the question in this time; it is answered. Empty if nobody did."""
    found = []

    def look() -> bool:
        for name, sock in socks.items():
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                text, asker = sock.recvfrom(64)
                if text == question:
                    sock.sendto(b"answer", asker)
                    found.append(name)
        return bool(found)

    return found[0] if poll(look, seconds=seconds / SLOWER) else ""


def flows(mesh: Mesh, port: int) -> list[FlowFlag]:
    """Flags of all entries, both ways, of a flow from this port."""
    found = []
    for name in ("mesh_flow4", "mesh_flow6"):
        for key, flow in Maps(Pins(mesh.name))[name].items():
            if port in (key.source_port, key.destination_port):
                found.append(flow.flags)
    return found


def age(mesh: Mesh, port: int) -> None:
    """Have the flows from a port be so old that their time is over."""
    maps = Maps(Pins(mesh.name))
    for table in (maps[name] for name in ("mesh_flow4", "mesh_flow6")):
        for key, flow in list(table.items()):
            if port in (key.source_port, key.destination_port):
                flow.seen = (flow.seen - 1_000_000) & 0xFFFFFFFF
                table.set(key, flow)


def told(mesh: Mesh, sock: socket.socket) -> bool:
    """Whether a socket knows that it was connected to a backend instead of a service."""
    return Maps(Pins(mesh.name))["mesh_socket"].get(ctypes.c_uint32(sock.fileno())) is not None


def accepted(servers: Sockets) -> tuple[str, socket.socket, tuple[str, int]]:
    """Who was connected to, the connection and the address it came from."""
    found = []

    def look() -> bool:
        for name, server in servers.items():
            server.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                connection, address = server.accept()
                found.append((name, connection, address[:2]))
        return bool(found)

    assert poll(look)
    return found[0]


def only(mesh: Mesh, service: str, *names: str) -> None:
    """Give a service these backends."""
    change_service(mesh, service, functions=names)


def change_service(mesh: Mesh, name: str, **update: object) -> None:
    def change(now: Mesh) -> Mesh:
        services = tuple(
            one.model_copy(update=update) if one.name == name else one for one in now.services
        )
        return now.model_copy(update={"services": services})

    apply.edit(mesh.name, change)


def rule(source: str, destination: str, action: str = "allow", **more: object) -> Policy:
    return Policy.model_validate(
        {"source": source, "destination": destination, "action": action, **more}
    )


def set_rules(mesh: Mesh, *rules: Policy) -> None:
    """These rules and no others."""
    apply.edit(mesh.name, lambda now: now.model_copy(update={"policies": rules}))


BOTH = pytest.mark.parametrize("maker", [own, packets], ids=["socket", "packets"])
