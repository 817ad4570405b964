# SPDX-License-Identifier: BSD-2-Clause
"""The programs of a mesh, from the files of bpf/ to its pins; which of them it needs, and when.

Those at sockets only serve services: a mesh without one is not kept waiting for their compiler.
"""

import contextlib
import ctypes
from collections.abc import Mapping, Sequence

from ebpfmesh import _abi
from ebpfmesh.compile.build import Build
from ebpfmesh.compile.source import bpf_dir
from ebpfmesh.kernel import bpf, sockets
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.kernel.programs import Program

TC_CALLS = {
    _abi.CALL_SLOW: "mesh_slow_fn",
    _abi.CALL_JUDGE: "mesh_judge_fn",
    _abi.CALL_DECIDE: "mesh_decide_fn",
    _abi.CALL_EVENT: "mesh_event_fn",
    _abi.CALL_ANSWER: "mesh_answer_fn",
    _abi.CALL_STORE: "mesh_store_fn",
}
TC_SOURCES = {
    "mesh_slow.c": ("mesh_slow_fn",),  # first: it takes longest
    "mesh_tc.c": (
        "mesh_from_fn",
        "mesh_to_fn",
        "mesh_judge_fn",
        "mesh_decide_fn",
        "mesh_store_fn",
        "mesh_event_fn",
        "mesh_answer_fn",
    ),
}


def tc_sources() -> dict[str, Sequence[Program]]:
    """The files of the programs at tc."""
    return {file: [Program(name, "tc") for name in names] for file, names in TC_SOURCES.items()}


def load_missing(own: Pins, *, services: bool) -> None:
    """Compile what is not pinned yet of what a mesh needs that has services, or has none."""
    sources = tc_sources()
    names = [program.name for programs in sources.values() for program in programs]
    if all((own.progs / name).exists() for name in names):
        sources = {}
    else:
        for stale in own.progs.iterdir():
            stale.unlink()
    if services and lack_sockets(own):
        sources |= _socket_sources(own)
    load_sources(own, sources)


def lack_sockets(own: Pins) -> bool:
    """Whether a service would have to wait until the programs at sockets are compiled."""
    return not sockets.loaded(own) and sockets.supported()


def load_sockets(own: Pins) -> None:
    """Compile the programs at sockets; ``sockets.attach`` attaches them."""
    load_sources(own, _socket_sources(own))


def _socket_sources(own: Pins) -> dict[str, Sequence[Program]]:
    for program in sockets.PROGRAMS:  # some are there if a crash came while they were pinned
        (own.progs / program.name).unlink(missing_ok=True)
    return {"mesh_sock.c": sockets.PROGRAMS}


def load_programs(own: Pins, source: str, programs: Sequence[Program]) -> None:
    """Compile a file of bpf/ against the mesh's maps and pin its programs."""
    load_sources(own, {source: programs})


def load_sources(own: Pins, sources: Mapping[str, Sequence[Program]]) -> None:
    """Compile files of bpf/ side by side, as ``load_programs`` does one."""
    defines = {"MESH_PINS": f'"{own.maps}"'}
    with contextlib.ExitStack() as stack:
        builds = [
            stack.enter_context(
                Build(bpf_dir() / name, programs, pin_to=own.progs, defines=defines)
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
