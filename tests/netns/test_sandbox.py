# SPDX-License-Identifier: BSD-2-Clause
"""The sandbox of demo, benchmark and tests: what it shows of the machine, and leaves there."""

import subprocess
import sys

MACHINE = """
set -e
mount -n -t tmpfs none /run
mkdir /run/lock /run/lock/below
mount -n -t tmpfs none /run/lock/below
echo text >/run/lock/below/file
echo told >/run/file
ln -s lock /run/link
"""
INSIDE = """
from ebpfmesh.kernel import netns
netns.enter_sandbox()
import os
from pathlib import Path
run = Path("/run")
assert (run / "file").read_text() == "told\\n"
assert (run / "link/below/file").read_text() == "text\\n"
assert sorted(os.listdir(run)) == ["ebpfmesh", "file", "link", "lock", "netns"]
assert not os.listdir(run / "netns") and not os.listdir(run / "ebpfmesh")
(run / "new").touch()
(run / "ebpfmesh/new").touch()
(run / "lock/new").touch()
"""


def in_machine(shell: str) -> list[str]:
    """What a shell prints in a mount namespace with a /run of its own, as on a machine."""
    command = ["unshare", "--mount", "sh", "-c", MACHINE + shell, "sh", sys.executable, INSIDE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_what_is_made_in_it_is_not_left() -> None:
    """But below the directories of others, as a file that a benchmark was told to write."""
    assert in_machine('"$1" -c "$2"; ls /run /run/lock') == [
        *("/run:", "file", "link", "lock"),
        *("/run/lock:", "below", "new"),
    ]


def test_a_mesh_of_the_machine_stays_and_is_not_seen() -> None:
    there = "mkdir /run/netns /run/ebpfmesh; touch /run/netns/x /run/ebpfmesh/y; "
    assert in_machine(there + '"$1" -c "$2"; ls /run/netns /run/ebpfmesh') == [
        *("/run/ebpfmesh:", "y"),
        *("/run/netns:", "x"),
    ]
