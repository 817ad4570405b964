# SPDX-License-Identifier: BSD-2-Clause
"""Packets of functions that pass: where they go and what they look like there.

a ─ 1000 ▶ 80 web ─ mesh ─ 1000 ▶ 8080 ─▶ b
a ◀ 1000 ─ 80 web ─ mesh ─ 1000 ◀ 8080 ── b
"""

import struct
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from scapy.layers.inet import IP, TCP, UDP, IPOption
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from ebpfmesh._abi import Direction, Reason
from prog.lab import HAIRPIN, NOBODY, Drop, peer, service
from prog.rows import Row, forward, step, to_host
from support.packets import Peer, built, ping, pong, received, sent, tcp, udp

A, B, C, D, E = (peer(name) for name in "abcde")
WEB, SAME, DNS, TIME, SHOP = (service(n) for n in ("web", "same", "dns", "time", "shop"))
SELF, MIRROR = service("self"), service("mirror")
BOTH = (4, 6)
LAYER = {tcp: TCP, udp: UDP}
Maker = Callable[..., Packet]


def _direct(v: int) -> list[Row]:
    syn, query, echo = tcp(v, A, B, 1000, 80), udp(v, A, B, 1000, 53), ping(v, A, B)
    asked = (step(A, syn), step(A, query), step(A, echo))
    return [
        forward(f"v{v} TCP", A, syn, B, tcp(v, A, B, 1000, 80, ttl=63)),
        forward(f"v{v} UDP", A, query, B, udp(v, A, B, 1000, 53, ttl=63)),
        forward(f"v{v} ping", A, echo, B, ping(v, A, B, ttl=63)),
        forward(
            f"v{v} SYN+ACK to the opener", B, tcp(v, B, A, 80, 1000, "SA"),
            A, tcp(v, B, A, 80, 1000, "SA", ttl=63), given=asked,
        ),
        forward(
            f"v{v} UDP reply", B, udp(v, B, A, 53, 1000),
            A, udp(v, B, A, 53, 1000, ttl=63), given=asked,
        ),
        forward(
            f"v{v} echo reply", B, pong(v, B, A), A, pong(v, B, A, ttl=63), given=asked
        ),
        forward(
            f"v{v} bare ACK of a flow from before the mesh", A, tcp(v, A, B, 1000, 80, "A", b"x"),
            B, tcp(v, A, B, 1000, 80, "A", b"x", ttl=63),
        ),
    ]  # fmt: skip


def _closing(v: int) -> list[Row]:
    """In a flow that is known every flag passes, either way."""
    syn = (step(A, tcp(v, A, B, 1000, 80)),)
    return [
        forward(
            f"v{v} TCP {flags} {text}", here, tcp(v, here, there, *ports, flags),
            there, tcp(v, here, there, *ports, flags, ttl=63), given=syn,
        )
        for flags in ("F", "FA", "R", "RA", "PA", "")
        for text, here, there, ports in (("on", A, B, (1000, 80)), ("back", B, A, (80, 1000)))
    ]  # fmt: skip


def _service(v: int) -> list[Row]:
    rows = []
    for text, make, front, port, own in (
        ("TCP to another port", tcp, WEB, 80, 8080),
        ("TCP to the same port", tcp, SAME, 8080, 8080),
        ("UDP to another port", udp, DNS, 53, 5353),
        ("UDP to the same port", udp, TIME, 123, 123),
    ):
        asked = make(v, A, front, 1000, port)
        flags = ("SA",) if make is tcp else (b"answer",)
        rows += [
            forward(f"v{v} service {text}", A, asked, B, make(v, A, B, 1000, own, ttl=63)),
            forward(
                f"v{v} service {text} established", A, asked, B, make(v, A, B, 1000, own, ttl=63),
                given=(step(A, asked),),
            ),
            forward(
                f"v{v} service {text} reply", B, make(v, B, A, own, 1000, *flags),
                A, make(v, front, A, port, 1000, *flags, ttl=63), given=(step(A, asked),),
            ),
        ]  # fmt: skip
    return rows


def _odd_service(v: int) -> list[Row]:
    """Payloads of odd length, empty ones and full ones through translation."""
    sizes = {"odd": b"odd", "empty": b"", "full": bytes(range(256)) * 5}
    return [
        forward(
            f"v{v} service {make.__name__} {text} payload",
            A,
            make(v, A, front, 1000, port, *mid, data),
            B,
            make(v, A, B, 1000, own, *mid, data, ttl=63),
        )
        for make, front, port, own, mid in ((tcp, WEB, 80, 8080, ("A",)), (udp, DNS, 53, 5353, ()))
        for text, data in sizes.items()
    ]


def _fold(total: int) -> int:
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _with_checksum(checksum: int, make: Maker, *arguments: Any) -> bytes:
    """Two bytes of payload with which the packet has this checksum."""
    plain = built(make(*arguments, payload=b"\0\0"))
    return _fold((~checksum & 0xFFFF) + plain[LAYER[make]].chksum).to_bytes(2)


