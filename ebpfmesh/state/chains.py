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
from ebpfmesh.state.record import Record
from ebpfmesh.state.rows import Chain, InjectionRow, Split


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

    Of a split ``sides`` are the slots of the two it chooses from. Of a canary ``detour`` is the
    slot of the other one, which packets meet while its circuit breaker is open.
    """

    slot: int
    program: int
    following: int
    sides: tuple[int, int] | None = None
    detour: int = 0


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
        chooser, stable, canary = step
        here, there = next(below), next(below)
        yield Place(slot, chooser, following, sides=(here, there))
        yield Place(here, stable, following)
        yield Place(there, canary, following, detour=here)


def used_slots(record: Record) -> set[int]:
    """Where programs are, of all chains; and mesh_chain_end, where one of them is a tenant's."""
    found = [place for chain, block in record.chains().items() for place in places(block, chain)]
    programs = {place.program for place in found}
    guarded = any(record.program(number).injection.tenant is not None for number in programs)
    return {place.slot for place in found} | ({_abi.CHAIN_END} if guarded else set())


def running(record: Record) -> set[int]:
    """Programs of all that is injected, without what chooses between two."""
    return {number for row in record.injections() for number in row.running}


def drawn(record: Record) -> set[int]:
    """Programs that are in chains, and what chooses between two."""
    steps = (step for chain in record.chains() for step in chain)
    return {number for step in steps for number in (step if isinstance(step, tuple) else (step,))}


def opened(maps: Maps) -> set[int]:
    """Programs whose circuit breaker is open."""
    return {number for number, row in enumerate(breakers(maps).of) if row.open}


def breakers(maps: Maps) -> _abi.Breakers:
    """The circuit breakers of all programs, by id."""
    found: _abi.Breakers = maps["mesh_breaker"].get(ctypes.c_uint32(0)) or _abi.Breakers()
    return found


def unguarded(maps: Maps, record: Record) -> set[int]:
    """Programs whose circuit breakers do not have the limits that they were compiled for."""
    of = breakers(maps).of
    limits = {one: record.program(one).compiled["limit_ns"] for one in running(record)}
    return {number for number, limit in limits.items() if of[number].limit != limit}


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
    if unguarded(maps, record):
        return ["map mesh_breaker"]
    rows = record.injections()
    return [f"maps of {row.injection.name}" for row in rows
            if not all(has_maps(pins, record, program) for program in row.programs)]  # fmt: skip
