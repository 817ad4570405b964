# SPDX-License-Identifier: BSD-2-Clause
"""Two tenants that share a mesh: one floods, the other's flows and events are looked at.

flooder ──▶ sink (tenant a)      caller ──▶ called (tenant b)
"""

from scapy.packet import Packet

from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.model import Mesh
from support.mute import SOURCE_PORT, frame, renumbered
from support.sockets import frames

A, B = ("flooder", "sink"), ("caller", "called")
FUNCTIONS = {"flooder": "a", "sink": "a", "caller": "b", "called": "b"}


def shared(name: str, settings: str = "", functions: dict[str, str] = FUNCTIONS) -> str:
    """A mesh file with these functions, each of its tenant."""
    return f'[mesh]\nname = "{name}"\n{settings}\n' + "".join(
        f'[[function]]\nname = "{one}"\ntenant = "{tenant}"\n' for one, tenant in functions.items()
    )


def send(mesh: Mesh, who: tuple[str, str], layer: Packet, ports: range) -> None:
    """A packet of a flow of its own from each of these ports, of IPv4."""
    packet = frame(mesh, 4, *who, layer)
    with frames(mesh, who[0]) as mouth:
        for port in ports:
            mouth.send(renumbered(4, packet, SOURCE_PORT, port))


def remembered(mesh: Mesh, *, port: int = 0, source: str = "") -> set[bytes]:
    """Keys of entries of IPv4: all, those with a port at either side, or of who sends there."""
    own = int(mesh.function(source).address4 or 0) if source else 0
    return {
        bytes(key)
        for key, _ in Maps(Pins(mesh.name))["mesh_flow4"].items()
        if port in (0, key.source_port, key.destination_port) and own in (0, key.source)
    }
