# SPDX-License-Identifier: BSD-2-Clause
"""A function that forges packets by raw sockets reaches nobody, and each forgery is counted.

thief ──▶ forged frame ──▶ mesh ──✗  victim (same tenant: all honest packets pass), host
"""

import socket
from collections.abc import Callable, Iterator

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from ebpfmesh._abi import Direction, Reason
from ebpfmesh.kernel import interface, netns
from ebpfmesh.model import Mesh
from support.meshes import function, mesh_file
from support.sockets import carries, connection, datagrams, frames, hears
from support.topology import drops, in_fn, running, wait_until

MESH = mesh_file(
    "spoof",
    function("thief", "t", address=["198.18.0.1", "2001:db8::1"]),
    function("victim", "t", address=["198.18.0.2", "2001:db8::2"]),
    function("friend", "t", address=["198.18.0.3", "2001:db8::3"]),
)
MARK = b"forged by the thief"
GATEWAY = interface.GATEWAY_MAC
OWN, FRIEND = (interface.mac_of("spoof", name) for name in ("thief", "friend"))
ME4, YOU4, FRIEND4 = "198.18.0.1", "198.18.0.2", "198.18.0.3"
ME6, YOU6, FRIEND6 = "2001:db8::1", "2001:db8::2", "2001:db8::3"
HOST4 = "198.18.255.1"

good = Ether(src=OWN, dst=GATEWAY)
udp = UDP(sport=7000, dport=7000) / Raw(MARK)


def nd(message: Packet, source: str = ME6, target: str = YOU6) -> Packet:
    return good / IPv6(src=source, dst=target, hlim=255) / message


