# SPDX-License-Identifier: BSD-2-Clause
"""What a function forges about others' flows: ICMP errors, resets, answers; tunnels and fragments.

thief (tenant t) ──▶ victim:7000 (tenant v), by a rule about this port alone
friend (tenant v) ◀──▶ victim: a connection and a UDP flow that the thief knows all about

test_spoof.py is about addresses, MACs and neighbours. Here the thief speaks for itself, from its
own address, and claims to have a part in what is not its own.
"""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from scapy.contrib.mpls import MPLS
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_LSRR, IPOption_SSRR
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, GRE, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from ebpfmesh._abi import Direction, Reason
from ebpfmesh.kernel import interface
from ebpfmesh.model import Mesh
from support.meshes import function, mesh_file, rule
from support.sockets import accepted, carries, connect, datagrams, frames, hears, listener
from support.topology import drops, in_fn, wait_until

MESH = mesh_file(
    "hostile",
    function("thief", "t", address=["198.18.0.1", "2001:db8::1"]),
    function("victim", "v", address=["198.18.0.2", "2001:db8::2"]),
    function("friend", "v", address=["198.18.0.3", "2001:db8::3"]),
    rule("function:thief", "function:victim", protocol="tcp", port=7000),
    rule("function:thief", "function:victim", protocol="udp", port=7000),
)
ME, YOU, FRIEND = ({4: f"198.18.0.{number}", 6: f"2001:db8::{number}"} for number in (1, 2, 3))
OPEN, CLOSED, OWN_PORT = 7000, 7001, 5000  # the victim's ports as the rule has them; the thief's
FRIENDS_PORT = 6000
MARK = b"forged by the thief"
ETHER = Ether(src=interface.mac_of("hostile", "thief"), dst=interface.GATEWAY_MAC)


def ip(version: int, source: dict[int, str], destination: dict[int, str], **more: object) -> Packet:
    network = IP if version == 4 else IPv6
    return network(src=source[version], dst=destination[version], **more)


def mine(version: int, to: dict[int, str] = YOU, **more: object) -> Packet:
    """A header that says truly who sends."""
    return ip(version, ME, to, **more)


@dataclass(frozen=True)
class Case:
    """Packets of the thief's; the last ``lost`` of them are dropped, for one of ``reasons``."""

    name: str
    packets: tuple[Packet, ...]
    reasons: tuple[Reason, ...]
    lost: int = 1


def errors(
    version: int, quote: Packet, outer: Packet | None = None
) -> Iterator[tuple[str, Packet]]:
    """ICMP errors about a packet, under their names."""
    outer = outer or mine(version)
    if version == 4:
        yield "port unreachable", outer / ICMP(type=3, code=3) / quote
        yield "packet too big", outer / ICMP(type=3, code=4, nexthopmtu=600) / quote
        yield "time exceeded", outer / ICMP(type=11) / quote
        yield "parameter problem", outer / ICMP(type=12) / quote
    else:
        yield "port unreachable", outer / ICMPv6DestUnreach(code=4) / quote
        yield "packet too big", outer / ICMPv6PacketTooBig(mtu=1280) / quote
        yield "time exceeded", outer / ICMPv6TimeExceeded() / quote


def about_others(version: int) -> Iterator[Case]:
    """Errors and answers that claim a part in the flow of the friend and the victim."""
    tcp, udp = (
        ip(version, YOU, FRIEND) / kind(sport=OPEN, dport=FRIENDS_PORT) / (MARK * 2)
        for kind in (TCP, UDP)
    )
    family = f"IPv{version}"
    for kind, quote in (("TCP", tcp), ("UDP", udp)):
        for name, packet in errors(version, quote):
            yield Case(f"{family} {name} of others' {kind}", (packet,), (Reason.NO_FLOW,))
        for name, packet in errors(version, quote, ip(version, FRIEND, YOU)):
            what = f"{family} {name} of others' {kind}, in the friend's name"
            yield Case(what, (packet,), (Reason.SPOOF_IP,))
    for flags in ("R", "RA", "FA", "SA"):
        segment = TCP(sport=FRIENDS_PORT, dport=OPEN, flags=flags) / MARK
        reasons = (Reason.NO_FLOW,)
        yield Case(
            f"{family} TCP {flags} with the friend's port", (mine(version) / segment,), reasons
        )
        forged = ip(version, FRIEND, YOU) / segment
        yield Case(f"{family} TCP {flags} in the friend's name", (forged,), (Reason.SPOOF_IP,))
    answer = UDP(sport=FRIENDS_PORT, dport=CLOSED) / MARK
    yield Case(f"{family} UDP to a closed port", (mine(version) / answer,), (Reason.POLICY,))


