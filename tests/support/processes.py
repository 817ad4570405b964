# SPDX-License-Identifier: BSD-2-Clause
"""The processes of a command, as tests ask for them."""

from contextlib import closing
from pathlib import Path

from ebpfmesh.runtime.process import keepers
from ebpfmesh.state.place import cgroup_of
from ebpfmesh.state.record import Record

SANDBOXED = 4
"""Processes of a command that is one process: its keeper, two of its sandbox, and itself."""


def workers(mesh: str, function: str) -> list[int]:
    """Those that are the command itself and not at their end.

    A process that ends is in its cgroup for a moment after its memory is gone, and nobody can
    tell by then whether it was a keeper.
    """
    with closing(Record(mesh)) as record:
        processes = cgroup_of(record, function).processes()
    return sorted(filter(command_line, processes - keepers(processes)))


def command_line(process: int) -> bytes:
    """What a process was started as; empty once it is at its end."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""
