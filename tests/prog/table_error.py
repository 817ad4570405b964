# SPDX-License-Identifier: BSD-2-Clause
"""ICMP errors: those about a flow reach the side that they are for, in that side's words.

Whoever translates a packet translates what is quoted of it the other way (RFC 5508). Here the
quotes are packets that scapy built as each side sees them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
from scapy.layers.inet6 import (
    HBHOptUnknown,
    ICMPv6ND_Redirect,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.packet import Packet, Raw

from ebpfmesh._abi import Reason
from prog.lab import HAIRPIN, NOBODY, peer, service
from prog.rows import Row, Step, drop, forward, step, to_host
from support.packets import ERRORS, Peer, behind, built, error, fragments, ip, ping, pong, tcp, udp

A, B, C = (peer(name) for name in "abc")
WEB, DNS, SELF, MIRROR = (service(name) for name in ("web", "dns", "self", "mirror"))
ROUTER = Peer("outside", "203.0.113.1", "2001:db8:ffff::1")
BOTH = (4, 6)
DATA = bytes(range(64))


@dataclass(frozen=True)
class About:
    """A packet of a flow that is known, and how its sender and its receiver see it."""

    text: str
    given: tuple[Step, ...]
    sender: Peer
    front: Peer  # whom the receiver is, to the sender
    as_sent: Packet
    receiver: Peer
    back: Peer  # whom the sender is, to the receiver
    as_received: Packet


def _direct(v: int) -> Iterator[About]:
    for text, on in (
        ("TCP", tcp(v, A, B, 1000, 80, "S", DATA)),
        ("UDP", udp(v, A, B, 1000, 53, DATA)),
        ("ping", ping(v, A, B, 7, DATA)),
    ):
        less = on.copy()
        setattr(less, "ttl" if v == 4 else "hlim", 63)
        yield About(text, (step(A, on),), A, B, built(on), B, A, built(less))
    reply, less = pong(v, B, A), pong(v, B, A, ttl=63)
    yield About("echo reply", (step(A, ping(v, A, B)),), B, A, built(reply), A, B, built(less))


def _translated(v: int) -> Iterator[About]:
    """Requests that a service's backend complains of, and answers that its client does."""
    for make, front, port, own, on, back in (
        (tcp, WEB, 80, 8080, ("S", DATA), ("SA", DATA)),
        (udp, DNS, 53, 5353, (DATA,), (DATA,)),
    ):
        asked = make(v, A, front, 1000, port, *on)
        got = make(v, A, B, 1000, own, *on, ttl=63)
        answer = make(v, B, A, own, 1000, *back)
        heard = make(v, front, A, port, 1000, *back, ttl=63)
        given = (step(A, asked),)
        name = make.__name__
        yield About(f"service {name} request", given, A, front, built(asked), B, A, built(got))
        given = (*given, step(B, answer))
        yield About(f"service {name} answer", given, B, A, built(answer), A, front, built(heard))


def _hairpin(v: int) -> Iterator[About]:
    """Both are one function, and neither knows."""
    for make, front, port, own, on, back in (
        (tcp, SELF, 80, 80, ("S", DATA), ("SA", DATA)),
        (udp, MIRROR, 53, 5353, (DATA,), (DATA,)),
    ):
        asked = make(v, A, front, 1000, port, *on)
        got = make(v, HAIRPIN, A, 1000, own, *on, ttl=63)
        answer = make(v, A, HAIRPIN, own, 1000, *back)
        heard = make(v, front, A, port, 1000, *back, ttl=63)
        given = (step(A, asked),)
        name = f"hairpin {make.__name__}"
        yield About(f"{name} request", given, A, front, built(asked), A, HAIRPIN, built(got))
        given = (*given, step(A, answer))
        yield About(f"{name} answer", given, A, HAIRPIN, built(answer), A, front, built(heard))


def _sized(v: int, size: int | None) -> int | None:
    """``size`` bytes behind the IP header of the quote."""
    return size and size + (20 if v == 4 else 40)


