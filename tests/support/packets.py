# SPDX-License-Identifier: BSD-2-Clause
"""Packets, built by scapy: who sends what to whom, as IP packets and as whole frames.

scapy computes every checksum from the whole packet, so a packet built here is what a program
should have turned another one into, however it got there.
"""

from dataclasses import dataclass
from itertools import pairwise

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from ebpfmesh.kernel.interface import GATEWAY_MAC

GATEWAY4, GATEWAY6 = "169.254.1.1", "fe80::1"
"""Who answers a function for the mesh."""

NEXT = {
    IPv6ExtHdrHopByHop: 0,
    IPv6ExtHdrRouting: 43,
    IPv6ExtHdrFragment: 44,
    IPv6ExtHdrDestOpt: 60,
}
"""Numbers of IPv6's extension headers, as the header before them names them."""

MULTICAST4, MULTICAST6 = "224.0.0.251", "ff02::fb"


@dataclass(frozen=True)
class Peer:
    """A function, a service, or somebody outside; only a function has a MAC."""

    name: str
    address4: str
    address6: str
    mac: str = ""

    def at(self, version: int) -> str:
        """Its address of IP version 4 or 6."""
        return self.address4 if version == 4 else self.address6


def ip(version: int, source: Peer, destination: Peer, *, ttl: int = 64) -> Packet:
    """An IPv4 or IPv6 header; ``ttl`` is the hop limit too."""
    ends = {"src": source.at(version), "dst": destination.at(version)}
    return IP(**ends, ttl=ttl) if version == 4 else IPv6(**ends, hlim=ttl)


def tcp(  # noqa: PLR0917  (as one says it: from, to, ports)
    version: int, source: Peer, destination: Peer, sport: int, dport: int,
    flags: str = "S", payload: bytes = b"", *, ttl: int = 64,
) -> Packet:  # fmt: skip
    """A TCP segment."""
    return (
        ip(version, source, destination, ttl=ttl)
        / TCP(sport=sport, dport=dport, flags=flags)
        / payload
    )


def udp(
    version: int, source: Peer, destination: Peer, sport: int, dport: int,
    payload: bytes = b"data", *, ttl: int = 64, checksum: int | None = None,
) -> Packet:  # fmt: skip
    """A UDP datagram; ``checksum`` as given, or the right one."""
    layer = UDP(sport=sport, dport=dport, chksum=checksum)
    return ip(version, source, destination, ttl=ttl) / layer / payload


def ping(
    version: int, source: Peer, destination: Peer, identifier: int = 7,
    payload: bytes = b"abcdefgh", *, ttl: int = 64,
) -> Packet:  # fmt: skip
    """An ICMP or ICMPv6 echo request."""
    layer = ICMP(id=identifier) if version == 4 else ICMPv6EchoRequest(id=identifier)
    return ip(version, source, destination, ttl=ttl) / layer / payload


def pong(
    version: int, source: Peer, destination: Peer, identifier: int = 7,
    payload: bytes = b"abcdefgh", *, ttl: int = 64,
) -> Packet:  # fmt: skip
    """The echo reply to ``ping``."""
    layer = ICMP(type=0, id=identifier) if version == 4 else ICMPv6EchoReply(id=identifier)
    return ip(version, source, destination, ttl=ttl) / layer / payload


ERRORS: dict[int, dict[str, Packet]] = {
    4: {
        "unreachable": ICMP(type=3, code=1),
        "port unreachable": ICMP(type=3, code=3),
        "prohibited": ICMP(type=3, code=13),
        "fragmentation needed": ICMP(type=3, code=4, nexthopmtu=1280),
        "time exceeded": ICMP(type=11, code=0),
        "parameter problem": ICMP(type=12, code=0, ptr=1),
    },
    6: {
        "unreachable": ICMPv6DestUnreach(code=0),
        "port unreachable": ICMPv6DestUnreach(code=4),
        "prohibited": ICMPv6DestUnreach(code=1),
        "packet too big": ICMPv6PacketTooBig(mtu=1280),
        "time exceeded": ICMPv6TimeExceeded(code=0),
        "parameter problem": ICMPv6ParamProblem(code=1, ptr=6),
    },
}
"""ICMP errors by version and name, without what they quote."""