def _checksums(v: int) -> list[Row]:
    """Results that are easily wrong: zero, and all that carry twice into the 16 bits."""
    rows = []
    for make, front, port, own in ((tcp, WEB, 80, 8080), (udp, DNS, 53, 5353)):
        for checksum in (0, 0xFEFF, 0xFDFF, 0xFCFF, 0xFFFE, 0xFFFD, 0xFFFC):
            data = _with_checksum(checksum, make, v, A, B, 1000, own)
            out = make(v, A, B, 1000, own, payload=data, ttl=63)
            # A UDP checksum of zero would mean that there is none (RFC 768).
            shown = 0xFFFF if checksum == 0 and make is udp else checksum
            assert built(out)[LAYER[make]].chksum == shown
            packet = make(v, A, front, 1000, port, payload=data)
            text = f"v{v} {make.__name__} checksum becomes {checksum:04x}"
            rows.append(forward(text, A, packet, B, out))
        data = _with_checksum(0, make, v, A, front, 1000, port)
        packet = make(v, A, front, 1000, port, payload=data)
        out = make(v, A, B, 1000, own, payload=data, ttl=63)
        rows.append(forward(f"v{v} {make.__name__} checksum was zero", A, packet, B, out))
    return rows


def _like_partial(v: int) -> list[Row]:
    """A whole checksum that happens to be the pseudo-header's sum, as offload leaves it there."""
    rows = []
    for make, front, port, own in ((tcp, WEB, 80, 8080), (udp, DNS, 53, 5353)):
        plain = built(make(v, A, front, 1000, port, payload=b"\0\0"))
        words = b"".join(ip_address(peer.at(v)).packed for peer in (A, front))
        length, number = len(plain[LAYER[make]]), {tcp: 6, udp: 17}[make]
        pseudo = _fold(sum(struct.unpack(f"!{len(words) // 2}H", words)) + number + length)
        data = _with_checksum(pseudo, make, v, A, front, 1000, port)
        packet = make(v, A, front, 1000, port, payload=data)
        assert built(packet)[LAYER[make]].chksum == pseudo
        out = make(v, A, B, 1000, own, payload=data, ttl=63)
        rows.append(forward(f"v{v} {make.__name__} checksum like a partial one", A, packet, B, out))
    return rows


def _unsummed() -> list[Row]:
    """UDP over IPv4 may come without a checksum, which is then not made up (RFC 768)."""
    plain, asked = udp(4, A, B, 1000, 53, checksum=0), udp(4, A, DNS, 1000, 53, checksum=0)
    return [
        forward("UDP without checksum", A, plain, B, udp(4, A, B, 1000, 53, checksum=0, ttl=63)),
        forward(
            "service UDP without checksum",
            A,
            asked,
            B,
            udp(4, A, B, 1000, 5353, checksum=0, ttl=63),
        ),
        forward(
            "service UDP reply without checksum",
            B,
            udp(4, B, A, 5353, 1000, checksum=0),
            A,
            udp(4, DNS, A, 53, 1000, checksum=0, ttl=63),
            given=(step(A, asked),),
        ),
    ]


def _headers() -> list[Row]:
    """What is not the mesh's business stays as it is."""

    def v4(destination: Peer, port: int, ttl: int) -> Packet:
        return IP(
            src=A.address4, dst=destination.address4, ttl=ttl, id=77, tos=0xB9, flags="DF",
            options=[IPOption(b"\x94\x04\x00\x00")],
        ) / TCP(sport=1000, dport=port, options=[("MSS", 1400), ("WScale", 7)])  # fmt: skip

    def v6(destination: Peer, port: int, ttl: int) -> Packet:
        packet = tcp(6, A, destination, 1000, port, ttl=ttl)
        packet.tc, packet.fl = 0xB9, 0x12345
        return packet

    rows = []
    for text, make in (("IPv4 and TCP options, TOS, DF", v4), ("class and flow label", v6)):
        rows += [
            forward(text, A, make(B, 8080, 64), B, make(B, 8080, 63)),
            forward(f"service {text}", A, make(WEB, 80, 64), B, make(B, 8080, 63)),
        ]
    return rows


