# SPDX-License-Identifier: BSD-2-Clause
"""What is settled before a command starts: which mesh it is about, and that it may."""

from importlib.util import find_spec
from pathlib import Path

from ebpfmesh.cli.base import settings
from ebpfmesh.errors import Unsupported, UsageError

BENCH_PACKAGES = {
    "hdrh": "hdrhistogram", "jinja2": "jinja2", "matplotlib": "matplotlib", "numpy": "numpy",
}  # fmt: skip
"""Modules of the extra "bench", and what they are installed as."""


def need_change(what: str) -> None:
    """Fail at once, naming what is missing, unless the process may change the kernel."""
    from ebpfmesh.observe import privilege

    privilege.require(privilege.CHANGE, f"ebpfmesh {what}")


def need_read(what: str) -> None:
    """Fail at once, naming what is missing, unless the process may look into the kernel."""
    from ebpfmesh.observe import privilege

    privilege.require(privilege.READ, f"ebpfmesh {what}")


def need_packages(what: str) -> None:
    """Fail at once, not when all is measured, unless the packages of the extra are installed."""
    missing = [package for name, package in BENCH_PACKAGES.items() if find_spec(name) is None]
    if missing:
        needs = f"ebpfmesh {what} needs Python packages that are missing: {', '.join(missing)}"
        raise Unsupported(
            needs, hint="pip install 'ebpfmesh-….whl[bench]'; in a checkout: make setup"
        )


def the_mesh() -> str:
    """Name of the mesh meant: by --mesh, or the only one there is."""
    from ebpfmesh.observe import view

    return settings().mesh or view.only_mesh()


def the_mesh_if_any() -> str | None:
    """As ``the_mesh``; None if none is named and none is up."""
    from ebpfmesh.observe import view

    return the_mesh() if settings().mesh or view.meshes() else None


def check_file_mesh(file: Path, name: str) -> None:
    """A file says itself which mesh it is; --mesh cannot say another one."""
    wanted = settings().mesh
    if wanted and wanted != name:
        hint = "leave --mesh out (is EBPFMESH_MESH set?), or change [mesh] name in the file"
        raise UsageError(f"{file} is about mesh {name}, not {wanted}", hint=hint)
