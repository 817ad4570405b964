# SPDX-License-Identifier: BSD-2-Clause
"""What the sender of a rejected packet is told: a reset, or ICMP administratively prohibited.

Of ICMP the source is the router's, and what is quoted as much as the router likes: 28 bytes of IPv4
and 48 of IPv6 have to be the same, but for the TTL, which iptables has counted down already. Of a
reset all is, but for the TTL, which the host counts down where it forwards that of the mesh to the
outside, and TCP's checksum, which iptables leaves to the device for IPv4.
"""

import struct
from collections.abc import Iterable

from ebpfmesh.model import Mesh
from equivalence.compare import decided, fail_if
from equivalence.network import PAIRS, home
from equivalence.shots import Shot, frames
from equivalence.wrapping import ETHERNET

TCP, ICMP, ICMPV6 = 6, 1, 58
RST, ACK = 4, 16
PROHIBITED = {ICMP: (3, 13), ICMPV6: (1, 1)}  # type and code

Flow = tuple[bytes, bytes, int, bytes]
"""Source, destination, protocol, and the first four bytes behind the IP header."""

Told = dict[Shot, list[bytes]]
"""What came of each packet; more than one thing should not."""


def _flow(packet: bytes) -> tuple[Flow, bytes]:
    """Of an IP packet without options: who to whom, and what is behind the IP header."""
    ends, protocol, header = (
        (packet[12:20], packet[9], 20) if packet[0] >> 4 == 4 else (packet[8:40], packet[6], 40)
    )
    half, rest = len(ends) // 2, packet[header:]
    return (ends[:half], ends[half:], protocol, rest[:4]), rest


def is_prohibited(packet: bytes) -> bool:
    """Whether it is ICMP that says so."""
    (_, _, protocol, start), _ = _flow(packet)
    return PROHIBITED.get(protocol) == tuple(start[:2])


def _answer(packet: bytes) -> tuple[Flow, bytes] | None:
    """What is said of which flow, if it is an answer."""
    (source, destination, protocol, ports), rest = _flow(packet)
    if protocol == TCP and rest[13] & RST:
        flow = destination, source, protocol, ports[2:] + ports[:2]
        return flow, packet[:7] + rest[:16] + rest[18:]
    if not is_prohibited(packet):
        return None
    flow, quoted = _flow(rest[8:])
    return flow, struct.pack("BB", *rest[:2]) + destination + quoted[:8]


def told(received: dict[str, list[bytes]], shots: Iterable[Shot]) -> Told:
    """What the sender of each shot was told; nobody else was told anything."""
    flows = {(home(s.source), _flow(frames(s)[0][ETHERNET:])[0]): s for s in shots}
    found: Told = {}
    for name, data in received.items():
        for frame in data:
            if (answer := _answer(frame[ETHERNET:])) is not None:
                flow, what = answer
                found.setdefault(flows[name, flow], []).append(what)
    return found


def askers(port: int) -> list[Shot]:
    """Everybody asks everybody: by a datagram, an echo request, a SYN, and data of before."""
    return [
        shot
        for version in (4, 6)
        for one, other in PAIRS
        for shot in (
            Shot(version, "request", one, other, 7000),
            Shot(version, "udp", one, other, 40000, port),
            Shot(version, "tcp", one, other, 40000, port, "S"),
            Shot(version, "tcp", one, other, 40001, port, "PA"),
        )
    ]


def compare_answers(by_mesh: Told, by_iptables: Told, shots: list[Shot], mesh: Mesh) -> None:
    """Who is rejected, and nobody else, is told once, and the same by both."""
    wrong = []
    for shot in shots:
        here, there = by_mesh.get(shot, []), by_iptables.get(shot, [])
        expected = int(decided(mesh, shot) == "reject")
        if here != there or len(here) != expected:
            words = [" ".join(what.hex() for what in one) or "nothing" for one in (here, there)]
            wrong.append(f"{shot}\n  told {words[0]} by the mesh, {words[1]} by iptables")
    fail_if(wrong)
