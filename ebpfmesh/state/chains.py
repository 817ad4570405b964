# SPDX-License-Identifier: BSD-2-Clause
"""Which programs the packets of each function meet, and where their chains are, by the record."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

from ebpfmesh import _abi
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.model import Function
from ebpfmesh.state.record import InjectionRow, Record

Chain = tuple[int, ...]
"""Ids of programs, in the order in which packets meet them."""


@dataclass(frozen=True)
class Both:
    """The chains of one function: of what it sends, and of what it gets."""

    egress: Chain
    ingress: Chain

    def heads(self, blocks: dict[Chain, int]) -> tuple[int, int]:
        """The slots where packets begin, by Direction; 0: there is no chain."""
        return tuple(_head(blocks[one]) if one else 0 for one in (self.egress, self.ingress))  # type: ignore[return-value]


def wanted(record: Record) -> dict[int, Both]:
    """The chains of all functions, by id."""
    rows = record.injections()
    return {row.id: of(rows, row.function) for row in record.functions()}


def of(rows: Sequence[InjectionRow], function: Function) -> Both:
    """The chains of a function: its own are nearest to it, its tenant's furthest away."""
    where = [("function", function.name), ("function", function.group), ("tenant", function.tenant)]
    met: dict[str, list[list[int]]] = {"egress": [], "ingress": []}
    for target in where:
        for way, found in met.items():
            here = [row for row in rows if row.injection.target == target]
            found.append([row.program for row in here if row.injection.way == way])
    out, back = met["egress"], met["ingress"][::-1]
    return Both(*(tuple(one for part in parts for one in part) for parts in (out, back)))


def _head(block: int) -> int:
    return block * (_abi.CHAIN_MAX + 1) + _abi.CHAIN_MAX


def slots(block: int, count: int) -> list[int]:
    """Where the programs of a chain are, in the order in which packets meet them."""
    return [_head(block) - place for place in range(count)]


def used_slots(record: Record) -> set[int]:
    """Where programs are, of all chains."""
    found = record.chains().items()
    return {slot for chain, block in found for slot in slots(block, len(chain))}


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
            if not has_maps(pins, record, row.program)]  # fmt: skip
