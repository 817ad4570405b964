# SPDX-License-Identifier: BSD-2-Clause
"""Expedited grace periods for the length of a change, where the operator asks for them.

/sys/kernel/rcu_expedited is the machine's, not the mesh's: while it is set, each grace period
interrupts every CPU instead of waiting for it. What it was before stands in a file that everybody
who wants it set has locked; who finds that file without a holder, as after a kill, puts it back.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

SETTING = Path("/sys/kernel/rcu_expedited")
KEPT = Path("/run/ebpfmesh/rcu_expedited")


@contextlib.contextmanager
def expedited(wanted: bool) -> Iterator[None]:
    """Grace periods are expedited for the ``with`` block, if ``wanted`` and root may set that."""
    if not wanted or not os.access(SETTING, os.W_OK):
        yield
        return
    kept = _hold()
    try:
        SETTING.write_text("1")
        yield
    finally:
        _put_back(kept)
        os.close(kept)


def put_back() -> bool:
    """Undo what a killed process left set; whether there was something."""
    try:
        kept = os.open(KEPT, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return _put_back(kept)
    finally:
        os.close(kept)


def is_left() -> bool:
    """Whether a killed process left something that ``put_back`` would undo; changes nothing.

    Not by trying for the lock: whoever ends just then would not get it, and leave it undone.
    """
    try:
        kept = KEPT.stat()
    except FileNotFoundError:
        return False
    file = f"{os.major(kept.st_dev):02x}:{os.minor(kept.st_dev):02x}:{kept.st_ino}"
    locks = (line.split() for line in Path("/proc/locks").read_text().splitlines())
    return not any("FLOCK" in words and file in words for words in locks)


def _hold() -> int:
    """The file, made if it is not there, with a lock that others may share."""
    while True:
        if not KEPT.exists():
            _keep()
        with contextlib.suppress(FileNotFoundError):
            kept = os.open(KEPT, os.O_RDWR | os.O_CLOEXEC)
            fcntl.flock(kept, fcntl.LOCK_SH)
            if _is_current(kept):
                return kept
            os.close(kept)


def _keep() -> None:
    """Write down what is set now: the file appears whole or not at all."""
    new = KEPT.with_name(f"{KEPT.name}.{os.getpid()}")
    new.write_bytes(SETTING.read_bytes())
    with contextlib.suppress(FileExistsError):
        KEPT.hardlink_to(new)
    new.unlink()


def _put_back(kept: int) -> bool:
    """Set what was set before, unless another process still wants grace periods expedited."""
    try:
        fcntl.flock(kept, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    if not _is_current(kept):
        return False
    SETTING.write_bytes(os.pread(kept, 16, 0))
    KEPT.unlink()
    return True


def _is_current(kept: int) -> bool:
    """Whether a descriptor is that of the file which others find."""
    with contextlib.suppress(FileNotFoundError):
        return os.fstat(kept).st_ino == KEPT.stat().st_ino
    return False