def about_own(version: int) -> Iterator[Case]:
    """Errors about the thief's own flow to the victim, that tell somebody else, or nothing."""
    family = f"IPv{version}"
    opening = mine(version) / UDP(sport=OWN_PORT, dport=OPEN) / MARK
    answer = ip(version, YOU, ME) / UDP(sport=OPEN, dport=OWN_PORT) / (MARK * 2)
    question = mine(version) / UDP(sport=OWN_PORT, dport=OPEN) / (MARK * 2)
    for name, packet in errors(version, answer, mine(version, FRIEND)):
        what = f"{family} {name} of an own flow, told to another"
        yield Case(what, (opening, packet), (Reason.NO_FLOW,))
    for name, packet in errors(version, answer, ip(version, FRIEND, YOU)):
        what = f"{family} {name} of an own flow, in another's name"
        yield Case(what, (opening, packet), (Reason.SPOOF_IP,))
    for name, packet in errors(version, question):
        what = f"{family} {name} of what the thief itself said"
        yield Case(what, (opening, packet), (Reason.NO_FLOW,))
    error = next(errors(version, answer))[1]
    whole = len(bytes(error))
    cut = (mine(version, nh=58) if version == 6 else mine(version, proto=1)) / Raw(
        bytes(error)[len(mine(version)) : whole - len(MARK) * 2 - 4]
    )
    yield Case(f"{family} an error that quotes too little", (opening, cut), (Reason.MALFORMED,))
    nested = next(errors(version, next(errors(version, question, ip(version, YOU, ME)))[1]))[1]
    yield Case(f"{family} an error about an error", (opening, nested), (Reason.PROTOCOL,))


def tunnels(version: int) -> Iterator[Case]:
    """Packets within packets: whatever is inside, nobody was asked about it."""
    inner4 = ip(4, FRIEND, YOU) / UDP(sport=FRIENDS_PORT, dport=CLOSED) / MARK
    inner6 = ip(6, FRIEND, YOU) / UDP(sport=FRIENDS_PORT, dport=CLOSED) / MARK
    own, family = mine(version), f"IPv{version}"
    reasons = (Reason.PROTOCOL,)
    yield Case(f"IPv4 in {family}", (own / inner4,), reasons)
    yield Case(f"IPv6 in {family}", (own / inner6,), reasons)
    yield Case(f"GRE in {family}", (own / GRE() / inner4,), reasons)
    for number, what in ((50, "ESP"), (51, "AH"), (132, "SCTP"), (137, "MPLS"), (2, "IGMP")):
        field = {"proto": number} if version == 4 else {"nh": number}
        yield Case(f"{what} in {family}", (mine(version, **field) / Raw(MARK * 2),), reasons)
    for tags in (Dot1Q(vlan=0), Dot1Q(vlan=7), Dot1AD(vlan=7) / Dot1Q(vlan=8)):
        packet = tags / own / UDP(sport=OWN_PORT, dport=OPEN) / MARK
        yield Case(f"{family} under {tags.summary()} {tags.vlan}", (packet,), (Reason.VLAN,))
    yield Case(f"{family} under MPLS", (MPLS(label=7) / own / UDP() / MARK,), (Reason.PROTOCOL,))


def routed() -> Iterator[Case]:
    """Source routes: by way of the victim's open port, or of the victim itself."""
    data = UDP(sport=OWN_PORT, dport=OPEN) / MARK
    for option in (IPOption_LSRR, IPOption_SSRR):
        route = mine(4, options=[option(routers=[FRIEND[4]])]) / data
        yield Case(option.__name__, (route,), (Reason.PROTOCOL,))
    for kind in (0, 2, 4):
        header = IPv6ExtHdrRouting(type=kind, addresses=[FRIEND[6]], segleft=1)
        yield Case(f"routing header {kind}", (mine(6) / header / data,), (Reason.PROTOCOL,))
    nested = IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting(addresses=[FRIEND[6]], segleft=1)
    yield Case("routing header 0 behind options", (mine(6) / nested / data,), (Reason.PROTOCOL,))
    many = IPv6ExtHdrHopByHop()
    for _ in range(9):
        many /= IPv6ExtHdrDestOpt()
    yield Case("very many extension headers", (mine(6) / many / data,), (Reason.PROTOCOL,))