def _all(v: int) -> list[Row]:
    """The receiver says it, of whatever kind it is, and quotes all or as much as it must."""
    rows = []
    for about in (*_direct(v), *_translated(v), *_hairpin(v)):
        rows += [_passes(v, about, kind, None) for kind in ERRORS[v]]
        rows += [_passes(v, about, "unreachable", size) for size in (8, 16, 18, 19, 21)]
    return rows


def _passes(v: int, about: About, kind: str, size: int | None) -> Row:
    before, size_of = built(about.as_sent), _sized(v, size)
    setattr(before, "ttl" if v == 4 else "hlim", 63)
    if v == 4:
        del before.chksum
    said = error(v, about.receiver, about.back, about.as_received, kind, size=size_of)
    heard = error(v, about.front, about.sender, built(before), kind, ttl=63, size=size_of)
    text = f"v{v} {kind} about {about.text} quoting {size or 'all'}"
    return forward(text, about.receiver, said, about.sender, heard, given=about.given)


def _forged(v: int) -> list[Row]:
    """What quotes no packet of a flow of its sender with its receiver belongs to none."""
    asked, got = tcp(v, A, WEB, 1000, 80), tcp(v, A, B, 1000, 8080, ttl=63)
    given = (step(A, asked), step(A, ping(v, A, B)), step(A, tcp(v, A, NOBODY, 1000, 80)))
    return [
        drop(f"v{v} error {text}", sender, packet, reason, given=given)
        for text, sender, packet, reason in (
            ("about no flow", B, error(v, B, A, tcp(v, A, B, 1001, 8080)), Reason.NO_FLOW),
            ("about another port", B, error(v, B, A, tcp(v, A, B, 1000, 8081)), Reason.NO_FLOW),
            ("about another protocol", B, error(v, B, A, udp(v, A, B, 1000, 8080)), Reason.NO_FLOW),
            ("about its own packet", B, error(v, B, A, tcp(v, B, A, 8080, 1000)), Reason.NO_FLOW),
            ("about another ping", B, error(v, B, A, ping(v, A, B, 8)), Reason.NO_FLOW),
            ("about a ping turned round", B, error(v, B, A, ping(v, B, A)), Reason.NO_FLOW),
            ("about another's flow", C, error(v, C, A, got), Reason.NO_FLOW),
            ("from another's address", C, error(v, B, A, got), Reason.SPOOF_IP),
            ("from a router's address", B, error(v, ROUTER, A, got), Reason.SPOOF_IP),
            ("to another function", B, error(v, B, C, got), Reason.NO_FLOW),
            ("to the outside", B, error(v, B, NOBODY, got), Reason.NO_FLOW),
            ("to itself", B, error(v, B, B, got), Reason.NO_FLOW),
            ("to the service", B, error(v, B, WEB, got), Reason.NO_FLOW),
            ("about what it sent itself", A, error(v, A, B, asked), Reason.NO_FLOW),
            ("to a group", B, error(v, B, Peer("", "224.0.0.1", "ff02::1"), got), Reason.MULTICAST),
            ("about another protocol number", B, error(v, B, A, _number(got, 47)), Reason.PROTOCOL),
            ("of no quote", B, error(v, B, A, b""), Reason.MALFORMED),
        )
    ]  # fmt: skip


def _number(packet: Packet, number: int) -> Packet:
    whole = built(packet)
    setattr(whole, "proto" if IP in whole else "nh", number)
    return whole


