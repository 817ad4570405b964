# SPDX-License-Identifier: BSD-2-Clause
"""What tenants have of what all share, in the maps: room for flows and events, and rates."""

import ctypes
from collections.abc import Mapping

from ebpfmesh import _abi
from ebpfmesh._abi import Direction
from ebpfmesh.kernel import rates, rooms
from ebpfmesh.kernel.maps import Maps, tenant_ids
from ebpfmesh.model import Function, Rate, Shares
from ebpfmesh.state.rates import of_tenants
from ebpfmesh.state.shares import by_tenant
from ebpfmesh.state.writer import Writer


class Tenants:
    """The tenants of one mesh, and the rates of its functions, which are counted beside theirs."""

    def __init__(self, maps: Maps, record: Writer) -> None:
        self._maps = maps
        self._record = record
        self._limits = record.limits()
        self._drawn: Mapping[int, Shares] | None = None  # of tenants that have their room
        self._rated: dict[str, Rate] | None = None  # by tenant

    def give_room(self, number: int) -> None:
        """Have the tenant of this id have its room, if it is new."""
        if self._drawn is None or number not in self._drawn:
            self.draw_rooms()

    def reread(self) -> dict[str, Rate]:
        """The rates of tenants as the record has them now, by name."""
        self._rated = of_tenants(self._record)
        return self._rated

    def draw_rooms(self) -> None:
        """Give every tenant there is its part of the room for flows; what has a place keeps it."""
        shares = by_tenant(self._record)
        if shares == self._drawn:
            return
        table = self._maps["mesh_room"]
        for (kind, tenant), room in rooms.draw(self._limits, shares, shares).items():
            key = rooms.key(kind, tenant)
            row = table.get(key) or _abi.Room()
            if not room.is_in(row):
                room.put_in(row)
                table.set(key, row)
        parts = self._maps["mesh_event_room"]
        for tenant, part in rooms.draw_events(shares, shares).items():
            key = ctypes.c_uint32(tenant)
            row = parts.get(key) or _abi.EventRoom()
            if not part.is_in(row):
                part.put_in(row)
                parts.set(key, row)
        self._drawn = shares

    def set_rates(self, number: int, function: Function, tenant: int) -> int:
        """Write the rates of a function and its tenant; the flags of the function's record."""
        place = rates.tenant_slot(self._limits, tenant)
        rated = self.reread() if self._rated is None else self._rated
        shared = rated.get(function.tenant)
        self.write_rates(place, {one: rates.row(shared, one) for one in rates.WAYS})
        self.write_rates(rates.slot(number), rates.rows(function, shared, place))
        return rates.flags(function, shared)

    def write_rates(self, place: int, rows: Mapping[Direction, _abi.Rate]) -> None:
        """Write those that are others: a bucket that is written is full again."""
        for direction, row in rows.items():
            key = ctypes.c_uint32(place + direction)
            if not rates.alike(self._maps["mesh_rate"].get(key) or _abi.Rate(), row):
                self._maps["mesh_rate"].set(key, row)

    def forget(self, number: int) -> None:
        """Forget what was counted for a tenant, before its id is given to another."""
        self.write_rates(rates.tenant_slot(self._limits, number), rates.rows(None))
        for kind in rooms.sizes(self._limits):
            self._maps["mesh_room"].set(rooms.key(kind, number), _abi.Room())
        self._maps["mesh_event_room"].set(ctypes.c_uint32(number), _abi.EventRoom())
        for function in range(self._limits.functions + 1):
            slot = function * tenant_ids(self._limits) + number
            self._maps["mesh_meter"].set(ctypes.c_uint32(slot), _abi.Meter())
