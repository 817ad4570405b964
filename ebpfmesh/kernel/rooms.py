# SPDX-License-Identifier: BSD-2-Clause
"""Who may have how much room for flows and fragments: the regions of mesh_slot, by tenant.

Half of the slots of a kind are shared out: each tenant has as many for itself as any other, the
outside (tenant 0) an eighth of that half. The other half is for whoever comes. What a tenant makes
pushes out nothing but what is its own (bpf/lib/room.h), so that an equal part of half the room is
each tenant's whatever the others do, and one that is alone has nearly all of it. Fragments live for
a moment only: of them all slots are shared out.
"""

import ctypes
from collections.abc import Collection
from dataclasses import dataclass

from ebpfmesh import _abi
from ebpfmesh._abi import RoomKind
from ebpfmesh.model import Limits

OUTSIDE = 0


@dataclass(frozen=True)
class Region:
    """Neighbouring slots."""

    first: int
    count: int


@dataclass(frozen=True)
class Room:
    """The slots of one kind that a tenant may have: its own, and those that all may have."""

    own: Region
    common: Region

    def is_in(self, row: _abi.Room) -> bool:
        """Whether a row of mesh_room says so."""
        found = (Region(one.first, one.count) for one in (row.own, row.common))
        return (self.own, self.common) == tuple(found)

    def put_in(self, row: _abi.Room) -> None:
        """Have a row of mesh_room say so; what is counted there stays."""
        for region, drawn in ((row.own, self.own), (row.common, self.common)):
            region.first, region.count = drawn.first, drawn.count


def sizes(limits: Limits) -> dict[RoomKind, int]:
    """Slots of each kind, in the order in which they are in the map."""
    return {
        RoomKind.FLOW: limits.flows,
        RoomKind.HALF: limits.half_open,
        RoomKind.FRAGMENT: limits.fragments,
    }


def key(kind: RoomKind, tenant: int) -> ctypes.c_uint32:
    """Where the room of a tenant is in mesh_room."""
    return ctypes.c_uint32(tenant * RoomKind.MESH_ROOMS + kind)


def draw(limits: Limits, tenants: Collection[int]) -> dict[tuple[RoomKind, int], Room]:
    """The room of each kind and tenant, the outside among them."""
    rooms, first = {}, 0
    for kind, total in sizes(limits).items():
        shared = total if kind is RoomKind.FRAGMENT else total // 2
        for tenant, own in _share(first, shared, tenants).items():
            rooms[kind, tenant] = Room(own, Region(first + shared, total - shared))
        first += total
    return rooms


def _share(first: int, total: int, tenants: Collection[int]) -> dict[int, Region]:
    """Share out slots; more tenants than slots have the last one together."""
    end = first + total
    found = {OUTSIDE: Region(first, max(1, total // 8))}
    each = max(1, (total - found[OUTSIDE].count) // max(1, len(tenants)))
    at = first + found[OUTSIDE].count
    for tenant in sorted(tenants):
        found[tenant] = Region(min(at, end - 1), each)
        at += each
    return found
