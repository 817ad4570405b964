# SPDX-License-Identifier: BSD-2-Clause
"""How much of what commands say is kept: by tenant, an equal part for each of its functions."""

import os
from collections import Counter
from pathlib import Path

from ebpfmesh.errors import MeshError
from ebpfmesh.kernel import private
from ebpfmesh.state.place import SIZE_WIDTH, log_sizes
from ebpfmesh.state.record import Record

FILES = 4
"""Of a function: two of this run, two of the run before."""
CHUNK = 16 << 10
"""A file may be larger by what a keeper reads at once (keeper.py), to the end of a line."""


def share_out(record: Record) -> None:
    """Have keepers know how large a file may become; those that run do as they write on."""
    bounds = {rights.name: rights.log for rights in record.base().rights if rights.log}
    talking: Counter[str] = Counter()
    if bounds:
        talking.update(row.function.tenant for row in record.functions() if row.function.command)
    text = ""
    for number, tenant in sorted(record.names("tenant").items()):
        if bound := bounds.get(tenant):
            part = bound // max(1, talking[tenant]) // FILES - CHUNK
            text = text.ljust(number * SIZE_WIDTH) + str(part)
    _write(log_sizes(record), text.ljust(-(-len(text) // SIZE_WIDTH) * SIZE_WIDTH).encode())


def _write(path: Path, content: bytes) -> None:
    """In place: keepers have the file open, and may read it just now."""
    try:
        private.file(path)
        with path.open("r+b", buffering=0) as file:
            if file.read() != content:
                os.pwrite(file.fileno(), content, 0)
                os.ftruncate(file.fileno(), len(content))
    except OSError as error:
        what = f"{path}: {error.strerror}"
        raise MeshError(what, hint=f"is there room? df {path.parent}; ulimit -f") from error
