# SPDX-License-Identifier: BSD-2-Clause
"""What the mesh has in the kernel: programs and maps."""

from collections.abc import Iterator
from dataclasses import dataclass

from ebpfmesh import _abi
from ebpfmesh.kernel import bpf, links
from ebpfmesh.kernel.place import fault
from ebpfmesh.observe.view import View

_TYPES = {bpf.PROG_TYPE_SCHED_CLS: "tc", bpf.PROG_TYPE_XDP: "xdp"}
_COUNTED = ("hash", "lru_hash", "percpu_hash")


@dataclass(frozen=True)
class Attachment:
    """A place where a program is."""

    function: str
    interface: str
    hook: str
    how: str


@dataclass(frozen=True)
class Program:
    """A pinned program; ``jited`` and ``translated`` are bytes of its code.

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


@dataclass(frozen=True)
class Map:
    """A pinned map. ``used`` is None where entries are not counted: arrays have them all."""

    name: str
    id: int
    type: str
    used: int | None
    entries: int
    memory: int
    pin: str

    @property
    def is_full(self) -> bool:
        """Whether there is little room left; an LRU map makes its own room."""
        return self.type != "lru_hash" and self.used is not None and self.used >= 0.8 * self.entries


def read_programs(view: View) -> list[Program]:
    """The mesh's programs, by name."""
    places = list(_attachments(view))
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
            )
        )
    return programs


def _attachments(view: View) -> Iterator[tuple[links.Attached, Attachment]]:
    """Every program at the interfaces of functions that are there, with its place."""
    for row in view.functions:
        if fault(view.ip, row):
            continue
        for direction in links.HOOK:
            for program in links.attached(view.ip, row.place.ifindex, direction):
                name, interface = row.function.name, row.place.interface
                yield program, Attachment(name, interface, direction, program.how)


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
                type=spec.kind,
                used=opened.count() if spec.kind in _COUNTED else None,
                entries=info.max_entries,
                memory=memory[spec.name],
                pin=str(view.pins.maps / spec.name),
            )
        )
    return rows
