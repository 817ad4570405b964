# SPDX-License-Identifier: BSD-2-Clause
"""Fragments: the first one has the ports, and the others go where it went.

What must come out is the translated datagram, cut at the same bytes.
"""

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import HBHOptUnknown, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.packet import Packet, Raw

from ebpfmesh._abi import Direction, Reason
from prog.lab import HAIRPIN, NOBODY, Drop, peer, service
from prog.rows import Row, Step, drop, forward, step, to_host
from support.packets import Peer, behind, built, fragments, ip, ping, pong, tcp, udp

A, B, C, D = (peer(name) for name in "abcd")
WEB, DNS, SELF, MIRROR = (service(name) for name in ("web", "dns", "self", "mirror"))
BOTH = (4, 6)
DATA = bytes(range(256)) * 8
CUTS = (1024, 1480)
PARTS = ("first", "middle", "last")


def _all(
    text: str, sender: Peer, packet: Packet, receiver: Peer, out: Packet, given: tuple[Step, ...]
) -> list[Row]:
    """Every fragment of a packet, each after those before it."""
    rows = []
    for part, one, after in zip(
        PARTS, fragments(packet, *CUTS), fragments(out, *CUTS), strict=True
    ):
        rows.append(forward(f"{text} {part} fragment", sender, one, receiver, after, given=given))
        given = (*given, step(sender, one))
    return rows


def _direct(v: int) -> list[Row]:
    rows = []
    for text, make, back, ports, data in (
        ("TCP", tcp, tcp, (1000, 80), ("S", DATA)),
        ("UDP", udp, udp, (1000, 53), (DATA,)),
        ("ping", ping, pong, (7,), (DATA,)),
    ):
        asked = make(v, A, B, *ports, *data)
        rows += _all(f"v{v} {text}", A, asked, B, make(v, A, B, *ports, *data, ttl=63), ())
        answer = ports[::-1], ("SA", *data[1:]) if make is tcp else data
        rows += _all(
            f"v{v} {text} answer", B, back(v, B, A, *answer[0], *answer[1]),
            A, back(v, B, A, *answer[0], *answer[1], ttl=63), (step(A, make(v, A, B, *ports)),),
        )  # fmt: skip
    return rows


def _service(v: int) -> list[Row]:
    rows = []
    for make, front, port, own, on, back in (
        (tcp, WEB, 80, 8080, ("S", DATA), ("SA", DATA)),
        (udp, DNS, 53, 5353, (DATA,), (DATA,)),
    ):
        text = f"v{v} service {make.__name__}"
        asked = make(v, A, front, 1000, port, *on)
        rows += _all(text, A, asked, B, make(v, A, B, 1000, own, *on, ttl=63), ())
        rows += _all(
            f"{text} answer", B, make(v, B, A, own, 1000, *back),
            A, make(v, front, A, port, 1000, *back, ttl=63),
            (step(A, make(v, A, front, 1000, port)),),
        )  # fmt: skip
    asked = udp(v, A, MIRROR, 1000, 53, DATA)
    return rows + _all(
        f"v{v} hairpin", A, asked, A, udp(v, HAIRPIN, A, 1000, 5353, DATA, ttl=63), ()
    )


def _order(v: int) -> list[Row]:
    """Nothing is kept back: what comes before the first is lost, what comes after it is not."""
    parts, outs = (fragments(udp(v, A, DNS, 1000, 53, DATA), *CUTS),
                   fragments(udp(v, A, B, 1000, 5353, DATA, ttl=63), *CUTS))  # fmt: skip
    first, middle, last = parts
    other = fragments(udp(v, A, DNS, 1000, 53, DATA), *CUTS, identifier=0x1235)
    direct = fragments(udp(v, A, B, 1000, 53, DATA), *CUTS)
    denied = fragments(udp(v, A, C, 1000, 53, DATA), *CUTS)
    mine = fragments(udp(v, B, A, 1000, 53, DATA), *CUTS)
    return [
        drop(f"v{v} middle fragment alone", A, middle, Reason.FRAGMENT),
        drop(f"v{v} last fragment alone", A, last, Reason.FRAGMENT),
        forward(
            f"v{v} last fragment before the middle", A, last, B, outs[2], given=(step(A, first),)
        ),
        forward(
            f"v{v} middle fragment after the last", A, middle, B, outs[1],
            given=(step(A, first), step(A, last)),
        ),
        forward(f"v{v} first fragment again", A, first, B, outs[0], given=(step(A, first),)),
        drop(
            f"v{v} fragment of another datagram", A, other[1], Reason.FRAGMENT,
            given=(step(A, first),),
        ),
        drop(
            f"v{v} fragment to another address", A, direct[1], Reason.FRAGMENT,
            given=(step(A, first),),
        ),
        drop(
            f"v{v} fragment of another function", B, mine[1], Reason.FRAGMENT,
            given=(step(A, first),),
        ),
        drop(
            f"v{v} another's fragment", B, middle, Reason.SPOOF_IP, given=(step(A, first),)
        ),
        drop(f"v{v} first fragment to another tenant", A, denied[0], Reason.POLICY),
    ]  # fmt: skip


