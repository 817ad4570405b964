# SPDX-License-Identifier: BSD-2-Clause
"""What `[[tenant]]` says of a tenant's part of what all share: it holds, and changes in place.

flooder ──▶ sink (tenant a)      caller ──▶ called (tenant b), all of them mute
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from scapy.layers.inet import TCP, UDP

from ebpfmesh import apply
from ebpfmesh._abi import Event, EventKind
from ebpfmesh.kernel.ring import Ring
from ebpfmesh.model import Mesh
from ebpfmesh.observe import rooms
from ebpfmesh.observe.view import View, opened
from ebpfmesh.state import audit
from support.mute import mute
from support.tenants import A, B, remembered, send, shared
from support.topology import mesh_of

MESH = shared("shares", "limits = { flows = 1024, half_open = 1024, fragments = 512 }")
KINDS = {"flows": UDP(chksum=0), "half_open": TCP(flags="S")}


def said(**shares: str) -> str:
    """The mesh with these shares of tenants."""
    return MESH + "".join(
        f'[[tenant]]\nname = "{name}"\n{share}\n' for name, share in shares.items()
    )


def kept(mesh: Mesh, who: tuple[str, str]) -> int:
    """Flows that a function has begun, and that are remembered."""
    return len(remembered(mesh, source=who[0]))


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


@contextmanager
def listening(mesh: Mesh) -> Iterator[tuple[View, Ring]]:
    """All drops are told of, for who reads the ring."""
    with opened(mesh.name) as view, Ring(view.maps["mesh_events"].fd) as ring:
        ring.skip()
        with apply.traced(mesh.name, events=EventKind.DROP):
            yield view, ring


def told(ring: Ring, mesh: Mesh) -> Counter[str]:
    """Who sent the packets of all events there are."""
    names = {int(mesh.function(name).address4 or 0): name for name in ("flooder", "caller")}
    found: Counter[str] = Counter()
    while records := ring.read():
        events = [Event.from_buffer_copy(record) for record in records]
        found.update(names.get(event.tuple.source.word[3], "") for event in events)
    return found


def drop(mesh: Mesh, who: str, count: int) -> None:
    """Packets of a function to one of the other tenant, which nobody allows."""
    send(mesh, (who, "called" if who == "flooder" else "sink"), UDP(chksum=0), range(count))


SIZE = 104
"""Bytes of an event without a frame."""
OTHERS = 50
"""More than there are of events about what the stacks say by themselves."""


@pytest.mark.parametrize("share", ["", 'events = {maximum = "128K"}'])
def test_events_of_one_tenant_keep_out_no_others(
    mesh_up: Callable[[str], Mesh], share: str
) -> None:
    """One that floods has what it may have, each time anew; of the other's each is told."""
    mesh = mesh_up(said(a=share, b='events = {guarantee = "64K"}'))
    mute(mesh, *A, *B)
    before: Counter[str] = Counter()
    with listening(mesh) as (view, ring):
        part = rooms.event_rooms(view)[view.record.find_id("tenant", "a") or 0]
        most = min(part.maximum, part.whole) // SIZE
        for _ in range(3):
            drop(mesh, "flooder", 20_000)
            drop(mesh, "caller", 600)
            found, lost = told(ring, mesh), rooms.lost_events(view)
            assert found["caller"] == 600
            assert most - OTHERS <= found["flooder"] <= most
            assert {*lost} == {"a"}
            assert 20_000 <= found["flooder"] + lost["a"] - before["a"] <= 20_000 + OTHERS
            before = lost
