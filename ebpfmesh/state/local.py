# SPDX-License-Identifier: BSD-2-Clause
"""Addresses of the host's own, in mesh_local: who comes in by an uplink with one is refused."""

import ctypes

from pyroute2 import IPRoute

from ebpfmesh import _abi
from ebpfmesh.kernel import interface
from ebpfmesh.kernel.keys import packed
from ebpfmesh.kernel.maps import LOCALS, Maps
from ebpfmesh.state.record import Record


def wanted(ip: IPRoute, record: Record) -> set[bytes]:
    """Keys of the map as it should be; none without an uplink.

    Link-local ones of IPv6 come with every interface, and are nobody's a rule speaks of. Of more
    than there is room for, those of uplinks are there.
    """
    rows = record.uplinks()
    if not rows:
        return set()
    first = {address for row in rows for address in row.addresses}
    others = {one for one in interface.local(ip) if one.version == 4 or not one.is_link_local}
    chosen = [*sorted(first, key=str), *sorted(others - first, key=str)][:LOCALS]
    return {bytes(packed(address)) for address in chosen}


def is_drawn(ip: IPRoute, maps: Maps, record: Record) -> bool:
    """Whether the map is so."""
    return {bytes(key) for key, _ in maps["mesh_local"].items()} == wanted(ip, record)


def draw(ip: IPRoute, maps: Maps, record: Record) -> None:
    """Have it be so."""
    table, keys = maps["mesh_local"], wanted(ip, record)
    there = {bytes(key) for key, _ in table.items()}
    for gone in there - keys:
        table.delete(_abi.Address.from_buffer_copy(gone))
    for new in keys - there:
        table.set(_abi.Address.from_buffer_copy(new), ctypes.c_uint32(0))
