# SPDX-License-Identifier: BSD-2-Clause
"""The lock of a mesh: who changes it holds it, one at a time."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from stat import S_IMODE

from ebpfmesh.errors import Busy, MissingPrivilege
from ebpfmesh.kernel import private
from ebpfmesh.state import files
from ebpfmesh.state.tables import LOCK_SECONDS


def stale_locks() -> list[str]:
    """Names of the meshes that nothing is left of here but a lock's file."""
    locks = [Path(name) for name in private.names(files.RUN) if name.endswith(".lock")]
    return [lock.stem for lock in locks if not (files.RUN / lock.stem).exists()]


@contextlib.contextmanager
def locked(mesh: str, patience: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold the mesh's lock; waits for another process, ``patience`` seconds at most: Busy.

    The lock's file goes with the mesh: whoever leaves last, and finds no record, removes it.
    """
    deadline = time.monotonic() + patience
    while (lock := _try_lock(mesh)) is None:
        if time.monotonic() > deadline:
            raise Busy(
                f"another process has been changing mesh {mesh} for {patience:.0f} s",
                hint=f"fuser {files.RUN}/{mesh}.lock shows it",
            )
        time.sleep(0.02)
    try:
        _close_off(files.RUN / mesh)
        yield
    finally:
        if not (files.RUN / mesh).exists():
            (files.RUN / f"{mesh}.lock").unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                files.RUN.rmdir()
        os.close(lock)


def _try_lock(mesh: str) -> int | None:
    """A descriptor that holds the lock, or None while somebody else does."""
    path = files.RUN / f"{mesh}.lock"
    try:
        private.directory(files.RUN)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except PermissionError as error:
        what = f"cannot write {files.RUN}: CAP_DAC_OVERRIDE is needed"
        raise MissingPrivilege(what, hint="run as root") from error
    except FileNotFoundError:  # files.RUN went between the two calls
        return None
    with contextlib.suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The one before us may have removed the file we wait on.
        if os.fstat(lock).st_ino == path.stat().st_ino:
            return lock
    os.close(lock)
    return None


def _close_off(directory: Path) -> None:
    """Close a mesh's directory that an earlier version left open, with all that is in it."""
    if directory.is_dir() and S_IMODE(directory.stat().st_mode) != 0o700:
        private.directory(directory)
        for path in directory.iterdir():
            private.file(path, 0o644 if path.name == "hosts" else 0o600)
