# SPDX-License-Identifier: BSD-2-Clause
"""Functions open flows to the outside by an uplink that masquerades; the host forwards nothing.

web, other ─── host, mesh-out 198.19.200.1 ─── router ── MTU 1400 ── server 198.19.201.2
"""

import contextlib
import socket
import struct

import pytest

from ebpfmesh import apply
from ebpfmesh._abi import Direction, Reason
from ebpfmesh.model import Address, Mesh
from ebpfmesh.observe import flows
from ebpfmesh.observe.view import opened
from support.masquerade import is_translated, text, unforwarding
from support.outside import Outside, run
from support.sockets import (
    accepted,
    carries,
    connect,
    connection,
    datagrams,
    listener,
    made,
    moved_whole,
    ready,
)
from support.topology import drops, lost, poll

FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
MESH, OUTSIDE = text(), unforwarding


@FAMILIES
def test_streams_are_carried_whole_over_a_narrower_link(
    mesh: Mesh, outside: Outside, family: int
) -> None:
    """The router tells the uplink's address that it is: the function is told."""
    with connection(mesh, "web", outside.home, outside.near[family], 7000) as (here, there):
        assert moved_whole(here, there, 8 << 20)
        assert moved_whole(there, here, 8 << 20)
        peer = there.getpeername()[:2]
        own = str(mesh.function("web").addresses[family]), here.getsockname()[1]
        assert is_translated(peer) if family == 0 else peer == own
        with opened(mesh.name) as view:
            entries = [
                one for one in flows.read(view) if 7000 in (one.source_port, one.destination_port)
            ]
        nat = {one.direction: one.nat for one in entries}
        named = [f"{host}:{port}" for host, port in (peer, own)] if family == 0 else ["", ""]
        assert nat == dict(zip(("forward", "reply"), named, strict=True))


@FAMILIES
def test_datagrams_too(mesh: Mesh, outside: Outside, family: int) -> None:
    with (
        datagrams(mesh, outside.home, outside.far[family], 5000) as there,
        datagrams(mesh, "web", mesh.function("web").addresses[family]) as here,
    ):
        at = str(outside.far[family]), 5000
        # Of IPv6 the first ones are too large for the router, which says so.
        assert poll(lambda: here.sendto(b"ask" * 1000, at) and ready([there], 0.2))  # in fragments
        data, sender = there.recvfrom(4096)
        assert data == b"ask" * 1000
        assert is_translated(sender[:2]) if family == 0 else sender[:2] == here.getsockname()[:2]
        there.sendto(b"tell" * 1000, sender)
        data, sender = here.recvfrom(8192)
        assert (data, sender[:2]) == (b"tell" * 1000, (str(outside.far[family]), 5000))


@FAMILIES
def test_the_same_port_of_two_functions(mesh: Mesh, outside: Outside, family: int) -> None:
    with (
        listener(mesh, outside.home, outside.near[family], 7001) as server,
        connect(mesh, "web", outside.near[family], 7001, own_port=4000) as one,
        accepted(server) as first,
        connect(mesh, "other", outside.near[family], 7001, own_port=4000) as two,
        accepted(server) as second,
    ):
        assert first.getpeername() != second.getpeername()
        for here, there in ((one, first), (two, second)):
            assert carries(here, there, b"mine")
            assert carries(there, here, b"yours")


def echo(identifier: int, sequence: int) -> bytes:
    """An ICMP echo request."""
    packet = struct.pack("!BBHHH", 8, 0, 0, identifier, sequence) + b"x" * 32
    total = sum(struct.unpack(f"!{len(packet) // 2}H", packet))
    total = (total & 0xFFFF) + (total >> 16)
    return packet[:2] + struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF) + packet[4:]


