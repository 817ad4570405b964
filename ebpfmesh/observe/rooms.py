# SPDX-License-Identifier: BSD-2-Clause
"""How much room each tenant has for flows and fragments, and whether it is enough."""

from collections import Counter
from dataclasses import dataclass

from ebpfmesh import _abi
from ebpfmesh._abi import RoomKind
from ebpfmesh.kernel import clock, rooms
from ebpfmesh.observe.flows import flow_of, timeout_of
from ebpfmesh.observe.view import View

WORDS = {
    RoomKind.FLOW: "flows",
    RoomKind.HALF: "half-open connections",
    RoomKind.FRAGMENT: "fragmented datagrams",
}
LIMITS = {RoomKind.FLOW: "flows", RoomKind.HALF: "half_open", RoomKind.FRAGMENT: "fragments"}
"""Which limit of the mesh file makes the room larger."""


@dataclass(frozen=True)
class Room:
    """What flows that a tenant opened may take, and take; the outside is a tenant.

    ``own`` is for it alone, ``common`` for whoever comes first. ``used`` counts those whose time
    is not over, None for datagrams. ``evicted`` made room for new ones of the same tenant's since
    the mesh is up, though they lived.
    """

    tenant: str
    what: str
    used: int | None
    own: int
    common: int
    evicted: int
    limit: str


def read_rooms(view: View) -> list[Room]:
    """The room of every tenant there is."""
    tenants = {0, *view.record.names("tenant")}
    used, table = _used(view), view.maps["mesh_room"]
    found = []
    for kind in rooms.sizes(view.record.limits()):
        for tenant in sorted(tenants):
            row = table.get(rooms.key(kind, tenant)) or _abi.Room()
            found.append(
                Room(
                    tenant=view.name_of("tenant", tenant),
                    what=WORDS[kind],
                    used=None if kind is RoomKind.FRAGMENT else used[kind, tenant],
                    own=row.own.count,
                    common=row.common.count,
                    evicted=row.evicted,
                    limit=LIMITS[kind],
                )
            )
    return found


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