def cut4(offset: int, more: bool, data: bytes, protocol: int, identifier: int = 77) -> Packet:
    """An IPv4 fragment; the offset is in bytes."""
    flags = "MF" if more else 0
    return mine(4, id=identifier, frag=offset // 8, flags=flags, proto=protocol) / Raw(data)


def cut6(offset: int, more: bool, data: bytes, protocol: int, identifier: int = 77) -> Packet:
    header = IPv6ExtHdrFragment(nh=protocol, offset=offset // 8, m=int(more), id=identifier)
    return mine(6) / header / Raw(data)


def fragments(version: int) -> Iterator[Case]:
    """Datagrams in pieces, put together so that a header comes out which nobody judged."""
    cut, family = (cut4, "IPv4") if version == 4 else (cut6, "IPv6")
    tcp = bytes(TCP(sport=OWN_PORT, dport=OPEN, flags="S") / MARK)
    udp = bytes(UDP(sport=OWN_PORT, dport=OPEN, len=8 + 64, chksum=0)) + bytes(64)
    bad_tcp = bytes(TCP(sport=OWN_PORT, dport=CLOSED, flags="S") / MARK)
    bad_udp = bytes(UDP(sport=OWN_PORT, dport=CLOSED, len=8 + 64, chksum=0)) + bytes(64)
    malformed, fragment = (Reason.MALFORMED,), (Reason.FRAGMENT,)
    yield Case(
        f"{family} a tiny first fragment (RFC 1858, 3)", (cut(0, True, tcp[:8], 6),), malformed
    )
    overwrites = (cut(0, True, tcp[:24], 6), cut(8, False, bad_tcp[8:32], 6))
    yield Case(f"{family} flags are overwritten (RFC 1858, 4)", overwrites, malformed)
    again = (cut(0, True, udp[:32], 17), cut(0, True, bad_udp[:32], 17))
    yield Case(f"{family} a second first fragment (RFC 3128)", again, (Reason.POLICY,))
    tiny = (cut(0, True, udp[:32], 17), cut(0, True, bad_udp[:4], 17))
    yield Case(f"{family} a second one of 4 bytes", tiny, malformed)
    yield Case(f"{family} a later one alone", (cut(32, False, udp[32:], 17, 76),), fragment)
    other = (cut(0, True, udp[:32], 17, 78), cut(32, False, udp[32:], 17, 79))
    yield Case(f"{family} a later one of another datagram", other, fragment)
    closed = (cut(0, True, bad_udp[:32], 17, 80), cut(32, False, bad_udp[32:], 17, 80))
    reasons = (Reason.POLICY, Reason.FRAGMENT)
    yield Case(f"{family} a forbidden datagram in pieces", closed, reasons, lost=2)
    yield Case(f"{family} beyond 65535 bytes", (cut(65528, False, bytes(64), 17, 81),), fragment)


CASES = [
    *(case for version in (4, 6) for case in about_others(version)),
    *(case for version in (4, 6) for case in about_own(version)),
    *(case for version in (4, 6) for case in tunnels(version)),
    *routed(),
    *(case for version in (4, 6) for case in fragments(version)),
]


@pytest.fixture(scope="module")
def talks(mesh: Mesh) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    """Connections and UDP flows of friend and victim, of both families, all from FRIENDS_PORT."""
    with ExitStack() as stack:
        found = []
        for address, own in zip(
            mesh.function("victim").addresses, mesh.function("friend").addresses, strict=True
        ):
            server = stack.enter_context(listener(mesh, "victim", address, OPEN))
            here = connect(mesh, "friend", address, OPEN, own_port=FRIENDS_PORT)
            there = stack.enter_context(accepted(server))
            stack.enter_context(here)
            assert carries(here, there)
            asks = stack.enter_context(datagrams(mesh, "friend", own, FRIENDS_PORT))
            answers = stack.enter_context(datagrams(mesh, "victim", address, OPEN))
            asks.connect((str(address), OPEN))
            answers.connect((str(own), FRIENDS_PORT))
            found += [(here, there), (asks, answers)]
        yield found


def dropped(mesh: Mesh) -> dict[Reason, int]:
    return {
        reason: packets
        for (name, way, reason), packets in drops(mesh).items()
        if (name, way) == ("thief", Direction.FROM_FN) and reason != Reason.MULTICAST
    }


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_forged(mesh: Mesh, case: Case, talks: list[tuple[socket.socket, socket.socket]]) -> None:
    """The forged packets are lost and counted, and those they are about notice nothing."""
    honest = len(case.packets) - case.lost
    with (
        frames(mesh, "thief") as mouth,
        frames(mesh, "victim") as victim,
        frames(mesh, "friend") as friend,
    ):
        for packet in case.packets[:honest]:
            mouth.send(bytes(ETHER / packet))
        heard(victim)
        before = dropped(mesh)
        for packet in case.packets[honest:]:
            mouth.send(bytes(ETHER / packet))
        wanted = sum(before.values()) + case.lost
        wait_until(lambda: sum(dropped(mesh).values()) >= wanted, what="all are lost")
        after = dropped(mesh)
        # What is not lost is heard at once: whatever got through is there by now.
        assert not heard(victim)
        assert not heard(friend)
    more = {reason: n - before.get(reason, 0) for reason, n in after.items()}
    counted = {reason: n for reason, n in more.items() if n}
    assert sum(counted.values()) == case.lost
    assert set(counted) <= set(case.reasons)
    for here, there in talks:
        assert carries(here, there)
        assert carries(there, here)


def heard(ear: socket.socket) -> list[bytes]:
    """Frames of the thief's that came in, in whosever name; others' late ACKs come in as well."""
    signs = (MARK, socket.inet_aton(ME[4]), socket.inet_pton(socket.AF_INET6, ME[6]))
    ear.setblocking(False)
    found = []
    while True:
        try:
            frame, where = ear.recvfrom(65536)
        except BlockingIOError:
            return found
        if where[2] != socket.PACKET_OUTGOING and any(sign in frame for sign in signs):
            found.append(frame)


def test_paths_and_neighbours_stay(
    mesh: Mesh, talks: list[tuple[socket.socket, socket.socket]]
) -> None:
    """No stack has learned an MTU or a neighbour of all this, nor lost a connection."""

    def known() -> list[str]:
        commands = (["neigh"], *(["route", "get", FRIEND[version]] for version in (4, 6)))
        return [in_fn(mesh, "victim", ["ip", *words]).stdout for words in commands]

    before = known()
    with frames(mesh, "thief") as mouth:
        for case in CASES:
            for packet in case.packets:
                mouth.send(bytes(ETHER / packet))
    assert known() == before
    assert not any("mtu" in line for line in before)
    assert all(carries(here, there) for here, there in talks)


@pytest.mark.parametrize("version", [4, 6])
def test_an_honest_error_passes(mesh: Mesh, version: int) -> None:
    """What shows that the errors above were dropped for what is false in them."""
    question = mine(version) / UDP(sport=OWN_PORT, dport=OPEN) / MARK
    answer = ip(version, YOU, ME) / UDP(sport=OPEN, dport=OWN_PORT) / b"what the victim said"
    with frames(mesh, "thief") as mouth, frames(mesh, "victim") as ear:
        mouth.send(bytes(ETHER / question))
        for _, error in errors(version, answer):
            heard(ear)
            mouth.send(bytes(ETHER / error))
            assert hears(ear, b"what the victim said")


@pytest.mark.parametrize("version", [4, 6])
def test_an_honest_datagram_in_pieces_arrives(mesh: Mesh, version: int) -> None:
    cut = cut4 if version == 4 else cut6
    data = bytes(UDP(sport=OWN_PORT, dport=OPEN, len=8 + 64, chksum=0)) + MARK.ljust(64, b".")
    with frames(mesh, "thief") as mouth, frames(mesh, "victim") as ear:
        for piece in (cut(0, True, data[:32], 17, 99), cut(32, False, data[32:], 17, 99)):
            mouth.send(bytes(ETHER / piece))
        assert hears(ear, MARK[:24])


def test_no_answer_goes_to_who_did_not_ask(mesh: Mesh) -> None:
    """Gratuitous ARP and an address that is the victim's change nothing at the host."""
    before = in_fn(mesh, None, ["ip", "neigh"]).stdout
    with frames(mesh, "thief") as mouth:
        for target in (YOU[4], "169.254.1.1"):
            mouth.send(bytes(ETHER / ARP(op=2, psrc=target, pdst=target)))
    assert in_fn(mesh, None, ["ip", "neigh"]).stdout == before
