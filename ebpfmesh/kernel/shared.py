# SPDX-License-Identifier: BSD-2-Clause
"""Maps of injected functions whose memory commands read, on their way to a command.

The command inherits a descriptor of each, and maps it. The maps are frozen: nobody writes them from
user space any more, by a system call or by a mapping, whatever rights a descriptor has; programs
do as before (map_freeze() and bpf_map_mmap() in linux/kernel/bpf/syscall.c). A descriptor that may
only read would not do: the kernel maps none of that kind.

Beside them is a file of one word for each, the id of the map that is in its place now: a command
sees in memory when it reads one that is not. It is the command's own from its begin on, root's, and
open to be read only.
"""

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ebpfmesh.kernel import bpf, private

VARIABLE = "EBPFMESH_MAPS"
"""What a command knows them by: the file's descriptor, then NAME:DESCRIPTOR:ID:ENTRIES:BYTES."""
ROW, WORD = 256, 8  # bytes of the file about one: its name, and behind it the word
NAME = ROW - WORD


class SharedMap(NamedTuple):
    """A map that is handed; ``name`` is INJECTED/MAP."""

    name: str
    fd: bpf.Fd
    entries: int
    value_size: int

    @property
    def id(self) -> int:
        """The kernel's."""
        return int(bpf.map_info(self.fd).id)

    @property
    def text(self) -> str:
        """What the variable says of it."""
        return f"{self.name}:{self.fd.fileno()}:{self.id}:{self.entries}:{self.value_size}"


class Handed:
    """The maps of a command (``runtime.process.Handed``), and the file that tells of them."""

    def __init__(self, file: int, maps: Sequence[SharedMap]) -> None:
        self._file, self._maps = file, maps

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What the command inherits."""
        return (self._file, *(one.fd.fileno() for one in self._maps))

    @property
    def env(self) -> dict[str, str]:
        """And the variable that says so."""
        return {VARIABLE: " ".join([str(self._file), *(one.text for one in self._maps)])}

    def bind(self) -> None:
        """There is nothing to do."""


def write(file: Path, maps: Sequence[SharedMap]) -> None:
    """A new file about these maps; who has one of before keeps it as it is."""
    file.unlink(missing_ok=True)
    private.file(file)
    rows = (one.name.encode().ljust(NAME, b"\0") + struct.pack("=Q", one.id) for one in maps)
    file.write_bytes(b"".join(rows))


def tell(file: Path, ids: dict[str, int]) -> None:
    """Have a file say which maps are in their places now, by name; 0: none is."""
    with file.open("r+b", buffering=0) as there:
        content = there.read()
        for begin in range(0, len(content), ROW):
            name = content[begin : begin + NAME].rstrip(b"\0").decode()
            word = struct.pack("=Q", ids.get(name, 0))
            if word != content[begin + NAME : begin + ROW]:
                os.pwrite(there.fileno(), word, begin + NAME)
