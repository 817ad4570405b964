# SPDX-License-Identifier: BSD-2-Clause
"""What is injected: where, with which parameters, what it counted and dropped, what it costs."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ebpfmesh._abi import Refused, Unwritten
from ebpfmesh.errors import NotFound
from ebpfmesh.inject import maps
from ebpfmesh.inject.source import COUNTERS, INDEXES
from ebpfmesh.kernel import bpf
from ebpfmesh.model import Injection, suggest
from ebpfmesh.observe.cost import Live, read_live
from ebpfmesh.observe.view import View
from ebpfmesh.state.rows import ProgramRow

UNWRITTEN = {
    Unwritten.PAYLOAD: "no payload",
    Unwritten.BOUNDS: "not within the payload",
    Unwritten.SEGMENTS: "of several segments",
    Unwritten.MEMORY: "no memory",
}
"""Why a packet was not written to."""


@dataclass(frozen=True)
class Injected:
    """One program, and what is known of it; ``before``: there is one to go back to.

    ``refused`` are packets that it dropped, by its own reasons; ``unwritten`` those that it would
    have written to and that went on as they were, by why. Times are nanoseconds a packet, above
    those of a program that does nothing, when it was compiled. ``migrated`` is, by map, how many
    entries of the version before were kept and left out, how many came meanwhile, and those of
    them that were lost.
    """

    name: str
    at: str
    place: int
    file: str
    program: int
    before: bool
    canary: str
    parameters: dict[str, int]
    counters: dict[str, int]
    refused: dict[str, int]
    unwritten: dict[str, int]
    texts: dict[str, str]
    maps: dict[str, int]
    migrated: dict[str, dict[str, int]]
    instructions: int
    verified: int
    ns_median: float
    ns_worst: float
    live: Live


def read_injected(view: View) -> Iterator[Injected]:
    """All that is injected, by place, in the order in which packets meet it."""
    for row in view.record.injections():
        program = view.record.program(row.program)
        compiled, figures = program.compiled, program.compiled["figures"]
        yield Injected(
            name=row.injection.name,
            at=row.injection.at,
            place=row.injection.rank + 1,
            file=row.injection.file,
            program=program.id,
            before=bool(row.before),
            canary=_canary(row.injection),
            parameters=_parameters(view, program),
            counters=counters_of(view, program),
            refused=refused_of(view, program),
            unwritten=unwritten_of(view, program),
            texts=compiled["counters"]
            | {name: text for name, _, _, text in compiled["parameters"]},
            maps={name: layout["entries"] for name, (_, layout) in compiled["maps"].items()},
            migrated=compiled.get("migrated", {}),
            instructions=figures["instructions"],
            verified=figures["verified"],
            ns_median=figures["ns_median"],
            ns_worst=figures["ns_worst"],
            live=read_live(view, program.id),
        )


def _canary(injection: Injection) -> str:
    canary = injection.canary
    return f"{canary.share} % {canary.file}" if canary else ""


def one(view: View, name: str) -> Injected:
    """The program of a name; NotFound if nothing is injected as that."""
    rows = {row.name: row for row in read_injected(view)}
    if name not in rows:
        raise NotFound(f"nothing is injected as {name}", hint=suggest(name, rows))
    return rows[name]


def _table(view: View, program: ProgramRow, name: str) -> bpf.Fd:
    return bpf.obj_get(view.pins.injected / str(program.id) / name)


def _parameters(view: View, program: ProgramRow) -> dict[str, int]:
    """What they are now."""
    given: list[Any] = program.compiled["parameters"]
    if not given:
        return {}
    with _table(view, program, maps.PARAMETER_MAP) as table:
        value = bpf.map_lookup(table, bytes(4), maps.SLOT * len(given)) or b""
    slots = (value[at : at + maps.SLOT] for at in range(0, len(value), maps.SLOT))
    return {one[0]: maps.unpacked(one[1], slot) for one, slot in zip(given, slots, strict=True)}


def counters_of(view: View, program: ProgramRow) -> dict[str, int]:
    """What it counted, over all CPUs."""
    names = program.compiled["counters"]
    if not names:
        return {}
    found, cpus = {}, bpf.possible_cpus()
    with _table(view, program, COUNTERS) as table:
        for slot, name in enumerate(names):
            value = bpf.map_lookup(table, slot.to_bytes(4, "little"), 8 * cpus)
            found[name] = sum(struct.unpack(f"={cpus}Q", value)) if value else 0
    return found


def refused_of(view: View, program: ProgramRow) -> dict[str, int]:
    """Packets that it dropped, by its own reasons; GSO ones by their segments."""
    return _refused(view, program, "packets")


def refusals_of(view: View, program: ProgramRow) -> dict[str, int]:
    """How often it dropped, by its own reasons."""
    return _refused(view, program, "times")


def _refused(view: View, program: ProgramRow, field: str) -> dict[str, int]:
    reasons = program.compiled["reasons"]
    return {
        reasons.get(str(index), f"reason {index}"): getattr(row, field)
        for index, row in _rows(view, program)
        if index < INDEXES
    }


def unwritten_of(view: View, program: ProgramRow) -> dict[str, int]:
    """Packets that it could not write to, by why; GSO ones by their segments."""
    rows = _rows(view, program)
    return {UNWRITTEN[Unwritten(index)]: row.packets for index, row in rows if index >= INDEXES}


def _rows(view: View, program: ProgramRow) -> Iterator[tuple[int, Refused]]:
    for key, row in view.maps["mesh_refused"].items():
        if key.program == program.id:
            yield key.index, row


def figures_of(program: ProgramRow) -> dict[str, Any]:
    """What it cost when it was compiled (``inject.Figures``)."""
    figures: dict[str, Any] = program.compiled["figures"]
    return figures