FORGERIES: list[tuple[str, Packet, Reason]] = [
    ("a friend's IPv4 address", good / IP(src=FRIEND4, dst=YOU4) / udp, Reason.SPOOF_IP),
    ("a friend's IPv6 address", good / IPv6(src=FRIEND6, dst=YOU6) / udp, Reason.SPOOF_IP),
    ("nobody's IPv4 address", good / IP(src="198.18.9.9", dst=YOU4) / udp, Reason.SPOOF_IP),
    ("no IPv4 address", good / IP(src="0.0.0.0", dst=YOU4) / udp, Reason.SPOOF_IP),
    ("the gateway's IPv4 address", good / IP(src="169.254.1.1", dst=YOU4) / udp, Reason.SPOOF_IP),
    ("loopback", good / IP(src="127.0.0.1", dst=YOU4) / udp, Reason.SPOOF_IP),
    ("the host's IPv4 address", good / IP(src=HOST4, dst=YOU4) / udp, Reason.SPOOF_IP),
    ("the victim's own address", good / IP(src=YOU4, dst=YOU4) / udp, Reason.SPOOF_IP),
    ("a friend's address, to the host", good / IP(src=FRIEND4, dst=HOST4) / udp, Reason.SPOOF_IP),
    ("a friend's TCP", good / IP(src=FRIEND4, dst=YOU4) / TCP(dport=7000) / MARK, Reason.SPOOF_IP),
    ("a friend's ping", good / IP(src=FRIEND4, dst=YOU4) / ICMP() / MARK, Reason.SPOOF_IP),
    (
        "a friend's ping6",
        good / IPv6(src=FRIEND6, dst=YOU6) / ICMPv6EchoRequest(data=MARK),
        Reason.SPOOF_IP,
    ),
    (
        "a friend's MAC",
        Ether(src=FRIEND, dst=GATEWAY) / IP(src=ME4, dst=YOU4) / udp,
        Reason.SPOOF_MAC,
    ),
    (
        "the gateway's MAC",
        Ether(src=GATEWAY, dst=GATEWAY) / IPv6(src=ME6, dst=YOU6) / udp,
        Reason.SPOOF_MAC,
    ),
    (
        "ARP: I am your friend",
        good / ARP(op=2, hwsrc=OWN, psrc=FRIEND4, pdst=YOU4),
        Reason.SPOOF_ARP,
    ),
    (
        "ARP: I am the gateway",
        good / ARP(op=1, hwsrc=OWN, psrc="169.254.1.1", pdst="169.254.1.1"),
        Reason.SPOOF_ARP,
    ),
    (
        "ARP: your friend is elsewhere",
        good / ARP(op=2, hwsrc=FRIEND, psrc=ME4, pdst=YOU4),
        Reason.SPOOF_ARP,
    ),
    (
        "NA: I am your friend",
        nd(ICMPv6ND_NA(tgt=FRIEND6, S=0, O=1) / ICMPv6NDOptDstLLAddr(lladdr=OWN)),
        Reason.SPOOF_ND,
    ),
    (
        "NA from your friend",
        nd(ICMPv6ND_NA(tgt=FRIEND6) / ICMPv6NDOptDstLLAddr(lladdr=OWN), source=FRIEND6),
        Reason.SPOOF_ND,
    ),
    (
        "NS with another's MAC",
        nd(ICMPv6ND_NS(tgt=YOU6) / ICMPv6NDOptSrcLLAddr(lladdr=FRIEND)),
        Reason.SPOOF_ND,
    ),
    ("I am a router", nd(ICMPv6ND_RA(), target="ff02::1"), Reason.SPOOF_ND),
    ("I am your router", nd(ICMPv6ND_RA()), Reason.SPOOF_ND),
    ("go elsewhere", nd(ICMPv6ND_Redirect(tgt=FRIEND6, dst=YOU6)), Reason.SPOOF_ND),
    (
        "ICMP redirect",
        good / IP(src=ME4, dst=YOU4) / ICMP(type=5, code=1, gw=FRIEND4) / MARK,
        Reason.PROTOCOL,
    ),
    ("a VLAN tag", good / Dot1Q(vlan=7) / IP(src=ME4, dst=YOU4) / udp, Reason.VLAN),
    (
        "two VLAN tags",
        good / Dot1AD(vlan=7) / Dot1Q(vlan=8) / IP(src=ME4, dst=YOU4) / udp,
        Reason.VLAN,
    ),
    ("a fragment", good / IP(src=ME4, dst=YOU4, frag=1) / udp, Reason.FRAGMENT),
    ("a tunnel", good / IP(src=ME4, dst=YOU4) / IP(src=FRIEND4, dst=YOU4) / udp, Reason.PROTOCOL),
    (
        "a source route",
        good / IPv6(src=ME6, dst=YOU6) / IPv6ExtHdrRouting(segleft=1, addresses=[ME6]) / udp,
        Reason.PROTOCOL,
    ),
    ("something else than IP", Ether(src=OWN, dst=GATEWAY, type=0x88CC) / MARK, Reason.PROTOCOL),
    ("to everybody", good / IP(src=ME4, dst="255.255.255.255") / udp, Reason.MULTICAST),
    (
        "a reset from nowhere",
        good / IP(src=ME4, dst=YOU4) / TCP(dport=7000, flags="R") / MARK,
        Reason.NO_FLOW,
    ),
    (
        "an echo reply nobody asked for",
        good / IP(src=ME4, dst=YOU4) / ICMP(type=0) / MARK,
        Reason.NO_FLOW,
    ),
]


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with running(MESH) as mesh, netns.rtnetlink() as ip:
        ip.addr("add", index=interface.LOOPBACK, address=HOST4, prefixlen=32)
        yield mesh
        ip.addr("del", index=interface.LOOPBACK, address=HOST4, prefixlen=32)


def dropped(mesh: Mesh, reason: Reason) -> int:
    """Packets of the thief, but not those by which its own kernel speaks to groups."""
    found = lambda: drops(mesh).get(("thief", Direction.FROM_FN, reason), 0)  # noqa: E731
    if reason is not Reason.MULTICAST:
        return found()
    while True:  # it may speak meanwhile
        own, packets = to_groups(mesh), found()
        if own == to_groups(mesh):
            return packets - own


def to_groups(mesh: Mesh) -> int:
    """Packets of the thief's kernel to groups."""
    counts = in_fn(mesh, "thief", ["cat", "/proc/net/dev_snmp6/eth0"]).stdout
    return int(dict(line.split() for line in counts.splitlines())["Ip6OutMcastPkts"])


