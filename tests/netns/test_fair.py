# SPDX-License-Identifier: BSD-2-Clause
"""What one tenant does to the room that all share costs no other tenant anything. Default limits.

flooder, sink (tenant a)      client ──▶ web:80, names:53/udp ──▶ server (tenant b)
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest

from ebpfmesh import apply
from ebpfmesh.kernel import sockets
from ebpfmesh.model import Mesh
from support.serving import answered_by, at, own_many, peer
from support.sockets import accepted, carries, datagrams, listener
from support.topology import running, unavailable

MESH = """
[mesh]
name = "fair"
[[function]]
name = "flooder"
tenant = "a"
[[function]]
name = "sink"
tenant = "a"
[[function]]
name = "client"
tenant = "b"
[[function]]
name = "server"
tenant = "b"
[[service]]
name = "web"
address = "198.19.0.1"
port = 80
functions = ["server"]
[[service]]
name = "names"
address = "198.19.0.1"
port = 53
protocol = "udp"
functions = ["server"]
"""
WEB, NAMES = ("198.19.0.1", 80), ("198.19.0.1", 53)
IDLE = 10
MANY = 20_000


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    with running(MESH) as mesh:
        yield mesh


def inside(mesh: Mesh, function: str, work: Callable[[], None]) -> None:
    """Do something as a process of a function."""
    with apply.opened(mesh.name) as live:
        home = live.home(function)
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            home.enter()
            work()
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def connects(kind: int, address: tuple[str, int]) -> None:
    for _ in range(MANY):
        with socket.socket(socket.AF_INET, kind) as sock:
            sock.setblocking(False)
            with suppress(BlockingIOError):
                sock.connect(address)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_flood_of_connect(mesh: Mesh, kind: int) -> None:
    """By one that may not reach the service at all: the sockets of others know whom they meant."""
    if not sockets.supported():
        unavailable("no cgroup v2, or a kernel without programs for it")
    with ExitStack() as stack:
        server = stack.enter_context(listener(mesh, "server", at(mesh, "server", 4), 80))
        names = stack.enter_context(datagrams(mesh, "server", at(mesh, "server", 4), 53))
        (asker,) = own_many(mesh, "client", socket.AF_INET, socket.SOCK_DGRAM, 1)
        stack.enter_context(asker).connect(NAMES)
        pairs = []
        for here in own_many(mesh, "client", socket.AF_INET, socket.SOCK_STREAM, IDLE):
            stack.enter_context(here).connect(WEB)
            pairs.append((here, stack.enter_context(accepted(server))))
        inside(mesh, "flooder", lambda: connects(kind, WEB if kind == 1 else NAMES))
        assert {peer(here) for here, _ in pairs} == {WEB}
        assert all(carries(here, there) and carries(there, here) for here, there in pairs)
        asker.send(b"question")
        assert answered_by({"server": names}) == "server"
        assert asker.recvfrom(64) == (b"answer", NAMES)
