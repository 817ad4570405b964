# SPDX-License-Identifier: BSD-2-Clause
"""Changes per second: how long it takes to add one service, or one rule, to as many as there are.

Only the adding is timed; what was added is taken out again. The mesh is changed by the calls of the
command line, in this process; a kind that ends in "command" times the command itself, from start
to exit. Iptables is changed by its own commands, with their text made beforehand:

- ``iptables``: as programs do that keep rules in order. The list a new rule stands in is written
  anew (``iptables-restore --noflush``), with the service's own chains. So kube-proxy syncs
  KUBE-SERVICES since it writes only the chains that changed.
- ``iptables-append``: the least that can be done. The new chains, and a rule at the end.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address

from ebpfmesh import apply
from ebpfmesh.bench import iptables, workload
from ebpfmesh.bench.control import command_line
from ebpfmesh.bench.paths import DataPath, Iptables, IptablesAppend, MeshPath, restore
from ebpfmesh.bench.sample import Sample
from ebpfmesh.config import edit
from ebpfmesh.kernel import netns
from ebpfmesh.model import Identity, Mesh, Policy, Service

KINDS = ("add-service", "add-rule", "add-service-command", "add-rule-command")
NAME = "added"
ADDRESS = IPv4Address("198.19.255.1")


@dataclass(frozen=True)
class Change:
    """Something that can be done, and undone, any number of times."""

    do: Callable[[], object]
    undo: Callable[[], object]


def measure(path: DataPath, seconds: float, *, kind: str) -> Sample:
    """How often a change could be done in a second: from the median of those in ``seconds``."""
    change = _change(kind, path)
    times: list[float] = []
    with netns.entered(path.host.netns):
        begin = time.perf_counter()
        while not times or time.perf_counter() - begin < seconds:
            start = time.perf_counter()
            change.do()
            times.append(time.perf_counter() - start)
            change.undo()
    raw = "".join(f"{value * 1e3:.3f} ms\n" for value in times)
    return Sample(1 / statistics.median(times), raw)


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


def _change(kind: str, path: DataPath) -> Change:
    if isinstance(path, MeshPath):
        return _of_mesh(path.mesh)[kind]
    if isinstance(path, Iptables):
        return _of_iptables(path, append=isinstance(path, IptablesAppend))[kind]
    raise ValueError(f"{path.name} has nothing that could be added to it")


def _of_mesh(mesh: Mesh) -> dict[str, Change]:
    service, rule = new_service(mesh), new_rule()
    values = service.model_dump(include={"port", "target_port", "functions"})
    of_service = edit.scope_of_service(NAME, addresses=[str(ADDRESS)], functions=service.functions)
    on_service = partial(apply.edit, mesh.name, scope=of_service)
    on_rule = partial(apply.edit, mesh.name, scope=edit.scope_of_policy(rule))
    command = partial(command_line, "--mesh", mesh.name)
    settings = ["--address", str(ADDRESS), "--port", str(service.port)]
    for name in service.functions:
        settings += ["--function", name]
    between = str(rule.source), str(rule.destination)
    return {
        "add-service": Change(
            partial(
                on_service,
                lambda m: edit.add_service(m, NAME, addresses=[str(ADDRESS)], **values),
            ),
            partial(on_service, lambda m: edit.delete_service(m, NAME)),
        ),
        "add-rule": Change(
            partial(on_rule, lambda m: edit.add_policy(m, rule)),
            partial(on_rule, lambda m: edit.delete_policy(m, rule)),
        ),
        "add-service-command": Change(
            partial(command, "service", "add", NAME, *settings),
            partial(command, "service", "del", NAME),
        ),
        "add-rule-command": Change(
            partial(command, "policy", "add", *between),
            partial(command, "policy", "del", *between),
        ),
    }


def _of_iptables(path: Iptables, *, append: bool) -> dict[str, Change]:
    full, first = path.filled(), path.established_first
    put = partial(restore, path.command, keep=True)
    texts = {
        "add-service": iptables.add_service(full, new_service(full), append=append),
        "add-rule": iptables.add_rule(full, new_rule(), established_first=first, append=append),
    }
    return {
        kind: Change(partial(put, do), partial(put, undo)) for kind, (do, undo) in texts.items()
    }