def error(
    version: int, source: Peer, destination: Peer, quoted: Packet | bytes,
    kind: str = "port unreachable", *, ttl: int = 64, size: int | None = None,
) -> Packet:  # fmt: skip
    """An ICMP error about a packet; ``size``: so many bytes of that, from its IP header on."""
    layer = ERRORS[version][kind].copy()
    return ip(version, source, destination, ttl=ttl) / layer / Raw(bytes(quoted)[:size])


def fragments(packet: Packet, *cuts: int, identifier: int = 0x1234) -> list[Packet]:
    """The fragments of a packet, cut at these bytes behind its IP header."""
    whole = built(packet)
    head, data = whole.copy(), bytes(whole.payload)
    head.remove_payload()
    made = []
    for start, end in pairwise((0, *cuts, len(data))):
        more = end < len(data)
        if isinstance(head, IP):
            one = head.copy()
            one.id, one.flags, one.frag = identifier, "MF" if more else 0, start // 8
            del one.len, one.chksum
        else:
            cut = IPv6ExtHdrFragment(nh=head.nh, offset=start // 8, m=more, id=identifier)
            one = IPv6(src=head.src, dst=head.dst, hlim=head.hlim, nh=44) / cut
        made.append(one / Raw(data[start:end]))
    return made


def behind(packet: Packet, *headers: Packet) -> Packet:
    """An IPv6 packet with extension headers before its transport's."""
    whole = packet.copy()
    number, rest = built(whole).nh, whole.payload
    whole.remove_payload()
    for inner, header in zip((*headers[1:], None), headers, strict=True):
        whole = whole / header.copy()
        whole.lastlayer().nh = NEXT[type(inner)] if inner else number
    whole.nh = NEXT[type(headers[0])]
    return whole / rest


GATEWAY = Peer("gateway", GATEWAY4, GATEWAY6)


def told(
    version: int, to: Peer, packet: Packet, kind: str = "time exceeded", source: Peer = GATEWAY
) -> Packet:
    """The ICMP error that the mesh answers a packet with."""
    whole = built(packet)
    size = (20 if version == 4 else 40) + (20 if TCP in whole else 8)
    made = error(version, source, to, whole, kind, size=size)
    if version == 4:
        made.id = 0
    return made


def reset(packet: Packet) -> Packet:
    """What a closed port answers a segment with (RFC 9293, 3.10.7.1), as the mesh does."""
    whole = built(packet)
    head, segment = whole.copy(), whole[TCP]
    back = TCP(sport=segment.dport, dport=segment.sport, window=0)
    if segment.flags.A:
        back.flags, back.seq = "R", segment.ack
    else:
        taken = len(segment.payload) + bool(segment.flags.S) + bool(segment.flags.F)
        back.flags, back.seq, back.ack = "RA", 0, (segment.seq + taken) % 2**32
    if isinstance(head, IP):
        return IP(src=head.dst, dst=head.src, id=0, flags="DF") / back
    return IPv6(src=head.dst, dst=head.src) / back


def sent(function: Peer, packet: Packet) -> Packet:
    """The frame in which a function sends a packet."""
    return Ether(src=function.mac, dst=GATEWAY_MAC) / packet


def received(function: Peer, packet: Packet) -> Packet:
    """The frame in which a function gets a packet."""
    return Ether(src=GATEWAY_MAC, dst=function.mac) / packet


def built(packet: Packet) -> Packet:
    """The packet with every field filled in, checksums and lengths too."""
    return packet.__class__(bytes(packet))


def dissect(frame: bytes) -> str:
    """A frame in words, every field of it, for the message of a failed comparison."""
    return str(Ether(frame).show2(dump=True))
