# SPDX-License-Identifier: BSD-2-Clause
"""The programs of a mesh, from the files of bpf/ to its pins; which of them it needs, and when.

Those at sockets only serve services: a mesh without one is not kept waiting for their compiler.
"""

import contextlib
import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path

from ebpfmesh import _abi
from ebpfmesh.compile import compiled
from ebpfmesh.compile.build import Build
from ebpfmesh.compile.source import bpf_dir
from ebpfmesh.kernel import bpf, sockets
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.kernel.programs import ALWAYS, AT_HOST, AT_SOCKETS, OUT, Program, by_file


def load_missing(own: Pins, *, services: bool) -> None:
    """Compile what is not pinned yet of what a mesh needs that has services, or has none."""
    missing = () if all((own.progs / one.name).exists() for one in ALWAYS) else ALWAYS
    if missing:
        for stale in own.progs.iterdir():
            stale.unlink()
    load_sources(own, by_file((*missing, *_sockets_missing(own, services=services))))


def lack_sockets(own: Pins) -> bool:
    """Whether a service would have to wait until the programs at sockets are compiled."""
    return not sockets.loaded(own) and sockets.supported()


def load_sockets(own: Pins) -> None:
    """Compile the programs at sockets; ``sockets.attach`` attaches them."""
    load_sources(own, by_file(_sockets_missing(own, services=True)))


def load_host(own: Pins) -> None:
    """Compile the programs for the host's own processes; ``host.attach`` attaches them."""
    for program in AT_HOST:  # some are there if a crash came while they were pinned
        (own.progs / program.name).unlink(missing_ok=True)
    load_sources(own, by_file(AT_HOST))


def lack_out(own: Pins) -> bool:
    """Whether an uplink that masquerades would have to wait for its program."""
    slot = Maps(own)["mesh_tc_calls"].get(ctypes.c_uint32(_abi.CALL_OUT))
    return slot is None or not (own.progs / OUT.name).exists()


def load_out(own: Pins) -> None:
    """Compile the program for uplinks that masquerade, and have others go on in it."""
    (own.progs / OUT.name).unlink(missing_ok=True)  # it is there if only its slot was lost
    load_programs(own, OUT.file, [OUT])
    set_calls(own, "mesh_tc_calls", {_abi.CALL_OUT: OUT.name})


def _sockets_missing(own: Pins, *, services: bool) -> tuple[Program, ...]:
    if not services or not lack_sockets(own):
        return ()
    for program in AT_SOCKETS:  # some are there if a crash came while they were pinned
        (own.progs / program.name).unlink(missing_ok=True)
    return AT_SOCKETS


def load_programs(own: Pins, source: str, programs: Sequence[Program]) -> None:
    """Compile a file of bpf/ against the mesh's maps and pin its programs."""
    load_sources(own, {source: programs})


def load_sources(
    own: Pins, sources: Mapping[str, Sequence[Program]], *, pin_to: Path | None = None
) -> None:
    """Compile files of bpf/ side by side, as ``load_programs`` does one."""
    defines = compiled.defines(own.maps, count_flows=Maps(own).count_flows)
    with contextlib.ExitStack() as stack:
        builds = [
            stack.enter_context(
                Build(bpf_dir() / name, programs, pin_to=pin_to or own.progs, defines=defines)
            )
            for name, programs in sources.items()
        ]
        for begun in builds:
            begun.wait()


def set_calls(own: Pins, table: str, calls: Mapping[int, str]) -> None:
    """Fill slots of a table of calls: where a program goes on, by MESH_CALL_*."""
    slots = Maps(own)[table]
    for slot, name in calls.items():
        with bpf.obj_get(own.progs / name) as program:
            slots.set(ctypes.c_uint32(slot), ctypes.c_uint32(program.fileno()))