def _outside(v: int) -> list[Row]:
    first, middle, last = fragments(udp(v, A, NOBODY, 1000, 53, DATA), *CUTS)
    given = (step(A, first),)
    return [
        to_host(f"v{v} first fragment to the outside", A, first),
        to_host(f"v{v} middle fragment to the outside", A, middle, given=given),
        to_host(f"v{v} last fragment to the outside", A, last, given=given),
        drop(f"v{v} last fragment alone to the outside", A, last, Reason.FRAGMENT),
    ]


def _audit(v: int) -> list[Row]:
    rows = _all("", A, udp(v, A, D, 1, 2, DATA), D, udp(v, A, D, 1, 2, DATA, ttl=63), ())
    where = Drop("d", Direction.TO_FN, Reason.POLICY, audited=True)
    for row in rows:
        row.counted[where] = (1, len(row.step.frame))
    return [
        Row(f"v{v} audit{row.text}", row.step, row.verdict, row.out, row.counted, row.given)
        for row in rows
    ]


def _unfinished(v: int) -> list[Row]:
    """A first fragment has all of its transport's header, and no other reaches back into it."""

    def cut(make: Packet, at: int) -> Packet:
        return fragments(make, at)[0]

    rows = [
        drop(f"v{v} first fragment of {at} bytes of TCP", A, cut(tcp(v, A, B, 1, 2, "S", DATA), at),
             Reason.MALFORMED)
        for at in (8, 16)
    ]  # fmt: skip
    options = ip(v, A, B) / TCP(sport=1, dport=2, options=[("MSS", 1400)]) / DATA
    head = fragments(tcp(v, A, B, 1, 2, "S", DATA), 24)
    rows += [
        forward(
            f"v{v} first fragment of 24 bytes of TCP", A, head[0],
            B, fragments(tcp(v, A, B, 1, 2, "S", DATA, ttl=63), 24)[0],
        ),
        drop(
            f"v{v} first fragment of half the TCP options", A, _sized(options, 40), Reason.MALFORMED
        ),
    ]  # fmt: skip
    whole = tcp(v, A, B, 1000, 80, "S", DATA)
    first = (step(A, fragments(whole, 1024)[0]),)
    for at in (8, 16):
        later = fragments(whole, at)[1]
        rows.append(
            drop(f"v{v} fragment at byte {at} of TCP", A, later, Reason.MALFORMED, given=first)
        )
    return rows


def _small(v: int) -> list[Row]:
    """UDP needs no more than 8 bytes."""
    rows = []
    for at in (8, 16, 24):
        first, later, *_ = fragments(udp(v, A, B, 1000, 53, DATA), at, at + 8)
        out = fragments(udp(v, A, B, 1000, 53, DATA, ttl=63), at, at + 8)[1]
        text = f"v{v} fragment at byte {at} of UDP"
        rows.append(forward(text, A, later, B, out, given=(step(A, first),)))
    return rows


