# SPDX-License-Identifier: BSD-2-Clause
"""Interfaces of functions that have raw frames: offloads of both ends, and the programs there.

Those of an interface of others are written down before they are changed, in a file beside the
record, which may be lost, and put back when the function goes.
"""

import contextlib
import shutil
import socket
from pathlib import Path

from pyroute2 import IPRoute

from ebpfmesh.apply.early import program_of
from ebpfmesh.apply.held import Held
from ebpfmesh.errors import NotFound, Unsupported
from ebpfmesh.inject import whole
from ebpfmesh.kernel import bpf, interface, links, offload, private, xsk
from ebpfmesh.kernel.programs import FROM_FN
from ebpfmesh.model import Function
from ebpfmesh.state.place import FOUND, frames_pin, offloads_file
from ebpfmesh.state.rows import Attachment


def check(function: Function) -> None:
    """Raise Unsupported if the kernel cannot give it frames, FunctionRefused for its program."""
    if function.datapath == "af_xdp":
        xsk.check_supported()
    if function.source is not None:
        with whole.built(function.program or "", function.source):
            pass


class Frames:
    """What functions with raw frames have besides, in a mesh."""

    def __init__(self, mesh: Held) -> None:
        self._mesh = mesh

    def add(self, function: Function, attachment: Attachment) -> None:
        """Have both ends carry raw frames. Raises Unsupported, ForeignProgram, FunctionRefused."""
        index, namespace = attachment.ifindex, Path(attachment.netns)
        if not attachment.made_interface:
            self._mesh.step(f"function {function.name}: offloads as they are")
            file = offloads_file(self._mesh.record, function.name)
            _write(file, index, namespace, offload.pair(self._mesh.ip, index, namespace))
        self._mesh.step(f"function {function.name}: offloads")
        offload.set_pair(self._mesh.ip, index, namespace, offload.RIGHT)
        self._mesh.step(f"function {function.name}: XDP at the host")
        pin = frames_pin(self._mesh.pins, function.name)
        links.detach_xdp(pin)  # what a kill left
        with program_of(self._mesh, FROM_FN) as program:
            _attach(index, attachment.interface, program, pin)
        shutil.rmtree(self._mesh.pins.ports / function.name, ignore_errors=True)
        if function.source is not None:
            self.run(function, attachment)

    def run(self, function: Function, attachment: Attachment) -> None:
        """Have its program be at its own interface, in the place of the one before; or none."""
        place = self._mesh.pins.ports / function.name
        link = place / "link"
        self._mesh.step(f"function {function.name}: program")
        if function.source is None:
            links.detach_xdp(link)
            shutil.rmtree(place, ignore_errors=True)
            return
        with whole.built(function.program or "", function.source) as (program, maps):
            private.directory(place)
            if link.exists():
                links.replace_xdp(program, link)
            else:
                self._attach(attachment, program, link)
            shutil.rmtree(place / "maps", ignore_errors=True)
            private.directory(place / "maps")
            for name, held in maps.items():
                bpf.obj_pin(held, place / "maps" / name)

    def _attach(self, attachment: Attachment, program: bpf.Fd, link: Path) -> None:
        index, namespace = attachment.ifindex, Path(attachment.netns)
        with offload.inner(self._mesh.ip, index, namespace) as name:
            _attach(socket.if_nametoindex(name), name, program, link)

    def remove(self, name: str) -> None:
        """Detach, and put back what was changed of an interface of others. Twice is fine."""
        links.detach_xdp(frames_pin(self._mesh.pins, name))
        file = offloads_file(self._mesh.record, name)
        if file.exists():
            self._mesh.step(f"remove function {name}: offloads")
            put_back(self._mesh.ip, file)


def _attach(ifindex: int, name: str, program: bpf.Fd, pin: Path) -> None:
    """Raises Unsupported, ForeignProgram."""
    try:
        links.attach_xdp(ifindex, name, program, pin, 'datapath = "xdp"')
    except Unsupported as error:
        error.hint = 'another kernel, or datapath = "tc"; is its MTU below 3500?'
        raise


def _write(file: Path, index: int, namespace: Path, found: offload.Pair) -> None:
    """Once: what is there already was found before a kill."""
    if not (file.exists() and file.read_text()):
        private.file(file)
        file.write_text(f"{index} {found.dump()} {namespace}")


def put_back(ip: IPRoute, file: Path) -> None:
    """Have the offloads of a pair be as they were found, as far as it is there; forget them.

    A file that says nothing is of one that was killed before it changed any, or damaged.
    """
    found = _found(file)
    if found and interface.exists(found[0]):
        with contextlib.suppress(NotFound):
            offload.set_pair(ip, found[0], found[1], found[2])
    file.unlink()


def _found(file: Path) -> tuple[int, Path, offload.Pair] | None:
    """What ``_write`` wrote, or None."""
    with contextlib.suppress(ValueError):
        index, text, namespace = file.read_text().split(" ", 2)
        return int(index), Path(namespace), offload.Pair.load(text)
    return None


def put_back_all(ip: IPRoute, directory: Path) -> None:
    """The same for all functions of a mesh, whose record may be lost."""
    for file in directory.glob(f"*{FOUND}"):
        put_back(ip, file)
