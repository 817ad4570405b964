# SPDX-License-Identifier: BSD-2-Clause
"""A function to begin with."""

from pathlib import Path

from ebpfmesh.compile.source import bpf_dir
from ebpfmesh.errors import UsageError
from ebpfmesh.model.base import check_mesh_name


def new_file(name: str, directory: Path) -> Path:
    """Write a file of this name; UsageError if it is no name or the file is there already."""
    check_mesh_name(name)
    path = directory / f"{name}.c"
    try:
        with path.open("x") as file:
            file.write((bpf_dir() / "functions" / "template.c").read_text())
    except FileExistsError:
        raise UsageError(f"{path.name} is there already", hint="choose another name") from None
    return path
