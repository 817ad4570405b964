# SPDX-License-Identifier: BSD-2-Clause
"""Packets of the host's stack to a function: what passes, and why the rest does not."""

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NS,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet

from ebpfmesh._abi import Direction, Reason
from prog.lab import NOBODY, Drop, peer, service
from prog.rows import Row, Step, carried, step
from support.packets import (
    ERRORS,
    MULTICAST4,
    MULTICAST6,
    Peer,
    behind,
    error,
    fragments,
    ping,
    pong,
    received,
    tcp,
    udp,
)

A, B, C, D = (peer(name) for name in "abcd")
WEB = service("web")
BOTH = (4, 6)
QUOTE = {4: 28, 6: 48}  # an IP header and 8 bytes


def _step(function: Peer, packet: Packet) -> Step:
    return Step(
        function, bytes(packet if isinstance(packet, Ether) else received(function, packet))
    )


def passes(text: str, function: Peer, packet: Packet, *, given: tuple[Step, ...] = ()) -> Row:
    """It reaches the function as it came, and is counted as traffic with the outside."""
    here = _step(function, packet)
    return Row(text, here, "pass", here.frame, carried(NOBODY, function, len(here.frame)), given)


def ignored(text: str, function: Peer, packet: Packet) -> Row:
    """It reaches the function as it came, and nothing is counted."""
    here = _step(function, packet)
    return Row(text, here, "pass", here.frame, {})


def drop(
    text: str, function: Peer, packet: Packet, reason: Reason, *, given: tuple[Step, ...] = ()
) -> Row:
    """It is dropped, and counted at the function it did not reach."""
    here = _step(function, packet)
    where = Drop(function.name, Direction.TO_FN, reason)
    return Row(text, here, "drop", here.frame, {where: (1, len(here.frame))}, given)


def _rows(v: int) -> list[Row]:
    ssh = tcp(v, NOBODY, A, 5000, 22)
    asked = (step(A, tcp(v, A, NOBODY, 1000, 80)), step(A, udp(v, A, NOBODY, 1000, 53)))
    pinged = (step(A, ping(v, A, NOBODY)),)
    group = Peer("", MULTICAST4, MULTICAST6)
    return [
        passes(f"v{v} a rule lets it in", A, ssh),
        passes(f"v{v} TTL 1 is the receiver's business", A, tcp(v, NOBODY, A, 5000, 22, ttl=1)),
        passes(f"v{v} TCP answer", A, tcp(v, NOBODY, A, 80, 1000, "SA"), given=asked),
        passes(f"v{v} TCP reset", A, tcp(v, NOBODY, A, 80, 1000, "RA"), given=asked),
        passes(f"v{v} UDP answer", A, udp(v, NOBODY, A, 53, 1000), given=asked),
        passes(f"v{v} echo reply", A, pong(v, NOBODY, A), given=pinged),
        drop(f"v{v} no rule lets it in", B, tcp(v, NOBODY, B, 5000, 22), Reason.POLICY),
        drop(f"v{v} a rule for another port", A, tcp(v, NOBODY, A, 5000, 23), Reason.POLICY),
        drop(f"v{v} a rule for another protocol", A, udp(v, NOBODY, A, 5000, 22), Reason.POLICY),
        drop(f"v{v} ping", A, ping(v, NOBODY, A), Reason.POLICY),
        drop(
            f"v{v} other port of an asked host",
            A,
            udp(v, NOBODY, A, 54, 1000),
            Reason.POLICY,
            given=asked,
        ),
        drop(f"v{v} unsolicited SYN+ACK", A, tcp(v, NOBODY, A, 22, 1000, "SA"), Reason.NO_FLOW),
        drop(f"v{v} unsolicited reset", A, tcp(v, NOBODY, A, 5000, 22, "R"), Reason.NO_FLOW),
        drop(f"v{v} unsolicited echo reply", A, pong(v, NOBODY, A), Reason.NO_FLOW),
        drop(f"v{v} from a function's address", A, tcp(v, B, A, 5000, 22), Reason.SPOOF_IP),
        drop(f"v{v} from its own address", A, tcp(v, A, A, 5000, 22), Reason.SPOOF_IP),
        drop(f"v{v} to another function", B, ssh, Reason.NOT_HERE),
        drop(f"v{v} to nobody", A, tcp(v, NOBODY, NOBODY, 5000, 22), Reason.NOT_HERE),
        drop(f"v{v} to a service", B, tcp(v, NOBODY, WEB, 5000, 80), Reason.NOT_HERE),
        drop(f"v{v} from a function to nobody", NOBODY, tcp(v, A, NOBODY, 1, 2), Reason.SPOOF_IP),
        drop(f"v{v} from nobody to nobody", NOBODY, tcp(v, NOBODY, NOBODY, 1, 2), Reason.HAIRPIN),
        drop(f"v{v} VLAN", A, received(A, Dot1Q(vlan=7) / ssh), Reason.VLAN),
        drop(f"v{v} multicast", A, udp(v, NOBODY, group, 5353, 5353), Reason.MULTICAST),
    ]


