# SPDX-License-Identifier: BSD-2-Clause
"""Packets, built by scapy: who sends what to whom, as IP packets and as whole frames.

scapy computes every checksum from the whole packet, so a packet built here tells what a program
should have made of another one, however the program got there.
"""

from dataclasses import dataclass

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from ebpfmesh.kernel.interface import GATEWAY_MAC

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
    version: int, source: Peer, destination: Peer, identifier: int = 7, *, ttl: int = 64
) -> Packet:
    """An ICMP or ICMPv6 echo request."""
    layer = ICMP(id=identifier) if version == 4 else ICMPv6EchoRequest(id=identifier)
    return ip(version, source, destination, ttl=ttl) / layer / b"abcdefgh"


def pong(
    version: int, source: Peer, destination: Peer, identifier: int = 7, *, ttl: int = 64
) -> Packet:
    """The echo reply to ``ping``."""
    layer = ICMP(type=0, id=identifier) if version == 4 else ICMPv6EchoReply(id=identifier)
    return ip(version, source, destination, ttl=ttl) / layer / b"abcdefgh"


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
