# SPDX-License-Identifier: BSD-2-Clause
"""What of a record's deny list packets are to meet, and where."""

from collections.abc import Iterable, Iterator

from ebpfmesh.kernel import deny, interface
from ebpfmesh.kernel.deny import Entry
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.state import early
from ebpfmesh.state.record import Record
from ebpfmesh.state.rows import UplinkRow
from ebpfmesh.state.tables import Denied


def indices(record: Record) -> dict[str, int]:
    """By names of uplinks at which anything can be denied, their interfaces; the empty name: 0."""
    rows = (row for row in record.uplinks() if row.ready and early.may_deny(row.uplink))
    return {"": 0} | {row.name: row.ifindex for row in rows}


def entries(record: Record, rows: Iterable[Denied]) -> list[Entry]:
    """What of it packets meet."""
    known = indices(record)
    return [Entry(known[one.uplink], one.block) for one in rows if one.uplink in known]


def places(record: Record, names: Iterable[str]) -> list[UplinkRow]:
    """The uplinks at which anything is denied, by names in a list, as far as they are there."""
    names = set(names)
    known = indices(record)
    found = (row for row in record.uplinks() if row.name in known)
    wanted = (row for row in found if not names.isdisjoint(("", row.name)))
    return [row for row in wanted if interface.find(row.uplink.interface) == row.ifindex]


def problems(maps: Maps, record: Record) -> Iterator[str]:
    """What is not as it is to be."""
    wanted = places(record, record.count_denied())
    rows = entries(record, record.denied()) if wanted else []
    if deny.current(maps) != (deny.stamp(sorted(rows)) if wanted else 0):
        yield "the deny list"
