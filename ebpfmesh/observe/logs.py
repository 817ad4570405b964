# SPDX-License-Identifier: BSD-2-Clause
"""What commands of functions say, as it comes."""

import time
from collections.abc import Iterator, Sequence

from ebpfmesh.errors import MeshError
from ebpfmesh.observe.view import View
from ebpfmesh.runtime.logs import Line, Log, read
from ebpfmesh.state.place import log_files

LOOK_SECONDS = 0.1


def log(view: View, function: str) -> Log:
    """The log of a function."""
    return Log(function, log_files(view.record, function))


def _are_there(view: View, logs: Sequence[Log]) -> bool:
    """Whether the mesh is there with all these functions."""
    try:
        return view.record.is_current and all(view.record.function(log.function) for log in logs)
    except MeshError:  # the record went while it was asked
        if view.record.is_current:
            raise
        return False


def follow(view: View, logs: Sequence[Log]) -> Iterator[list[Line]]:
    """Lines of ``logs`` as they come, until a function of them goes, or the mesh does."""
    while _are_there(view, logs):
        yield read(logs, rest=False)
        time.sleep(LOOK_SECONDS)
    yield read(logs)
