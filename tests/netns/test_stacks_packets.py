# SPDX-License-Identifier: BSD-2-Clause
"""Packets of unusual shapes between real stacks: fragments, options, and a function's own.

client ──▶ mesh ──▶ server:7000
   └──────▶ service echo:7 ─▶ server:7000         own:80 ─▶ client itself
"""

import socket
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from ebpfmesh._abi import Direction, Reason
from ebpfmesh.model import Address, Mesh
from support.meshes import function, mesh_file, service
from support.sockets import (
    accepted,
    carries,
    connect,
    datagrams,
    frames,
    hears,
    listener,
    moved_whole,
)
from support.topology import drops, in_fn, needs, running, wait_until

MESH = mesh_file(
    "packets",
    function("client", "t"),
    function("server", "t"),
    function("stranger", "u"),
    service("echo", 7, "server", target_port=7000, protocol="udp"),
    service("own", 80, "client", number=2, target_port=7100),
    service("own-udp", 80, "client", number=2, target_port=7100, protocol="udp"),
)
BIG = 60_000  # bytes of a datagram: 41 fragments
PAD8 = bytes((0, 0, 1, 4, 0, 0, 0, 0))  # next header, 8 bytes, PadN of 4
OPTIONS = {"hop-by-hop": socket.IPV6_HOPOPTS, "destination": socket.IPV6_DSTOPTS}


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    needs("ping")
    with running(MESH) as mesh:
        yield mesh


@pytest.fixture(autouse=True)
def _nothing_is_dropped(mesh: Mesh) -> Iterator[None]:
    """Of what the client and the server send to each other, no packet."""
    before = unexpected(mesh)
    yield
    assert unexpected(mesh) == before


def unexpected(mesh: Mesh) -> dict[tuple[str, Direction, Reason], int]:
    """What was dropped besides the MLD reports that every stack sends."""
    found = drops(mesh)
    return {
        key: packets
        for key, packets in found.items()
        if key[0] != "stranger" and key[2] != Reason.MULTICAST
    }


def own(mesh: Mesh, function: str, version: int) -> Address:
    return mesh.function(function).addresses[0 if version == 4 else 1]


def front(mesh: Mesh, service: str, version: int) -> Address:
    return mesh.service(service).addresses[0 if version == 4 else 1]


# ---- fragments


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("through", ["direct", "service"])
def test_large_datagrams_both_ways(mesh: Mesh, through: str, version: int) -> None:
    to = (own(mesh, "server", version), 7000)
    if through == "service":
        to = (front(mesh, "echo", version), 7)
    question, answer = bytes(range(256)) * (BIG // 256), bytes(range(255, -1, -1)) * (BIG // 256)
    with (
        datagrams(mesh, "server", own(mesh, "server", version), 7000) as server,
        datagrams(mesh, "client", own(mesh, "client", version)) as client,
    ):
        client.connect((str(to[0]), to[1]))
        for _ in range(3):
            client.send(question)
            data, peer = server.recvfrom(65536)
            assert data == question
            assert ip_address(peer[0]) == own(mesh, "client", version)
            server.sendto(answer, peer)
            assert client.recv(65536) == answer


@pytest.mark.parametrize("version", [4, 6])
def test_large_pings(mesh: Mesh, version: int) -> None:
    ping = ["ping", "-c", 3, "-i", 0.05, "-W", 20, "-s", 8000, own(mesh, "server", version)]
    assert "3 received, 0% packet loss" in in_fn(mesh, "client", ping).stdout


@pytest.mark.parametrize("version", [4, 6])
def test_no_fragment_of_a_forbidden_datagram_passes(mesh: Mesh, version: int) -> None:
    """Each is dropped and counted, the later ones for the first one's sake."""
    before = drops(mesh)
    with (
        frames(mesh, "server") as ear,
        datagrams(mesh, "stranger", own(mesh, "stranger", version)) as sender,
    ):
        sender.sendto(b"forbidden " * 600, (str(own(mesh, "server", version)), 7000))
        assert not hears(ear, b"forbidden", seconds=0)

    ways = [("stranger", Direction.FROM_FN, why) for why in (Reason.POLICY, Reason.FRAGMENT)]

    def lost() -> int:
        after = drops(mesh)
        return sum(after.get(key, 0) - before.get(key, 0) for key in ways)

    wait_until(lambda: lost() == 5, what="each is counted")


# ---- options and extension headers


@pytest.mark.parametrize("option", [["-R"], ["-T", "tsonly"], ["-T", "tsandaddr"]])
def test_packets_with_options_pass(mesh: Mesh, option: list[str]) -> None:
    ping = ["ping", *option, "-c", 2, "-i", 0.05, "-W", 20, own(mesh, "server", 4)]
    said = in_fn(mesh, "client", ping).stdout
    assert "2 received, 0% packet loss" in said
    assert ("RR:" if option == ["-R"] else "TS:") in said


@pytest.mark.parametrize("size", [100, BIG])
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("through", ["direct", "service"])
def test_packets_with_extension_headers_pass(
    mesh: Mesh, through: str, option: str, size: int
) -> None:
    to = (own(mesh, "server", 6), 7000) if through == "direct" else (front(mesh, "echo", 6), 7)
    with (
        datagrams(mesh, "server", own(mesh, "server", 6), 7000) as server,
        datagrams(mesh, "client", own(mesh, "client", 6)) as client,
    ):
        client.connect((str(to[0]), to[1]))
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_IPV6, OPTIONS[option], PAD8)
        client.send(b"?" * size)
        data, peer = server.recvfrom(65536)
        assert data == b"?" * size
        server.sendto(b"!" * size, peer)
        assert client.recv(65536) == b"!" * size


