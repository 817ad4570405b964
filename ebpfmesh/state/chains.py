# SPDX-License-Identifier: BSD-2-Clause
"""Which programs the packets of each function meet, and where their chains are, by the record."""

import ctypes
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ebpfmesh import _abi
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.model import Function
from ebpfmesh.state.record import Chain, InjectionRow, Record, Split


@dataclass(frozen=True)
class Both:
    """The chains of one function: of what it sends, and of what it gets."""

    egress: Chain
    ingress: Chain

    def heads(self, blocks: dict[Chain, int]) -> tuple[int, int]:
        """The slots where packets begin, by Direction; 0: there is no chain."""
        egress, ingress = (_head(blocks[one]) if one else 0 for one in (self.egress, self.ingress))
        return egress, ingress


def wanted(record: Record) -> dict[int, Both]:
    """The chains of all functions, by id."""
    rows = record.injections()
    return {row.id: of(rows, row.function) for row in record.functions()}


def of(rows: Sequence[InjectionRow], function: Function) -> Both:
    """The chains of a function: its own are nearest to it, its tenant's furthest away."""
    where = [("function", function.name), ("function", function.group), ("tenant", function.tenant)]
    met: dict[str, list[Chain]] = {"egress": [], "ingress": []}
    for target in where:
        for way, found in met.items():
            here = [row for row in rows if row.injection.target == target]
            found.append(tuple(_step(row) for row in here if row.injection.way == way))
    out, back = met["egress"], met["ingress"][::-1]
    return Both(*(tuple(one for part in parts for one in part) for parts in (out, back)))


def _head(block: int) -> int:
    return block * (_abi.CHAIN_MAX + 1) + _abi.CHAIN_MAX


def _step(row: InjectionRow) -> int | Split:
    return (row.split, row.program, row.canary) if row.canary else row.program


@dataclass(frozen=True)
class Place:
    """A slot of a chain's block: its program, and the slot that comes after it, 0 for the last.

    Of a split ``sides`` are the slots of the two it chooses from.
    """

    slot: int
    program: int
    following: int
    sides: tuple[int, int] | None = None


def size(chain: Chain) -> int:
    """How many slots a chain takes."""
    return sum(3 if isinstance(step, tuple) else 1 for step in chain)


def places(block: int, chain: Chain) -> Iterator[Place]:
    """The slots of a chain: steps from the head downwards, the two behind a split from below."""
    below = itertools.count(_head(block) - _abi.CHAIN_MAX + 1)
    for index, step in enumerate(chain):
        slot = _head(block) - index
        following = 0 if index + 1 == len(chain) else slot - 1
        if isinstance(step, int):
            yield Place(slot, step, following)
            continue
        chooser, *programs = step
        stable, canary = next(below), next(below)
        yield Place(slot, chooser, following, (stable, canary))
        yield from (Place(s, p, following) for s, p in zip((stable, canary), programs, strict=True))


def used_slots(record: Record) -> set[int]:
    """Where programs are, of all chains."""
    found = record.chains().items()
    return {place.slot for chain, block in found for place in places(block, chain)}


def has_maps(pins: Pins, record: Record, program: int) -> bool:
    """Whether the maps that a program has for itself are pinned."""
    names = record.program(program).compiled["maps"]
    return all((pins.injected / str(program) / name).exists() for name in names)


def problems(pins: Pins, maps: Maps, record: Record) -> list[str]:
    """What of the chains is not as the record says."""
    if not record.injects:
        return []
    blocks, both_of = record.chains(), wanted(record)
    lost = [chain for both in both_of.values() for chain in (both.egress, both.ingress)
            if chain and chain not in blocks]  # fmt: skip
    table = maps["mesh_injected"]
    if lost or not all(table.get(ctypes.c_uint32(slot)) for slot in used_slots(record)):
        return ["map mesh_injected"]
    for function, both in both_of.items():
        row = maps["mesh_chain"].get(ctypes.c_uint32(function))
        if row is None or tuple(row.head) != both.heads(blocks):
            return ["map mesh_chain"]
    rows = record.injections()
    return [f"maps of {row.injection.name}" for row in rows
            if not all(has_maps(pins, record, program) for program in row.programs)]  # fmt: skip
