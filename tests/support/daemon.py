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
    """The daemon, for the block; unless it was killed, it ends well when it is asked to."""
    daemon = subprocess.Popen(
        [*COMMAND, "--json", "serve", *words], stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env=os.environ | (env or {}),
    )  # fmt: skip
    try:
        yield daemon
        if daemon.poll() is None:
            daemon.terminate()
            assert daemon.wait(SECONDS) == 0
    finally:
        daemon.kill()
        daemon.communicate()
