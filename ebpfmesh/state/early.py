# SPDX-License-Identifier: BSD-2-Clause
"""XDP in front of tc at uplinks: which program each is to have, and which it has.

Drawn from the record alone, so that whoever looks says the same as whoever attaches.
"""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from ebpfmesh.kernel import bpf, interface, links, offload
from ebpfmesh.kernel.links import UPLINK_PIN
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.kernel.programs import BOTH, CARRY, DENY, EARLY, Program
from ebpfmesh.model import Uplink
from ebpfmesh.state.record import Record
from ebpfmesh.state.rows import UplinkRow


def pin(pins: Pins, uplink: str) -> Path:
    """Where what is at XDP of an uplink is pinned."""
    return pins.links / f"{UPLINK_PIN}{uplink}-xdp"


def pinned(pins: Pins) -> list[str]:
    """Names of uplinks for which there is such a pin."""
    found = (path.name for path in pins.links.glob(f"{UPLINK_PIN}*-xdp"))
    return sorted(name.removeprefix(UPLINK_PIN).removesuffix("-xdp") for name in found)


class Wanted(NamedTuple):
    """What an uplink is to have at XDP; ``optional``: it does without where that cannot be had.

    ``needed_by`` says what cannot work, or be as quick, without it; empty: nothing yet.
    """

    program: Program
    optional: bool
    needed_by: str


def wanted(record: Record, denied: Collection[str] | None = None) -> dict[str, Wanted]:
    """What uplinks are to have, by the names of those that are to have one.

    ``denied`` are the uplinks at which something is, an empty name standing for all of them; None:
    as the record has it.
    """
    rows = [row for row in record.uplinks() if row.ready and row.uplink.xdp != "off"]
    if not rows:
        return {}
    names = set(record.count_denied() if denied is None else denied)
    carries = any(row.function.datapath != "tc" for row in record.functions())
    onward = not carries and bool(record.remotes())
    found = {
        row.name: one
        for row in rows
        if (
            one := _wanted(
                row,
                bool({"", row.name} & names),
                carries or (onward and _sends_on(row)),
            )
        )
    }
    there = {row.name: row for row in rows}
    return {
        name: one
        for name, one in found.items()
        if interface.find(there[name].uplink.interface) == there[name].ifindex
    }


def _sends_on(row: UplinkRow) -> bool:
    """Whether what goes from machine to machine is sent on by XDP there.

    Not by itself where that costs who sends to there its segmentation offload.
    """
    return row.uplink.xdp == "native" or (row.uplink.xdp == "auto" and not costs_segments(row))


def costs_segments(row: UplinkRow) -> bool:
    """Whether TCP comes there in large segments, which end where XDP begins.

    They come through a veth, and to a driver that hands on what it, or a virtual machine's host,
    has merged.
    """
    return interface.kind(row.ifindex) == "veth" or offload.merges(row.uplink.interface)


def may_deny(uplink: Uplink) -> bool:
    """Whether an uplink can have a deny list: never by XDP that some packets get around."""
    return uplink.xdp in ("auto", "native")


def _wanted(row: UplinkRow, denied: bool, carries: bool) -> Wanted | None:
    """What one uplink is to have.

    Where that costs no segments it has the program before anything needs it, since a driver that
    gets its first one sets up its queues anew, and loses packets meanwhile; another one in its
    place costs none.
    """
    xdp = row.uplink.xdp
    if denied and may_deny(row.uplink):
        return Wanted(BOTH if carries else DENY, optional=False, needed_by="a deny list")
    if carries:
        return Wanted(CARRY, optional=xdp == "auto", needed_by="datapath")
    if xdp == "native":
        return Wanted(DENY, optional=False, needed_by='xdp = "native"')
    ahead = xdp == "auto" and not costs_segments(row)
    return Wanted(DENY, optional=True, needed_by="") if ahead else None


def has(pins: Pins, row: UplinkRow) -> str:
    """The name of our program at an uplink; empty: none."""
    try:
        with bpf.obj_get(pin(pins, row.name)) as link:
            if bpf.link_interface(link) != row.ifindex:
                return ""
        return links.runs(pin(pins, row.name))
    except FileNotFoundError:
        return ""


def problems(pins: Pins, record: Record) -> Iterator[str]:
    """What is not as it is to be."""
    rows = {row.name: row for row in record.uplinks()}
    found = wanted(record)
    for name, one in found.items():
        there, row = has(pins, rows[name]), rows[name]
        if there != one.program.name and not (not there and row.without and one.optional):
            yield f"XDP at uplink {name}"
    yield from (f"XDP at uplink {name}" for name in pinned(pins) if name not in found)


def ours(name: str) -> bool:
    """Whether a program at XDP of an uplink is one of the mesh's, by its name."""
    return name in EARLY
