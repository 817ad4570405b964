# SPDX-License-Identifier: BSD-2-Clause
"""Changes per second: how long it takes to add one service, or one rule, to as many as there are.

Only the adding is timed; what was added is taken out again. Each path says itself how it is
changed (``DataPath.add_service``, ``add_rule``), with everything that can be made ready made ready:

- the mesh by the calls of the command line, in this process; a kind that ends in "command" times
  the command itself, from start to exit.
- ``iptables``: as programs do that keep rules in order. The list a new rule stands in is written
  anew (``iptables-restore --noflush``), with the service's own chains. So kube-proxy syncs
  KUBE-SERVICES since it writes only the chains that changed.
- ``iptables-append``: the least that can be done. The new chains, and a rule at the end.
- ``nftables``: as kube-proxy's nftables mode. The new chains, and an element of a map or a set.
- Open vSwitch: the new group and flows, in one bundle. What its datapath has cached is revalidated
  some time after, which is not timed.
"""

import statistics
import time
from functools import partial
from ipaddress import IPv4Address

from ebpfmesh.bench import workload
from ebpfmesh.bench.measure.costs import command_line
from ebpfmesh.bench.paths import Change, DataPath, MeshPath
from ebpfmesh.bench.sample import Sample
from ebpfmesh.kernel import netns
from ebpfmesh.model import Identity, Mesh, Policy, Service

KINDS = ("add-service", "add-rule", "add-service-command", "add-rule-command")
NAME = "added"
ADDRESS = IPv4Address("198.19.255.1")


def measure(path: DataPath, seconds: float, *, kind: str) -> Sample:
    """How often a change could be done in a second: from the median of those in ``seconds``."""
    with netns.entered(path.host.netns):
        taken = times(find(kind, path), seconds)
    return Sample(1 / statistics.median(taken), "".join(f"{t * 1e3:.3f} ms\n" for t in taken))


def times(change: Change, seconds: float) -> list[float]:
    """Seconds that each doing of a change takes, one at least, undone every time.

    In the calling thread's network namespace, which must be the path's host.
    """
    taken: list[float] = []
    begin = time.perf_counter()
    while not taken or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        change.do()
        taken.append(time.perf_counter() - start)
        change.undo()
    return taken


def new_service(mesh: Mesh) -> Service:
    """A service that can be added to any mesh of the workload."""
    functions = mesh.service(workload.SERVICES["pps"]).functions
    return Service(name=NAME, address4=ADDRESS, port=80, target_port=80, functions=functions)


def new_rule() -> Policy:
    """A rule that can be added to it; nothing that is measured meets it."""
    service = workload.SERVICES["pps"]
    return Policy(
        source=Identity("function", workload.BLOCKED), destination=Identity("service", service)
    )


def find(kind: str, path: DataPath) -> Change:
    """The change that a kind of KINDS, or "swap", means to a path."""
    what = kind.removesuffix("-command")
    if what != kind:
        if not isinstance(path, MeshPath):
            raise ValueError(f"{path.name} has no command of its own")
        return _by_command(path.mesh)[what]
    if what == "replace-programs":
        if not isinstance(path, MeshPath):
            raise ValueError(f"{path.name} has no programs of another build")
        return path.replace_programs()
    if what == "add-service":
        return path.add_service(new_service(path.mesh))
    return path.swap() if what == "swap" else path.add_rule(new_rule())


def _by_command(mesh: Mesh) -> dict[str, Change]:
    service, rule = new_service(mesh), new_rule()
    command = partial(command_line, "--mesh", mesh.name)
    settings = ["--address", str(ADDRESS), "--port", str(service.port)]
    for name in service.functions:
        settings += ["--function", name]
    between = str(rule.source), str(rule.destination)
    return {
        "add-service": Change(
            partial(command, "service", "add", NAME, *settings),
            partial(command, "service", "del", NAME),
        ),
        "add-rule": Change(
            partial(command, "policy", "add", *between),
            partial(command, "policy", "del", *between),
        ),
    }
