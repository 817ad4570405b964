# SPDX-License-Identifier: BSD-2-Clause
"""Changes of a mesh that are killed or interrupted at one of the steps that ``on_step`` names."""

import os
import re
import signal
from collections.abc import Callable

from ebpfmesh.apply import OnStep

Change = Callable[[OnStep], object]


def killed_at(step: int, change: Change) -> bool:
    """Run a change in a child that is killed at a step; False if it ended before."""
    child = os.fork()
    if child == 0:
        seen = 0

        def count(_name: str) -> None:
            nonlocal seen
            seen += 1
            if seen > step:
                os.kill(os.getpid(), signal.SIGKILL)

        status = 1
        try:
            change(count)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the change failed"
    return False


class Interrupted(KeyboardInterrupt):
    """What a test raises in the place of Ctrl-C."""


def interrupted_at(step: int, change: Change) -> bool:
    """Run a change that is interrupted at a step; False if it ended before."""
    seen = 0

    def count(_name: str) -> None:
        nonlocal seen
        seen += 1
        if seen == step + 1:
            raise Interrupted

    try:
        change(count)
    except Interrupted:
        return True
    return False


def shape(step: str) -> str:
    """A step without the names in it."""
    step = re.sub(r"policy .*", "policy", step)
    return re.sub(r"\b(function|service|start) [a-z]+", r"\1", step)


def steps_of(change: Change) -> list[str]:
    seen: list[str] = []
    change(seen.append)
    return seen
