# SPDX-License-Identifier: BSD-2-Clause
"""Whether a mesh is well: its functions, maps, and what others put on its interfaces."""

from collections.abc import Iterator

from ebpfmesh.errors import MeshError, NotFound
from ebpfmesh.kernel import links
from ebpfmesh.kernel.place import HOOKS, fault
from ebpfmesh.observe import objects
from ebpfmesh.observe.machine import Check, Status
from ebpfmesh.observe.view import View, opened


def check(mesh: str) -> Iterator[Check]:
    """All checks of a mesh; one that cannot be looked at from here is only noted."""
    try:
        with opened(mesh) as view:
            yield from _check(view, f"mesh {mesh}")
    except MeshError as error:
        status: Status = "note" if isinstance(error, NotFound) else "missing"
        yield Check(f"mesh {mesh}", status, error.message, error.hint)


def _check(view: View, topic: str) -> Iterator[Check]:
    if view.record.get("dirty"):
        yield Check(topic, "missing", "a change was cut short", "run ebpfmesh up FILE, or gc")
    broken = [(row.function.name, what) for row in view.functions if (what := fault(view.ip, row))]
    for name, state in broken:
        yield Check(topic, "missing", f"function {name}: {state}", "ebpfmesh gc removes it")
    if not broken:
        yield Check(topic, "ok", f"{len(view.functions)} functions work")
    yield from _foreign(view, topic)
    yield from _fill(view, topic)


def _foreign(view: View, topic: str) -> Iterator[Check]:
    ours = {name for _, name in HOOKS}
    for row in view.functions:
        if fault(view.ip, row):
            continue
        for program in links.programs(view.ip, row.place.ifindex):
            if program.name not in ours:
                what = f"function {row.function.name}: {row.place.interface} has {program} too"
                yield Check(topic, "note", what, "it sees packets before or after the mesh does")


def _fill(view: View, topic: str) -> Iterator[Check]:
    for row in objects.read_maps(view):
        if row.is_full:
            what = f"map {row.name}: {row.used} of {row.entries} entries are used"
            yield Check(topic, "note", what, "raise its limit under [mesh], then down and up")
