# SPDX-License-Identifier: BSD-2-Clause
"""A function to begin with."""

import re
from pathlib import Path

from ebpfmesh.compile.source import bpf_dir
from ebpfmesh.errors import UsageError
from ebpfmesh.model.base import LABEL, LABEL_TEXT, show


def new_file(name: str, directory: Path) -> Path:
    """Write a file of this name; UsageError if it is no name or the file is there already."""
    if not re.fullmatch(LABEL, name) or len(name) > 63:
        raise UsageError(f"{show(name)} is not a name", hint=f"allowed: {LABEL_TEXT} 63")
    path = directory / f"{name}.c"
    try:
        with path.open("x") as file:
            file.write((bpf_dir() / "functions" / "template.c").read_text())
    except FileExistsError:
        raise UsageError(f"{path.name} is there already", hint="choose another name") from None
    return path
