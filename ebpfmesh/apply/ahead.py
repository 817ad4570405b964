# SPDX-License-Identifier: BSD-2-Clause
"""Compiling before there is a mesh, so that no ``up`` has to."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from ebpfmesh.apply.held import OnStep, quiet
from ebpfmesh.apply.programs import load_sources
from ebpfmesh.compile import compiled
from ebpfmesh.compile.build import instructions
from ebpfmesh.compile.source import bpf_dir
from ebpfmesh.errors import MeshError, UsageError
from ebpfmesh.kernel import netns, sockets
from ebpfmesh.kernel.maps import create_maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.kernel.programs import ALWAYS, CHAIN_ENDS, MESH, Program, by_file
from ebpfmesh.model import Limits


def compile_ahead(on_step: OnStep = quiet) -> tuple[Path, list[str]]:
    """Keep every program that a mesh takes on this kernel; where, and which were not there yet.

    If there is something to do the process moves to a mount namespace of its own: programs are
    compiled against maps, which then go with it. Raises UsageError as ``compiled.directory`` does
    and where EBPFMESH_COMPILED says that nothing is kept.
    """
    place = compiled.wanted()
    if place is None:
        raise UsageError(
            f"{compiled.VARIABLE} is empty: programs are kept nowhere",
            hint="unset it, or have it name a directory",
        )
    new = not (compiled.directory() and place.exists())
    place.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        lacking = {count_flows: _lacking(count_flows=count_flows) for count_flows in (False, True)}
        if any(lacking.values()):
            on_step(", ".join(lacking[False] | lacking[True]))
            netns.own_pins()
            for count_flows, sources in lacking.items():
                _compile(sources, count_flows=count_flows)
        if left := _lacking(count_flows=False) | _lacking(count_flows=True):
            what = f"{place}: the programs of {', '.join(left)} could not be kept"
            raise MeshError(what, hint="is it full, or read-only?")
    except BaseException:
        if new:
            with contextlib.suppress(OSError):  # programs that were kept stay
                place.rmdir()
        raise
    done = [program.name for sources in lacking.values() for programs in sources.values()
            for program in programs]  # fmt: skip
    return place, list(dict.fromkeys(done))


def _lacking(*, count_flows: bool) -> dict[str, Sequence[Program]]:
    """The files of bpf/ whose programs are not all kept."""
    wanted = by_file((*(MESH if sockets.supported() else ALWAYS), *CHAIN_ENDS))
    return {
        file: programs
        for file, programs in wanted.items()
        if not compiled.kept(
            bpf_dir() / file, [program.name for program in programs], count_flows=count_flows
        )
    }


def _compile(sources: dict[str, Sequence[Program]], *, count_flows: bool) -> None:
    own = Pins("counting" if count_flows else "ahead")
    own.create()
    create_maps(own, Limits(), count_flows=count_flows)
    ends = {program.file for program in CHAIN_ENDS}
    load_sources(own, {file: some for file, some in sources.items() if file not in ends})
    defines = compiled.defines(own.maps, count_flows=count_flows)
    for file in ends & sources.keys():
        for program in sources[file]:
            instructions(bpf_dir() / file, program.name, defines=defines)
