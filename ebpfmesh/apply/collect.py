# SPDX-License-Identifier: BSD-2-Clause
"""gc: find what is left of meshes that no longer work, and remove it.

What is ours is known by record, by pin, by the alias of an interface, by the name of a namespace
or by the directory of a cgroup; nothing else is touched. A mesh whose host namespace lives
somewhere else is left alone.
"""

import contextlib
from collections.abc import Iterator

from pyroute2 import IPRoute

from ebpfmesh.apply import batch, listen
from ebpfmesh.apply.held import OnStep, quiet
from ebpfmesh.apply.live import Live, changing
from ebpfmesh.apply.remove import take_down
from ebpfmesh.errors import AbiMismatch, MeshError, NotFound
from ebpfmesh.kernel import cgroup, interface, netns, rcu
from ebpfmesh.runtime import process
from ebpfmesh.state import lock, remains
from ebpfmesh.state.place import pool_cgroup
from ebpfmesh.state.writer import Writer


def gc(on_step: OnStep = quiet) -> list[str]:
    """Remove all leftovers; what was removed, a line each.

    What is wrong with one mesh keeps nothing of others from being removed; it is raised after.
    """
    removed = ["expedited grace periods"] if rcu.put_back() else []
    failed: list[MeshError] = []
    with netns.rtnetlink() as ip:
        for mesh in sorted(remains.meshes(ip)):
            try:
                with changing(mesh):
                    removed += _collect_mesh(ip, mesh, on_step)
            except MeshError as error:
                failed.append(error)
    removed += _collect_dead_cgroups()
    for mesh in lock.stale_locks():
        with lock.locked(mesh):
            pass  # whoever leaves last removes it
    if failed:
        for line in removed:
            on_step(line)
        raise failed[0]
    return removed


def _collect_mesh(ip: IPRoute, mesh: str, on_step: OnStep) -> list[str]:
    try:
        remains.check_home(mesh)
    except NotFound:
        return []
    if _is_lost(mesh):
        return [f"mesh {mesh}", *take_down(mesh, on_step)]
    with (
        contextlib.closing(Writer(mesh)) as found,
        contextlib.closing(Live(found, on_step)) as live,
    ):
        dead = listen.stop_dead(found, live.control.maps)
        removed = [f"events of mesh {mesh} for process {dead.pid}"] if dead else []
        removed += [f"half a change of mesh {mesh}"] if found.cut_short else []
        wrong = batch.problems(live)
        removed += [f"what was wrong with {what} of mesh {mesh}" for what in wrong]
        removed += [f"{what} of mesh {mesh}" for what in batch.recover(live, wrong)]
        live.pools.tidy()
        known = {row.function.name for row in found.functions()}
        known |= {pool_cgroup(found, name).function for name in live.pools.names()}
    return [*removed, *_collect_strays(ip, mesh, known)]


def _is_lost(mesh: str) -> bool:
    """Whether a mesh cannot be repaired. One of another version works: AbiMismatch."""
    try:
        return bool(remains.damage(mesh))
    except AbiMismatch:
        if remains.home(mesh) == netns.current():
            raise
        return True


def _collect_strays(ip: IPRoute, mesh: str, known: set[str]) -> Iterator[str]:
    """Interfaces, namespaces and cgroups of functions that a mesh does not know."""
    found = remains.of(ip, mesh)
    strays = {
        name: owner
        for name, owner in found.interfaces.items()
        if owner.partition("/")[2] not in known
    }
    interface.remove(ip, strays)
    yield from (f"interface {name} of {owner}" for name, owner in strays.items())
    for name in found.namespaces:
        if netns.owner_of(name).partition("/")[2] not in known:
            netns.remove(name)
            yield f"namespace {name}"
    for group in found.cgroups:
        if group.function not in known:
            yield _collect_cgroup(group)


def _collect_dead_cgroups() -> list[str]:
    """Of functions whose host namespace is gone."""
    groups = [one for one in cgroup.groups() if one.home and not one.home.lives()]
    return [_collect_cgroup(group) for group in groups]


def _collect_cgroup(group: cgroup.Cgroup) -> str:
    cgroup.stop([cgroup.Stop(group)], process.keepers)
    group.remove()
    return f"cgroup {group.group}/{group.function}"
