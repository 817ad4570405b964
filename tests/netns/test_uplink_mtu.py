# SPDX-License-Identifier: BSD-2-Clause
"""An uplink whose MTU is less than a function's: who sends too much is told, and sends less.

client ═══ up0, 1280 or 1400 ── a, 1500: service web, and talk of UDP
"""

import contextlib
import errno
import socket
from collections.abc import Iterator

import pytest

from ebpfmesh._abi import Direction, Reason
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.model import Mesh
from support.meshes import function, mesh_file, rule, service, uplink
from support.outside import Outside, run
from support.sockets import (
    BLOCKED_SECONDS,
    SECONDS,
    accepted,
    connect,
    datagrams,
    home,
    listener,
    moved_whole,
)
from support.topology import drops, poll

MESH = mesh_file(
    "narrow",
    function("a"),
    uplink(),
    service("web", 80, "a", publish=["u0:80"]),
    service("talk", 53, "a", protocol="udp", publish=["u0:53"]),
    rule("outside", "any"),
)
FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
WAYS = [(socket.IPPROTO_IP, 10), (socket.IPPROTO_IPV6, 23)]
"""IP_MTU_DISCOVER of linux/include/uapi/linux/in.h, IPV6_MTU_DISCOVER of the same for IPv6."""
MTU = [(socket.IPPROTO_IP, 14), (socket.IPPROTO_IPV6, 24)]
"""IP_MTU, IPV6_MTU."""
DONT, WANT, DO, PROBE = range(4)
"""IP_PMTUDISC_…: cut by whoever likes, by the sender, by nobody; whatever a path takes."""
TOO_BIG = ("a", Direction.FROM_FN, Reason.TOO_BIG)


@pytest.fixture
def mesh(running_mesh: Mesh) -> Iterator[Mesh]:
    """The mesh; its function knows nothing of what a path takes, and nothing was dropped."""
    for version in (4, 6):
        run(f"ip -{version} route flush cache", home=home(running_mesh, "a"))
    table = Maps(Pins(running_mesh.name))["mesh_drops"]
    for key, _ in list(table.items()):
        table.delete(key)
    yield running_mesh
    narrow(1500)


def narrow(mtu: int) -> None:
    run(f"ip link set up0 mtu {mtu}")


def counted(mesh: Mesh) -> int:
    return drops(mesh).get(TOO_BIG, 0)


@FAMILIES
def test_tcp_sends_smaller_segments(mesh: Mesh, outside: Outside, family: int) -> None:
    """Also of a connection that was there before."""
    with (
        listener(mesh, "a", mesh.function("a").addresses[family], 80) as server,
        connect(mesh, outside.home, outside.host[family], 80) as here,
        accepted(server) as there,
    ):
        assert moved_whole(there, here, 1 << 20)
        assert not counted(mesh)
        narrow(1400)
        assert moved_whole(there, here, 4 << 20)
        assert there.getsockopt(*MTU[family]) == 1400
        told = counted(mesh)
        assert told
        assert moved_whole(there, here, 4 << 20)
        assert counted(mesh) == told


@contextlib.contextmanager
def asked(
    mesh: Mesh, outside: Outside, family: int
) -> Iterator[tuple[socket.socket, socket.socket, tuple[str, int]]]:
    """A server that was asked, its client, and where that is."""
    host = (str(outside.host[family]), 53)
    with (
        datagrams(mesh, "a", mesh.function("a").addresses[family], 53) as server,
        datagrams(mesh, outside.home, outside.near[family]) as client,
    ):
        client.sendto(b"question", host)
        _, asker = server.recvfrom(64)
        yield server, client, asker


def arrives(client: socket.socket, seconds: float = SECONDS) -> int:
    """Bytes of the next answer, 0 if there is none."""
    client.settimeout(seconds)
    try:
        return len(client.recv(65536))
    except TimeoutError:
        return 0


@pytest.mark.parametrize("way", [DONT, WANT], ids=["may be cut", "by the sender"])
@pytest.mark.parametrize(("mtu", "size"), [(1280, 1300), (1400, 1450), (1400, 5000)])
@FAMILIES
def test_datagrams_are_cut_by_who_sends_them(
    mesh: Mesh, outside: Outside, family: int, mtu: int, size: int, way: int
) -> None:
    narrow(mtu)
    with asked(mesh, outside, family) as (server, client, asker):
        server.setsockopt(*WAYS[family], way)
        server.sendto(b"x" * size, asker)
        assert poll(lambda: counted(mesh) >= 1)
        told = counted(mesh)
        server.sendto(b"y" * size, asker)
        assert arrives(client) == size
        assert counted(mesh) == told
        server.sendto(b"small", asker)
        assert arrives(client) == 5


@FAMILIES
def test_who_may_not_have_it_cut_is_told(mesh: Mesh, outside: Outside, family: int) -> None:
    narrow(1400)
    with asked(mesh, outside, family) as (server, _, asker):
        server.setsockopt(*WAYS[family], DO)
        server.connect(asker)
        server.send(b"x" * 1450)
        assert poll(lambda: server.getsockopt(*MTU[family]) == 1400)
        server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        with pytest.raises(OSError, match="too long") as refused:
            server.send(b"x" * 1450)
        assert refused.value.errno == errno.EMSGSIZE
        assert counted(mesh) == 1


@FAMILIES
def test_another_mtu_is_followed(mesh: Mesh, outside: Outside, family: int) -> None:
    """Whatever the sender has been told, as it goes on to send as much as it likes."""
    with asked(mesh, outside, family) as (server, client, asker):
        server.setsockopt(*WAYS[family], PROBE)
        for mtu, lost in ((1500, 0), (1400, 1), (1500, 1), (1300, 2), (1500, 2)):
            narrow(mtu)
            server.sendto(b"x" * 1450, asker)
            assert arrives(client, SECONDS if mtu == 1500 else BLOCKED_SECONDS) == (
                1450 if mtu == 1500 else 0
            )
            assert counted(mesh) == lost
