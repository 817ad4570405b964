# SPDX-License-Identifier: BSD-2-Clause
"""/run without room: no byte more fits into /run/ebpfmesh, which the sandbox has for itself."""

import contextlib
import subprocess
from collections.abc import Callable, Iterator

from ebpfmesh.state.files import RUN

FILLER = RUN / "filler"


def fill() -> None:
    """Take what room there is."""
    with FILLER.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


@contextlib.contextmanager
def small_run() -> Iterator[None]:
    """/run/ebpfmesh is small for the ``with`` block; what filled it goes."""
    try:
        subprocess.run(["mount", "-o", "remount,size=4m", RUN], check=True)
        yield
    finally:
        FILLER.unlink(missing_ok=True)
        subprocess.run(["mount", "-o", "remount,size=50%", RUN], check=True)


@contextlib.contextmanager
def full_run() -> Iterator[None]:
    """No byte more fits for the ``with`` block."""
    with small_run():
        fill()
        yield


def filling_from(step: int) -> Callable[[str], None]:
    """An ``on_step`` by which there is no room from a step on, also where some becomes free."""
    seen = 0

    def on_step(_name: str) -> None:
        nonlocal seen
        seen += 1
        if seen > step:
            fill()

    return on_step
