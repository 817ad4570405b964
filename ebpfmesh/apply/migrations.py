# SPDX-License-Identifier: BSD-2-Clause
"""Maps of programs that are swapped for others, where the layout is another: what is in them.

A new program's maps get the entries of those before it right before packets meet it, and a grace
period later, when none meets the old one any more, those that came meanwhile. Until then it counts
as unfinished in the record: a change that is undone, be it after a kill, forgets it. The old
program's maps are only read, so that there is nothing to put back.
"""

from dataclasses import dataclass
from typing import Any

from ebpfmesh.apply.held import Held
from ebpfmesh.inject.build import Built
from ebpfmesh.inject.maps import Layout
from ebpfmesh.inject.migrate import Migration, check_layouts
from ebpfmesh.inject.source import Source
from ebpfmesh.kernel import bpf
from ebpfmesh.state.rows import ProgramRow

UNFINISHED, DONE = "migrating", "migrated"
"""Of what is written down of a program: what was before the one before it; figures by map."""


@dataclass(frozen=True)
class _Swap:
    """Two programs by id, and the maps that migrate from one to the other."""

    old: int
    new: int
    maps: tuple[Migration, ...]


class Migrations:
    """Those of a change."""

    def __init__(self, mesh: Held) -> None:
        self._mesh = mesh
        self._swaps: list[_Swap] = []

    def add(self, old: int, new: int, maps: tuple[Migration, ...]) -> None:
        """Have the maps of a new program begin with what those of an old one have."""
        self._swaps.append(_Swap(old, new, maps))

    def copy(self) -> None:
        """All entries, right before packets meet the new programs; FunctionRefused if not all fit.

        What packets change in old entries from here until then is not in the new ones.
        """
        wanted = {n for row in self._mesh.record.injections() for n in (row.program, row.canary)}
        self._swaps = [swap for swap in self._swaps if swap.new in wanted]  # others were undone
        for swap in self._swaps:
            for one in swap.maps:
                with self._map(swap.old, one) as old, self._map(swap.new, one) as new:
                    one.copy(old, new, self._mesh.step)

    def finish(self) -> None:
        """What came meanwhile, when no packet meets the old programs any more; write it down."""
        for swap in self._swaps:
            for one in swap.maps:
                with self._map(swap.old, one) as old, self._map(swap.new, one) as new:
                    one.copy_late(old, new)
            figures = {
                one.name: {
                    "kept": one.kept, "left_out": one.left_out, "late": one.late, "lost": one.lost
                }
                for one in swap.maps
            }  # fmt: skip
            compiled = self._mesh.record.program(swap.new).compiled
            compiled.pop(UNFINISHED)
            self._mesh.record.put_compiled(swap.new, compiled | {DONE: figures})
        self._swaps.clear()

    @property
    def some(self) -> bool:
        """Whether anything is to be finished."""
        return bool(self._swaps)

    def _map(self, program: int, one: Migration) -> bpf.Fd:
        return bpf.obj_get(self._mesh.pins.injected / str(program) / one.name)


def found(text: Source, built: Built, older: dict[str, Layout]) -> tuple[Migration, ...]:
    """The maps of a program that migrate from those that are there, by name.

    Raises FunctionRefused if one would lose what it has.
    """
    migrations = []
    for name, layout in built.layouts.items():
        if name not in older or layout == older[name]:
            continue
        program = built.compiled.migrations.get(name)
        if program is None:
            what = f"map {name} has another layout than the one that is there"
            how = f"MESH_MIGRATE({name}, …) says how a value becomes a new one; or "
            hint = "call the map otherwise, and it begins empty"
            raise text.refuse(
                what, text.maps.get(name), hint if name in text.shared else how + hint
            )
        check_layouts(text, name, older[name], layout, program.tables[0].value_size)
        migrations.append(Migration(text, name, program, older[name], layout))
    return tuple(migrations)


def unfinished(program: ProgramRow) -> Any:
    """What was before the one before a program that is not finished; None: it is."""
    return program.compiled.get(UNFINISHED)