def _kinds() -> list[Row]:
    """What is no error about a packet, or about one that nobody could ask about."""
    got4, got6 = built(tcp(4, A, B, 1000, 80, ttl=63)), built(tcp(6, A, B, 1000, 80, ttl=63))
    given = (step(A, tcp(4, A, B, 1000, 80)), step(A, tcp(6, A, B, 1000, 80)))
    first, later = fragments(tcp(4, A, B, 1000, 80, "S", bytes(64)), 32)
    redirect = ICMP(type=5, code=1, gw=B.address4) / Raw(bytes(got4))
    about = error(4, B, A, got4)
    cut = fragments(error(4, B, A, tcp(4, A, B, 1000, 80, "S", bytes(64))), 64)
    return [
        drop(text, B, packet, reason, given=given)
        for text, packet, reason in (
            ("redirect", ip(4, B, A) / redirect, Reason.PROTOCOL),
            ("source quench", ip(4, B, A) / ICMP(type=4) / Raw(bytes(got4)), Reason.PROTOCOL),
            ("redirect of IPv6", ip(6, B, A) / ICMPv6ND_Redirect(), Reason.SPOOF_ND),
            ("error about a later fragment", error(4, B, A, later), Reason.NO_FLOW),
            ("error about an error", error(4, B, A, about), Reason.PROTOCOL),
            ("error of IPv6 about an error", error(6, B, A, error(6, A, B, got6)), Reason.PROTOCOL),
            ("error in fragments", cut[0], Reason.PROTOCOL),
            ("error about IPv6 of IPv4", error(4, B, A, got6), Reason.MALFORMED),
            ("error about IPv4 of IPv6", error(6, B, A, got4), Reason.MALFORMED),
            ("error about a header of 16", error(4, B, A, _header(got4, 0x44)), Reason.MALFORMED),
            ("error about a long header", error(4, B, A, _header(got4, 0x4F)), Reason.MALFORMED),
        )
    ] + [
        forward(
            "error about a first fragment", B, error(4, B, A, first),
            A, error(4, B, A, first, ttl=63), given=given,
        ),
    ]  # fmt: skip


def _header(packet: Packet, first: int) -> bytes:
    return bytes([first]) + bytes(packet)[1:]


def _options() -> list[Row]:
    """Options in the quote and around it, and what stands behind the message."""
    options = [IPOption(b"\x94\x04\0\0")]

    def asked(there: Peer, port: int, ttl: int) -> Packet:
        head = IP(src=A.address4, dst=there.address4, options=options, ttl=ttl)
        return built(head / TCP(sport=1000, dport=port) / DATA)

    given = (step(A, asked(WEB, 80, 64)),)
    said, heard = error(4, B, A, asked(B, 8080, 63)), error(4, WEB, A, asked(WEB, 80, 63), ttl=63)
    rows = [
        forward("error about IPv4 options", B, said, A, heard, given=given),
    ]
    said, heard = said.copy(), heard.copy()
    said.options = heard.options = options
    rows.append(forward("error with IPv4 options", B, said, A, heard, given=given))
    return rows


def _fragments(v: int) -> list[Row]:
    """About a first fragment, as whoever waits for the others says it (RFC 4443, 3.3)."""
    rows = []
    for make, front, port, own, on in (
        (tcp, WEB, 80, 8080, ("S", bytes(2000))),
        (udp, DNS, 53, 5353, (bytes(2000),)),
    ):
        asked, got = make(v, A, front, 1000, port, *on), make(v, A, B, 1000, own, *on, ttl=63)
        first, seen = fragments(asked, 1480)[0], fragments(got, 1480)[0]
        before = fragments(make(v, A, front, 1000, port, *on, ttl=63), 1480)[0]
        head = (20 if v == 4 else 48) + 8
        for size in (None, head, head + 12):
            said = error(v, B, A, built(seen), "time exceeded", size=size)
            heard = error(v, front, A, built(before), "time exceeded", ttl=63, size=size)
            text = f"v{v} error about a fragment of {make.__name__} quoting {size or 'all'}"
            rows.append(forward(text, B, said, A, heard, given=(step(A, first),)))
        later = built(fragments(got, 1480)[1])
        text = f"v{v} error about a later fragment of {make.__name__}"
        rows.append(drop(text, B, error(v, B, A, later), Reason.NO_FLOW, given=(step(A, first),)))
        if v == 6:
            short = error(v, B, A, built(seen), size=head - 1)
            text = f"error about too little of a fragment of {make.__name__}"
            rows.append(drop(text, B, short, Reason.MALFORMED, given=(step(A, first),)))
    return rows


