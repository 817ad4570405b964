# SPDX-License-Identifier: BSD-2-Clause
"""Programs compiled before: kept beside the installation, or where EBPFMESH_COMPILED says.

What the compiler makes of one text with one set of options is always the same, but for the maps
it is loaded against: these are found by name, in the directory that the definition MESH_PINS names.
So a machine compiles once, when ebpfmesh is installed (``apply.compile_ahead``), and one on which
compiling takes minutes, as an emulated one, loads what another compiled; verifier and JIT do their
work on it as ever. Where the variable is empty nothing is read or written.
"""

import contextlib
import ctypes
import hashlib
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR, S_IWGRP, S_IWOTH
from typing import Self

from ebpfmesh.errors import UsageError
from ebpfmesh.kernel import bpf
from ebpfmesh.kernel.headers import CFLAGS, header_links
from ebpfmesh.kernel.source import flatten

VARIABLE = "EBPFMESH_COMPILED"
BESIDE = Path(sys.prefix) / "share" / "ebpfmesh" / "compiled"
PINS = "MESH_PINS"
INSTRUCTION = 8  # bytes
LD_IMM64, PSEUDO_MAP_FD = 0x18, 1  # of linux/include/uapi/linux/bpf.h
LOG_BYTES = 16 << 20


def wanted() -> Path | None:
    """Where programs are to be kept, be there anything or not; None: nowhere."""
    place = os.environ.get(VARIABLE)
    return BESIDE if place is None else Path(place) if place else None


def directory() -> Path | None:
    """Where programs are kept; None if they are not: what nobody asked for is not made.

    They are loaded as they are found, so UsageError if others could change them than who could
    change ebpfmesh itself, or if it is no directory.
    """
    place, asked = wanted(), VARIABLE in os.environ
    if place is None or not (asked or place.exists()):
        return None
    with contextlib.suppress(FileNotFoundError):
        found = place.stat()
        what = f"{VARIABLE}={place}" if asked else str(place)
        if not S_ISDIR(found.st_mode):
            raise UsageError(f"{what}: not a directory", hint="one that is not there yet is made")
        owners = (0, os.geteuid(), Path(__file__).stat().st_uid)
        if found.st_uid not in owners or found.st_mode & (S_IWGRP | S_IWOTH):
            raise UsageError(
                f"{what}: others may write there", hint=f"chown root {place}; chmod go-w {place}"
            )
    return place


@dataclass(frozen=True)
class Store:
    """The programs of one text, in a directory of its own, and the pins of the maps they take.

    A program is a file of instructions, as bpf_prog_load takes them; beside it PROGRAM.json has
    the name of the map of each instruction that takes one, by its offset.
    """

    place: Path
    maps: Path

    @classmethod
    def of(cls, text: str, defines: Mapping[str, str]) -> Self | None:
        """Where the programs of a text are; None if nothing is to be kept."""
        kept, compiler = directory(), importlib.util.find_spec("bcc")
        if not kept or PINS not in defines or compiler is None or compiler.origin is None:
            return None
        inputs = [Path(compiler.origin), *header_links().values()]  # new times with new packages
        times = [int(place.stat().st_mtime) for place in inputs]
        options = sorted(item for item in defines.items() if item[0] != PINS)
        key = json.dumps([times, CFLAGS, options, text]).encode()
        place = kept / hashlib.sha256(key).hexdigest()[:32]
        return cls(place, Path(defines[PINS].strip('"')))

    def has(self, name: str) -> bool:
        """Whether a program is kept."""
        return (self.place / name).exists()

    def keep(self, name: str, code: bytes) -> None:
        """Keep a program's instructions, which name maps by open descriptors. Raises OSError."""
        used = {}
        for at, number in _descriptors(code).items():
            with bpf.Fd(os.dup(number)) as opened:
                used[at] = bpf.map_info(opened).name.decode()
        if all((self.maps / pin).exists() for pin in used.values()):
            _write(self.place / f"{name}.json", json.dumps(used).encode())
            _write(self.place / name, code)

    def load(self, name: str, prog_type: int, attach_type: int = 0) -> bpf.Fd | None:
        """Load a program that was kept; None if it was not.

        Raises OSError; what the verifier said is then on stderr.
        """
        try:
            code = bytearray((self.place / name).read_bytes())
        except FileNotFoundError:
            return None
        used: dict[str, str] = json.loads((self.place / f"{name}.json").read_text())
        opened = {pin: bpf.obj_get(self.maps / pin) for pin in set(used.values())}
        for at, pin in used.items():
            ctypes.c_int32.from_buffer(code, int(at) + 4).value = opened[pin].fileno()
        try:
            return bpf.prog_load(prog_type, name, code, attach_type)
        except OSError:
            log = ctypes.create_string_buffer(LOG_BYTES)
            with contextlib.suppress(OSError):
                bpf.prog_load(prog_type, name, code, attach_type, log)
            sys.stderr.write(log.value.decode(errors="replace"))
            raise


def kept(source: Path, names: Iterable[str]) -> bool:
    """Whether programs of a mesh, by the file they are in, are all kept."""
    store = Store.of(flatten(source), {PINS: ""})
    return store is not None and all(store.has(name) for name in names)


def _descriptors(code: bytes) -> dict[int, int]:
    """Offsets of the instructions that take a map, with the descriptors they have."""
    return {
        at: int.from_bytes(code[at + 4 : at + 8], "little")
        for at in range(0, len(code), INSTRUCTION)
        if code[at] == LD_IMM64 and code[at + 1] >> 4 == PSEUDO_MAP_FD
    }


def _write(file: Path, content: bytes) -> None:
    """Whole or not at all; who else writes it writes the same."""
    for place in (file.parent.parent, file.parent):  # for nobody else to write, whatever the umask
        place.mkdir(mode=0o755, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.parent) as new:
        new.write(content)
        new.flush()
        with contextlib.suppress(FileExistsError):
            os.link(new.name, file)
