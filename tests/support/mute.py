# SPDX-License-Identifier: BSD-2-Clause
"""Functions whose stacks say nothing by themselves: a test writes all that is said, frame by frame.

Thousands of flows cost a packet each then, and no socket.
"""

import struct

from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from ebpfmesh.kernel import interface
from ebpfmesh.model import Mesh
from support.topology import in_fn

SOURCE_PORT, DESTINATION_PORT, ECHO_ID = 0, 2, 4
"""Where ``renumbered`` puts a number, in bytes from the start of the header of layer 4."""
MARK = b"said by the test"
_SILENT = """
route del default
route add blackhole default
-6 route del default
-6 route add blackhole default
"""


def mute(mesh: Mesh, *functions: str) -> None:
    """Their stacks answer nothing from now on: they have no way back."""
    for function in functions:
        for words in _SILENT.strip().splitlines():
            in_fn(mesh, function, ["ip", *words.split()])


def frame(mesh: Mesh, version: int, source: str, destination: str, layer: Packet) -> bytearray:
    """A frame that one function sends to another, with ``MARK`` for its payload."""
    ends = [
        mesh.function(name).addresses[0 if version == 4 else 1] for name in (source, destination)
    ]
    network = (IP if version == 4 else IPv6)(src=str(ends[0]), dst=str(ends[1]))
    ethernet = Ether(src=interface.mac_of(mesh.name, source), dst=interface.GATEWAY_MAC)
    return bytearray(bytes(ethernet / network / layer / MARK))


def layer4(version: int) -> int:
    """Where the header of layer 4 is in a frame without options."""
    return 14 + (20 if version == 4 else 40)


def renumbered(version: int, packet: bytearray, field: int, number: int) -> bytes:
    """The frame with another port or echo identifier.

    Checksums stay as they are: nobody but the mesh looks at these packets.
    """
    struct.pack_into(">H", packet, layer4(version) + field, number)
    return bytes(packet)
