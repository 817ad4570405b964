# SPDX-License-Identifier: BSD-2-Clause
"""Removing all there is of a mesh, by what is found of it: no record is needed, no room either.

Programs go last. An interface of ours goes before them, so that nothing passes where they were;
one that is somebody else's is given back to who asks for that, and else set down. Uplinks are the
host's, and lose the program alone.
"""

import contextlib

from ebpfmesh.apply.frames import put_back_all
from ebpfmesh.apply.held import OnStep
from ebpfmesh.errors import AbiMismatch, MeshError, NotFound, UnreadableRecord
from ebpfmesh.kernel import cgroup, host, interface, links, netns, pins, rcu, sockets
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.runtime import process
from ebpfmesh.state import remains, sound, writer
from ebpfmesh.state.files import RUN
from ebpfmesh.state.place import stop_of
from ebpfmesh.state.record import Record
from ebpfmesh.state.remains import Remains


def take_down(mesh: str, on_step: OnStep, *, asked: bool = False) -> list[str]:
    """Remove a mesh, as far as it is there; what else there is to say. The caller has its lock.

    A record that cannot be read is kept beside. Twice is fine, and so is after a kill anywhere.
    """
    told, expedited, stops = [], False, list[cgroup.Stop]()
    on_step("record")
    try:
        with contextlib.closing(Record(mesh)) as found:
            expedited = found.base().expedited
            sound.check(found)
            stops = [stop_of(found, row.function) for row in found.functions()]
    except UnreadableRecord:
        told.append(f"record of mesh {mesh} cannot be read: {writer.set_aside(mesh)} keeps it")
    except (NotFound, AbiMismatch):
        pass
    asked = writer.retire(mesh, asked=asked)
    with netns.rtnetlink() as ip, rcu.expedited(expedited):
        found_here = remains.of(ip, mesh)
        on_step("processes")
        known = {one.cgroup: one for one in stops}
        groups = [known.get(one, cgroup.Stop(one)) for one in found_here.cgroups]
        cgroup.stop(groups, process.keepers)
        on_step("interfaces")
        for index in remains.adopted(ip, mesh):
            if not asked:
                name = interface.set_down(index)
                told.append(f"interface {name} is set down: nobody asked mesh {mesh} to give it up")
            links.detach_all(ip, index, Pins(mesh).top)
        put_back_all(ip, RUN / mesh)
        for index in remains.uplinks(mesh):
            links.detach_all(ip, index, Pins(mesh).top)
        _remove_interfaces(found_here)
    on_step("pins")
    host.detach(Pins(mesh))
    sockets.detach(Pins(mesh))
    Pins(mesh).remove()
    pins.unmount_bpffs()
    on_step("namespaces")
    for name in found_here.namespaces:
        netns.remove(name)
    for group in found_here.cgroups:
        group.remove()
    writer.remove(mesh)
    return told


def _remove_interfaces(found: Remains) -> None:
    with netns.rtnetlink() as ip:
        interface.remove(ip, found.interfaces)
        left = remains.of(ip, found.mesh).interfaces
    if left:
        raise MeshError(
            f"interface {next(iter(left))} of mesh {found.mesh} cannot be removed",
            hint="its programs stay while it is there: ip link delete says why",
        )