def _behind_options() -> list[Row]:
    """The first fragment has all headers (RFC 7112), and no other one reaches back into them."""
    rows = []
    for length, make, need, ports, data in (
        (8, udp, 8, (1000, 53), (DATA,)),
        (16, udp, 8, (1000, 53), (DATA,)),
        (40, udp, 8, (1000, 53), (DATA,)),
        (16, tcp, 24, (1000, 80), ("S", DATA)),
        (40, tcp, 24, (1000, 80), ("S", DATA)),
    ):
        options = IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=0x1E, optdata=bytes(length - 4))])
        on, out = make(6, A, B, *ports, *data), make(6, A, B, *ports, *data, ttl=63)
        at = length + need
        text = f"behind {length} bytes of options {make.__name__}"
        first, later = fragments(behind(on, options), at)
        after = fragments(behind(out, options), at)
        given = (step(A, first),)
        short, reaching = fragments(behind(on, options), at - 8)
        rows += [
            forward(f"{text} first fragment", A, first, B, after[0]),
            forward(f"{text} later fragment", A, later, B, after[1], given=given),
            drop(f"{text} too short a first fragment", A, short, Reason.MALFORMED),
            drop(f"{text} later fragment into it", A, reaching, Reason.MALFORMED, given=given),
        ]
    return rows


def _sized(packet: Packet, doff: int) -> Packet:
    """A first fragment of 24 bytes whose TCP header says it has ``doff``."""
    packet[TCP].dataofs = doff // 4
    return fragments(packet, 24)[0]


def _atomic() -> list[Row]:
    """A datagram of one fragment is whole, and needs nobody's ports (RFC 6946)."""

    def alone(packet: Packet) -> Packet:
        return behind(packet, IPv6ExtHdrFragment(id=0x1234))

    def more(packet: Packet) -> Packet:
        whole = built(alone(packet))
        header = whole[IPv6ExtHdrFragment]
        header.res1, header.res2 = 0x5A, 3  # reserved, and of no meaning
        return whole

    rows = []
    for text, dress in (("atomic fragment", alone), ("atomic fragment with reserved bits", more)):
        rows += [
            forward(f"{text}", A, dress(udp(6, A, B, 1000, 53)),
                    B, dress(udp(6, A, B, 1000, 53, ttl=63))),
            forward(f"service {text}", A, dress(tcp(6, A, WEB, 1000, 80)),
                    B, dress(tcp(6, A, B, 1000, 8080, ttl=63))),
        ]  # fmt: skip
    options = fragments(behind(udp(6, A, DNS, 1000, 53, DATA), IPv6ExtHdrDestOpt()), *CUTS)
    outs = fragments(behind(udp(6, A, B, 1000, 5353, DATA, ttl=63), IPv6ExtHdrDestOpt()), *CUTS)
    given = ()
    for part, one, out in zip(PARTS, options, outs, strict=True):
        text = f"service UDP behind options {part} fragment"
        rows.append(forward(text, A, one, B, out, given=given))
        given = (*given, step(A, one))
    return rows


def _forged() -> list[Row]:
    """Later fragments are what the first was, whatever they say themselves."""
    whole = tcp(6, A, WEB, 1000, 80, "S", DATA)
    given = (step(A, fragments(whole, 1024)[0]),)
    head = IPv6(src=A.address6, dst=WEB.address6, nh=44)
    reaching = head / IPv6ExtHdrFragment(nh=17, offset=1, m=1, id=0x1234) / Raw(bytes(64))
    other = IP(src=A.address4, dst=B.address4, id=0x1234, frag=64, proto=6) / Raw(bytes(64))
    return [
        drop("fragment into TCP that calls itself UDP", A, reaching, Reason.MALFORMED, given=given),
        drop(
            "IPv4 fragment of another protocol", A, other, Reason.FRAGMENT,
            given=(step(A, fragments(udp(4, A, B, 1, 2, DATA), 512)[0]),),
        ),
        drop(
            "fragment of GRE", A,
            IP(src=A.address4, dst=B.address4, flags="MF", proto=47) / Raw(bytes(64)),
            Reason.PROTOCOL,
        ),
        drop(
            "first fragment of UDP without length", A,
            IP(src=A.address4, dst=B.address4, flags="MF") / UDP(sport=1, dport=2, len=7) / DATA,
            Reason.MALFORMED,
        ),
    ]  # fmt: skip


ROWS = [
    row
    for v in BOTH
    for make in (_direct, _service, _order, _outside, _audit, _unfinished, _small)
    for row in make(v)
] + [row for make in (_atomic, _behind_options, _forged) for row in make()]
