# SPDX-License-Identifier: BSD-2-Clause
"""Switching events on and off.

Programs send events while somebody listens and no longer: each costs time, and while verdicts are
wanted every packet goes the slow way. Whoever calls ``start`` or ``stop`` holds the mesh's lock.
"""

import ctypes

from ebpfmesh import _abi
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.state.listener import Listener, find, this_process
from ebpfmesh.state.writer import Writer


def start(record: Writer, maps: Maps, *, events: int, snap: int = 0) -> None:
    """Have the programs send events to this process, ``snap`` bytes of the packet with each."""
    record.set_listener((this_process().pid, this_process().started))
    _switch(maps, events=events, snap=snap)


def stop(record: Writer, maps: Maps) -> None:
    """Have the programs send no events, and judged flows go the fast way. Twice is fine."""
    _switch(maps, events=0, snap=0)
    record.set_listener(None)


def stop_dead(record: Writer, maps: Maps) -> Listener | None:
    """Undo ``start`` of a listener that was killed; which one it was."""
    found = find(record)
    if found is None or found.lives:
        return None
    stop(record, maps)
    return found


def _switch(maps: Maps, *, events: int, snap: int) -> None:
    key = ctypes.c_uint32(0)
    config = maps.config.get(key) or _abi.Config()
    config.events = events
    config.snap = snap
    config.epoch = 0 if events & _abi.EventKind.VERDICT else config.judged
    maps.config.set(key, config)
