# SPDX-License-Identifier: BSD-2-Clause
"""What the model says, written into the maps the programs read.

The only writer of the control maps. Each call leaves every map whole; the programs act on it for
flows they have judged before once ``commit`` has raised the epoch.
"""

import ctypes
import functools
import math
from collections.abc import Iterable, Mapping
from typing import Literal, cast

from ebpfmesh import _abi
from ebpfmesh._abi import Direction
from ebpfmesh.errors import MeshError
from ebpfmesh.kernel import clock, maglev, rates, rooms
from ebpfmesh.kernel.interface import Plugged
from ebpfmesh.kernel.keys import PROTOCOL, frontends, masquerade, packed, prefix_key
from ebpfmesh.kernel.maps import Maps, maglev_rows, tenant_ids
from ebpfmesh.kernel.prefixes import block_of
from ebpfmesh.model import (
    Action,
    Address,
    Function,
    Identity,
    OnFailure,
    Policy,
    Rate,
    Remote,
    Rights,
    Service,
    Shares,
    Timeouts,
)
from ebpfmesh.state.rates import of_tenants
from ebpfmesh.state.rows import UplinkRow
from ebpfmesh.state.shares import by_tenant
from ebpfmesh.state.tables import Entry, Kind
from ebpfmesh.state.writer import Writer

_IDENTITY = {
    "any": _abi.Identity.ANY,
    "function": _abi.Identity.FUNCTION,
    "tenant": _abi.Identity.TENANT,
    "service": _abi.Identity.SERVICE,
    "outside": _abi.Identity.OUTSIDE,
    "prefix": _abi.Identity.PREFIX,
    "group": _abi.Identity.GROUP,
}
_ACTION: dict[Action, int] = {
    "deny": _abi.Action.DENY,
    "reject": _abi.Action.REJECT,
    "allow": _abi.Action.ALLOW,
}
_SOURCE = {
    "function": _abi.ShapeSource.SELF,
    "outside": _abi.ShapeSource.SELF,
    "tenant": _abi.ShapeSource.TENANT,
    "any": _abi.ShapeSource.ANY,
    "prefix": _abi.ShapeSource.PREFIX,
    "group": _abi.ShapeSource.GROUP,
}
_DESTINATION = {
    "function": _abi.ShapeDestination.SELF,
    "outside": _abi.ShapeDestination.SELF,
    "tenant": _abi.ShapeDestination.TENANT,
    "service": _abi.ShapeDestination.SERVICE,
    "any": _abi.ShapeDestination.ANY,
    "prefix": _abi.ShapeDestination.PREFIX,
    "group": _abi.ShapeDestination.GROUP,
}
_TIMEOUTS = [one.name.lower() for one in _abi.Timeout if one is not _abi.Timeout.MESH_TIMEOUTS]
_ONLY = ctypes.c_uint32(0)  # key of mesh_config
_DEPTHS = 32  # more than there are: shape * _DEPTHS + depth is one number