def _hairpin(v: int) -> list[Row]:
    """A function that a service sends to itself sees a stranger, and answers that."""
    rows = []
    for make, front, port, own, answer in (
        (tcp, SELF, 80, 80, "SA"),
        (udp, MIRROR, 53, 5353, b"answer"),
    ):
        asked = make(v, A, front, 1000, port)
        given = (step(A, asked),)
        text = f"v{v} hairpin {make.__name__}"
        rows += [
            forward(text, A, asked, A, make(v, HAIRPIN, A, 1000, own, ttl=63)),
            forward(
                f"{text} reply", A, make(v, A, HAIRPIN, own, 1000, answer),
                A, make(v, front, A, port, 1000, answer, ttl=63), given=given,
            ),
            forward(
                f"{text} again", A, asked, A, make(v, HAIRPIN, A, 1000, own, ttl=63), given=given
            ),
        ]  # fmt: skip
    steps = (("S", A, SELF, 1000, 80), ("SA", A, HAIRPIN, 80, 1000), ("A", A, SELF, 1000, 80))
    given = tuple(step(A, tcp(v, a, b, sport, dport, f)) for f, a, b, sport, dport in steps)
    for text, source, there, here, sport, dport in (
        ("on", SELF, HAIRPIN, A, 1000, 80),
        ("back", HAIRPIN, SELF, A, 80, 1000),
    ):
        data = tcp(v, A, source, sport, dport, "PA", b"data")
        out = tcp(v, there, here, sport, dport, "PA", b"data", ttl=63)
        rows.append(forward(f"v{v} hairpin established {text}", A, data, A, out, given=given))
    return rows


def _options() -> list[Row]:
    """IPv4 options that lead nowhere else."""

    def packet(to: Peer, port: int, options: bytes, ttl: int) -> Packet:
        head = IP(src=A.address4, dst=to.address4, ttl=ttl, options=[Raw(options)])
        return head / UDP(sport=1000, dport=port) / b"data"

    return [
        forward(
            f"service IPv4 {text}",
            A,
            packet(DNS, 53, options, 64),
            B,
            packet(B, 5353, options, 63),
        )
        for text, options in (
            ("without operation", b"\x01" * 12),
            ("record route", bytes([7, 7, 4, 0, 0, 0, 0, 0])),
            ("timestamp", bytes([68, 8, 5, 0, 0, 0, 0, 0])),
            ("of forty bytes", bytes([7, 39, 4, *bytes(36), 0])),
            ("route behind their end", bytes([0, 131, 7, 4, 1, 2, 3, 4])),
            ("of a length to nowhere", bytes([7, 40, 4, 0])),
        )
    ]


def _ethernet(v: int) -> list[Row]:
    syn, out = tcp(v, A, B, 1000, 80), tcp(v, A, B, 1000, 80, ttl=63)
    padding = Raw(b"\0" * 6)
    broadcast = Ether(src=A.mac, dst="ff:ff:ff:ff:ff:ff")
    return [
        forward(f"v{v} padding after it", A, sent(A, syn) / padding, B, received(B, out) / padding),
        forward(f"v{v} whatever MAC it was sent to", A, broadcast / syn, B, out),
    ]


def _ttl(v: int) -> list[Row]:
    return [
        forward(
            f"v{v} TTL {ttl}",
            A,
            udp(v, A, B, 1000, 53, ttl=ttl),
            B,
            udp(v, A, B, 1000, 53, ttl=ttl - 1),
        )
        for ttl in (2, 128, 129, 255)
    ] + [to_host(f"v{v} TTL 1 to the outside", A, udp(v, A, NOBODY, 1000, 53, ttl=1))]


def _policy(v: int) -> list[Row]:
    audited = {
        Drop("d", Direction.TO_FN, Reason.POLICY, audited=True): (
            1,
            len(sent(A, tcp(v, A, D, 1, 2))),
        )
    }
    rule = udp(v, A, C, 1000, 2)
    return [
        forward(
            f"v{v} a rule for a port", A, tcp(v, A, C, 1, 443), C, tcp(v, A, C, 1, 443, ttl=63)
        ),
        forward(
            f"v{v} a rule for a service",
            B,
            tcp(v, B, SHOP, 1, 80),
            C,
            tcp(v, B, C, 1, 8080, ttl=63),
        ),
        forward(f"v{v} allow of lower priority number", A, rule, C, udp(v, A, C, 1000, 2, ttl=63)),
        forward(f"v{v} audit", A, tcp(v, A, D, 1, 2), D, tcp(v, A, D, 1, 2, ttl=63), also=audited),
        forward(
            f"v{v} established in audit",
            A,
            tcp(v, A, D, 1, 2),
            D,
            tcp(v, A, D, 1, 2, ttl=63),
            given=(step(A, tcp(v, A, D, 1, 2)),),
            also=audited,
        ),
        to_host(f"v{v} TCP to the outside", A, tcp(v, A, NOBODY, 1000, 80)),
        to_host(f"v{v} UDP to the outside", C, udp(v, C, NOBODY, 1000, 53)),
        to_host(f"v{v} ping to the outside", A, ping(v, A, NOBODY)),
        to_host(
            f"v{v} TCP to the outside established",
            A,
            tcp(v, A, NOBODY, 1000, 80, "A"),
            given=(step(A, tcp(v, A, NOBODY, 1000, 80)),),
        ),
    ]


ROWS = (
    [
        row
        for v in BOTH
        for make in (
            _direct,
            _closing,
            _service,
            _odd_service,
            _checksums,
            _like_partial,
            _hairpin,
            _ethernet,
            _ttl,
            _policy,
        )
        for row in make(v)
    ]
    + _unsummed()
    + _headers()
    + _options()
)
