# SPDX-License-Identifier: BSD-2-Clause
"""XDP in front of tc, between the record and the kernel: one program at each uplink that needs one.

At a veth it is there as long as something is denied or a function has its packets by XDP, since it
costs the other end its segmentation offload. Which program it is changes in one step.
"""

from collections.abc import Collection
from dataclasses import replace

from ebpfmesh.apply.held import Held
from ebpfmesh.apply.programs import load_programs
from ebpfmesh.errors import ForeignProgram, MeshError, Unsupported
from ebpfmesh.kernel import bpf, links
from ebpfmesh.kernel.programs import EARLY, Program
from ebpfmesh.kernel.xmit import takes_frames
from ebpfmesh.state import early
from ebpfmesh.state.rows import UplinkRow


def program_of(mesh: Held, program: Program) -> bpf.Fd:
    """A program for XDP in front of tc, loaded if it is the first time that one is needed."""
    if not (mesh.pins.progs / program.name).exists():
        mesh.step(f"program {program.name}")
        load_programs(mesh.pins, program.file, [program])
    return mesh.program(program.name)


class Early:
    """What is at XDP of the uplinks of a mesh. ``stale``: functions or uplinks have changed."""

    def __init__(self, mesh: Held) -> None:
        self._mesh = mesh
        self.stale = False

    def draw(
        self, denied: Collection[str] | None = None, *, as_far_as_possible: bool = False
    ) -> None:
        """Have each uplink have what it is to have, by the record.

        ``denied`` as ``early.wanted`` takes it. Raises Unsupported and ForeignProgram where XDP
        cannot be had, unless tc does without, or with ``as_far_as_possible``.
        """
        pins, record = self._mesh.pins, self._mesh.record
        wanted = early.wanted(record, denied)
        for name in early.pinned(pins):
            if name not in wanted:
                self._detach(name)
        for row in record.uplinks():
            if row.name in wanted:
                try:
                    self._have(row, wanted[row.name])
                except MeshError:
                    if not as_far_as_possible:
                        raise
            self._mesh.control.functions.set_takes_frames(row.ifindex, takes_frames(row.ifindex))
        self.stale = False

    def _have(self, row: UplinkRow, wanted: early.Wanted) -> None:
        """An uplink has this program, or does without if it can."""
        there, why = early.has(self._mesh.pins, row), ""
        if there == wanted.program.name:
            return
        pin = early.pin(self._mesh.pins, row.name)
        with program_of(self._mesh, wanted.program) as loaded:
            self._mesh.step(f"uplink {row.name}: XDP")
            if there:
                links.replace_xdp(loaded, pin)
                return
            pin.unlink(missing_ok=True)
            try:
                links.attach_xdp(
                    row.ifindex,
                    row.uplink.interface,
                    loaded,
                    pin,
                    wanted.needed_by,
                    generic=row.uplink.xdp == "generic",
                )
            except (Unsupported, ForeignProgram) as error:
                if not wanted.optional:
                    raise
                why = error.message
        if row.without != why:
            self._mesh.record.put_uplink(replace(row, without=why))

    def _detach(self, name: str) -> None:
        self._mesh.step(f"uplink {name}: no XDP")
        links.detach_xdp(early.pin(self._mesh.pins, name))


def switch(mesh: Held, build: str) -> None:
    """Have those of another build run, at uplinks and functions, as far as it has them."""
    for program in EARLY:
        there = mesh.pins.build(build) / program
        if not there.exists():
            continue
        with bpf.obj_get(there) as new:
            for pin in sorted(mesh.pins.links.glob("*-xdp")):
                if links.runs(pin) == program:
                    mesh.step(f"{pin.name.removeprefix(links.UPLINK_PIN)}: {program}")
                    links.replace_xdp(new, pin)
            mesh.step(f"program {program}")
            bpf.obj_repin(new, mesh.pins.progs / program)
