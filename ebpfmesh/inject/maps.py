# SPDX-License-Identifier: BSD-2-Clause
"""The maps of an author's function: what it asked for, bounded, made by us and by nobody else."""

import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from ebpfmesh.errors import FunctionRefused
from ebpfmesh.inject.budget import Budget
from ebpfmesh.inject.compile import Compiled, Table
from ebpfmesh.inject.source import COUNTERS, INTEGERS, PARAMETERS, Source
from ebpfmesh.kernel import bpf

KINDS = {
    1: "hash", 2: "array", 5: "percpu_hash", 6: "percpu_array", 9: "lru_hash",
    10: "lru_percpu_hash", 27: "ringbuf",
}  # fmt: skip
PARAMETER_MAP = "mesh_parameters"
READ_ONLY = 1 << 7  # BPF_F_RDONLY_PROG
SHARED = 1 << 10  # BPF_F_MMAPABLE, of those that commands read
SLOT = 8  # bytes of a parameter
PAGE = 4096


@dataclass(frozen=True)
class Layout:
    """What a map is; two that are equal may take each other's place, entries and all.

    ``key`` and ``value`` are BCC's descriptions (``compile.Table``); of mesh_parameters the value
    is the list of [name, type], of mesh_counters the names.
    """

    kind: str
    key_size: int
    value_size: int
    entries: int
    key: Any
    value: Any
    flags: int = 0

    @property
    def estimate(self) -> int:
        """Bytes that it will take, roughly, and rather too many."""
        key, value = -(-self.key_size // 8) * 8, -(-self.value_size // 8) * 8
        if self.kind.endswith("percpu_hash") or self.kind == "percpu_array":
            value = value * bpf.possible_cpus() + 8
        if self.kind == "ringbuf":
            return self.entries + 3 * PAGE
        if self.kind.endswith("array"):
            return self.entries * value + PAGE
        return self.entries * (64 + key + value + 32) + PAGE  # and the buckets


@dataclass(frozen=True)
class OwnMap:
    """A map that is there; ``number`` is what the compiled instructions call it."""

    name: str
    number: int
    layout: Layout
    fd: bpf.Fd


def layouts(source: Source, compiled: Compiled, budget: Budget) -> dict[str, tuple[int, Layout]]:
    """Number and layout of each map that the program wants; FunctionRefused if it may not."""
    found = {table.name: (table.number, _layout(source, table)) for table in compiled.tables}
    for name in source.maps.keys() - found.keys():
        raise source.refuse(f"map {name} is not compiled", source.maps[name], "is it in an #if?")
    if source.parameters:
        value = [[one.name, one.type] for one in source.parameters.values()]
        size = SLOT * len(value)
        found[PARAMETER_MAP] = (PARAMETERS, Layout("array", 4, size, 1, "u32", value, READ_ONLY))
    if len(source.maps) > budget.maps:
        line = list(source.maps.values())[budget.maps]
        raise source.refuse(f"more than {budget.maps} maps", line)
    total = 0
    for name, (_, layout) in found.items():
        total += layout.estimate
        if total > budget.map_bytes:
            raise source.refuse(
                f"with {name} its maps would take {total} bytes, of {budget.map_bytes} they may",
                source.maps.get(name),
            )
    return found


def _layout(source: Source, table: Table) -> Layout:
    line = source.maps.get(table.name) or source.line_of(table.name)
    if table.name == COUNTERS and source.counters:
        return Layout("percpu_array", 4, 8, len(source.counters), "u32", list(source.counters))
    if table.name not in source.maps:
        raise source.refuse(
            f"map {table.name} is not declared by MESH_MAP, MESH_SHARED or MESH_RING", line,
            "as in MESH_MAP(hash, flows, u32, u64, 1024)",
        )  # fmt: skip
    kind = KINDS.get(table.kind)
    if kind is None or table.flags:
        raise source.refuse(f"map {table.name} is of a kind that functions do not have", line)
    sizes = (0, 0) if kind == "ringbuf" else (table.key_size, table.value_size)
    if kind == "ringbuf" and (table.entries < PAGE or table.entries & (table.entries - 1)):
        raise source.refuse(f"{table.entries} is no power of two, and at least {PAGE}", line)
    flags = SHARED if table.name in source.shared else 0
    return Layout(kind, *sizes, table.entries, table.key, table.value, flags)


def create(
    source: Source,
    wanted: Mapping[str, tuple[int, Layout]],
    reuse: Mapping[str, OwnMap],
    stack: ExitStack,
) -> dict[str, OwnMap]:
    """Make the maps, or take those of ``reuse`` that have the same name and layout.

    Their descriptors are closed with ``stack``. New parameters have their defaults.
    """
    made = {}
    for name, (number, layout) in wanted.items():
        old = reuse.get(name)
        if old and old.layout == layout:
            fd = stack.enter_context(bpf.Fd(os.dup(old.fd.fileno())))
        else:
            fd = stack.enter_context(_new(source, name, layout))
            if layout.flags & SHARED:
                bpf.map_freeze(fd)
            if name == PARAMETER_MAP:
                bpf.map_update(fd, bytes(4), bytes(defaults(source)))
        made[name] = OwnMap(name, number, layout, fd)
    return made


def _new(source: Source, name: str, layout: Layout) -> bpf.Fd:
    number = next(number for number, kind in KINDS.items() if kind == layout.kind)
    sizes = (layout.key_size, layout.value_size, layout.entries)
    try:
        return bpf.map_create(number, name, *sizes, layout.flags)
    except OSError as error:
        line = source.maps.get(name)
        raise FunctionRefused(
            f"map {name}: {os.strerror(error.errno or 0)}", file=source.path, line=line
        ) from error


def defaults(source: Source) -> Iterator[int]:
    """The bytes of the map of parameters as the author wants them at first."""
    for one in source.parameters.values():
        yield from packed(one.type, one.value)


def packed(kind: str, value: int) -> bytes:
    """A parameter's slot; struct.error if the value is none of the type."""
    bits, signed = INTEGERS[kind]
    letter = {8: "b", 16: "h", 32: "i", 64: "q"}[bits]
    return struct.pack(f"={letter if signed else letter.upper()}", value).ljust(SLOT, b"\0")


def unpacked(kind: str, slot: bytes) -> int:
    """The value in a parameter's slot."""
    bits, signed = INTEGERS[kind]
    return int.from_bytes(slot[: bits // 8], "little", signed=signed)
