# SPDX-License-Identifier: BSD-2-Clause
"""Whether the kernel has what the record says: somebody else may have changed or emptied a map."""

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ebpfmesh import _abi
from ebpfmesh.kernel import host, netns, rooms, sockets
from ebpfmesh.kernel.cgroup import Cgroup, directory_above
from ebpfmesh.kernel.keys import frontends, masquerade, packed, prefix_key
from ebpfmesh.kernel.maps import Maps, tenant_ids
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.kernel.programs import ALWAYS, BOTH, CARRY, OUT, Program
from ebpfmesh.kernel.rates import alike
from ebpfmesh.kernel.xmit import takes_frames
from ebpfmesh.model import Service
from ebpfmesh.state import chains, denied, early, local, rates, shares
from ebpfmesh.state.place import at_host, group_of, moved
from ebpfmesh.state.record import Record
from ebpfmesh.state.rows import UplinkRow

_NUMBER = {"mesh_service": "row", "mesh_iface": "id"}
"""Which field of a map's values is compared, where it is not the whole."""


def problems(pins: Pins, maps: Maps, record: Record) -> list[str]:
    """What of maps, chains and programs is not as the record says."""
    found = [f"map {name}" for name in differences(maps, record)]
    found += chains.problems(pins, maps, record)
    needed = _needed(record)
    found += [f"program {one.name}" for one in needed if not (pins.progs / one.name).exists()]
    found += [
        f"limits of function {row.function.name}"
        for row in record.functions()
        if not Cgroup(group_of(record), row.function.name).is_limited(row.function)
    ]
    found += _moved(maps, record)
    found += [*early.problems(pins, record), *_taking(maps, record)]
    found += denied.problems(maps, record)
    if not sockets.attached(pins, directory_above(group_of(record))):
        found.append("programs at sockets")
    if not host.attached(pins, maps, at_host(record)):
        found.append("programs at sockets of the host")
    return found


def _needed(record: Record) -> tuple[Program, ...]:
    """The programs at tc that there have to be."""
    return (*ALWAYS, OUT) if any(row.uplink.masquerade for row in record.uplinks()) else ALWAYS


def _taking(maps: Maps, record: Record) -> Iterator[str]:
    """Uplinks that take frames by XDP by now, or do so no more, where some may be sent there."""
    if not any(one.program in (CARRY, BOTH) for one in early.wanted(record).values()):
        return
    for row in record.uplinks():
        known = maps["mesh_iface"].get(ctypes.c_uint32(row.ifindex))
        there = bool(known and known.flags & _abi.IfaceFlag.TAKES_FRAMES)
        if there != takes_frames(row.ifindex):
            yield f"what XDP may send to uplink {row.name}"


def _moved(maps: Maps, record: Record) -> list[str]:
    """Addresses that are others by now: an uplink's, or else one of the host's."""
    rows = record.uplinks()
    with netns.rtnetlink() as ip:
        found = [f"addresses of uplink {row.name}" for row in rows if moved(ip, row) is not None]
        return found or ([] if local.is_drawn(ip, maps, record) else ["addresses of the host"])


def differences(maps: Maps, record: Record) -> list[str]:
    """Names of the maps that say something else, or less, than the record."""
    services = record.model().backed
    wanted = {
        "mesh_iface": _interfaces(record),
        "mesh_address": _addresses(record, services),
        "mesh_service": _services(record, services),
        "mesh_policy": record.all_entries(),
        "mesh_prefix": {bytes(prefix_key(name)) for name in record.names("prefix").values()},
    }
    found = [name for name, keys in wanted.items() if set(_raw(maps, name)) != set(keys)]
    found += [
        name
        for name, rows in wanted.items()
        if isinstance(rows, Mapping) and name not in found and _others(maps, name, rows)
    ]
    rules = {row.ifindex: row for row in record.uplinks() if row.uplink.masquerade}
    seen = {key.value: value for key, value in maps["mesh_masquerade"].items()}
    if rules.keys() != seen.keys() or any(
        not _is_masquerade(seen[index], row) for index, row in rules.items()
    ):
        found.append("mesh_masquerade")
    slots = [one.call for one in _needed(record) if one.call is not None]
    if any(maps["mesh_tc_calls"].get(ctypes.c_uint32(slot)) is None for slot in slots):
        found.append("mesh_tc_calls")
    if set(_functions(record)) - set(_present(maps)):
        found.append("mesh_function")
    table = {key.value: row for key, row in maps["mesh_rate"].items()}
    if not all(alike(table[slot], row) for slot, row in rates.drawn(record).items()):
        found.append("mesh_rate")
    if not all(_has_table(maps, record, service) for service in services):
        found.append("mesh_maglev")
    if _config(maps).tenants != tenant_ids(record.limits()) or not _config(maps).judged:
        found.append("mesh_config")
    if sockets.supported() and {row.id for row in record.functions()} - _at_sockets(maps):
        found.append("mesh_netns")
    drawn, parts = shares.drawn(record), shares.events_drawn(record)
    rows = {place: maps["mesh_room"].get(rooms.key(*place)) for place in drawn}
    if not all((row := rows[place]) and room.is_in(row) for place, room in drawn.items()):
        found.append("mesh_room")
    others = {tenant: maps["mesh_event_room"].get(ctypes.c_uint32(tenant)) for tenant in parts}
    if not all((row := others[tenant]) and part.is_in(row) for tenant, part in parts.items()):
        found.append("mesh_event_room")
    return found


