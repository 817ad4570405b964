# SPDX-License-Identifier: BSD-2-Clause
"""Prints how BCC lays out the keys and values of the mesh's maps, as JSON.

A process of its own, since LLVM never leaves one. The maps are BCC's own here, and go with it:
hashes all of them, which take any key and value and need no flags.
"""

import ctypes
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from ebpfmesh.compile.headers import CFLAGS, SOURCE_VARIABLE, header_tree
from ebpfmesh.compile.source import bpf_dir, flatten

MAPS = """
#define MESH_MAP(type, name, key, value, n) BPF_TABLE("hash", key, value, name, 1)
#define MESH_STORAGE(name, value) BPF_TABLE("hash", __u32, value, name, 1)
#define MESH_RING(name, n)
"""


def layout(shape: Any) -> list[Any]:
    """[size, [[field, offset, its layout], …]]; a number or an array has no fields."""
    fields = getattr(shape, "_fields_", ())
    inner = [[name, getattr(shape, name).offset, layout(kind)] for name, kind, *_ in fields]
    return [ctypes.sizeof(shape), inner]


def main() -> None:
    """Compile the declarations alone; the arguments are names of maps, and -D for a definition."""
    with tempfile.TemporaryDirectory() as tree:
        os.environ[SOURCE_VARIABLE] = str(header_tree(Path(tree)))
        from bcc import BPF  # noqa: PLC0415  (reads the environment when imported)

        names = [word for word in sys.argv[1:] if not word.startswith("-D")]
        defined = [word for word in sys.argv[1:] if word not in names]
        text = MAPS + flatten(bpf_dir() / "include" / "mesh_maps.h")
        module = BPF(text=text, cflags=[*CFLAGS, *defined])
        found = {}
        for name in names:
            table = module[name]
            found[name] = {
                "key": layout(table.Key),
                "value": layout(table.Leaf),
            }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
