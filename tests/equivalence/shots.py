# SPDX-License-Identifier: BSD-2-Clause
"""Single packets as a test speaks of them, and as frames.

Every packet carries a tag of its own, by which it is known again where it arrives. Equal shots are
equal frames; ``turn`` tells apart those of a sequence.
"""

import functools
import hashlib
import re
import struct
from dataclasses import dataclass, replace
from typing import Literal

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from ebpfmesh.kernel.interface import GATEWAY_MAC
from equivalence.network import PEERS
from equivalence.wrapping import CUT, ETHERNET, Form, wrapped

Kind = Literal["tcp", "udp", "request", "reply", "unreachable", "too-big", "exceeded", "problem"]
ERRORS: dict[str, tuple[Packet, Packet]] = {
    "unreachable": (ICMP(type=3, code=3), ICMPv6DestUnreach(code=4)),
    "too-big": (ICMP(type=3, code=4, nexthopmtu=1400), ICMPv6PacketTooBig(mtu=1400)),
    "exceeded": (ICMP(type=11), ICMPv6TimeExceeded()),
    "problem": (ICMP(type=12), ICMPv6ParamProblem()),
}
TAGS_IF_CUT = 4  # so that each fragment has a whole one
TAG = re.compile(rb"<([0-9a-f]{16})>")


@dataclass(frozen=True)
class Shot:
    """A packet from ``source`` to ``destination``; for ICMP ``sport`` is the identifier."""

    version: int
    kind: Kind
    source: str
    destination: str
    sport: int
    dport: int = 0
    flags: str = ""
    about: "Shot | None" = None
    """What an ICMP error quotes."""
    turn: int = 0
    form: Form = "plain"
    claims: str = ""
    """Whose address it bears, if not its sender's."""

    @functools.cached_property
    def tag(self) -> str:
        """What its payload has, and no other's."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]

    def answer(self, **changed: object) -> "Shot":
        """The other way round."""
        turned = replace(
            self,
            source=self.destination,
            destination=self.source,
            sport=self.dport if self.kind in ("tcp", "udp") else self.sport,
            dport=self.sport if self.kind in ("tcp", "udp") else 0,
        )
        return replace(turned, **changed)  # type: ignore[arg-type]


def frames(shot: Shot, identifier: int = 0) -> list[bytes]:
    """The frames as the sender's interface gives them; one, but of what is cut.

    ``identifier`` is in the fragments of a datagram; modulo 2^16 for IPv4.
    """
    return wrapped(_frame(shot), shot.version, shot.form, identifier)


def _frame(shot: Shot) -> bytes:
    payload = f"<{shot.tag}>".encode() * (1 if shot.form not in CUT else TAGS_IF_CUT)
    if shot.about:
        # As a router quotes it, with what follows changed, to say which error this is.
        quoted = _filled(replace(shot.about, turn=0), payload)[ETHERNET:]
        return _filled(replace(shot, about=None, turn=0, form="plain"), quoted)
    return _filled(replace(shot, turn=0, form="plain"), payload)


def _filled(shot: Shot, payload: bytes) -> bytes:
    """A frame with the shot's ports, or identifier, and this payload.

    scapy, from whole packets, would take half a millisecond for each of a hundred thousand.
    """
    blank, layer, at = _blank(replace(shot, sport=0, dport=0), len(payload))
    data = bytearray(blank)
    words = b"" if shot.kind in ERRORS else struct.pack("!HH", shot.sport, shot.dport)
    place = layer + (0 if shot.kind in ("tcp", "udp") else 4)
    data[place : place + len(words)] = words
    data[-len(payload) :] = payload
    added = words + payload
    checksum = int.from_bytes(data[at : at + 2], "big") ^ 0xFFFF
    checksum += sum(struct.unpack(f"!{len(added) // 2}H", added))
    while checksum > 0xFFFF:
        checksum = (checksum & 0xFFFF) + (checksum >> 16)
    data[at : at + 2] = ((checksum ^ 0xFFFF) or 0xFFFF).to_bytes(2, "big")
    return bytes(data)


@functools.lru_cache(maxsize=1 << 14)
def _blank(shape: Shot, size: int) -> tuple[bytes, int, int]:
    """A frame with zeros for ports and payload, and where its transport header and checksum are."""
    data = bytes(_ethernet(shape.source) / _packet(shape, bytes(size)))
    layer = len(data) - size - {"tcp": 20}.get(shape.kind, 8)
    return data, layer, layer + {"tcp": 16, "udp": 6}.get(shape.kind, 2)


def _ethernet(source: str) -> Packet:
    return Ether(src=PEERS[source].mac, dst=GATEWAY_MAC)


def _packet(shot: Shot, payload: bytes) -> Packet:
    four = shot.version == 4
    ends = {
        "src": PEERS[shot.claims or shot.source].at(shot.version),
        "dst": PEERS[shot.destination].at(shot.version),
    }
    network = IP(**ends) if four else IPv6(**ends)
    return network / _transport(shot, payload)


def _transport(shot: Shot, payload: bytes) -> Packet:
    four = shot.version == 4
    ports = {"sport": shot.sport, "dport": shot.dport}
    if shot.kind == "tcp":
        ack = 1000 if "A" in shot.flags else 0
        return TCP(**ports, flags=shot.flags, seq=1000, ack=ack) / payload
    if shot.kind == "udp":
        return UDP(**ports) / payload
    if shot.kind == "request":
        layer = ICMP(id=shot.sport) if four else ICMPv6EchoRequest(id=shot.sport)
        return layer / payload
    if shot.kind == "reply":
        layer = ICMP(type=0, id=shot.sport) if four else ICMPv6EchoReply(id=shot.sport)
        return layer / payload
    return ERRORS[shot.kind][0 if four else 1].copy() / Raw(payload)


def tag_of(data: bytes) -> str:
    """The tag in a frame; empty if it is none of ours."""
    found = TAG.search(data)
    return found[1].decode() if found else ""
