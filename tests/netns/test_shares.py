# SPDX-License-Identifier: BSD-2-Clause
"""What `[[tenant]]` says of a tenant's part of what all share: it holds, and changes in place.

flooder ──▶ sink (tenant a)      caller ──▶ called (tenant b), all of them mute
"""

from collections.abc import Callable

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.packet import Packet

from ebpfmesh import apply
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.model import Mesh
from ebpfmesh.observe import rooms
from ebpfmesh.observe.view import opened
from ebpfmesh.state import audit
from support.mute import SOURCE_PORT, frame, mute, renumbered
from support.sockets import frames
from support.topology import mesh_of

MESH = """
[mesh]
name = "shares"
limits = { flows = 1024, half_open = 1024, fragments = 512 }
[[function]]
name = "flooder"
tenant = "a"
[[function]]
name = "sink"
tenant = "a"
[[function]]
name = "caller"
tenant = "b"
[[function]]
name = "called"
tenant = "b"
"""
A, B = ("flooder", "sink"), ("caller", "called")
KINDS = {"flows": UDP(chksum=0), "half_open": TCP(flags="S")}


def said(**shares: str) -> str:
    """The mesh with these shares of tenants."""
    return MESH + "".join(
        f'[[tenant]]\nname = "{name}"\n{share}\n' for name, share in shares.items()
    )


def send(mesh: Mesh, who: tuple[str, str], layer: Packet, ports: range) -> None:
    packet = frame(mesh, 4, *who, layer)
    with frames(mesh, who[0]) as mouth:
        for port in ports:
            mouth.send(renumbered(4, packet, SOURCE_PORT, port))


def kept(mesh: Mesh, who: tuple[str, str]) -> int:
    """Flows that a function has begun, and that are remembered."""
    address = int(mesh.function(who[0]).address4 or 0)
    return sum(key.source == address for key, _ in Maps(Pins(mesh.name))["mesh_flow4"].items())


@pytest.mark.parametrize("key", KINDS)
def test_a_maximum_is_kept_and_a_guarantee_is_there(
    mesh_up: Callable[[str], Mesh], key: str
) -> None:
    """A flood of one that may have 100, and then more, where it is; b has what it was told."""
    mesh = mesh_up(said(a=f"{key} = {{maximum = 100}}", b=f"{key} = {{guarantee = 700}}"))
    mute(mesh, *A, *B)
    send(mesh, A, KINDS[key], range(10_000, 12_000))
    assert kept(mesh, A) == 100
    send(mesh, B, KINDS[key], range(10_000, 10_700))
    send(mesh, A, KINDS[key], range(20_000, 22_000))
    assert (kept(mesh, A), kept(mesh, B)) == (100, 700)
    more = mesh_of(said(a=f"{key} = {{maximum = 200}}", b=f"{key} = {{guarantee = 700}}"))
    assert [step.kind for step in apply.up(more)] == ["set-rights"]
    send(mesh, A, KINDS[key], range(30_000, 32_000))
    assert (kept(mesh, A), kept(mesh, B)) == (200, 700)


def test_who_has_what_is_shown_and_audited(mesh_up: Callable[[str], Mesh]) -> None:
    mesh = mesh_up(said(a="flows = {guarantee = 16, maximum = 100}\nfragments = {guarantee = 300}"))
    with opened(mesh.name) as view:
        found = {(row.tenant, row.what): (row.own, row.common) for row in rooms.read_rooms(view)}
        assert found["a", "flows"] == (16, 84)
        assert found["b", "flows"][0] > 400
        assert found["a", "fragmented datagrams"] == (300, 0)
        assert audit.differences(view.maps, view.record) == []
    apply.up(mesh_of(MESH))
    with opened(mesh.name) as view:
        found = {(row.tenant, row.what): (row.own, row.common) for row in rooms.read_rooms(view)}
        assert found["a", "flows"] == found["b", "flows"] == (224, 512)
        assert audit.differences(view.maps, view.record) == []
