# SPDX-License-Identifier: BSD-2-Clause
"""What there is of a mesh, whatever its record says: the kernel and /run tell it by themselves.

By alias or name of an interface, name of a namespace, directory of a cgroup, pin, and file. It is
enough to remove all of a mesh whose record is lost, cannot be read, or was never finished.
"""

import contextlib
import ctypes
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from pyroute2 import IPRoute

from ebpfmesh import _abi
from ebpfmesh.errors import AbiMismatch, NotFound, UnreadableRecord
from ebpfmesh.kernel import bpf, cgroup, interface, links, netns, pins
from ebpfmesh.kernel.cgroup import Cgroup
from ebpfmesh.kernel.netns import NetnsId
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.state import files, sound
from ebpfmesh.state.record import Record


@dataclass(frozen=True)
class Remains:
    """All of one mesh in this host namespace but for its pins and files.

    ``interfaces`` are ours, by name with MESH/FUNCTION; ``namespaces`` are names under /run/netns.
    """

    mesh: str
    interfaces: Mapping[str, str]
    namespaces: tuple[str, ...]
    cgroups: tuple[Cgroup, ...]


def of(ip: IPRoute, mesh: str) -> Remains:
    """What there is of a mesh here."""
    here = netns.current()
    return Remains(
        mesh,
        {
            name: owner
            for name, owner in interface.ours(ip, unnamed=mesh).items()
            if mesh_of(owner) == mesh
        },
        tuple(name for name in netns.ours() if mesh_of(netns.owner_of(name)) == mesh),
        tuple(group for group in cgroup.groups(here) if group.mesh == mesh),
    )


def meshes(ip: IPRoute) -> set[str]:
    """Names of the meshes that there is anything of; some may be in other host namespaces."""
    owners = {*interface.ours(ip).values(), *map(netns.owner_of, netns.ours())}
    groups = cgroup.groups(netns.current())
    return {*named(), *map(mesh_of, owners), *(group.mesh for group in groups)}


def named() -> set[str]:
    """Names of the meshes that have a record, or pins."""
    return {*files.all_records(), *pins.all_meshes()}


def mesh_of(owner: str) -> str:
    """The mesh of MESH/FUNCTION."""
    return owner.partition("/")[0]


def home(mesh: str) -> NetnsId | None:
    """The host namespace of a mesh, by its record or else its pins; None: unknown."""
    with contextlib.suppress(NotFound, AbiMismatch), contextlib.closing(Record(mesh)) as found:
        return found.home
    return NetnsId.parse(Pins(mesh).home)


def check_home(mesh: str) -> None:
    """Raise NotFound if a mesh belongs to another network namespace that is still there."""
    found = home(mesh)
    if found and found != netns.current() and found.lives():
        raise NotFound(
            f"mesh {mesh} is in another network namespace (inode {found.inode})",
            hint="enter it first: nsenter --net=…",
        )


def damage(mesh: str) -> str:
    """Why a mesh cannot be repaired, only made anew or removed; empty if it can.

    That its host namespace is another that lives was told by ``check_home`` before. Raises
    AbiMismatch if another version made it.
    """
    try:
        with contextlib.closing(Record(mesh)) as found:
            sound.check(found)
            if found.making:
                return "its first up was cut short"
            if found.home != netns.current():
                return "its host namespace is gone"
    except NotFound:
        return "its record is lost"
    except UnreadableRecord:
        return "its record cannot be read"
    own = Pins(mesh)
    own.check()
    lost = [spec.name for spec in _abi.MAPS if not (own.maps / spec.name).exists()]
    return f"map {lost[0]} is lost" if lost else ""


def adopted(ip: IPRoute, mesh: str) -> set[int]:
    """Indices of interfaces of containers that programs of a mesh are attached to."""
    found = set(_interfaces(mesh)) - uplinks(mesh)
    pins = links.pinned(Pins(mesh).top)
    found |= {index for pin, index in pins if not pin.name.startswith(links.UPLINK_PIN)}
    ours = {interface.find(name) for name in interface.ours(ip)}
    return {index for index in found - ours if interface.exists(index)}


def uplinks(mesh: str) -> set[int]:
    """Indices of the host's own interfaces that programs of a mesh are attached to."""
    found = {index for index, kind in _interfaces(mesh).items() if kind == _abi.IfaceKind.UPLINK}
    pins = links.pinned(Pins(mesh).top)
    found |= {index for pin, index in pins if pin.name.startswith(links.UPLINK_PIN)}
    return {index for index in found if interface.exists(index)}


def _interfaces(mesh: str) -> dict[int, int]:
    """What each interface is to a mesh, as its maps say, be they of another version."""
    found = {}
    for pin in Pins(mesh).top.glob("v*/maps/mesh_iface"):
        with bpf.obj_get(pin) as fd:
            info = bpf.map_info(fd)
            for key, value in bpf.map_items(fd, info.key_size, info.value_size):
                row = _abi.Iface.from_buffer_copy(value.ljust(ctypes.sizeof(_abi.Iface), b"\0"))
                found[int.from_bytes(key, sys.byteorder)] = row.kind
    return found
