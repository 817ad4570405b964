# SPDX-License-Identifier: BSD-2-Clause
"""What ICMP tells real stacks: ports nobody listens on, hops on the way, packets too big.

client ──▶ mesh ──▶ server                  service echo:7 ─▶ server:7000
   └──▶ host ──▶ router ── MTU 1400 ──▶ outside server
"""

import contextlib
import errno
import re
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from ebpfmesh._abi import Reason
from ebpfmesh.kernel.interface import GATEWAY4, GATEWAY6
from ebpfmesh.model import Address, Mesh
from support.meshes import function, mesh_file, service
from support.outside import MTU, Outside, beyond_router
from support.sockets import (
    BLOCKED_SECONDS,
    accepted,
    connect,
    datagrams,
    listener,
    made,
    moved_whole,
)
from support.topology import drops, in_fn, needs, poll, running, wait_until

MESH = mesh_file(
    "errors",
    function("client"),
    function("server"),
    service("echo", 7, "server", target_port=7000, protocol="udp"),
    service("web", 80, "server", target_port=7000),
)
# Of linux/in.h and linux/in6.h; Python has no names for them.
IP_MTU_DISCOVER, IP_RECVERR, IP_MTU, PMTUDISC_DO = 10, 11, 14, 2
IPV6_MTU_DISCOVER, IPV6_MTU, IPV6_RECVERR = 23, 24, 25
TIME_EXCEEDED = {4: (11, 0), 6: (3, 0)}  # type and code
UNKNOWN_OPTION = 4, 2
GATEWAY = {4: str(GATEWAY4), 6: str(GATEWAY6)}
OUTSIDE = beyond_router


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    needs("traceroute")
    with running(MESH) as mesh:
        yield mesh


def own(mesh: Mesh, function: str, version: int) -> Address:
    return mesh.function(function).addresses[0 if version == 4 else 1]


def target(mesh: Mesh, through: str, version: int) -> tuple[str, int]:
    """Where a datagram to the server goes: (address, port)."""
    if through == "direct":
        return str(own(mesh, "server", version)), 7000
    return str(mesh.service("echo").addresses[0 if version == 4 else 1]), 7


def set_ip(sock: socket.socket, option4: int, option6: int, value: int) -> None:
    """An option that IPv4 and IPv6 have under different names."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, option4, value)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, option6, value)


def error_on(sock: socket.socket) -> tuple[tuple[int, int], str]:
    """The next ICMP error a socket got: (type, code), and who sent it (man 7 ip, IP_RECVERR)."""
    found: list[bytes] = []

    def came() -> bool:
        try:
            _, control, *_ = sock.recvmsg(2048, 512, socket.MSG_ERRQUEUE)
        except BlockingIOError:
            return False
        found.extend(data for _, _, data in control)
        return True

    sock.setblocking(False)
    wait_until(came, what="an ICMP error")
    _, _, kind, code, *_ = struct.unpack_from("=IBBBBII", found[-1])
    offender = found[-1][16:]
    raw = offender[4:8] if sock.family == socket.AF_INET else offender[8:24]
    return (kind, code), str(ip_address(raw))


# ---- a port nobody listens on


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("through", ["direct", "service"])
def test_a_closed_udp_port_refuses(mesh: Mesh, through: str, version: int) -> None:
    """The error comes from whom the client spoke to, and quotes what the client sent."""
    to = target(mesh, through, version)
    with datagrams(mesh, "client", own(mesh, "client", version)) as client:
        client.connect(to)
        client.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            client.recv(16)
        set_ip(client, IP_RECVERR, IPV6_RECVERR, 1)
        client.send(b"really?")
        _, offender = error_on(client)
        assert offender == to[0]


@pytest.mark.parametrize("version", [4, 6])
def test_a_closed_tcp_port_of_a_service_refuses(mesh: Mesh, version: int) -> None:
    with pytest.raises(ConnectionRefusedError):
        connect(mesh, "client", mesh.service("web").addresses[0 if version == 4 else 1], 80)


# ---- a header nobody knows


@pytest.mark.parametrize("through", ["direct", "service"])
def test_an_option_that_the_receiver_does_not_know(mesh: Mesh, through: str) -> None:
    """It asks to be told so (RFC 8200, 4.2): a parameter problem, which quotes the option."""
    to = target(mesh, through, 6)
    with (
        datagrams(mesh, "server", own(mesh, "server", 6), 7000),
        datagrams(mesh, "client", own(mesh, "client", 6)) as client,
    ):
        set_ip(client, IP_RECVERR, IPV6_RECVERR, 1)
        client.connect(to)
        client.setsockopt(
            socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, bytes([0, 0, 0x9E, 4, *b"what"])
        )
        client.send(b"anybody?")
        assert error_on(client) == (UNKNOWN_OPTION, to[0])


# ---- hops


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("through", ["direct", "service"])
def test_the_gateway_says_when_the_ttl_ran_out(mesh: Mesh, through: str, version: int) -> None:
    key = ("client", Reason.TTL)
    before = dropped(mesh, *key)
    with datagrams(mesh, "client", own(mesh, "client", version)) as client:
        set_ip(client, IP_RECVERR, IPV6_RECVERR, 1)
        set_ip(client, socket.IP_TTL, socket.IPV6_UNICAST_HOPS, 1)
        client.connect(target(mesh, through, version))
        client.send(b"x" * 100)
        assert error_on(client) == (TIME_EXCEEDED[version], GATEWAY[version])
    assert dropped(mesh, *key) == before + 1


def dropped(mesh: Mesh, function: str, reason: Reason) -> int:
    return sum(n for (name, _, why), n in drops(mesh).items() if (name, why) == (function, reason))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("method", ["udp", "icmp", "tcp"])
def test_traceroute_between_functions(mesh: Mesh, method: str, version: int) -> None:
    """The gateway, then the function: by port unreachable, an echo reply, a reset."""
    found = hops(mesh, own(mesh, "server", version), f"--{method}")
    assert found == [GATEWAY[version], str(own(mesh, "server", version))]


@pytest.mark.parametrize("version", [4, 6])
def test_traceroute_to_the_outside(mesh: Mesh, outside: Outside, version: int) -> None:
    """Errors of strangers on the way pass too: each quotes a flow of the client's."""
    server = outside.near[0 if version == 4 else 1]
    way = [str(one[version == 6]) for one in (outside.host, outside.router)]
    assert hops(mesh, server, "--udp") == [*way, str(server)]


