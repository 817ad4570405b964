# SPDX-License-Identifier: BSD-2-Clause
"""Programs of another build in the places of those that run, while packets flow.

A build is known by what its programs were compiled from (``compiled.fingerprint``). They run from
``progs``; those of others, and both of a change that goes on, are pinned in ``progs-BUILD``. Each
program is replaced in one step, and nothing is detached: first the slots that programs go on to,
from the last one on a packet's way to the first, then the hooks. For as long as that takes packets
meet programs of both builds, which the same layout lets them.

Maps stay, and with them flows, services, meters and what is injected. A build of another layout has
pins of its own (``Pins.root``) and is refused before anything is done.
"""

import ctypes
import shutil

from ebpfmesh import _abi
from ebpfmesh.apply import early
from ebpfmesh.apply.held import Held
from ebpfmesh.apply.programs import load_sources
from ebpfmesh.compile import compiled
from ebpfmesh.errors import AbiMismatch, NotFound
from ebpfmesh.kernel import bpf, links, private, sockets
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.kernel.programs import (
    ALWAYS,
    AT_HOST,
    AT_SOCKETS,
    CALLS,
    HOOKS,
    MESH,
    OUT,
    UPLINK,
    by_file,
)
from ebpfmesh.operation import ReplacePrograms
from ebpfmesh.state.place import uplink_pin
from ebpfmesh.state.record import Record

_COPYING = "copying"
"""In the place of a build's name: a copy that is not whole yet."""


def ours(record: Record) -> str:
    """The build of this version, for a mesh; where nothing can be compiled, the one that runs."""
    found = compiled.fingerprint(count_flows=record.base().count_flows)
    return found or record.build


def back(record: Record) -> ReplacePrograms:
    """The step that returns to the programs of before; NotFound if none are kept."""
    own = Pins(record.mesh)
    build = kept(own, record.build)
    if not build:
        hint = "they are kept once `ebpfmesh up FILE` of another version has replaced some"
        raise NotFound(f"mesh {record.mesh} has no programs to return to", hint=hint)
    lost = [one.name for one in ALWAYS if not (own.build(build) / one.name).exists()]
    if lost:
        what = f"of the programs of before, {build}, there is no {lost[0]}"
        raise AbiMismatch(what, hint="ebpfmesh up FILE of that version puts them back")
    return ReplacePrograms(build, record.build)


def kept(own: Pins, runs: str) -> str:
    """The build to return to from the one that runs; empty: none."""
    return next((name for name in own.builds() if name not in (runs, _COPYING)), "")


def keep(own: Pins, build: str) -> None:
    """Of programs that do not run, keep those of this build alone."""
    for name in own.builds():
        if name != build:
            shutil.rmtree(own.build(name))
    (own.root / bpf.REPLACING).unlink(missing_ok=True)


def hold(mesh: Held, build: str, old: str) -> None:
    """Have all programs of ``build`` pinned, and those that run as ``old``."""
    there, runs = mesh.pins.build(build), mesh.pins.progs
    if build == ours(mesh.record):  # another's cannot be compiled here
        missing = [p for p in MESH if (runs / p.name).exists() and not (there / p.name).exists()]
        mesh.step(f"programs {build}")
        private.directory(there)
        load_sources(mesh.pins, by_file(missing), pin_to=there)
    if not mesh.pins.build(old).exists():
        mesh.step(f"programs {old}")
        copy = mesh.pins.build(_COPYING)
        private.directory(copy)
        for path in runs.iterdir():
            with bpf.obj_get(path) as program:
                bpf.obj_repin(program, copy / path.name)
        copy.rename(mesh.pins.build(old))


def switch(mesh: Held, build: str) -> None:
    """Have the programs of a build run; do nothing if they are not pinned. Twice is fine."""
    there = mesh.pins.build(build)
    if not there.exists():
        return
    calls, names = mesh.control.maps["mesh_tc_calls"], dict(CALLS)
    if (there / OUT.name).exists():  # else it came later, by another build
        names[_abi.CALL_OUT] = OUT.name
    for slot in sorted(names, reverse=True):
        mesh.step(f"program {names[slot]}")
        with bpf.obj_get(there / names[slot]) as program:
            calls.set(ctypes.c_uint32(slot), ctypes.c_uint32(program.fileno()))
            bpf.obj_repin(program, mesh.pins.progs / names[slot])
    _switch_hooks(mesh, build)
    for one in (*AT_SOCKETS, *AT_HOST):
        if (there / one.name).exists():  # likewise
            mesh.step(f"program {one.name}")
            with bpf.obj_get(there / one.name) as program:
                sockets.replace(mesh.pins, one.name, program)
                bpf.obj_repin(program, mesh.pins.progs / one.name)
    mesh.record.set_build(build)


def _switch_hooks(mesh: Held, build: str) -> None:
    """At the interfaces of all functions and uplinks; those that come later get the same."""
    rows = mesh.record.functions()
    for direction, name in HOOKS.items():
        with bpf.obj_get(mesh.pins.build(build) / name) as program:
            for row in rows:
                function, ifindex = row.function.name, row.attachment.ifindex
                mesh.step(f"function {function}: {direction} program")
                pin = mesh.pins.links / f"{function}-{direction}"
                links.replace(mesh.ip, ifindex, direction, program, pin)
            mesh.step(f"program {name}")
            bpf.obj_repin(program, mesh.pins.progs / name)
    with bpf.obj_get(mesh.pins.build(build) / UPLINK) as program:
        for uplink in mesh.record.uplinks():
            mesh.step(f"uplink {uplink.name}: program")
            pin = uplink_pin(mesh.pins, uplink.name)
            links.replace(mesh.ip, uplink.ifindex, "ingress", program, pin)
        mesh.step(f"program {UPLINK}")
        bpf.obj_repin(program, mesh.pins.progs / UPLINK)
    early.switch(mesh, build)
