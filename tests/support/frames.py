# SPDX-License-Identifier: BSD-2-Clause
"""Raw frames of tests, and the program that echoes them."""

import struct
from pathlib import Path

from ebpfmesh.kernel import netns
from ebpfmesh.model import Mesh
from support.outside import mac
from support.sockets import home

ECHO = (Path(__file__).parents[2] / "examples/packet/echo.c").read_text()
SOL_PACKET, PACKET_VNET_HDR = 263, 15  # linux/if_packet.h
GATEWAY = bytes.fromhex("02eb9f000001")


def segments_of_tcp(mesh: Mesh, function: str, to: str, size: int, count: int) -> bytes:
    """A GSO packet without a checksum, as a sender's stack gives it to its interface.

    With a struct virtio_net_hdr in front, for a socket with PACKET_VNET_HDR.
    """
    from scapy.layers.inet import IP, TCP  # noqa: PLC0415  (takes a second)
    from scapy.layers.l2 import Ether  # noqa: PLC0415

    source = str(mesh.function(function).address4)
    with netns.entered(home(mesh, function)):
        own = mac("eth0")
    packet = Ether(src=own, dst=GATEWAY) / IP(src=source, dst=to) / TCP(dport=80, flags="A")
    body = bytes(range(250)) * (size * count // 250)
    raw = bytearray(bytes(packet / body))
    pseudo = sum(struct.unpack(">4H", raw[26:34])) + 6 + len(raw) - 34
    while pseudo >> 16:
        pseudo = (pseudo & 0xFFFF) + (pseudo >> 16)
    raw[50:52] = struct.pack(">H", pseudo)
    # NEEDS_CSUM, GSO_TCPV4, headers, segment, where the checksum is
    return struct.pack("=BBHHHH", 1, 1, 54, size, 34, 16) + bytes(raw)