def hops(mesh: Mesh, to: Address, *options: str) -> list[str]:
    """Who answered at each hop, ``*``: nobody."""
    words = ["traceroute", "-n", "-q", 1, "-w", 20, "-m", 5, *options, to]
    lines = in_fn(mesh, "client", words).stdout.splitlines()[1:]
    return [line.split()[1].partition("%")[0] for line in lines]


# ---- packets too big


@pytest.fixture
def unlearned(mesh: Mesh, outside: Outside) -> Outside:
    """What is outside, of whose paths the client's stack knows nothing yet."""
    for family in ("-4", "-6"):
        in_fn(mesh, "client", ["ip", family, "route", "flush", "cache"])
    return outside


@pytest.mark.parametrize("version", [4, 6])
def test_bulk_passes_a_smaller_mtu(mesh: Mesh, unlearned: Outside, version: int) -> None:
    """The function's stack learns the MTU of the path from the router, for this server alone."""
    address = unlearned.near[0 if version == 4 else 1]
    with (
        listener(mesh, unlearned.home, address, 7000) as listening,
        connect(mesh, "client", address, 7000) as here,
        accepted(listening) as there,
    ):
        assert moved_whole(here, there, 4 << 20)
        assert moved_whole(there, here, 4 << 20)
    assert learned(mesh, address) == MTU
    assert learned(mesh, own(mesh, "server", version)) == 0


def learned(mesh: Mesh, address: Address) -> int:
    """The MTU the client's stack has learned for a path; 0: none."""
    route = in_fn(mesh, "client", ["ip", "route", "get", address]).stdout
    found = re.search(r"\bmtu (\d+)", route)
    return int(found[1]) if found else 0


@pytest.mark.parametrize("version", [4, 6])
def test_a_socket_that_may_not_fragment_is_told(
    mesh: Mesh, unlearned: Outside, version: int
) -> None:
    address = unlearned.far[0 if version == 4 else 1]
    with made(mesh, "client", socket.AF_INET if version == 4 else socket.AF_INET6,
              socket.SOCK_DGRAM) as client:  # fmt: skip
        set_ip(client, IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_DO)
        client.connect((str(address), 7000))

        def refused() -> bool:
            try:
                client.send(bytes(1450))
            except ConnectionRefusedError:  # of a datagram that fitted
                return False
            except OSError as error:
                return error.errno == errno.EMSGSIZE
            return False

        assert poll(refused)
        level = socket.IPPROTO_IP if version == 4 else socket.IPPROTO_IPV6
        assert client.getsockopt(level, IP_MTU if version == 4 else IPV6_MTU) == MTU
        client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # told twice: as an error, too
        client.send(bytes(MTU - (28 if version == 4 else 48)))


@pytest.mark.parametrize("version", [4, 6])
def test_large_datagrams_to_the_outside(mesh: Mesh, unlearned: Outside, version: int) -> None:
    """Fragments that the router cuts again (IPv4), or the client once the error told it (IPv6)."""
    address = unlearned.near[0 if version == 4 else 1]
    with (
        datagrams(mesh, unlearned.home, address, 7001) as server,
        datagrams(mesh, "client", own(mesh, "client", version)) as client,
    ):
        server.settimeout(BLOCKED_SECONDS)
        client.connect((str(address), 7001))

        def arrived() -> bytes:
            with contextlib.suppress(OSError):  # EMSGSIZE, once, when IPv6 is told the MTU
                client.send(b"?" * 30_000)
            with contextlib.suppress(TimeoutError):
                return server.recv(65536)
            return b""

        assert poll(arrived)
        server.sendto(b"!" * 30_000, client.getsockname()[:2])
        assert client.recv(65536) == b"!" * 30_000
