# SPDX-License-Identifier: BSD-2-Clause
"""A function's packets in memory that it shares with the kernel (AF_XDP), as numpy arrays.

For commands of functions with ``datapath = "af_xdp"``, and of those that share a pool (``Pool``,
docs/pool.md); imports nothing of the rest of ebpfmesh, and
needs numpy alone. docs/port.md tells the rest::

    port = Port()
    for batch in port.receive():
        port.send(batch)
"""

from ebpfmesh.port.batch import Batch
from ebpfmesh.port.maps import NoMap, is_current, map
from ebpfmesh.port.pool import Messages, NoMember, NoPool, Pool
from ebpfmesh.port.port import VARIABLE, NoPort, Port, Statistics
from ebpfmesh.port.queue import HEADROOM

__all__ = [
    "HEADROOM",
    "VARIABLE",
    "Batch",
    "Messages",
    "NoMap",
    "NoMember",
    "NoPool",
    "NoPort",
    "Pool",
    "Port",
    "Statistics",
    "is_current",
    "map",
]
