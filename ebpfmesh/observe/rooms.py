# SPDX-License-Identifier: BSD-2-Clause
"""How much room each tenant has for flows and fragments, and whether it is enough."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from ebpfmesh import _abi
from ebpfmesh._abi import RoomKind
from ebpfmesh.kernel import clock, rooms
from ebpfmesh.kernel.flows import timeout_of
from ebpfmesh.model import Shares
from ebpfmesh.observe.flows import flow_of
from ebpfmesh.observe.view import View
from ebpfmesh.state.shares import by_tenant

EVENTS = "bytes of events"
WORDS = {
    RoomKind.FLOW: "flows",
    RoomKind.HALF: "half-open connections",
    RoomKind.FRAGMENT: "fragmented datagrams",
}


@dataclass(frozen=True)
class Room:
    """What flows that a tenant opened may take, and take; the outside is a tenant.

    ``own`` is for it alone, ``common`` for whoever comes first. ``used`` counts those whose time
    is not over, None for datagrams. ``evicted`` made room for new ones of the same tenant's since
    the mesh is up, though they lived. The ``limit`` of the mesh file makes the room larger, or the
    maximum that the tenant has of it (``capped``). Events that are not read are in bytes; of them
    ``evicted`` is how many found no room.
    """

    tenant: str
    what: str
    used: int | None
    own: int
    common: int
    evicted: int
    limit: str
    capped: bool


def read_rooms(view: View) -> list[Room]:
    """The room of every tenant there is."""
    shares = {rooms.OUTSIDE: Shares()} | by_tenant(view.record)
    used, table = _used(view), view.maps["mesh_room"]
    found = []
    for kind in rooms.sizes(view.record.limits()):
        for tenant in sorted(shares):
            row = table.get(rooms.key(kind, tenant)) or _abi.Room()
            found.append(
                Room(
                    tenant=view.name_of("tenant", tenant),
                    what=WORDS[kind],
                    used=None if kind is RoomKind.FRAGMENT else used[kind, tenant],
                    own=row.own.count,
                    common=row.common.count,
                    evicted=row.evicted,
                    limit=rooms.KEYS[kind],
                    capped=getattr(shares[tenant], rooms.KEYS[kind]).maximum is not None,
                )
            )
    return found + [
        Room(
            tenant=view.name_of("tenant", tenant),
            what=EVENTS,
            used=None,
            own=row.own,
            common=max(0, min(row.maximum, row.whole) - row.own),
            evicted=row.lost,
            limit="events",
            capped=shares[tenant].events.maximum is not None,
        )
        for tenant, row in event_rooms(view).items()
        if tenant in shares
    ]


def event_rooms(view: View) -> dict[int, _abi.EventRoom]:
    """What of the events that are not read is whose, by id of the tenant."""
    return {key.value: row for key, row in view.maps["mesh_event_room"].filled()}


def lost_events(view: View) -> Counter[str]:
    """Events that found no room since the mesh is up, by the tenant that they were about."""
    names = {tenant: view.name_of("tenant", tenant) for tenant in event_rooms(view)}
    return +Counter({names[tenant]: row.lost for tenant, row in event_rooms(view).items()})


def _used(view: View) -> Counter[tuple[RoomKind, int]]:
    """Flows that live, by what they are and the tenant of their opener."""
    functions = {key.value: row for key, row in view.maps["mesh_function"].filled()}
    tenants = {row.ifindex: row.tenant for row in functions.values()}
    found: Counter[tuple[RoomKind, int]] = Counter()
    for name in ("mesh_flow4", "mesh_flow6"):
        for key, entry in view.maps[name].items():
            flow = flow_of(entry)
            reply = flow.flags & _abi.FlowFlag.REPLY
            timeout = view.config.timeouts[timeout_of(key.origin & 0xFF, flow)]
            if not reply and clock.age(flow.seen) <= timeout:
                half = RoomKind.HALF if flow.flags & _abi.FlowFlag.HALF else RoomKind.FLOW
                found[half, tenants.get(key.origin >> 8, 0)] += 1
    return found


def told_of(lost: Mapping[str, int]) -> str:
    """Whose events they were, for people: `` (tenant a 17, b 3)``; nothing if nobody knows."""
    most = sorted(lost.items(), key=lambda one: -one[1])
    shown = ", ".join(f"{name} {count}" for name, count in most[:4])
    return f" (tenant {shown}{', …' * (len(most) > 4)})" if lost else ""
