# SPDX-License-Identifier: BSD-2-Clause
"""Frames with VLAN tags that come in by an uplink are another interface's, at XDP and at tc.

    the test ═══ nic0, a tap ── host ── echo    service talk: published at nic0, UDP port 7

The kernel takes a tag out of the frame before tc, and XDP sees it there.
"""

import socket
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet

from ebpfmesh import apply
from ebpfmesh._abi import Direction
from ebpfmesh.apply.programs import load_sources
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.kernel.programs import BOTH, by_file
from ebpfmesh.model import Mesh
from support.nic import HOST, MAC, NAME, STATION, STATION_MAC, Nic
from support.sockets import SECONDS, datagrams
from support.topology import drops, mesh_of, running

MESH = f"""
[mesh]
name = "tagged"
[[function]]
name = "echo"
[[function]]
name = "frames"
datapath = "xdp"
[[service]]
name = "talk"
address = "198.19.0.1"
port = 7
protocol = "udp"
functions = ["echo"]
publish = ["u0:7"]
[[policy]]
from = "outside"
to = "service:talk"
[[uplink]]
name = "u0"
interface = "{NAME}"
"""
ETH_P_IP = 0x0800
OTHER_HOST = 3  # PACKET_OTHERHOST of linux/if_packet.h
TAGS = {
    "802.1Q": lambda: Dot1Q(vlan=7),
    "802.1ad": lambda: Dot1AD(vlan=7),
}


@pytest.fixture(scope="module")
def mesh(wire: Nic) -> Iterator[Mesh]:
    assert wire
    with running(MESH) as found:
        load_sources(Pins(found.name), by_file([BOTH]))  # it stays
        yield found


@pytest.fixture(autouse=True)
def _as_it_was(mesh: Mesh) -> Iterator[None]:
    yield
    apply.up(mesh)


def frame(tags: Packet | None, payload: bytes) -> bytes:
    within = IP(src=STATION, dst=HOST) / UDP(sport=5000, dport=7) / payload
    ethernet = Ether(src=STATION_MAC, dst=MAC)
    return bytes(ethernet / tags / within if tags else ethernet / within)


def came_in(mesh: Mesh) -> int:
    """Packets that were dropped there, for whatever reason."""
    return sum(n for (_, way, _), n in drops(mesh).items() if way == Direction.FROM_UPLINK)


@pytest.mark.parametrize("xdp", ["auto", "off"])
@pytest.mark.parametrize("tag", TAGS)
def test_what_is_published_does_not_answer_on_a_vlan(
    mesh: Mesh, wire: Nic, tag: str, xdp: str
) -> None:
    """It comes to the host's stack, behind tc, as what is for another."""
    apply.up(mesh_of(f'{MESH}xdp = "{xdp}"\n'))
    before = came_in(mesh)
    with (
        datagrams(mesh, "echo", mesh.function("echo").addresses[0], 7) as function,
        socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IP)) as stack,
    ):
        stack.bind((NAME, ETH_P_IP))
        function.settimeout(SECONDS)
        stack.settimeout(SECONDS)
        wire.put(frame(None, b"first"))
        assert function.recv(100) == b"first"
        wire.put(frame(TAGS[tag](), b"tagged"))
        wire.put(frame(None, b"second"))
        assert function.recv(100) == b"second"
        packet, (_, _, kind, *_) = stack.recvfrom(2000)
        assert packet.endswith(b"tagged")
        assert kind == OTHER_HOST
    assert came_in(mesh) == before


def test_a_priority_tag_is_no_vlan_to_the_stack_and_none_of_the_meshs(
    mesh: Mesh, wire: Nic
) -> None:
    """VLAN 0: the host's own ports get it, a function behind a published one does not."""
    with (
        datagrams(mesh, "echo", mesh.function("echo").addresses[0], 7) as function,
        datagrams(mesh, None, ip_address(HOST), 7) as host,
    ):
        function.settimeout(SECONDS)
        host.settimeout(SECONDS)
        wire.put(frame(Dot1Q(vlan=0, prio=5), b"prior"))
        assert host.recv(100) == b"prior"
        wire.put(frame(None, b"plain"))
        assert function.recv(100) == b"plain"


def test_a_priority_tag_lets_in_nothing_denied(mesh: Mesh, wire: Nic) -> None:
    source = [ip_network(STATION)]
    with datagrams(mesh, None, ip_address(HOST), 7) as host:
        host.settimeout(SECONDS)
        apply.deny(mesh.name, source)
        try:
            wire.put(frame(Dot1Q(vlan=0, prio=5), b"denied"))
            wire.put(frame(Dot1Q(vlan=0) / Dot1Q(vlan=0), b"denied"))
        finally:
            apply.allow(mesh.name, source)
        wire.put(frame(Dot1Q(vlan=0), b"let in"))
        assert host.recv(100) == b"let in"
