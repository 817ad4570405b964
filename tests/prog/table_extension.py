# SPDX-License-Identifier: BSD-2-Clause
"""IPv6 extension headers (RFC 8200, 4): walked, and left as they are."""

from scapy.layers.inet import UDP
from scapy.layers.inet6 import (
    HBHOptUnknown,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    RouterAlert,
)
from scapy.packet import Packet, Raw

from ebpfmesh._abi import EXTENSIONS_MAX, Reason
from prog.lab import HAIRPIN, NOBODY, peer, service
from prog.rows import Row, drop, forward, step, to_host
from support.packets import Peer, behind, built, error, ip, ping, pong, sent, tcp, udp

A, B, C = (peer(name) for name in "abc")
WEB, DNS, SELF = (service(name) for name in ("web", "dns", "self"))
HOP, OPTIONS = IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt()
LONG = IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=0x1E, optdata=bytes(36))])  # 40 bytes


def _routing(kind: int, left: int) -> Packet:
    return IPv6ExtHdrRouting(type=kind, segleft=left, addresses=[C.address6])


CHAINS = {
    "hop-by-hop options": (HOP,),
    "router alert": (IPv6ExtHdrHopByHop(options=[RouterAlert()]),),
    "destination options": (OPTIONS,),
    "long destination options": (LONG,),
    "routing header 0 at its end": (_routing(0, 0),),
    "routing header 2 at its end": (_routing(2, 0),),
    "routing header 4 at its end": (_routing(4, 0),),
    "all of them": (HOP, OPTIONS, _routing(2, 0), OPTIONS),
    "as many as are walked": (HOP, *[OPTIONS] * (EXTENSIONS_MAX - 1)),
    "as long as is walked": (LONG, LONG, LONG, OPTIONS),  # 128 bytes
}


def _passes() -> list[Row]:
    rows = []
    for text, headers in CHAINS.items():
        for what, on, out in (
            ("TCP", tcp(6, A, B, 1000, 80), tcp(6, A, B, 1000, 80, ttl=63)),
            ("ping", ping(6, A, B), ping(6, A, B, ttl=63)),
            ("service TCP", tcp(6, A, WEB, 1000, 80), tcp(6, A, B, 1000, 8080, ttl=63)),
            ("service UDP", udp(6, A, DNS, 1000, 53), udp(6, A, B, 1000, 5353, ttl=63)),
            ("hairpin", tcp(6, A, SELF, 1000, 80), tcp(6, HAIRPIN, A, 1000, 80, ttl=63)),
        ):
            to = A if what == "hairpin" else B
            rows.append(
                forward(f"{what} behind {text}", A, behind(on, *headers), to, behind(out, *headers))
            )
    return rows


def _answers() -> list[Row]:
    """Headers make no other flow of it, and may come and go."""
    asked = (step(A, behind(tcp(6, A, WEB, 1000, 80), HOP)), step(A, ping(6, A, B)))
    back, out = tcp(6, B, A, 8080, 1000, "SA"), tcp(6, WEB, A, 80, 1000, "SA", ttl=63)
    about = error(6, B, A, built(tcp(6, A, B, 1000, 8080, ttl=63)))
    after = error(6, WEB, A, built(tcp(6, A, WEB, 1000, 80, ttl=63)), ttl=63)
    return [
        forward(
            "answer with options", B, behind(back, OPTIONS), A, behind(out, OPTIONS), given=asked
        ),
        forward("answer without options", B, back, A, out, given=asked),
        forward(
            "echo reply with options", B, behind(pong(6, B, A), OPTIONS),
            A, behind(pong(6, B, A, ttl=63), OPTIONS), given=asked,
        ),
        forward(
            "error with options", B, behind(about, LONG, LONG, LONG, OPTIONS),
            A, behind(after, LONG, LONG, LONG, OPTIONS), given=asked,
        ),
        to_host("options to the outside", A, behind(udp(6, A, NOBODY, 1000, 53), OPTIONS)),
    ]  # fmt: skip


def _number(packet: Packet, number: int) -> Packet:
    """The packet, with another number for what comes after its last extension header."""
    whole = packet.copy()
    whole.payload.nh = number
    return whole


def _drops() -> list[Row]:
    syn = tcp(6, A, B, 1000, 80)
    optional = behind(syn, OPTIONS)
    group = Peer("", "", "ff02::fb")
    rows = [
        drop(f"behind {text}", A, packet, reason)
        for text, packet, reason in (
            ("routing header 0 on its way", behind(syn, _routing(0, 1)), Reason.PROTOCOL),
            ("routing header 2 on its way", behind(syn, _routing(2, 1)), Reason.PROTOCOL),
            ("routing header 0 with 255 left", behind(syn, _routing(0, 255)), Reason.PROTOCOL),
            ("segment routing on its way", behind(syn, _routing(4, 1)), Reason.PROTOCOL),
            ("one header too many", behind(syn, HOP, *[OPTIONS] * EXTENSIONS_MAX), Reason.PROTOCOL),
            ("headers too long", behind(syn, LONG, LONG, LONG, OPTIONS, OPTIONS), Reason.PROTOCOL),
            ("options that end it", ip(6, A, B) / IPv6ExtHdrDestOpt(nh=59), Reason.PROTOCOL),
            ("options to a group", behind(udp(6, A, group, 1, 2), OPTIONS), Reason.MULTICAST),
            ("options to another tenant", behind(tcp(6, A, C, 1, 2), OPTIONS), Reason.POLICY),
            ("options of no flow", behind(tcp(6, A, B, 1, 2, "SA"), OPTIONS), Reason.NO_FLOW),
        )
    ]  # fmt: skip
    for text, number in (("AH", 51), ("ESP", 50), ("nothing", 59), ("mobility", 135), ("HIP", 139),
                         ("IPv4", 4), ("ICMP of IPv4", 1)):  # fmt: skip
        bare = ip(6, A, B) / Raw(bytes(64))
        bare.nh = number
        rows += [
            drop(f"IPv6 {text}", A, bare, Reason.PROTOCOL),
            drop(f"{text} behind options", A, _number(optional, number), Reason.PROTOCOL),
        ]
    return rows


def _lengths() -> list[Row]:
    """Headers that end behind the packet."""
    short = built(sent(A, behind(udp(6, A, B, 1, 2), OPTIONS)))
    rows = []
    for length in (1, 2, 15):
        frame = bytearray(bytes(short))
        frame[14 + 40 + 1] = length
        rows.append(
            drop(f"options of {length + 1} times 8 bytes", A, bytes(frame), Reason.MALFORMED)
        )
    frame = bytearray(bytes(short))
    frame[14 + 40 + 1] = 255
    beyond = ip(6, A, B) / IPv6ExtHdrDestOpt(nh=17, len=1) / bytes(8) / UDP(sport=1, dport=2, len=8)
    beyond.plen = 8  # all that follows is padding
    rows.append(drop("options that end in the padding", A, beyond, Reason.MALFORMED))
    return [*rows, drop("options of 256 times 8 bytes", A, bytes(frame), Reason.PROTOCOL)]


ROWS = [row for make in (_passes, _answers, _drops, _lengths) for row in make()]