class Control:
    """The control maps of one mesh, with the record that knows the ids of its names."""

    def __init__(self, maps: Maps, record: Writer) -> None:
        self.maps = maps
        self.record = record
        self._limits = record.limits()
        self._drawn: Mapping[int, Shares] | None = None  # of tenants that have their room
        self._rated: dict[str, Rate] | None = None  # by tenant

    def commit(self) -> None:
        """Have every flow judged again with its next packet, by what the maps say now.

        What is called by a name that nothing uses any more is free for others after that.
        """
        gone = self.record.forget_ids()
        config = self._config()
        base = self.record.base()
        self.draw_rooms()
        # 0 would be no epoch, and the first bit says that it is not for the fast path.
        config.judged = config.judged % (_abi.EPOCH_SLOW - 1) + 1
        config.epoch = 0 if config.events & _abi.EventKind.VERDICT else config.judged
        config.tenants = tenant_ids(self._limits)
        config.inverse, config.shift = inverse(config.tenants)
        config.service_depths = self.record.service_depths()
        config.timeouts[:] = [ticks(getattr(base.timeouts, key)) for key in _TIMEOUTS]
        config.depths[:] = [0] * len(config.depths)
        for number in self.record.shapes():
            config.depths[number // _DEPTHS] |= 1 << number % _DEPTHS
        config.reject = base.reject
        config.hairpin4 = int(base.prefix4.network_address)
        config.hairpin6[:] = list(packed(base.prefix6.network_address).word)
        config.masquerade = any(row.uplink.masquerade for row in self.record.uplinks())
        self.maps.config.set(_ONLY, config)
        for tenant in gone:
            self._forget_tenant(tenant)

    def make_room(self, kind: Literal["function", "tenant"], *names: str) -> None:
        """Have an id for each name; where all are given, those that this change has freed."""
        new = sum(self.record.find_id(kind, name) is None for name in {*names})
        limit = self._limits.functions if kind == "function" else tenant_ids(self._limits) - 1
        if new and self.record.count_ids(kind) + new > limit:
            self.commit()
            if self.record.count_ids(kind) + new > limit:
                what = f"no room for {kind} {', '.join(names)}"
                raise MeshError(what, hint=f"raise limits.{kind}s under [mesh]")

    def _config(self) -> _abi.Config:
        """What is there now; others write ``events`` and ``snap``."""
        return self.maps.config.get(_ONLY) or _abi.Config()

    def _look_deeper(self, service_depths: int, entries: list[Entry]) -> None:
        """Have the programs look for what is about to be written, without judging anew."""
        config = self._config()
        before = bytes(config)
        config.service_depths |= service_depths
        for entry in entries:
            config.depths[entry.shape // _DEPTHS] |= 1 << entry.shape % _DEPTHS
        if bytes(config) != before:
            self.maps.config.set(_ONLY, config)

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """Have flows live as long as ``timeouts`` says, from the next commit on."""
        self._change_base(timeouts=timeouts)

    def set_reject(self, reject: bool) -> None:
        """Have senders told that no rule allows what they send, or not, from the next commit on."""
        self._change_base(reject=reject)

    def set_host(self, host: bool) -> None:
        """Have processes of the host reach services, or not, once the change is finished."""
        self._change_base(host=host)

    def set_on_failure(self, on_failure: OnFailure) -> None:
        """Have changes undone, or kept, in which a function does not get ready."""
        self._change_base(on_failure=on_failure)

    def set_rights(self, rights: tuple[Rights, ...]) -> None:
        """Have tenants inject what ``rights`` says, and the room it says from the commit on.

        Their rates count from then on, too.
        """
        before = of_tenants(self.record)
        self._change_base(rights=rights)
        self._rated = after = of_tenants(self.record)
        changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
        for row in self.record.functions() if changed else ():
            if row.function.tenant in changed:
                self.change_function(row.id, row.function)

    def _change_base(self, **settings: object) -> None:
        base = self.record.base().model_copy(update=settings)
        self.record.set_base(base)

    def set_function(self, number: int, function: Function, plugged: Plugged) -> None:
        """Make a function known: by id, interface and addresses."""
        check_ifindex(plugged.ifindex)
        flags = self._set_rates(number, function)
        row = _abi.Function(
            ifindex=plugged.ifindex,
            tenant=self._tenant(function.tenant),
            flags=flags,
            group=self._group(function),
            address4=int(function.address4 or 0),
        )
        row.mac[:] = [int(part, 16) for part in plugged.mac.split(":")]
        row.gateway[:] = [int(part, 16) for part in plugged.gateway.split(":")]
        if function.address6:
            row.address6[:] = list(packed(function.address6).word)
        self.maps["mesh_function"].set(ctypes.c_uint32(number), row)
        for address in function.addresses:
            self.maps["mesh_address"].set(packed(address), ctypes.c_uint32(number))
        port = _abi.Iface(id=number, kind=_abi.IfaceKind.FUNCTION)
        self.maps["mesh_iface"].set(ctypes.c_uint32(plugged.ifindex), port)

    def set_uplink(self, row: UplinkRow) -> None:
        """Make an uplink known, and what flows that leave by it are translated to."""
        key, table = ctypes.c_uint32(row.ifindex), self.maps["mesh_masquerade"]
        self.set_takes_frames(row.ifindex, False)
        if row.uplink.masquerade:
            value = masquerade(row.uplink, row.addresses)
            value.exhausted = (table.get(key) or value).exhausted
            table.set(key, value)
        else:
            table.delete(key)

    def set_takes_frames(self, ifindex: int, takes: bool) -> None:
        """Write down of an uplink whether XDP of other interfaces may send there."""
        flags = _abi.IfaceFlag.TAKES_FRAMES if takes else 0
        row = _abi.Iface(kind=_abi.IfaceKind.UPLINK, flags=flags)
        self.maps["mesh_iface"].set(ctypes.c_uint32(ifindex), row)

    def remove_uplink(self, ifindex: int) -> None:
        """Forget an uplink. Twice is fine."""
        self.maps["mesh_masquerade"].delete(ctypes.c_uint32(ifindex))
        self.maps["mesh_iface"].delete(ctypes.c_uint32(ifindex))

    def set_remote(self, number: int, remote: Remote, uplink: int) -> None:
        """Make a remote known: by id and addresses, beyond the interface of its uplink."""
        row = _abi.Function(
            ifindex=uplink,
            tenant=self._tenant(remote.tenant),
            flags=_abi.FunctionFlag.REMOTE,
            address4=int(remote.address4 or 0),
        )
        if remote.address6:
            row.address6[:] = list(packed(remote.address6).word)
        self.maps["mesh_function"].set(ctypes.c_uint32(number), row)
        for address in remote.addresses:
            self.maps["mesh_address"].set(packed(address), ctypes.c_uint32(number))

    def remove_remote(self, number: int, remote: Remote) -> None:
        """Forget a remote and what was counted for its id. Twice is fine."""
        self._forget_addresses(number, remote.addresses)
        self.maps["mesh_function"].set(ctypes.c_uint32(number), _abi.Function())
        self._forget_counts(number)

    def _tenant(self, name: str) -> int:
        self.make_room("tenant", name)
        number = self.record.id_of("tenant", name)
        if self._drawn is None or number not in self._drawn:
            self.draw_rooms()
        return number

    def draw_rooms(self) -> None:
        """Give every tenant there is its part of the room for flows; what has a place keeps it."""
        shares = by_tenant(self.record)
        if shares == self._drawn:
            return
        table = self.maps["mesh_room"]
        for (kind, tenant), room in rooms.draw(self._limits, shares, shares).items():
            key = rooms.key(kind, tenant)
            row = table.get(key) or _abi.Room()
            if not room.is_in(row):
                room.put_in(row)
                table.set(key, row)
        parts = self.maps["mesh_event_room"]
        for tenant, part in rooms.draw_events(shares, shares).items():
            key = ctypes.c_uint32(tenant)
            row = parts.get(key) or _abi.EventRoom()
            if not part.is_in(row):
                part.put_in(row)
                parts.set(key, row)
        self._drawn = shares

    def _set_rates(self, number: int, function: Function) -> int:
        """Write the rates of a function and its tenant; the flags of the function's record."""
        place = rates.tenant_slot(self._limits, self._tenant(function.tenant))
        if self._rated is None:
            self._rated = of_tenants(self.record)
        shared = self._rated.get(function.tenant)
        self._write_rates(place, {one: rates.row(shared, one) for one in rates.WAYS})
        self._write_rates(rates.slot(number), rates.rows(function, shared, place))
        return rates.flags(function, shared)

    def _write_rates(self, place: int, rows: Mapping[Direction, _abi.Rate]) -> None:
        """Write those that are others: a bucket that is written is full again."""
        for direction, row in rows.items():
            key = ctypes.c_uint32(place + direction)
            if not rates.alike(self.maps["mesh_rate"].get(key) or _abi.Rate(), row):
                self.maps["mesh_rate"].set(key, row)

    def _group(self, function: Function) -> int:
        return self.record.id_of("group", function.group) if function.group else 0

    def change_function(self, number: int, function: Function) -> None:
        """Give a known function another rate; then tenant, group and audit, in one update."""
        flags = self._set_rates(number, function)
        key = ctypes.c_uint32(number)
        row = self.maps["mesh_function"].get(key) or _abi.Function()
        row.tenant = self._tenant(function.tenant)
        row.flags = flags
        row.group = self._group(function)
        self.maps["mesh_function"].set(key, row)

    def remove_function(self, number: int, function: Function) -> None:
        """Forget a function and what was counted for its id. Twice is fine."""
        key = ctypes.c_uint32(number)
        row = self.maps["mesh_function"].get(key)
        if row and row.ifindex:
            self.maps["mesh_iface"].delete(ctypes.c_uint32(row.ifindex))
        self._forget_addresses(number, function.addresses)
        self.maps["mesh_function"].set(key, _abi.Function())
        self._write_rates(rates.slot(number), rates.rows(None))
        self.maps["mesh_chain"].set(key, _abi.Chain())
        self._forget_counts(number)

    def _forget_addresses(self, number: int, addresses: Iterable[Address]) -> None:
        for address in addresses:
            owner = self.maps["mesh_address"].get(packed(address))
            if owner and owner.value == number:
                self.maps["mesh_address"].delete(packed(address))

    def _forget_counts(self, number: int) -> None:
        stride = tenant_ids(self._limits)
        for slot in range(number * stride, (number + 1) * stride):
            self.maps["mesh_meter"].set(ctypes.c_uint32(slot), _abi.Meter())
        for drop, _ in list(self.maps["mesh_drops"].items()):
            if drop.function == number:
                self.maps["mesh_drops"].delete(drop)

    def _forget_tenant(self, number: int) -> None:
        """Forget what was counted for a tenant, before its id is given to another."""
        self._write_rates(rates.tenant_slot(self._limits, number), rates.rows(None))
        for kind in rooms.sizes(self._limits):
            self.maps["mesh_room"].set(rooms.key(kind, number), _abi.Room())
        self.maps["mesh_event_room"].set(ctypes.c_uint32(number), _abi.EventRoom())
        for function in range(self._limits.functions + 1):
            slot = function * tenant_ids(self._limits) + number
            self.maps["mesh_meter"].set(ctypes.c_uint32(slot), _abi.Meter())

    def set_service(self, service: Service) -> None:
        """Write a service's table beside the one in use, then flip to it in one update.

        Backends that are not ready are in it as if they had no weight.
        """
        service = self.record.only_ready(service)
        old = self.record.table(service.name)
        weights = tuple(service.backends.values())
        rows = max(maglev.rows_for(weights), old[1])
        size = maglev.size_of(rows) if any(weights) else 0
        row = self._take_rows(rows)
        self._write_table(row, self._new_table(service, size, *old))
        value = _abi.Service(
            id=self.record.id_of("service", service.name),
            row=row,
            size=size,
            shift=service.shift & 0xFFFF,
            flags=_abi.ServiceFlag.AFFINITY if service.affinity == "source" else 0,
        )
        ends = frontends(service, self.record.places())
        depths = functools.reduce(lambda found, end: found | 1 << end.key.depth, ends, 0)
        self._look_deeper(depths, [])
        for key, own, uplink in ends:
            value.own, value.uplink = own, uplink
            self.maps["mesh_service"].set(key, value)
        self._withdraw(service)
        self._claim_addresses(service)
        with self.record.transaction():
            self.record.put_service(service, row, rows, depths)
            self.record.return_rows(*old)

    def _withdraw(self, service: Service) -> None:
        """Have it answer no more where it does as it is written down, and shall not."""
        before, places = self.record.service(service.name), self.record.places()
        kept = {bytes(end.key) for end in frontends(service, places)}
        for end in frontends(before, places) if before else []:
            if bytes(end.key) not in kept:
                self.maps["mesh_service"].delete(end.key)

    def set_unready(self, reasons: Mapping[str, str], *, asked: bool = False) -> None:
        """Have functions get new flows of services, or not, if there is a reason why not."""
        before = self.record.unready().keys()
        with self.record.transaction():
            for name, why in reasons.items():
                self.record.set_unready(name, why, asked=asked)
        after = self.record.unready().keys()
        for service in self.record.services_of(before ^ after):
            self.set_service(service)

    def _claim_addresses(self, service: Service) -> None:
        """What a service does not answer at its address must not go to the host instead."""
        for address in service.addresses:
            self.maps["mesh_address"].set(packed(address), ctypes.c_uint32(_abi.SERVICE_ADDRESS))

    def _new_table(self, service: Service, size: int, row: int, rows: int) -> list[int]:
        """Ids of functions for so many slots, as near as can be to those in the rows in use."""
        names, weights = tuple(service.backends), tuple(service.backends.values())
        ids = [self.record.id_of("function", name) for name in names]
        table = maglev.table(names, weights, size)
        if table and rows and maglev.size_of(rows) == size:
            backends = {number: backend for backend, number in enumerate(ids)}
            values = [self.maps["mesh_maglev"].get(ctypes.c_uint32(row + n)) for n in range(rows)]
            used = [number for value in values if value for number in value.function]
            old = [backends.get(number, -1) for number in used[:size]]
            table = maglev.nearest(old, table, weights)
        return [ids[backend] for backend in table]

    def _write_table(self, row: int, table: list[int]) -> None:
        slots: list[ctypes.c_uint16 | int] = [*table]
        for start in range(0, len(slots), _abi.MAGLEV_ROW):
            value = _abi.MaglevRow()
            part = slots[start : start + _abi.MAGLEV_ROW]
            value.function[: len(part)] = part
            number = row + start // _abi.MAGLEV_ROW
            self.maps["mesh_maglev"].set(ctypes.c_uint32(number), value)

    def _take_rows(self, rows: int) -> int:
        """First of ``rows`` neighbouring rows that no service uses; they are taken now."""
        if not self.record.has_free_rows:
            self._free_all_rows()
        first = self.record.take_rows(rows)
        if first is None:
            raise MeshError(
                "no room for another service table", hint="raise limits.services under [mesh]"
            )
        return first

    def _free_all_rows(self) -> None:
        total = maglev_rows(self._limits)
        self.record.free_all_rows(total)

    def remove_service(self, service: Service) -> None:
        """Take a service out; flows through it end with their next packet. Twice is fine."""
        for end in frontends(service, self.record.places()):
            self.maps["mesh_service"].delete(end.key)
        with self.record.transaction():
            self.record.return_rows(*self.record.table(service.name))
            self.record.delete_service(service.name)
        for address in service.addresses:
            if self.record.address_owner(address) is None:
                self.maps["mesh_address"].delete(packed(address))

    def set_policy(self, policy: Policy) -> None:
        """Write a rule, over the one with the same match if there is one."""
        entries = self._entries(policy)
        self.record.put_policy(policy, entries)
        self._look_deeper(0, entries)
        for entry in entries:
            self._write_strongest(entry.key)

    def remove_policy(self, policy: Policy) -> None:
        """Take a rule out; the next strongest takes its place. Twice is fine."""
        number = self.record.policy_id(policy)
        if number is not None:
            for key in self.record.entries(number):
                self._write_strongest(key, without=number)
            self.record.delete_policy(policy)
        for identity in (policy.source, policy.destination):
            if identity.prefix and not self.record.names_policy(identity):
                self._forget_prefix(identity.name)

    def _write_strongest(self, raw: bytes, *, without: int = 0) -> None:
        """Have a key of mesh_policy say what the strongest of its rules does."""
        key = _abi.PolicyKey.from_buffer_copy(raw)
        found = self.record.strongest(raw, without=without)
        if found is None:
            self.maps["mesh_policy"].delete(key)
            return
        strength, number = found
        priority, action = divmod(strength, len(_abi.Action))
        value = _abi.Policy(rule=number, priority=priority, action=action)
        self.maps["mesh_policy"].set(key, value)

    def _entries(self, policy: Policy) -> list[Entry]:
        """Entries of a rule in mesh_policy: one for each prefix of its ports."""
        both = (policy.source, policy.destination)
        for kind in ("function", "tenant"):
            self.make_room(kind, *(end.name for end in both if end.kind == kind))
        ends = {
            "source": self._identity(policy.source),
            "destination": self._identity(policy.destination),
        }
        source, destination = _SOURCE[_kind(policy.source)], _DESTINATION[_kind(policy.destination)]
        shape = source * _abi.ShapeDestination.MESH_SHAPE_DESTINATIONS + destination
        entries = []
        for port, bits in policy.prefixes:
            depth = bits + 1 if policy.protocol != "any" else 0
            protocol = PROTOCOL[policy.protocol]
            key = _abi.PolicyKey(**ends, port=port, protocol=protocol, depth=depth)
            strength = policy.priority * len(_abi.Action) + _ACTION[policy.action]
            entries.append(Entry(bytes(key), strength, shape * _DEPTHS + depth))
        return entries

    def _identity(self, identity: Identity) -> int:
        kind = _kind(identity)
        number = _IDENTITY[kind] << 24
        if not identity.name:  # any, outside
            return number
        if kind == "prefix":
            return number | self._prefix(identity.name)
        return number | self.record.id_of(cast(Kind, kind), identity.name)

    def _prefix(self, name: str) -> int:
        """The id of a prefix of the outside; from now on the programs know it."""
        number = self.record.find_id("prefix", name)
        if number is None:
            number = self.record.put_prefix(name)
            self._write_prefixes([name, *self.record.prefixes_inside(block_of(name))])
        return number

    def _forget_prefix(self, name: str) -> None:
        if self.record.find_id("prefix", name) is not None:
            self.record.delete_prefix(name)
            self._write_prefixes(self.record.prefixes_inside(block_of(name)))
            self.maps["mesh_prefix"].delete(prefix_key(name))

    def _write_prefixes(self, names: Iterable[str]) -> None:
        """Write prefixes with the next wider one of each, which must be there."""
        for name in names:
            around = self.record.prefixes_around(block_of(name))
            wider = block_of(around[0]).length + 1 if around else 0
            row = _abi.Prefix(id=self.record.id_of("prefix", name), wider=wider)
            self.maps["mesh_prefix"].set(prefix_key(name), row)

    def resync(self, functions: Mapping[int, tuple[Function, Plugged]]) -> None:
        """Make all that the maps say exactly what the record does (after a crash)."""
        uplinks = {row.ifindex: row for row in self.record.uplinks()}
        indices = uplinks.keys() | {plugged.ifindex for _, plugged in functions.values()}
        for index, _ in list(self.maps["mesh_iface"].items()):
            if index.value not in indices:
                self.maps["mesh_iface"].delete(index)
        for index, _ in list(self.maps["mesh_masquerade"].items()):
            if index.value not in uplinks:
                self.maps["mesh_masquerade"].delete(index)
        for row in uplinks.values():
            self.set_uplink(row)
        for number, (function, plugged) in functions.items():
            self.set_function(number, function, plugged)
        remotes = self.record.remotes()
        for remote in remotes:
            index, _ = self.record.places()[remote.remote.uplink]
            self.set_remote(remote.id, remote.remote, index)
        services = self.record.model().backed
        owners = [*services, *(function for function, _ in functions.values())]
        owners += [row.remote for row in remotes]
        addresses = {bytes(packed(address)) for owner in owners for address in owner.addresses}
        for address, _ in list(self.maps["mesh_address"].items()):
            if bytes(address) not in addresses:
                self.maps["mesh_address"].delete(address)
        places = self.record.places()
        known = {bytes(end.key) for service in services for end in frontends(service, places)}
        for key, _ in list(self.maps["mesh_service"].items()):
            if bytes(key) not in known:
                self.maps["mesh_service"].delete(key)
        self._free_all_rows()
        for service in services:
            self.set_service(service)
        self._resync_policies([policy for _, policy in self.record.policies()])

    def _resync_policies(self, policies: list[Policy]) -> None:
        ends = (identity for policy in policies for identity in (policy.source, policy.destination))
        names = {identity.name for identity in ends if identity.prefix}
        keys = {bytes(prefix_key(name)) for name in names}
        for prefix, _ in list(self.maps["mesh_prefix"].items()):
            if bytes(prefix) not in keys:
                self.maps["mesh_prefix"].delete(prefix)
        for name in self.record.names("prefix").values():
            if name not in names:
                self.record.delete_prefix(name)
        for name in names:
            self.record.put_prefix(name)
        self._write_prefixes(sorted(names, key=block_of))
        for policy in policies:
            self.record.put_policy(policy, self._entries(policy))
        known = {entry.key for policy in policies for entry in self._entries(policy)}
        for key, _ in list(self.maps["mesh_policy"].items()):
            if bytes(key) not in known:
                self.maps["mesh_policy"].delete(key)
        for raw in known:
            self._write_strongest(raw)


def check_ifindex(ifindex: int) -> None:
    """Raise MeshError for an interface whose index is no part of a flow's key."""
    if ifindex >> _abi.IFINDEX_BITS:
        what = f"interface index {ifindex} has more than {_abi.IFINDEX_BITS} bits"
        raise MeshError(what, hint="make the mesh in a new network namespace")


def _kind(identity: Identity) -> str:
    """The kind of an identity, as the maps have it."""
    return "prefix" if identity.prefix else identity.kind


def inverse(number: int) -> tuple[int, int]:
    """What to multiply by, and then to shift by, instead of dividing by ``number``.

    Exact for whatever times ``number`` is below 2^31 times its highest bit, as meters are. The
    multiplier has 32 bits (Granlund and Montgomery, PLDI 1994).
    """
    shift = 31 + number.bit_length() - 1
    return -(-(1 << shift) // number), shift


def ticks(seconds: int) -> int:
    """Seconds in the unit of the programs' clock: a jiffy without its last bits, rounded up."""
    return math.ceil(seconds * clock.hz() / (1 << _abi.TICK_SHIFT))
