# SPDX-License-Identifier: BSD-2-Clause
"""One function more: how long it takes to connect a network namespace that is there already.

To a mesh by the call that the command line makes. To any other path by what it takes to have a
veth pair, addresses, routes and permanent neighbours, and no rule: the least, however many rules
there are.
"""

import statistics
import time
from contextlib import ExitStack
from ipaddress import IPv4Address
from pathlib import Path

from ebpfmesh import apply
from ebpfmesh.bench.paths import DataPath, MeshPath
from ebpfmesh.bench.sample import Sample
from ebpfmesh.bench.topology import connect, make_namespace
from ebpfmesh.kernel import netns, rtnl
from ebpfmesh.model import Function

ADDRESS = IPv4Address("198.18.127.254")
NAME = "one-more"
NUMBER = 9999
"""Among the interfaces of the host; workload.MAX_FUNCTIONS is less."""


def measure(path: DataPath, seconds: float) -> Sample:
    """Milliseconds to connect one more function: the median of those in ``seconds``."""
    with ExitStack() as stack:
        inside = make_namespace(f"{path.label}.{NAME}", stack)
        taken: list[float] = []
        begin = time.perf_counter()
        while not taken or time.perf_counter() - begin < seconds:
            with netns.entered(path.host.netns), ExitStack() as undo:
                taken.append(_connect(path, inside, undo))
    raw = "".join(f"{t * 1e3:.3f} ms\n" for t in taken)
    return Sample(statistics.median(taken) * 1e3, raw, packets=0)


def _connect(path: DataPath, inside: Path, undo: ExitStack) -> float:
    """Seconds that it took; undone by ``undo``."""
    function = Function(name=NAME, address4=ADDRESS, netns=str(inside))
    start = time.perf_counter()
    if isinstance(path, MeshPath):
        apply.add_function(path.mesh.name, function)
        undo.callback(apply.detach, path.mesh.name, NAME)
    else:
        plugged = connect(NUMBER, function, path.mesh, inside)
        undo.callback(_delete, plugged.ifindex)
    return time.perf_counter() - start


def _delete(ifindex: int) -> None:
    with rtnl.Socket() as ip:
        ip.do(rtnl.delete_link(ifindex))