def _is_masquerade(seen: _abi.Masquerade, row: UplinkRow) -> bool:
    wanted = masquerade(row.uplink, row.addresses)
    return (seen.address4, seen.first, seen.count) == (wanted.address4, wanted.first, wanted.count)


def _raw(maps: Maps, name: str) -> Iterator[bytes]:
    return (bytes(key) for key, _ in maps[name].items())


def _others(maps: Maps, name: str, wanted: Mapping[bytes, int]) -> bool:
    """Whether values are others, as far as they are compared."""
    for key, value in maps[name].items():
        number = getattr(value, _NUMBER.get(name, "value"))
        if number != wanted[bytes(key)]:
            return True
    return False


def _interfaces(record: Record) -> dict[bytes, int]:
    uplinks = {bytes(ctypes.c_uint32(row.ifindex)): 0 for row in record.uplinks()}
    return uplinks | {
        bytes(ctypes.c_uint32(row.attachment.ifindex)): row.id for row in record.functions()
    }


def _addresses(record: Record, services: Sequence[Service]) -> dict[bytes, int]:
    found = {
        bytes(packed(address)): _abi.SERVICE_ADDRESS
        for service in services
        for address in service.addresses
    }
    for row in record.functions():
        found |= {bytes(packed(address)): row.id for address in row.function.addresses}
    for remote in record.remotes():
        found |= {bytes(packed(address)): remote.id for address in remote.remote.addresses}
    return found


def _services(record: Record, services: Sequence[Service]) -> dict[bytes, int]:
    places = record.places()
    return {
        bytes(end.key): record.table(service.name)[0]
        for service in services
        for end in frontends(service, places)
    }


def _functions(record: Record) -> Iterator[tuple[int, ...]]:
    flags = rates.flags(record)
    for row in record.functions():
        function, tenant = row.function, record.find_id("tenant", row.function.tenant)
        group = record.find_id("group", function.group) if function.group else 0
        address = int(function.address4 or 0)
        yield row.id, row.attachment.ifindex, tenant or 0, group or 0, flags[row.id], address
    places = record.places()
    for remote in record.remotes():
        index, _ = places.get(remote.remote.uplink, (0, ()))
        tenant = record.find_id("tenant", remote.remote.tenant)
        address = int(remote.remote.address4 or 0)
        yield remote.id, index, tenant or 0, 0, int(_abi.FunctionFlag.REMOTE), address


def _present(maps: Maps) -> Iterator[tuple[int, ...]]:
    for key, row in maps["mesh_function"].filled():
        yield key.value, row.ifindex, row.tenant, row.group, row.flags, row.address4


def _has_table(maps: Maps, record: Record, service: Service) -> bool:
    first, rows = record.table(service.name)
    if not any(record.only_ready(service).backends.values()):
        return True
    found = (maps["mesh_maglev"].get(ctypes.c_uint32(first + number)) for number in range(rows))
    return all(row is not None and row.function[0] for row in found)


def _config(maps: Maps) -> Any:
    return maps.config.get(ctypes.c_uint32(0))


def _at_sockets(maps: Maps) -> set[int]:
    return {owner.value for _, owner in maps["mesh_netns"].items()}
