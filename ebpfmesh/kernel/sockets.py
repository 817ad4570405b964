# SPDX-License-Identifier: BSD-2-Clause
"""Programs at the sockets of functions (mesh_sock.c): a service costs a stream's packets nothing.

They are attached to the cgroup v2 above those of a mesh's functions, so to all processes that
``up`` and ``exec`` start. Other processes of a container, and all where the kernel cannot do it,
have their packets translated one by one; what may talk to what is the same. The first service of a
mesh has them compiled (``apply``), and they stay until the mesh goes.
"""

import contextlib
import ctypes
import functools
import os
from pathlib import Path

from ebpfmesh.errors import MissingPrivilege
from ebpfmesh.kernel import bpf, netns, probe
from ebpfmesh.kernel.cgroup import Hierarchies
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.kernel.programs import AT_SOCKETS as PROGRAMS


@functools.cache
def supported() -> bool:
    """Whether there is a cgroup v2, and a kernel that can attach to it what we have."""
    return (
        Hierarchies.mounted().unified is not None
        and netns.current().cookie != 0
        and probe.has_netns_cookie()
    )


def add_function(maps: Maps, number: int, namespace: Path) -> None:
    """Have sockets in a function's namespace meet backends."""
    if cookie := netns.cookie(namespace):
        maps["mesh_netns"].set(ctypes.c_uint64(cookie), ctypes.c_uint32(number))


def remove_function(maps: Maps, number: int) -> None:
    """Undo add_function, whether or not the namespace is still there. Twice is fine."""
    for cookie, owner in list(maps["mesh_netns"].items()):
        if owner.value == number:
            maps["mesh_netns"].delete(cookie)


def loaded(pins: Pins) -> bool:
    """Whether all programs are pinned; fewer are what a crash left."""
    return all((pins.progs / program.name).exists() for program in PROGRAMS)


def attached(pins: Pins, group: Path | None) -> bool:
    """Whether all is as ``attach`` leaves it."""
    found = {program.name: _cgroup_of(pins.links / program.name) for program in PROGRAMS}
    wanted = _wanted(pins, group)
    if any(number != wanted for number in found.values()):
        return False
    return wanted is None or all(_is_current(pins, program.name) for program in PROGRAMS)


def attach(pins: Pins, group: Path | None) -> None:
    """Attach to the directory ``group``, or detach where there is none. Twice is fine.

    Where somebody has one of the hooks above us for himself alone, all are left as they are.
    """
    detach(pins)
    if group is None or _wanted(pins, group) is None:
        return
    directory = os.open(group, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for program in PROGRAMS:
            with (
                bpf.obj_get(pins.progs / program.name) as loaded,
                bpf.link_create(loaded, directory, bpf.CGROUP_HOOK[program.type]) as link,
            ):
                bpf.obj_pin(link, pins.links / program.name)
    except MissingPrivilege:  # not for us, who could load them
        detach(pins)
    finally:
        os.close(directory)


def replace(pins: Pins, name: str, program: bpf.Fd) -> None:
    """Have ``program`` run where the one of this name is attached, if it is."""
    pin = pins.links / name
    if _cgroup_of(pin):
        with bpf.obj_get(pin) as link:
            bpf.link_update(link, program)


def detach(pins: Pins) -> None:
    """Undo attach; first what sends sockets to backends. Twice is fine."""
    for program in reversed(PROGRAMS):
        pin = pins.links / program.name
        with contextlib.suppress(FileNotFoundError), bpf.obj_get(pin) as link:
            bpf.link_detach(link)
        pin.unlink(missing_ok=True)


def _wanted(pins: Pins, group: Path | None) -> int | None:
    """Number of the cgroup to be attached to; None if there is none, or nothing to attach."""
    if group is None or not loaded(pins):
        return None
    try:
        return group.stat().st_ino
    except FileNotFoundError:
        return None


def program_id(pins: Pins, name: str) -> int:
    """Id of the program that is pinned."""
    with bpf.obj_get(pins.progs / name) as program:
        return int(bpf.prog_info(program).id)


def _is_current(pins: Pins, name: str) -> bool:
    """Whether what is attached is the program that is pinned."""
    with bpf.obj_get(pins.links / name) as link:
        return bpf.link_program(link) == program_id(pins, name)


def _cgroup_of(pin: Path) -> int | None:
    """Number of the cgroup a link is attached to; 0: it is gone, None: there is no link."""
    try:
        with bpf.obj_get(pin) as link:
            return bpf.link_cgroup(link)
    except FileNotFoundError:
        return None
