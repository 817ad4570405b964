# SPDX-License-Identifier: BSD-2-Clause
"""The C sources: where they are, and one text of them that BCC can take.

BCC rewrites map operations only in the buffer it is given, never in a file that buffer includes,
so the project's own includes are inlined here. ``#line`` markers keep the compiler's and the
verifier's messages pointing at the header a line came from.
"""

import re
from pathlib import Path

from ebpfmesh.errors import MeshError

_INCLUDE = re.compile(r'^#include "([\w./]+)"$')


def bpf_dir() -> Path:
    """Directory of the C sources: ``bpf/`` of a checkout, ``ebpfmesh/_bpf`` once installed."""
    package = Path(__file__).resolve().parents[1]
    for directory in (package / "_bpf", package.parent / "bpf"):
        if (directory / "include" / "mesh_abi.h").is_file():
            return directory
    raise MeshError("the C sources are missing", hint="install ebpfmesh again: pip install .")


def flatten(source: Path) -> str:
    """The text of ``source`` with every ``#include "…"`` below bpf_dir() inlined, once."""
    seen: set[Path] = set()
    return "\n".join(_lines(source, bpf_dir(), seen)) + "\n"


def _lines(file: Path, root: Path, seen: set[Path]) -> list[str]:
    seen.add(file)
    out = [f'#line 1 "{file}"']
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        match = line.startswith("#include") and _INCLUDE.match(line)
        if not match:
            out.append(line)
            continue
        header = root / match[1]
        if header not in seen:
            out += _lines(header, root, seen)
        out.append(f'#line {number + 1} "{file}"')
    return out
