# SPDX-License-Identifier: BSD-2-Clause
"""A cache of compiled programs: beside the installation, or where EBPFMESH_COMPILED says.

The output of the compiler for one text and one set of options is always the same, but for the maps
it is loaded against: these are found by name, in the directory that the definition MESH_PINS names.
So a machine compiles once, when ebpfmesh is installed (``apply.compile_ahead``), and one on which
compiling takes minutes, as an emulated one, loads what another compiled; verifier and JIT check and
translate it as ever. Where the variable is empty nothing is read or written.
"""

import contextlib
import ctypes
import hashlib
import importlib.util
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR, S_IWGRP, S_IWOTH
from typing import Self

from ebpfmesh.compile.headers import CFLAGS, header_links
from ebpfmesh.compile.source import bpf_dir, flatten
from ebpfmesh.errors import Unsupported, UsageError
from ebpfmesh.kernel import bpf
from ebpfmesh.kernel.programs import MESH, by_file

VARIABLE = "EBPFMESH_COMPILED"
BESIDE = Path(sys.prefix) / "share" / "ebpfmesh" / "compiled"
PINS = "MESH_PINS"
INSTRUCTION = 8  # bytes
LD_IMM64, PSEUDO_MAP_FD = 0x18, 1  # of linux/include/uapi/linux/bpf.h
LOG_BYTES = 16 << 20


def wanted() -> Path | None:
    """The directory to keep programs in, whether it exists or not; None: nowhere."""
    path = os.environ.get(VARIABLE)
    return BESIDE if path is None else Path(path) if path else None


def directory() -> Path | None:
    """The directory that programs are kept in; None if there is none and none was asked for.

    Programs are loaded as found, so UsageError if anybody can change them who could not change
    ebpfmesh itself, or if it is no directory.
    """
    path, asked = wanted(), VARIABLE in os.environ
    if path is None or not (asked or path.exists()):
        return None
    with contextlib.suppress(FileNotFoundError):
        found = path.stat()
        what = f"{VARIABLE}={path}" if asked else str(path)
        if not S_ISDIR(found.st_mode):
            raise UsageError(f"{what}: not a directory", hint="one that is not there yet is made")
        owners = (0, os.geteuid(), Path(__file__).stat().st_uid)
        if found.st_uid not in owners or found.st_mode & (S_IWGRP | S_IWOTH):
            raise UsageError(
                f"{what}: others may write there", hint=f"chown root {path}; chmod go-w {path}"
            )
    return path


@dataclass(frozen=True)
class Store:
    """The programs of one text, in a directory of its own, and the pins of the maps they take.

    A program is a file of instructions, as bpf_prog_load takes them; beside it PROGRAM.json has
    the name of the map of each instruction that takes one, by its offset.
    """

    path: Path
    maps: Path

    @classmethod
    def of(cls, text: str, defines: Mapping[str, str]) -> Self | None:
        """The store of a text's programs; None if nothing is to be kept."""
        kept, compiler = directory(), _compiler()
        if not kept or PINS not in defines or compiler is None:
            return None
        times = [_installed(path) for path in (compiler, *header_links().values())]
        options = sorted(item for item in defines.items() if item[0] != PINS)
        key = json.dumps([times, CFLAGS, options, text]).encode()
        path = kept / hashlib.sha256(key).hexdigest()[:32]
        return cls(path, Path(defines[PINS].strip('"')))

    def has(self, name: str) -> bool:
        """Whether a program is kept."""
        return (self.path / name).exists()

    def keep(self, name: str, code: bytes) -> None:
        """Keep a program's instructions, which name maps by open descriptors. Raises OSError."""
        used = {}
        for at, number in _descriptors(code).items():
            with bpf.Fd(os.dup(number)) as opened:
                used[at] = bpf.map_info(opened).name.decode()
        if all((self.maps / pin).exists() for pin in used.values()):
            _write(self.path / f"{name}.json", json.dumps(used).encode())
            _write(self.path / name, code)

    def code(self, name: str) -> tuple[bytearray, list[bpf.Fd]]:
        """The instructions of a program that was kept, and the maps they name while these are open.

        Raises FileNotFoundError if it was not.
        """
        code = bytearray((self.path / name).read_bytes())
        used: dict[str, str] = json.loads((self.path / f"{name}.json").read_text())
        opened = {pin: bpf.obj_get(self.maps / pin) for pin in set(used.values())}
        for at, pin in used.items():
            ctypes.c_int32.from_buffer(code, int(at) + 4).value = opened[pin].fileno()
        return code, list(opened.values())


def load(
    name: str, code: bytes | bytearray, prog_type: int, attach_type: int = 0, *, flags: int = 0
) -> bpf.Fd:
    """Load a program's instructions. Raises OSError, with the verifier's log on stderr."""
    try:
        return bpf.prog_load(prog_type, name, code, attach_type, flags=flags)
    except OSError:
        log = ctypes.create_string_buffer(LOG_BYTES)
        with contextlib.suppress(OSError):
            bpf.prog_load(prog_type, name, code, attach_type, log, flags=flags)
        sys.stderr.write(log.value.decode(errors="replace"))
        raise


def defines(maps: Path | str, *, count_flows: bool) -> dict[str, str]:
    """What the programs of a mesh are compiled with: where its maps are, and if flows count."""
    return {PINS: f'"{maps}"'} | ({"MESH_COUNT_FLOWS": "1"} if count_flows else {})


def fingerprint(*, count_flows: bool) -> str:
    """What this version compiles the programs of a mesh from, with what: a name of twelve digits.

    Where the sources are makes no difference. Empty where nothing can be compiled.
    """
    compiler = _compiler()
    try:
        headers = header_links().values()
    except Unsupported:
        return ""
    if compiler is None:
        return ""
    ours = bpf_dir()
    sources = [ours / file for file in by_file(MESH)]
    times = [_installed(path) for path in (compiler, *headers) if ours not in path.parents]
    own = [path.read_text() for path in sorted((ours / "include" / "uapi").rglob("*.h"))]
    texts = [re.sub(r"^#line .*$", "", flatten(source), flags=re.MULTILINE) for source in sources]
    options = sorted(defines("", count_flows=count_flows).items())
    key = json.dumps([times, CFLAGS, options, own, texts])
    return hashlib.sha256(key.encode()).hexdigest()[:12]


def kept(source: Path, names: Iterable[str], *, count_flows: bool) -> bool:
    """Whether programs of a mesh, by the file they are in, are all kept."""
    store = Store.of(flatten(source), defines("", count_flows=count_flows))
    return store is not None and all(store.has(name) for name in names)


def _compiler() -> Path | None:
    """Where BCC is, if it is installed."""
    found = importlib.util.find_spec("bcc")
    return Path(found.origin) if found and found.origin else None


def _installed(path: Path) -> int:
    """When a package put a file or directory there."""
    return int(path.stat().st_mtime)


def _descriptors(code: bytes) -> dict[int, int]:
    """Offsets of the instructions that take a map, with the descriptors they have."""
    return {
        at: int.from_bytes(code[at + 4 : at + 8], "little")
        for at in range(0, len(code), INSTRUCTION)
        if code[at] == LD_IMM64 and code[at + 1] >> 4 == PSEUDO_MAP_FD
    }


def _write(file: Path, content: bytes) -> None:
    """Atomically; a concurrent writer writes the same bytes."""
    for path in (file.parent.parent, file.parent):  # writable for nobody else, whatever the umask
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.parent) as new:
        new.write(content)
        new.flush()
        with contextlib.suppress(FileExistsError):
            os.link(new.name, file)
