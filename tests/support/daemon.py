# SPDX-License-Identifier: BSD-2-Clause
"""``ebpfmesh serve`` as it is run."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from support.command import COMMAND, ROOT

SECONDS = 60.0
"""What a busy machine may take for anything."""


@contextmanager
def served(*words: str, env: dict[str, str] | None = None) -> Iterator["subprocess.Popen[str]"]:
    """The daemon, for the block; unless it was killed, it ends well when it is asked to.

    What it tells is shown where a test fails: nobody reads a pipe meanwhile, which would be full.
    """
    command = [*COMMAND, "--json", "serve", *words]
    daemon = subprocess.Popen(command, text=True, cwd=ROOT, env=os.environ | (env or {}))
    try:
        yield daemon
        if daemon.poll() is None:
            daemon.terminate()
            assert daemon.wait(SECONDS) == 0
    finally:
        daemon.kill()
        daemon.wait()
