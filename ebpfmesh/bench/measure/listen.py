# SPDX-License-Identifier: BSD-2-Clause
"""A mesh while somebody listens to its events: the command of a user, on another core if there is.

What it cannot read in time is lost to it and not to the receiver, so the path's figure is that of
sending events, however fast they are read.
"""

import ctypes
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ebpfmesh.bench import tools
from ebpfmesh.bench.measure.costs import COMMAND_SECONDS, PROGRAM
from ebpfmesh.bench.paths import DataPath
from ebpfmesh.errors import CommandFailed
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins

COMMANDS = {
    "events": ("events",),
    "capture": ("capture", "--write", "/dev/null"),
}
"""What is sent: drops and new flows, as nobody asked otherwise; every packet, whole."""
ZERO = ctypes.c_uint32(0)


@contextmanager
def listening(path: DataPath, to: str) -> Iterator[None]:
    """Have a command of COMMANDS listen to the mesh ``path`` while the block runs."""
    maps = Maps(Pins(path.mesh.name))
    command = [str(PROGRAM), "--mesh", path.mesh.name, *COMMANDS[to]]
    with tempfile.TemporaryFile() as output:
        started = tools.start(command, path.host.netns, output.fileno(), pick=min)
        try:
            deadline = time.monotonic() + COMMAND_SECONDS
            while not _is_sending(maps):
                if started.poll() is not None or time.monotonic() > deadline:
                    raise CommandFailed(f"{to}: no events", hint=tools.tail(output.fileno()))
                time.sleep(0.005)
            yield
        finally:
            started.send_signal(signal.SIGINT)  # it switches the events off
            try:
                started.wait(COMMAND_SECONDS)
            except subprocess.TimeoutExpired:
                tools.stop(started)
    if _is_sending(maps):
        raise CommandFailed(f"{to}: events are still on after it ended")


def _is_sending(maps: Maps) -> bool:
    config = maps.config.get(ZERO)
    return config is not None and config.events != 0
