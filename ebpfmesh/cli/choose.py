# SPDX-License-Identifier: BSD-2-Clause
"""What is settled before a command starts: which mesh it is about, and that it may."""

from pathlib import Path

from ebpfmesh.cli.base import settings
from ebpfmesh.errors import UsageError


def need_change(what: str) -> None:
    """Fail at once, naming what is missing, unless the process may change the kernel."""
    from ebpfmesh.observe import privilege

    privilege.require(privilege.CHANGE, f"ebpfmesh {what}")


def need_read(what: str) -> None:
    """Fail at once, naming what is missing, unless the process may look into the kernel."""
    from ebpfmesh.observe import privilege

    privilege.require(privilege.READ, f"ebpfmesh {what}")


def the_mesh() -> str:
    """Name of the mesh meant: by --mesh, or the only one there is."""
    from ebpfmesh.observe import view

    return settings().mesh or view.only_mesh()


def check_file_mesh(file: Path, name: str) -> None:
    """A file says itself which mesh it is; --mesh cannot say another one."""
    wanted = settings().mesh
    if wanted and wanted != name:
        hint = "leave --mesh out (is EBPFMESH_MESH set?), or change [mesh] name in the file"
        raise UsageError(f"{file} is about mesh {name}, not {wanted}", hint=hint)
