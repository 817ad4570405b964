# SPDX-License-Identifier: BSD-2-Clause
"""Where meshes are described that are to be up from boot on."""

import os
from pathlib import Path
from stat import S_IWGRP, S_IWOTH

from ebpfmesh.errors import NotFound, UsageError
from ebpfmesh.model import suggest

HOME = Path("/etc/ebpfmesh")
OTHER = "EBPFMESH_ETC"
"""The environment variable that names another directory."""


def described(mesh: str = "") -> dict[str, Path]:
    """The meshes described there by name, or one of them: a file MESH.toml, or a directory MESH.

    A directory without any *.toml is none. Raises UsageError if there is none at all, one twice,
    or if others may write there: its commands are run as root; NotFound if there is no such mesh.
    """
    home = Path(os.environ.get(OTHER) or HOME)
    _refuse_open(home)
    found: dict[str, Path] = {}
    for path in sorted(home.iterdir()) if home.is_dir() else ():
        is_file = path.suffix == ".toml" and path.is_file()
        if path.name[0] == "." or not (is_file or any(path.glob("*.toml"))):
            continue
        _refuse_open(path, *path.glob("*.toml"))
        name = path.stem if is_file else path.name
        if name in found:
            what = f"both {found[name]} and {path} are mesh {name}"
            raise UsageError(what, hint="keep one of them")
        found[name] = path
    if not found:
        hint = f"ebpfmesh up FILE; without it, each MESH.toml in {home} is a mesh"
        raise UsageError(f"no FILE is given, and {home} describes no mesh", hint=hint)
    if mesh and mesh not in found:
        raise NotFound(f"{home} describes no mesh {mesh}", hint=suggest(mesh, found))
    return {mesh: found[mesh]} if mesh else found


def _refuse_open(*paths: Path) -> None:
    for path in paths:
        if path.exists() and path.stat().st_mode & (S_IWGRP | S_IWOTH):
            hint = f"chmod go-w {path}; what it says is done as root"
            raise UsageError(f"{path}: others may write there", hint=hint)


def check_name(path: Path, name: str) -> None:
    """Raise UsageError unless what is described there is called as the mesh is."""
    wanted = path.name if path.is_dir() else path.stem
    if name != wanted:
        what = f"{path} is about mesh {name}, not {wanted}"
        raise UsageError(what, hint="rename it, or change [mesh] name")