def test_echoes_with_the_same_identifier(mesh: Mesh, outside: Outside) -> None:
    with contextlib.ExitStack() as stack:
        here = [
            stack.enter_context(
                made(mesh, name, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
            )
            for name in ("web", "other")
        ]
        for number, one in enumerate(here):
            one.sendto(echo(77, number), (str(outside.near[0]), 0))
        for number, one in enumerate(here):
            reply = one.recv(2048)[20:]
            assert struct.unpack("!BBxxHH", reply[:8]) == (0, 0, 77, number)


@FAMILIES
def test_ping_and_its_fragments(mesh: Mesh, outside: Outside, family: int) -> None:
    home = mesh.function("web").addresses[family]
    with apply.opened(mesh.name) as live:
        place = live.home("web").netns
    for size in (56, 4000):
        run(f"ping -c 1 -W 20 -s {size} -I {home} {outside.near[family]}", home=place)


@FAMILIES
def test_who_is_refused_or_goes_too_far_is_told(mesh: Mesh, outside: Outside, family: int) -> None:
    own, near = mesh.function("web").addresses[family], outside.near[family]
    with datagrams(mesh, "web", own) as here:
        here.connect((str(near), 9))
        here.send(b"nobody")
        with pytest.raises(ConnectionRefusedError):
            here.recv(64)
    level, option = ((socket.SOL_IP, socket.IP_TTL), (socket.IPPROTO_IPV6, 16))[family]
    told, hops = ((socket.SOL_IP, 11), (socket.IPPROTO_IPV6, 25))[family]
    if family == 1:
        level, option = socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS
    with datagrams(mesh, "web", own) as here:
        here.setsockopt(told, hops, 1)  # IP_RECVERR
        here.setsockopt(level, option, 2)
        here.sendto(b"far", (str(near), 33434))
        assert poll(lambda: _heard_from(here, outside.router[family]))


def _heard_from(here: socket.socket, router: Address) -> bool:
    """Whether the queue of errors has one of this router's."""
    try:
        _, more, _, _ = here.recvmsg(512, 512, socket.MSG_ERRQUEUE)
    except BlockingIOError:
        return False
    found = more[0][2][16:]  # behind struct sock_extended_err
    return router.packed in found


@FAMILIES
def test_what_a_function_refuses_is_told_outside(mesh: Mesh, outside: Outside, family: int) -> None:
    near = outside.near[family]
    with datagrams(mesh, outside.home, near, 5001) as there:
        with datagrams(mesh, "web", mesh.function("web").addresses[family]) as here:
            here.sendto(b"x", (str(near), 5001))
            there.connect(there.recvfrom(64)[1])
        there.send(b"too late")
        with pytest.raises(ConnectionRefusedError):
            there.recv(64)


@FAMILIES
def test_what_is_the_hosts_stays_the_hosts(mesh: Mesh, outside: Outside, family: int) -> None:
    before = lost(mesh)
    near, host = outside.near[family], outside.host[family]
    with connection(mesh, None, outside.home, near, 7002) as (here, there):
        assert moved_whole(here, there, 1 << 20)
        assert moved_whole(there, here, 1 << 20)
        assert there.getpeername()[:2] == here.getsockname()[:2]
    with connection(mesh, outside.home, None, host, 22) as (here, there):
        assert carries(here, there)
    with pytest.raises(ConnectionRefusedError):  # a port to translate to that nobody has
        connect(mesh, outside.home, host, 61000)
    with connection(mesh, "web", None, host, 22) as (here, there):  # the uplink's own address
        assert carries(here, there)
    with (
        listener(mesh, "web", mesh.function("web").addresses[family], 80) as server,
        connect(mesh, outside.home, host, 80) as here,
        accepted(server) as there,
    ):
        assert carries(here, there)
    assert lost(mesh) == before


@FAMILIES
def test_the_uplinks_own_mtu_is_told(mesh: Mesh, outside: Outside, family: int) -> None:
    """Before anything is translated: the function knows the packet that is quoted."""
    level, option = ((socket.IPPROTO_IP, 14), (socket.IPPROTO_IPV6, 24))[family]  # IP_MTU
    with connection(mesh, "other", outside.home, outside.near[family], 7300) as (here, there):
        assert carries(here, there)
        run("ip link set mesh-out mtu 1300")
        try:
            assert moved_whole(here, there, 2 << 20)
            assert here.getsockopt(level, option) == 1300
        finally:
            run("ip link set mesh-out mtu 1500")
        assert drops(mesh)["other", Direction.FROM_FN, Reason.TOO_BIG]
