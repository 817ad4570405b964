# SPDX-License-Identifier: BSD-2-Clause
"""Switching events on while somebody listens."""

import contextlib
from collections.abc import Iterator

from ebpfmesh.apply import batch, listen
from ebpfmesh.apply.live import opened
from ebpfmesh.errors import MeshError, NotFound
from ebpfmesh.state import listener


@contextlib.contextmanager
def traced(mesh: str, *, events: int, snap: int = 0) -> Iterator[None]:
    """The programs of a mesh send these events for the ``with`` block.

    ``events`` are bits of EventKind; ``snap`` bytes of the packet go with each. The lock of the
    mesh is held at the two ends only. MeshError if another process listens.
    """
    begun = False
    try:
        with opened(mesh) as live:
            batch.settle(live)
            if (other := listener.find(live.record)) is not None:
                what = f"process {other.pid} listens to mesh {mesh} already"
                raise MeshError(what, hint="one can at a time: wait for it, or end it")
            begun = True
            listen.start(live.record, live.control.maps, events=events, snap=snap)
        yield
    finally:
        if begun:
            _stop(mesh)


def _stop(mesh: str) -> None:
    """Unless the mesh went, or is another one now."""
    with contextlib.suppress(NotFound), opened(mesh) as live:
        if listener.find(live.record) == listener.this_process():
            listen.stop(live.record, live.control.maps)
