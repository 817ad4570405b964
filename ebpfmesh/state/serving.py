# SPDX-License-Identifier: BSD-2-Clause
"""Who starts the commands of a mesh again: one process at a time, who has its directory locked.

Nothing is written down, so nothing is left of one that was killed.
"""

import fcntl
import os

from ebpfmesh.state.record import Record


def claim(record: Record) -> int | None:
    """A descriptor that is the claim while it is open; None if another has it, or the mesh went."""
    return _lock(record, fcntl.LOCK_EX)


def is_served(record: Record) -> bool:
    """Whether somebody has it."""
    found = _lock(record, fcntl.LOCK_SH)
    if found is None:
        return True
    os.close(found)
    return False


def _lock(record: Record, how: int) -> int | None:
    try:
        directory = os.open(record.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(directory, how | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(directory)
        return None
    return directory