@pytest.mark.parametrize(
    ("packet", "reason"),
    [pytest.param(packet, reason, id=name) for name, packet, reason in FORGERIES],
)
def test_forged(mesh: Mesh, packet: Packet, reason: Reason) -> None:
    before = dropped(mesh, reason)
    with (
        frames(mesh, "victim") as ear,
        frames(mesh, "friend") as other,
        frames(mesh, "thief") as mouth,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as host,
    ):
        host.bind((HOST4, 7000))
        host.setblocking(False)
        mouth.send(bytes(packet))
        wait_until(lambda: dropped(mesh, reason) == before + 1, what="it is dropped")
        # What is not dropped is heard at once: whatever got through is there by now.
        assert not heard(ear)
        assert not heard(other)
        with pytest.raises(BlockingIOError):
            host.recv(2048)


def heard(ear: socket.socket) -> list[bytes]:
    """Frames that came in, whoever sent them."""
    ear.setblocking(False)
    found = []
    while True:
        try:
            frame, where = ear.recvfrom(65536)
        except BlockingIOError:
            return found
        if where[2] != socket.PACKET_OUTGOING and where[0] == "eth0":
            found.append(frame)


@pytest.mark.parametrize("version", [4, 6])
def test_an_honest_frame_passes(mesh: Mesh, version: int) -> None:
    """What shows that the forgeries were dropped for what is forged in them."""
    network = IP(src=ME4, dst=YOU4) if version == 4 else IPv6(src=ME6, dst=YOU6)
    with frames(mesh, "victim") as ear, frames(mesh, "thief") as mouth:
        mouth.send(bytes(good / network / udp))
        assert hears(ear, MARK)


def test_the_victims_neighbours_and_the_hosts_stay(mesh: Mesh) -> None:
    def known() -> tuple[str, ...]:
        inside = [in_fn(mesh, name, ["ip", "neigh"]).stdout for name in ("victim", "friend")]
        return (*inside, in_fn(mesh, None, ["ip", "neigh"]).stdout)

    before = known()
    with frames(mesh, "thief") as mouth:
        for _, packet, _ in FORGERIES:
            mouth.send(bytes(packet))
    assert known() == before
    assert OWN not in before[0] + before[1]


@pytest.fixture
def inject(mesh: Mesh) -> Iterator[Callable[[Packet], None]]:
    with frames(mesh, "thief") as mouth:
        yield lambda packet: mouth.send(bytes(packet))


def test_an_open_connection_of_others_cannot_be_joined(
    mesh: Mesh, inject: Callable[[Packet], None]
) -> None:
    """Not even with the right ports: the flow belongs to its interface."""
    with connection(mesh, "friend", "victim", mesh.function("victim").address4, 7000) as (
        here,
        there,
    ):
        assert carries(here, there)
        port = here.getsockname()[1]
        before = dropped(mesh, Reason.SPOOF_IP)
        for flags in ("A", "PA", "R", "F", "S"):
            segment = TCP(sport=port, dport=7000, flags=flags) / MARK
            inject(good / IP(src=FRIEND4, dst=YOU4) / segment)
        wait_until(lambda: dropped(mesh, Reason.SPOOF_IP) == before + 5, what="all are dropped")
        assert carries(here, there)
        assert carries(there, here)


def test_an_own_flow_with_another_mac(mesh: Mesh, inject: Callable[[Packet], None]) -> None:
    """An established flow is checked too, packet by packet."""
    me, you = mesh.function("thief").address4, mesh.function("victim").address4
    with datagrams(mesh, "victim", you, 7001) as sink:
        with datagrams(mesh, "thief", me, 7002) as source:
            source.sendto(b"honest", (str(you), 7001))
            assert sink.recv(64) == b"honest"
        before = dropped(mesh, Reason.SPOOF_MAC)
        packet = IP(src=ME4, dst=YOU4) / UDP(sport=7002, dport=7001) / MARK
        inject(Ether(src=FRIEND, dst=GATEWAY) / packet)
        assert dropped(mesh, Reason.SPOOF_MAC) == before + 1
        inject(good / packet)
        assert sink.recv(64) == MARK
