# SPDX-License-Identifier: BSD-2-Clause
"""Very many flows at once: floods push no established one out, and all that have room are kept.

flooder ──▶ sink (both mute)        client ──▶ server (real stacks)
"""

import socket
import struct
from collections.abc import Callable

import pytest
from scapy.layers.inet import TCP, UDP

from ebpfmesh._abi import Count
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.model import Mesh
from support.mute import MARK, frame, layer4, mute
from support.sockets import carries, connection, frames, hears

MESH = """
[mesh]
name = "floods"
limits = LIMITS
[[function]]
name = "flooder"
[[function]]
name = "sink"
[[function]]
name = "client"
tenant = "t"
[[function]]
name = "server"
tenant = "t"
"""


def flood(mouth: socket.socket, version: int, packet: bytearray, count: int) -> None:
    """So many packets, each of a flow of its own."""
    at = layer4(version)
    for number in range(count):
        struct.pack_into(">HH", packet, at, 20_000 + number % 40_000, 7000 + number // 40_000)
        mouth.send(packet)


def keys(mesh: Mesh, table: str, port: int = 0) -> set[bytes]:
    """Keys of a flow map, of all flows or of one in which either side has this port."""
    return {
        bytes(key)
        for key, _ in Maps(Pins(mesh.name))[table].items()
        if not port or port in (key.source_port, key.destination_port)
    }


@pytest.mark.parametrize("version", [4, 6])
def test_half_open_connections_push_nothing_out(
    mesh_up: Callable[[str], Mesh], version: int
) -> None:
    """100 000 SYNs that nobody answers, where 512 flows and 256 half-open ones have room."""
    mesh = mesh_up(MESH.replace("LIMITS", "{ flows = 512, half_open = 256 }"))
    mute(mesh, "flooder", "sink")
    address, table = mesh.function("server").addresses[version == 6], f"mesh_flow{version}"
    with (
        connection(mesh, "client", "server", address, 7001) as (here, there),
        frames(mesh, "flooder") as mouth,
    ):
        assert carries(here, there)
        port = here.getsockname()[1]
        before = keys(mesh, table, port)
        assert len(before) == 2
        flood(mouth, version, frame(mesh, version, "flooder", "sink", TCP(flags="S")), 100_000)
        assert len(keys(mesh, table)) > 256
        assert keys(mesh, table, port) == before
        assert carries(here, there)
        assert carries(there, here)


@pytest.mark.parametrize("version", [4, 6])
def test_200000_flows_at_once(mesh_up: Callable[[str], Mesh], version: int) -> None:
    """All are remembered, two entries each; a packet of the first one is not judged again."""
    count = 200_000
    mesh = mesh_up(MESH.replace("LIMITS", "{ flows = 294912 }"))
    mute(mesh, "flooder", "sink")
    packet = frame(mesh, version, "flooder", "sink", UDP(chksum=0))
    with frames(mesh, "flooder") as mouth:
        flood(mouth, version, packet, count)
        assert len(keys(mesh, f"mesh_flow{version}")) == 2 * count
        before = made(mesh)
        with frames(mesh, "sink") as ear:
            flood(mouth, version, packet, 1)
            assert hears(ear, MARK)
        assert made(mesh) == before


def made(mesh: Mesh) -> int:
    """Entries that were made since the mesh is up."""
    counts = Maps(Pins(mesh.name))["mesh_counts"]
    return sum(value.value for key, value in counts.items() if key.value == Count.FLOW_MADE)
