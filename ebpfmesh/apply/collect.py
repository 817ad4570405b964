# SPDX-License-Identifier: BSD-2-Clause
"""gc: find what is left of meshes that no longer work, and remove it.

What is ours is known by record, by pin, by the alias of an interface, by the name of a namespace
or by the directory of a cgroup; nothing else is touched. A mesh whose host namespace lives
somewhere else is left alone.
"""

import contextlib
from pathlib import Path

from pyroute2 import IPRoute

from ebpfmesh.apply.lifecycle import take_down
from ebpfmesh.apply.live import Live, OnStep, quiet
from ebpfmesh.kernel import cgroup, interface, listener, netns, pins, rcu
from ebpfmesh.kernel.record import Record, all_records, locked


def gc(on_step: OnStep = quiet) -> list[str]:
    """Remove all leftovers; what was removed, a line each."""
    removed = ["expedited grace periods"] if rcu.put_back() else []
    for mesh in sorted({*all_records(), *pins.all_meshes()}):
        with locked(mesh):
            removed += _collect_mesh(mesh, on_step)
    with netns.rtnetlink() as ip:
        removed += _collect_strays(ip)
    return removed


def _collect_mesh(mesh: str, on_step: OnStep) -> list[str]:
    if not Record.exists(mesh):
        take_down(mesh, on_step)
        return [f"pins of mesh {mesh}"]
    record = Record(mesh, create=True)
    try:
        home = record.get("netns")
        whole = record.get("mesh") is not None and pins.Pins(mesh).maps.is_dir()
        if whole and netns.lives(home):
            if home != netns.current().inode:
                return []
            with contextlib.closing(Live(record, on_step)) as live:
                dead = listener.stop_dead(record, live.control.maps)
                broken = live.recover()
            events = [f"events of mesh {mesh} for process {dead.pid}"] if dead else []
            return events + [f"function {name} of mesh {mesh}" for name in broken]
    finally:
        record.close()
    take_down(mesh, on_step)
    return [f"mesh {mesh}"]


def _collect_strays(ip: IPRoute) -> list[str]:
    """Interfaces, namespaces and cgroups whose mesh or function has no record."""
    known = set()
    for mesh in all_records():
        record = Record(mesh, create=True)
        known |= {f"{mesh}/{row.function.name}" for row in record.functions()}
        record.close()
    removed = []
    strays = {name: owner for name, owner in interface.ours(ip).items() if owner not in known}
    interface.remove(ip, strays)
    removed += [f"interface {name} of {owner}" for name, owner in strays.items()]
    for path in netns.RUN.glob(f"{netns.PREFIX}*"):
        if _owner(path) not in known:
            netns.remove(path.name)
            removed.append(f"namespace {path.name}")
    here = netns.current().inode
    for group in cgroup.groups():
        stray = group.netns == here and f"{group.mesh}/{group.function}" not in known
        if stray or (group.netns and not netns.lives(group.netns)):
            cgroup.stop([group])
            group.remove()
            removed.append(f"cgroup {group.group}/{group.function}")
    return removed


def _owner(path: Path) -> str:
    return path.name.removeprefix(netns.PREFIX).replace(".", "/", 1)
