# SPDX-License-Identifier: BSD-2-Clause
"""Packets that a rule rejects: their sender gets a reset or ICMP, and nobody gets anything else."""

from scapy.layers.inet import IP, TCP, IPOption
from scapy.layers.inet6 import IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from ebpfmesh._abi import Direction, Reason
from ebpfmesh.kernel.interface import GATEWAY_MAC
from prog.lab import NOBODY, Drop, peer, service
from prog.rows import Row, drop, forward, rejected, step
from prog.table_to_function import drop as drop_in
from support.packets import (
    Peer,
    behind,
    fragments,
    ip,
    ping,
    received,
    reset,
    tcp,
    told,
    udp,
)

A, B, C, D = (peer(name) for name in "abcd")
CLOSED = service("closed")
BOTH = (4, 6)


def _segment(
    v: int, source: Peer, to: Peer, port: int, flags: str = "S", data: bytes = b"", **fields: int
) -> Packet:
    return ip(v, source, to) / TCP(sport=1000, dport=port, flags=flags, **fields) / data


SEGMENTS = {
    "SYN": ("S", b"", {"seq": 0x12345678}),
    "SYN at the end of the numbers": ("S", b"", {"seq": 0xFFFFFFFF}),
    "SYN with data": ("S", b"early", {"seq": 7}),
    "bare ACK": ("A", b"", {"seq": 7, "ack": 0xFFFFFFF0}),
    "data": ("PA", bytes(range(256)) * 5, {"seq": 7, "ack": 9}),
    "odd data": ("PA", b"odd", {"seq": 7, "ack": 9}),
}


def _resets(v: int) -> list[Row]:
    rows = []
    for text, (flags, data, numbers) in SEGMENTS.items():
        for to, port, name in ((C, 9, "function"), (NOBODY, 26, "outside")):
            packet = _segment(v, A, to, port, flags, data, **numbers)
            rows.append(rejected(f"v{v} {text} to {name}", A, packet, reset(packet)))
    packet = _segment(v, B, CLOSED, 80, seq=7)
    rows.append(rejected(f"v{v} SYN to a service", B, packet, reset(packet)))
    optional = ip(v, A, C) / TCP(sport=1, dport=9, options=[("MSS", 1400), ("WScale", 7)]) / b"x"
    rows.append(rejected(f"v{v} SYN with TCP options", A, optional, reset(optional)))
    return rows


def _told(v: int) -> list[Row]:
    """Whatever is not TCP; no more is quoted of it than RFC 792 asks for."""
    return [
        rejected(f"v{v} {text} is told", sender, packet, told(v, sender, packet, "prohibited"))
        for text, sender, packet in (
            ("UDP", A, udp(v, A, C, 1000, 9)),
            ("empty UDP", A, udp(v, A, C, 1000, 9, b"")),
            ("full UDP", A, udp(v, A, C, 1000, 9, bytes(1400))),
            ("UDP of TTL 1", A, udp(v, A, C, 1000, 9, ttl=1)),
            ("ping", B, ping(v, B, C)),
            ("UDP of stronger allow", A, udp(v, A, C, 1000, 11)),
        )
    ]


def _quietly(v: int) -> list[Row]:
    """Whoever is denied is not told, nor a reset, an error or a later fragment."""
    first, later = fragments(udp(v, A, C, 1000, 9, bytes(64)), 32)
    asked = (step(A, udp(v, A, B, 1000, 53)),)
    return [
        drop(f"v{v} deny before reject", A, udp(v, A, C, 1000, 10), Reason.POLICY),
        drop(f"v{v} denied as before", A, tcp(v, A, C, 1000, 80), Reason.POLICY),
        drop(f"v{v} reset to where it is rejected", A, tcp(v, A, C, 1000, 9, "R"), Reason.NO_FLOW),
        rejected(f"v{v} first fragment is told", A, first, told(v, A, first, "prohibited")),
        drop(
            f"v{v} later fragment of what was rejected", A, later, Reason.POLICY,
            given=(step(A, first),),
        ),
        forward(
            f"v{v} rule of another protocol", A, udp(v, A, B, 1000, 26),
            B, udp(v, A, B, 1000, 26, ttl=63), given=asked,
        ),
    ]  # fmt: skip


def _audit(v: int) -> list[Row]:
    """A function in audit gets it, and nobody is told."""
    where = Drop("d", Direction.TO_FN, Reason.POLICY, audited=True)
    packet, out = udp(v, A, D, 1000, 9), udp(v, A, D, 1000, 9, ttl=63)
    length = len(received(D, out))
    return [
        forward(f"v{v} audited", A, packet, D, out, also={where: (1, length)}),
    ]


def _dressed() -> list[Row]:
    """A reset needs nothing of the packet but its ends; options are not quoted."""
    options = IP(src=A.address4, dst=C.address4, options=[IPOption(b"\x94\x04\0\0")])
    segment = options / TCP(sport=1000, dport=9, seq=7) / b"data"
    headers = IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt()
    six = behind(_segment(6, A, C, 9, seq=7), *headers)
    datagram = options / udp(4, A, C, 1000, 9).payload
    return [
        rejected("SYN with IPv4 options", A, segment, reset(segment)),
        rejected("SYN behind extension headers", A, six, reset(six)),
        drop("UDP with IPv4 options is not told", A, datagram, Reason.POLICY),
    ]


ROWS = [
    row for v in BOTH for make in (_resets, _told, _quietly, _audit) for row in make(v)
] + _dressed()


def _rejected_in(text: str, packet: Packet, answer: Packet) -> Row:
    """The host gets the answer as if the function had sent it."""
    row = drop_in(text, A, packet, Reason.POLICY)
    out = bytes(Ether(src=A.mac, dst=GATEWAY_MAC) / answer)
    return Row(row.text, row.step, "forward", out, row.counted)


def _from_host(v: int) -> list[Row]:
    rows = [
        _rejected_in(f"v{v} {text} from outside", packet, reset(packet))
        for text, (flags, data, numbers) in SEGMENTS.items()
        for packet in (_segment(v, NOBODY, A, 9, flags, data, **numbers),)
    ]
    packet = udp(v, NOBODY, A, 1000, 9)
    answer = told(v, NOBODY, packet, "prohibited", source=A)
    return [*rows, _rejected_in(f"v{v} UDP from outside", packet, answer)]


TO_FUNCTION = [row for v in BOTH for row in _from_host(v)]
