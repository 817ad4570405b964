# SPDX-License-Identifier: BSD-2-Clause
"""Programs at sockets of the host's own processes (mesh_host.c), so that they reach services.

They are attached to the root of the cgroup v2 hierarchy, beside whatever others have there, and so
run for every process of the machine; those of other network namespaces than the mesh's host are
known by the cookie of theirs, and left alone.
"""

import contextlib
import ctypes
import os
from collections.abc import Collection, Iterable
from pathlib import Path

from ebpfmesh.errors import ForeignProgram, MissingPrivilege, Unsupported
from ebpfmesh.kernel import bpf, netns, sockets
from ebpfmesh.kernel.cgroup import Hierarchies
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.kernel.programs import AT_HOST as PROGRAMS
from ebpfmesh.kernel.programs import Program

STREAMS = tuple(one for one in PROGRAMS if "msg" not in one.type)
_ONLY = ctypes.c_uint32(0)


def check_supported() -> None:
    """Raise Unsupported where the host's processes cannot reach services."""
    if not sockets.supported():
        what = "processes of the host cannot reach services (host = true): no cgroup v2 is mounted"
        if Hierarchies.mounted().unified is not None:
            what = "processes of the host cannot reach services (host = true): "
            what += "the kernel does not tell programs of cgroups the network namespace (Linux 5.7)"
        raise Unsupported(what, hint="leave out host, or mount -t cgroup2 none /sys/fs/cgroup")


def root() -> Path | None:
    """The directory they are attached to, above all processes of the machine."""
    return Hierarchies.mounted().unified


def wanted(protocols: Iterable[str]) -> tuple[Program, ...]:
    """The programs that services of these protocols need; none without a service.

    Those that meet every datagram are for UDP alone: each has the kernel lock the socket.
    """
    known = set(protocols)
    return PROGRAMS if "udp" in known else STREAMS if known else ()


def loaded(pins: Pins) -> bool:
    """Whether all programs are pinned; fewer are what a crash left."""
    return all((pins.progs / one.name).exists() for one in PROGRAMS)


def attached(pins: Pins, maps: Maps, programs: Collection[Program]) -> bool:
    """Whether these are attached, as ``attach`` leaves it, and no others."""
    found = maps["mesh_host"].get(_ONLY)
    if (found.value if found else 0) != (netns.current().cookie if programs else 0):
        return False
    return all(_is_right(pins, one, there=one in programs) for one in PROGRAMS)


def attach(pins: Pins, maps: Maps, programs: Collection[Program]) -> None:
    """Attach these, and no others; those that are stay. Twice is fine.

    First what names the service to who is answered, and in the end what sends to backends. Raises
    ForeignProgram where somebody has a hook of the root for himself alone.
    """
    for one in reversed(PROGRAMS):
        if not _is_right(pins, one, there=one in programs):
            _detach(pins, one)
    cookie = netns.current().cookie if programs else 0
    maps["mesh_host"].set(_ONLY, ctypes.c_uint64(cookie))
    if not programs:
        return
    directory = os.open(root() or "", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for one in PROGRAMS:
            if one in programs and not (pins.links / one.name).exists():
                _attach(pins, one, directory)
    finally:
        os.close(directory)


def detach(pins: Pins) -> None:
    """Detach all; first what sends to backends. Twice is fine."""
    for one in reversed(PROGRAMS):
        _detach(pins, one)


def _attach(pins: Pins, one: Program, directory: int) -> None:
    try:
        with (
            bpf.obj_get(pins.progs / one.name) as program,
            bpf.link_create(program, directory, bpf.HOST_HOOK[one.type]) as link,
        ):
            bpf.obj_pin(link, pins.links / one.name)
    except MissingPrivilege as error:
        what = f"somebody has hook {one.type} of the cgroup {root()} for a program of his own alone"
        hint = "bpftool cgroup tree lists it; leave out host, or have it attached with multi"
        raise ForeignProgram(what, hint=hint) from error


def _detach(pins: Pins, one: Program) -> None:
    pin = pins.links / one.name
    with contextlib.suppress(FileNotFoundError), bpf.obj_get(pin) as link:
        bpf.link_detach(link)
    pin.unlink(missing_ok=True)


def _is_right(pins: Pins, one: Program, *, there: bool) -> bool:
    """Whether a program is attached to the root, if it shall be there."""
    found, at = _link(pins, one.name), root()
    if not there or at is None or not (pins.progs / one.name).exists():
        return found is None and not there
    return found == (at.stat().st_ino, sockets.program_id(pins, one.name))


def _link(pins: Pins, name: str) -> tuple[int, int] | None:
    """Number of the cgroup of a link, 0: it is gone, and id of its program; None: there is none."""
    try:
        with bpf.obj_get(pins.links / name) as link:
            return bpf.link_cgroup(link), bpf.link_program(link)
    except FileNotFoundError:
        return None