def _errors(v: int) -> list[Row]:
    """About a flow of this function with the outside, from whoever was on its way."""
    query, more = udp(v, A, NOBODY, 1000, 53), tcp(v, A, NOBODY, 1000, 80, "A", bytes(64))
    asked = (
        step(A, query),
        step(A, tcp(v, A, NOBODY, 1000, 80)),
        step(A, ping(v, A, NOBODY)),
        step(B, udp(v, B, NOBODY, 1000, 53)),
    )
    router = Peer("outside", "203.0.113.1", "2001:db8:ffff::1")
    rows = [
        passes(
            f"v{v} {kind} about {text} from {who}",
            A,
            error(v, source, A, packet, kind, size=size),
            given=asked,
        )
        for kind in ERRORS[v]
        for text, packet in (("UDP", query), ("TCP", more), ("a ping", ping(v, A, NOBODY)))
        for who, source, size in (("its receiver", NOBODY, None), ("a router", router, QUOTE[v]))
        if kind != "parameter problem" or who == "a router"
    ]  # fmt: skip
    return rows + [
        drop(f"v{v} error {text}", A, error(v, source, A, packet), reason, given=asked)
        for text, source, packet, reason in (
            ("about no flow", router, udp(v, A, NOBODY, 1001, 53), Reason.NO_FLOW),
            ("about what the outside sent", router, udp(v, NOBODY, A, 53, 1000), Reason.NO_FLOW),
            ("about another's flow", router, udp(v, B, NOBODY, 1000, 53), Reason.NO_FLOW),
            ("about a flow within the mesh", router, udp(v, A, B, 1000, 53), Reason.NO_FLOW),
            ("from a function", B, query, Reason.SPOOF_IP),
        )
    ]


def _fragments(v: int) -> list[Row]:
    """Of an answer that was asked for, and of what nobody asked for."""
    parts = fragments(udp(v, NOBODY, A, 53, 1000, bytes(2000)), 1024, 1480)
    mesh = fragments(udp(v, A, NOBODY, 1000, 53, bytes(2000)), 1024, 1480)
    asked = (step(A, udp(v, A, NOBODY, 1000, 53)),)
    return [
        passes(f"v{v} first fragment of an answer", A, parts[0], given=asked),
        drop(f"v{v} first fragment nobody asked for", A, parts[0], Reason.POLICY),
        drop(f"v{v} later fragment nobody asked for", A, parts[1], Reason.FRAGMENT),
        drop(
            f"v{v} fragment of a datagram that went the other way", A, parts[1], Reason.FRAGMENT,
            given=(step(A, mesh[0]),),
        ),
    ]  # fmt: skip


def _extensions() -> list[Row]:
    syn = tcp(6, NOBODY, A, 5000, 22)
    left = IPv6ExtHdrRouting(type=2, segleft=1, addresses=[B.address6])
    return [
        passes("options", A, behind(syn, IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt())),
        drop("routing header on its way", A, behind(syn, left), Reason.PROTOCOL),
        drop(
            "IPv6 without a header", A, IPv6(src=NOBODY.address6, dst=A.address6), Reason.PROTOCOL
        ),
    ]


def _audit(v: int) -> Row:
    row = passes(f"v{v} audit", D, tcp(v, NOBODY, D, 5000, 22))
    where = Drop("d", Direction.TO_FN, Reason.POLICY, audited=True)
    row.counted[where] = (1, len(row.step.frame))
    return row


def _others() -> list[Row]:
    mapped = [Peer("", "", f"::ffff:{address}") for address in (A.address4, NOBODY.address4)]
    return [
        ignored("ARP", A, received(A, ARP(hwdst=A.mac, pdst=A.address4))),
        ignored(
            "ND", A, IPv6(src="fe80::1", dst=A.address6, hlim=255) / ICMPv6ND_NS(tgt=A.address6)
        ),
        drop("LLDP", A, Ether(dst="01:80:c2:00:00:0e", type=0x88CC) / bytes(46), Reason.PROTOCOL),
        drop(
            "GRE", A, IP(src=NOBODY.address4, dst=A.address4, proto=47) / bytes(8), Reason.PROTOCOL
        ),
        drop(
            "IPv4 fragment",
            A,
            IP(src=NOBODY.address4, dst=A.address4, frag=2) / UDP() / bytes(8),
            Reason.FRAGMENT,
        ),
        drop(
            "IPv6 fragment",
            A,
            IPv6(src=NOBODY.address6, dst=A.address6)
            / IPv6ExtHdrFragment(nh=17, offset=4)
            / bytes(8),
            Reason.FRAGMENT,
        ),
        drop("IPv6 from a mapped address", A, tcp(6, mapped[1], A, 5000, 22), Reason.MALFORMED),
        drop("IPv6 to a mapped address", A, tcp(6, NOBODY, mapped[0], 5000, 22), Reason.MALFORMED),
        drop(
            "UDP cut short",
            A,
            IP(src=NOBODY.address4, dst=A.address4, len=24) / UDP(),
            Reason.MALFORMED,
        ),
    ]


ROWS = [row for v in BOTH for row in (*_rows(v), *_errors(v), *_fragments(v), _audit(v))] + [
    *_extensions(),
    *_others(),
]