def test_tcp_with_extension_headers_is_whole(mesh: Mesh) -> None:
    address = own(mesh, "server", 6)
    with (
        listener(mesh, "server", address, 7001) as listening,
        connect(mesh, "client", address, 7001) as here,
        accepted(listening) as there,
    ):
        here.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, PAD8)
        assert moved_whole(here, there, 1 << 20)
        assert moved_whole(there, here, 1 << 20)


# ---- a function that is its own server


@pytest.mark.parametrize("version", [4, 6])
def test_a_function_reaches_itself_through_its_service(mesh: Mesh, version: int) -> None:
    """It sees neither its own address nor the service's as the peer, but one that is nobody's."""
    stand_in = mesh.prefix4[0] if version == 4 else mesh.prefix6[0]
    with (
        listener(mesh, "client", own(mesh, "client", version), 7100) as listening,
        connect(mesh, "client", front(mesh, "own", version), 80) as here,
        accepted(listening) as there,
    ):
        assert ip_address(there.getpeername()[0]) == stand_in
        assert moved_whole(here, there, 4 << 20)
        assert moved_whole(there, here, 4 << 20)
        there.shutdown(socket.SHUT_WR)
        assert here.recv(1) == b""
        assert carries(here, there)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("size", [100, BIG])
def test_a_function_sends_itself_datagrams(mesh: Mesh, version: int, size: int) -> None:
    address = own(mesh, "client", version)
    with (
        datagrams(mesh, "client", address, 7100) as server,
        datagrams(mesh, "client", address) as client,
    ):
        client.connect((str(front(mesh, "own-udp", version)), 80))
        client.send(b"?" * size)
        data, peer = server.recvfrom(65536)
        assert len(data) == size
        server.sendto(b"!" * size, peer)
        assert client.recv(65536) == b"!" * size


@pytest.mark.parametrize("version", [4, 6])
def test_two_conversations_with_itself_are_two(mesh: Mesh, version: int) -> None:
    """Both ends of both are one address: only the ports tell them apart."""
    front_address = front(mesh, "own", version)
    with (
        listener(mesh, "client", own(mesh, "client", version), 7100) as listening,
        connect(mesh, "client", front_address, 80) as first,
        accepted(listening) as third,
        connect(mesh, "client", front_address, 80) as second,
        accepted(listening) as fourth,
    ):
        for number, (here, there) in enumerate(((first, third), (second, fourth))):
            assert carries(here, there, b"%d" % number)
            assert carries(there, here, b"%d" % number)


@pytest.mark.parametrize("version", [4, 6])
def test_itself_at_a_closed_port_is_refused(mesh: Mesh, version: int) -> None:
    address, to = own(mesh, "client", version), front(mesh, "own", version)
    with pytest.raises(ConnectionRefusedError):
        connect(mesh, "client", to, 80)
    with datagrams(mesh, "client", address) as client:
        client.connect((str(to), 80))
        client.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            client.recv(16)
