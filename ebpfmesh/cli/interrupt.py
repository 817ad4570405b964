# SPDX-License-Identifier: BSD-2-Clause
"""Ctrl-C and its like: an exception, so that what was begun is undone; the undo goes on.

Where C code calls back into Python (pydantic, ctypes) what is raised may be swallowed. So a signal
is remembered too, and the next step of a change raises what it asked for.
"""

import signal
import sys
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_seen: list[int] = []


def install() -> None:
    """Handle signals, for good."""
    for number in SIGNALS:
        signal.signal(number, _handle)


def _handle(number: int, _frame: FrameType | None) -> None:
    _seen.append(number)
    check()


def check() -> None:
    """Raise what the first signal asked for, unless an exception is under way already."""
    if not _seen or sys.exception():
        return
    if _seen[0] == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + _seen[0])
