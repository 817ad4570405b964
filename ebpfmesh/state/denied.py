# SPDX-License-Identifier: BSD-2-Clause
"""What of a record's deny list packets are to meet, and where."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from ebpfmesh.kernel import bpf, deny, interface
from ebpfmesh.kernel.deny import Entry
from ebpfmesh.kernel.links import UPLINK_PIN
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.state.record import Record, UplinkRow
from ebpfmesh.state.tables import Denied


def pin(pins: Pins, uplink: str) -> Path:
    """Where the XDP program of an uplink is pinned."""
    return pins.links / f"{UPLINK_PIN}{uplink}-xdp"


def indices(record: Record) -> dict[str, int]:
    """By names of uplinks at which anything can be denied, their interfaces; the empty name: 0."""
    rows = (row for row in record.uplinks() if row.ready and row.uplink.xdp == "auto")
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


def problems(pins: Pins, maps: Maps, record: Record) -> Iterator[str]:
    """What is not as it is to be."""
    wanted = places(record, record.count_denied())
    rows = entries(record, record.denied()) if wanted else []
    if deny.current(maps) != (deny.stamp(sorted(rows)) if wanted else 0):
        yield "the deny list"
    names = {row.name for row in wanted}
    yield from (f"XDP at uplink {row.name}" for row in wanted if not attached(pins, row))
    yield from (f"XDP at uplink {name}" for name in pinned(pins) if name not in names)


def attached(pins: Pins, row: UplinkRow) -> bool:
    """Whether the program is at an uplink."""
    try:
        with bpf.obj_get(pin(pins, row.name)) as link:
            return bpf.link_interface(link) == row.ifindex
    except FileNotFoundError:
        return False


def pinned(pins: Pins) -> list[str]:
    """Names of uplinks for which the program is pinned."""
    found = (path.name for path in pins.links.glob(f"{UPLINK_PIN}*-xdp"))
    return sorted(name.removeprefix(UPLINK_PIN).removesuffix("-xdp") for name in found)
