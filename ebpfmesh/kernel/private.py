# SPDX-License-Identifier: BSD-2-Clause
"""Directories and files that are root's alone, whatever the umask.

What a mesh keeps says who talks to whom and what functions print; and who can open the record
can hold up every change by a lock.
"""

import os
from pathlib import Path
from stat import S_IMODE

from ebpfmesh.errors import MissingPrivilege


def directory(path: Path) -> None:
    """Make a directory, or close one that is there and open."""
    path.mkdir(mode=0o700, exist_ok=True)
    _set_mode(path, 0o700)


def file(path: Path, mode: int = 0o600) -> None:
    """Make an empty file, or give one that is there this mode."""
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, mode))
    _set_mode(path, mode)


def _set_mode(path: Path, mode: int) -> None:
    if S_IMODE(path.stat().st_mode) != mode:
        path.chmod(mode)


def names(path: Path) -> list[str]:
    """What is in a directory, none if it is not there; MissingPrivilege if it is closed to us."""
    try:
        return sorted(os.listdir(path))  # noqa: PTH208  (one that cannot be read is no empty one)
    except FileNotFoundError:
        return []
    except PermissionError as error:
        raise closed(path) from error


def closed(path: Path) -> MissingPrivilege:
    """What to raise if this is closed to us."""
    return MissingPrivilege(f"cannot read {path}: CAP_DAC_OVERRIDE is needed", hint="run as root")