def _extensions() -> list[Row]:
    """About a packet with extension headers: what a receiver that does not know one says."""
    unknown = IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=0x9E, optdata=bytes(20))])
    chains = {
        "options": (unknown,),
        "headers": (IPv6ExtHdrHopByHop(), unknown, IPv6ExtHdrRouting(type=2), unknown),
        "a fragment's options": (IPv6ExtHdrFragment(id=7, m=1), unknown),
    }
    rows = []
    for text, chain in chains.items():
        for about in (*_direct(6), *_translated(6)):
            on, out = (built(behind(p, *chain)) for p in (about.as_sent, about.as_received))
            name = f"{about.text} behind {text}"
            dressed = replace(about, text=name, as_sent=on, as_received=out)
            rows += [_passes(6, dressed, kind, None) for kind in ERRORS[6]]
            if about.text == "TCP":
                size = len(on) - len(about.as_sent) + 7
                short = error(6, B, A, out, size=40 + size)
                lost = f"error about too little of {name}"
                rows.append(drop(lost, B, short, Reason.MALFORMED, given=about.given))
    route = behind(tcp(6, A, B, 1000, 80), IPv6ExtHdrRouting(segleft=1, addresses=[C.address6]))
    given = (step(A, tcp(6, A, B, 1000, 80)),)
    text = "error about a source route on its way"
    return [*rows, drop(text, B, error(6, B, A, route), Reason.PROTOCOL, given=given)]


def _padding(v: int) -> list[Row]:
    """Bytes behind the packet are no part of what it quotes, whatever they look like."""
    rows = []
    for about in _translated(v):
        for size in (8, 16):
            row = _passes(v, about, "unreachable", size)
            padding = bytes(range(1, 25))
            here = replace(row.step, frame=row.step.frame + padding)
            text = f"{row.text} and padding"
            counted = {
                key: tuple(n + 24 if n > 1 else n for n in numbers)
                for key, numbers in row.counted.items()
            }
            rows.append(replace(row, text=text, step=here, out=row.out + padding, counted=counted))
    return rows


def _outside(v: int) -> list[Row]:
    """A function complains to the outside about what that sent."""
    answer = udp(v, NOBODY, A, 53, 1000)
    given = (step(A, udp(v, A, NOBODY, 1000, 53)),)
    return [
        to_host(f"v{v} {kind} to the outside", A, error(v, A, NOBODY, answer, kind), given=given)
        for kind in ERRORS[v]
    ] + [
        drop(
            f"v{v} error to the outside about no flow",
            A,
            error(v, A, NOBODY, answer),
            Reason.NO_FLOW,
        )
    ]


def _zero(v: int) -> list[Row]:
    """A quoted UDP checksum that becomes zero is all ones, as it was sent (RFC 768)."""
    plain = built(udp(v, A, DNS, 1000, 53, b"\0\0"))
    for offset in range(2):
        data = _complement(plain[UDP].chksum + offset)
        asked = built(udp(v, A, DNS, 1000, 53, data))
        if asked[UDP].chksum == 0xFFFF:
            break
    assert asked[UDP].chksum == 0xFFFF
    got = built(udp(v, A, B, 1000, 5353, data, ttl=63))
    about = About("UDP whose checksum is zero", (step(A, asked),), A, DNS, asked, B, A, got)
    rows = [_passes(v, about, "unreachable", None)]
    if v == 6:
        return rows
    bare, seen = (
        udp(4, A, DNS, 1000, 53, checksum=0),
        udp(4, A, B, 1000, 5353, checksum=0, ttl=63),
    )
    about = About("UDP without checksum", (step(A, bare),), A, DNS, built(bare), B, A, built(seen))
    return [*rows, _passes(4, about, "unreachable", None)]


def _complement(word: int) -> bytes:
    """Two bytes that make a sum with the checksum ``word`` one of all ones."""
    return (word & 0xFFFF).to_bytes(2)


ROWS = [
    row
    for v in BOTH
    for make in (_all, _forged, _fragments, _padding, _outside, _zero)
    for row in make(v)
] + [row for make in (_kinds, _options, _extensions) for row in make()]
