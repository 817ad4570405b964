# SPDX-License-Identifier: BSD-2-Clause
"""What the packet generator sends: the first frame, made by scapy, and how the others differ.

The generator's program (bpf/bench/generate.c) puts ports, sequence number and checksum into each
frame; where they stand, and what of the checksum stays the same, is worked out here.
"""

import struct
from collections.abc import Sequence
from ctypes import memmove, sizeof
from dataclasses import dataclass
from typing import Any, Literal

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from ebpfmesh.bench._abi import FLOW_BITS, FRAME_WORDS, MAGIC, Tag, Template
from ebpfmesh.bench.topology import Member, address6
from ebpfmesh.bench.workload import Target
from ebpfmesh.model import Address

Protocol = Literal["udp", "syn"]
PORTS = range(10000, 60000)
"""Source ports of the flows."""
MAX_FLOWS = 1_000_000
SMALLEST = 8 * FRAME_WORDS
"""Bytes of a frame as the kernel sees it, that is without a checksum at its end."""
LARGEST = 3368
"""What a page of a live frame holds beside the kernel's own: linux/net/bpf/test_run.c."""
HEADERS: dict[tuple[int, Protocol], int] = {
    (4, "udp"): 42, (4, "syn"): 54, (6, "udp"): 62, (6, "syn"): 74,
}  # fmt: skip
"""Bytes of all headers, by IP version and protocol."""
PAYLOAD = b"ebpfmesh"


@dataclass(frozen=True, kw_only=True)
class Frames:
    """A number of flows of equal frames; ValueError if there cannot be such frames.

    Flow f has source port ``port + f % ports`` and goes to the destination's port
    ``target.port + f // ports``: one client has fewer ports than flows may be wanted, and what
    receives them is asked for at neighbouring ports (``workload.TARGETS``). The flows are spread
    evenly over as few destinations as they need. ``size`` is that of the frame with its Ethernet
    header; ``ifindex`` is where frames go that are redirected.
    """

    source_mac: str
    target_mac: str
    source: Address
    target: Target
    flows: int = 1
    size: int = SMALLEST
    protocol: Protocol = "udp"
    port: int = PORTS.start
    ifindex: int = 0

    def __post_init__(self) -> None:
        if self.source.version != self.target.address.version:
            raise ValueError(f"{self.source} and {self.target.address} are of two IP versions")
        if not 1 <= self.flows <= MAX_FLOWS:
            raise ValueError(f"flows: {self.flows} is not in 1..{MAX_FLOWS}")
        least = least_size(self.source.version, self.protocol)
        if not least <= self.size <= LARGEST:
            raise ValueError(f"size: {self.size} is not in {least}..{LARGEST}")
        for first, number in ((self.port, self.ports), (self.target.port, self.targets)):
            if not (first >= 1 and first + number - 1 <= 0xFFFF):
                raise ValueError(f"{number} ports from {first} on are not in 1..65535")

    @property
    def targets(self) -> int:
        """Neighbouring ports of the destination that are sent to."""
        return -(-self.flows // len(PORTS))

    @property
    def ports(self) -> int:
        """Source ports of each of them."""
        return -(-self.flows // self.targets)

    @property
    def tagged(self) -> bool:
        """Whether a frame has room for its number; only then can it be checked."""
        return self.size >= least_size(self.source.version, self.protocol, tagged=True)

    def first(self) -> bytes:
        """The first frame, number 0 of flow 0."""
        tag = bytes(Tag(0, MAGIC << FLOW_BITS))
        packet: Any = Ether(src=self.source_mac, dst=self.target_mac)
        if self.source.version == 4:
            packet /= IP(src=str(self.source), dst=str(self.target.address), id=0, flags="DF")
        else:
            packet /= IPv6(src=str(self.source), dst=str(self.target.address))
        if self.protocol == "udp":
            packet /= UDP()
        else:
            sequence, acknowledged = struct.unpack(">II", tag)
            packet /= TCP(flags="S", seq=sequence, ack=acknowledged, window=0xFFFF)
        packet.sport, packet.dport = self.port, self.target.port
        room = self.size - HEADERS[self.source.version, self.protocol]
        text = (PAYLOAD * (room // len(PAYLOAD) + 1))[:room]
        if self.protocol == "udp" and self.tagged:
            text = tag + text[len(tag) :]
        return bytes(packet / text)

    def template(self) -> bytes:
        """The value of the generator's map."""
        frame, header = self.first(), HEADERS[self.source.version, self.protocol]
        udp = self.protocol == "udp"
        l4 = header - (8 if udp else 20)
        check = l4 + (6 if udp else 16)
        tag = (l4 + (8 if udp else 4)) if self.tagged else 0
        changing = frame[l4 : l4 + 4] + (frame[tag : tag + sizeof(Tag)] if tag else b"")
        template = Template(
            sum=sum_without(frame[check : check + 2], changing),
            flows=self.flows,
            ports=self.ports,
            port=self.port,
            target_port=self.target.port,
            l4=l4,
            check=check,
            tag=tag,
            no_check=0xFFFF if udp else 0,
            ifindex=self.ifindex,
        )
        memmove(template.frame, frame, sizeof(template.frame))
        return bytes(template)


def from_member(sender: Member, target: Target, **settings: Any) -> Frames:
    """Frames as a function's own stack would send them; ``settings`` are those of Frames."""
    source = sender.address if target.address.version == 4 else address6(sender)
    return Frames(
        source_mac=sender.mac,
        target_mac=sender.gateway_mac,
        source=source,
        target=target,
        **settings,
    )


def least_size(version: int, protocol: Protocol, *, tagged: bool = False) -> int:
    """Bytes of the shortest frame, or of the shortest that has room for a number."""
    least = HEADERS[version, protocol]
    if tagged and protocol == "udp":
        least += sizeof(Tag)
    return max(SMALLEST, least)


def words(data: bytes) -> Sequence[int]:
    """Big-endian 16-bit words; an odd end is padded."""
    return struct.unpack(f">{(len(data) + 1) // 2}H", data + bytes(len(data) % 2))


def sum_without(checksum: bytes, changing: bytes) -> int:
    """Ones' complement sum, not folded, of what a checksum covers besides the words ``changing``.

    Subtracting a word is adding its complement: RFC 1624, 3.
    """
    found = int.from_bytes(checksum, "big")
    return (~found & 0xFFFF) + sum(~word & 0xFFFF for word in words(changing))
