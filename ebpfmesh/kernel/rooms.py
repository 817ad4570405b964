# SPDX-License-Identifier: BSD-2-Clause
"""Who may have how much room for flows and fragments: the regions of mesh_slot, by tenant.

Half of the slots of a kind are shared out: each tenant has as many for itself as any other, the
outside (tenant 0) an eighth of that half. The other half is for whoever comes. What a tenant makes
pushes out nothing but what is its own (bpf/lib/room.h), so that an equal part of half the room is
each tenant's whatever the others do, and one that is alone has nearly all of it. Fragments live for
a moment only: of them all slots are shared out.

A tenant with a guarantee has so many instead; the others share what such ones leave of the half,
or a sixteenth of all if that is more. One with a maximum may use so many of the common slots as
it lacks of that.
"""

import ctypes
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ebpfmesh import _abi
from ebpfmesh._abi import RoomKind
from ebpfmesh.model import Limits, Share, Shares

OUTSIDE = 0
KEYS = {RoomKind.FLOW: "flows", RoomKind.HALF: "half_open", RoomKind.FRAGMENT: "fragments"}
"""What each kind is called in a mesh file, among limits and among shares."""
_NOTHING: Mapping[int, Shares] = MappingProxyType({})


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
    return {kind: getattr(limits, key) for kind, key in KEYS.items()}


def key(kind: RoomKind, tenant: int) -> ctypes.c_uint32:
    """Where the room of a tenant is in mesh_room."""
    return ctypes.c_uint32(tenant * RoomKind.MESH_ROOMS + kind)


def draw(
    limits: Limits, tenants: Collection[int], shares: Mapping[int, Shares] = _NOTHING
) -> dict[tuple[RoomKind, int], Room]:
    """The room of each kind and tenant, the outside among them; ``shares`` are what some have."""
    rooms, first = {}, 0
    for kind, total in sizes(limits).items():
        wanted = {tenant: getattr(one, KEYS[kind]) for tenant, one in shares.items()}
        own = shared_out(total, tenants, wanted, whole=kind is RoomKind.FRAGMENT)
        left = 0 if kind is RoomKind.FRAGMENT else max(0, total - sum(own.values()))
        end, at, used = first + total, first, 0
        for tenant, count in own.items():  # more tenants than slots have the last ones together
            common = _part(Region(end - left, left), wanted.get(tenant, Share()), count, used)
            rooms[kind, tenant] = Room(Region(min(at, end - count), count), common)
            at, used = at + count, used + common.count
        first = end
    return rooms


@dataclass(frozen=True)
class EventRoom:
    """Bytes of mesh_events that a tenant may have: its own, and at most.

    It may have more than its own only while all tenants have no more than ``whole`` together.
    """

    own: int
    maximum: int
    whole: int

    def is_in(self, row: _abi.EventRoom) -> bool:
        """Whether a row of mesh_event_room says so."""
        return (self.own, self.maximum, self.whole) == (row.own, row.maximum, row.whole)

    def put_in(self, row: _abi.EventRoom) -> None:
        """Have a row of mesh_event_room say so; what is counted there stays."""
        row.own, row.maximum, row.whole = self.own, self.maximum, self.whole


def draw_events(
    tenants: Collection[int], shares: Mapping[int, Shares] = _NOTHING
) -> dict[int, EventRoom]:
    """What each tenant may have of the events that are not read yet, the outside among them.

    Who has more than its own leaves room for what is all others' own.
    """
    total = _abi.EVENT_BYTES - _abi.EVENT_SPARE
    wanted = {tenant: one.events for tenant, one in shares.items()}
    own = shared_out(total, tenants, wanted)
    common = total - sum(own.values())
    return {
        tenant: EventRoom(count, wanted.get(tenant, Share()).maximum or total, common + count)
        for tenant, count in own.items()
    }


def shared_out(
    total: int, tenants: Collection[int], shares: Mapping[int, Share], *, whole: bool = False
) -> dict[int, int]:
    """How many places of ``total`` each tenant has for itself: the outside, those with a guarantee.

    Half of the places are shared out, or the ``whole``.
    """
    half = total if whole else max(1, total // 2)
    given = {one: shares[one].guarantee or 0 for one in sorted(shares) if one in tenants}
    found = {OUTSIDE: max(1, half // 8)} | {one: count for one, count in given.items() if count}
    left = half - sum(found.values())
    others = [one for one in sorted(tenants) if one not in found]
    each = max(1, max(left, total // 16 if len(found) > 1 else 0) // max(1, len(others)))
    return found | {one: min(each, shares.get(one, Share()).maximum or each) for one in others}


def _part(common: Region, share: Share, own: int, used: int) -> Region:
    """As much of the common region as a tenant may have; those of several lie side by side."""
    if share.maximum is None:
        return common
    count = min(common.count, share.maximum - own)
    return Region(common.first + used % (common.count - count + 1), count)
