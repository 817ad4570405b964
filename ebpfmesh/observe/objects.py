# SPDX-License-Identifier: BSD-2-Clause
"""What the mesh has in the kernel: programs and maps."""

import contextlib
import ctypes
from collections.abc import Iterator
from dataclasses import dataclass

from ebpfmesh import _abi
from ebpfmesh.kernel import bpf, links
from ebpfmesh.kernel.programs import AT_HOST, AT_SOCKETS
from ebpfmesh.observe.view import View
from ebpfmesh.state.place import problem, uplink_problem

_TYPES = {
    bpf.PROG_TYPE_SCHED_CLS: "tc",
    bpf.PROG_TYPE_XDP: "xdp",
    bpf.PROG_TYPE_CGROUP_SOCK_ADDR: "cgroup",
}
_KINDS = {"prog": "prog_array"}  # where mesh_maps.h has BCC's word, and not the kernel's
_COUNTED = ("hash", "percpu_hash", "lpm_trie")
_MAKES_ROOM = ("mesh_flow4", "mesh_flow6", "mesh_fragment")


@dataclass(frozen=True)
class Attachment:
    """A place where a program is: a function's interface, or else the cgroup of all functions."""

    function: str
    interface: str
    hook: str
    how: str


@dataclass(frozen=True)
class Program:
    """A pinned program; ``jited`` and ``translated`` are bytes of its code.

    ``calls`` are slots by which others go on in it, such as ``mesh_tc_calls[0]``.

    ``verified`` is how many instructions the verifier went through, of the million it may; None
    where the kernel does not tell (before 5.16).
    """

    name: str
    id: int
    type: str
    tag: str
    jited: int
    translated: int
    verified: int | None
    pin: str
    attached: tuple[Attachment, ...]
    calls: tuple[str, ...] = ()


@dataclass(frozen=True)
class Map:
    """A pinned map. ``used`` is None where entries are not counted: arrays have them all.

    ``memory`` is what the kernel tells, in bytes: 0 for a trie without entries.
    """

    name: str
    id: int
    type: str
    used: int | None
    entries: int
    memory: int
    pin: str

    @property
    def is_full(self) -> bool:
        """Whether there is little room left; where what is over stays there always is some."""
        keeps = self.name in _MAKES_ROOM or self.used is None
        return not keeps and (self.used or 0) >= 0.8 * self.entries


def read_programs(view: View) -> list[Program]:
    """The mesh's programs, by name."""
    places, calls = [*_attachments(view), *_at_sockets(view)], list(_calls(view))
    programs = []
    for pin in sorted(view.pins.progs.iterdir()):
        with bpf.obj_get(pin) as fd:
            info, told = bpf.prog_info(fd), bpf.fdinfo(fd)
        name = info.name.decode()
        programs.append(
            Program(
                name=name,
                id=info.id,
                type=_TYPES.get(info.type, str(info.type)),
                tag=bytes(info.tag).hex(),
                jited=info.jited_prog_len,
                translated=info.xlated_prog_len,
                verified=int(told["verified_insns"]) if "verified_insns" in told else None,
                pin=str(pin),
                attached=tuple(
                    place
                    for program, place in places
                    if program.name == name and program.id in (0, info.id)
                ),
                calls=tuple(slot for number, slot in calls if number == info.id),
            )
        )
    return programs


def _attachments(view: View) -> Iterator[tuple[links.Attached, Attachment]]:
    """Every program at the interfaces of functions that are there, with its place."""
    for row in view.functions:
        if problem(view.ip, row):
            continue
        for direction in links.HOOK:
            for program in links.attached(view.ip, row.attachment.ifindex, direction):
                name, interface = row.function.name, row.attachment.interface
                yield program, Attachment(name, interface, direction, program.how)
        if row.function.datapath == "xdp":
            for program in links.at_xdp(view.ip, row.attachment.ifindex):
                name, interface = row.function.name, row.attachment.interface
                yield program, Attachment(name, interface, "xdp", program.how)
    for uplink in view.record.uplinks():
        if not uplink_problem(view.ip, view.pins, uplink):
            for program in links.attached(view.ip, uplink.ifindex, "ingress"):
                yield program, Attachment("", uplink.uplink.interface, "ingress", program.how)
            for program in links.at_xdp(view.ip, uplink.ifindex):
                yield program, Attachment("", uplink.uplink.interface, "xdp", program.how)


def _at_sockets(view: View) -> Iterator[tuple[links.Attached, Attachment]]:
    """Programs at the cgroup of a mesh's functions, and at the root of all."""
    for program in (*AT_SOCKETS, *AT_HOST):
        pin = view.pins.links / program.name
        with contextlib.suppress(FileNotFoundError), bpf.obj_get(pin) as link:
            if bpf.link_cgroup(link):
                found = links.Attached(program.type, "cgroup link", program.name)
                yield found, Attachment("", "", found.hook, found.how)


def _calls(view: View) -> Iterator[tuple[int, str]]:
    """(Id of a program, slot) of all tables of calls."""
    for spec in _abi.MAPS:
        if spec.kind == "prog":
            table = view.maps[spec.name]
            for slot in range(bpf.map_info(table.fd).max_entries):
                if number := table.get(ctypes.c_uint32(slot)):
                    yield number.value, f"{spec.name}[{slot}]"


def read_maps(view: View) -> list[Map]:
    """The mesh's maps, in the order of mesh_maps.h."""
    memory = view.maps.memory()
    rows = []
    for spec in _abi.MAPS:
        opened = view.maps[spec.name]
        info = bpf.map_info(opened.fd)
        rows.append(
            Map(
                name=spec.name,
                id=info.id,
                type=_KINDS.get(spec.kind, spec.kind),
                used=opened.count() if spec.kind in _COUNTED else None,
                entries=info.max_entries,
                memory=memory[spec.name],
                pin=str(view.pins.maps / spec.name),
            )
        )
    return rows
