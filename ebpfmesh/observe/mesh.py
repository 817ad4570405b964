# SPDX-License-Identifier: BSD-2-Clause
"""The mesh as a whole, its services and its policies."""

import contextlib
import ctypes
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ebpfmesh import _abi
from ebpfmesh.errors import NotFound
from ebpfmesh.kernel import links
from ebpfmesh.kernel.keys import frontends
from ebpfmesh.model import Service as ServiceModel
from ebpfmesh.model import ports_text
from ebpfmesh.observe import remotes
from ebpfmesh.observe.commands import lives
from ebpfmesh.observe.view import View, opened
from ebpfmesh.state.place import problem


@dataclass(frozen=True)
class Mesh:
    """A mesh in one row. ``memory`` is what its maps hold, in bytes; ``limits`` their sizes.

    ``timeouts`` are seconds that a flow without packets lives.

    ``interrupted``: a change was cut short; the next one undoes it first, and so does ``gc``.
    ``host``: the host's own processes reach services.
    """

    name: str
    abi: int
    netns_inode: int
    hook: str
    epoch: int
    functions: int
    functions_broken: int
    tenants: int
    services: int
    policies: int
    prefixes: tuple[str, ...]
    limits: dict[str, int]
    timeouts: dict[str, int]
    memory: int
    pins: str
    interrupted: bool
    host: bool


@dataclass(frozen=True)
class Backend:
    """A function behind a service; ``share`` of new flows, 0 to 1, as the table has it.

    With ``weight`` 0 it gets none: it is drained. Nor does it while it is not ``ready``. ``ended``
    tells how its command did, such as ``exited 137``; it is empty while that runs.
    """

    function: str
    alive: bool
    share: float
    weight: int
    ready: bool
    ended: str


@dataclass(frozen=True)
class Service:
    """A service; it is reached at each of ``addresses``.

    It has ``ports`` ports from ``port`` on, which become as many from ``target_port`` on.
    ``affinity`` is "source" if a client's address alone chooses the backend, else "none".
    ``publish`` are the ports of uplinks at which the outside reaches it, such as "uplink0:80".
    """

    id: int
    name: str
    addresses: tuple[str, ...]
    protocol: str
    port: int
    target_port: int
    ports: int
    affinity: str
    backends: tuple[Backend, ...]
    table_size: int
    publish: tuple[str, ...] = ()

    @property
    def alive(self) -> int:
        """Number of backends that are there."""
        return sum(backend.alive for backend in self.backends)

    @property
    def ready(self) -> int:
        """Number of backends that are there, run and are ready."""
        return sum(one.alive and one.ready and not one.ended for one in self.backends)


@dataclass(frozen=True)
class Policy:
    """A rule; id and priority are None for what holds where no rule does.

    ``sender`` and ``receiver`` are what ``source`` and ``destination`` are, under the names that
    flows and events have for both. ``port_end`` is the last port of a range, else None.
    """

    id: int | None
    priority: int | None
    source: str
    destination: str
    sender: str
    receiver: str
    protocol: str
    port: int | None
    port_end: int | None
    icmp_type: int | None
    action: str

    @property
    def what(self) -> str:
        """Protocol and ports, or ICMP type, as people write them."""
        if self.icmp_type is not None:
            return f"{self.protocol}/{self.icmp_type}"
        if self.port is None:
            return self.protocol
        return f"{self.protocol}/{ports_text(self.port, self.port_end or self.port)}"


def _default(source: str, destination: str, action: str) -> Policy:
    ends = source, destination
    return Policy(None, None, *ends, *ends, "any", None, None, None, action)


def _defaults(reject: bool) -> list[Policy]:
    """What holds where no rule does, in order (decide_policy of bpf/lib/decide.h)."""
    return [
        _default("any", "same tenant", "allow"),
        _default("any function", "outside", "allow"),
        _default("any", "any", "reject" if reject else "deny"),
    ]


def read_mesh(view: View) -> Mesh:
    """The mesh in one row."""
    model = view.record.model()
    return Mesh(
        name=view.name,
        abi=_abi.ABI,
        netns_inode=view.record.home.inode,
        hook="TCX link" if links.uses_tcx(model.hook) else "clsact filter",
        epoch=view.config.judged,
        functions=len(view.functions),
        functions_broken=sum(bool(problem(view.ip, row)) for row in view.functions),
        tenants=len(
            {row.function.tenant for row in view.functions}
            | {row.remote.tenant for row in view.remotes}
        ),
        services=len(model.services),
        policies=len(model.policies),
        prefixes=(str(model.prefix4), str(model.prefix6)),
        limits=view.record.limits().model_dump(),
        timeouts=model.timeouts.model_dump(),
        memory=sum(view.maps.memory().values()),
        pins=str(view.pins.root),
        interrupted=bool(view.record.cut_short),
        host=model.host,
    )


def read_meshes(names: Iterable[str]) -> Iterator[Mesh]:
    """Several meshes, each in one row; those of other network namespaces are left out."""
    for name in names:
        with contextlib.suppress(NotFound), opened(name) as view:
            yield read_mesh(view)


def read_services(view: View) -> list[Service]:
    """All services, by name."""
    alive = {row.function.name for row in view.functions if not problem(view.ip, row)}
    uplinks = {row.name: row for row in view.record.uplinks()}
    alive |= {
        row.name
        for row in view.remotes
        if not remotes.problem(view, row, uplinks.get(row.remote.uplink))
    }
    services = [service.backed(view.groups) for service in view.record.services()]
    some = {name for service in services for name in service.backends}
    functions = {row.function.name: row.function for row in view.functions}
    ran = lives(view.record, {name: functions[name] for name in some & functions.keys()})
    ended = {name: one.ended for name, one in ran.items()}
    return [_service(view, service, alive, ended) for service in services]


def _service(
    view: View, service: ServiceModel, alive: set[str], ended: Mapping[str, str]
) -> Service:
    entry = view.maps["mesh_service"].get(frontends(service, {})[0].key) or _abi.Service()
    shares, unready = _shares(view, entry), view.unready
    return Service(
        id=entry.id,
        name=service.name,
        addresses=tuple(map(str, service.addresses)),
        protocol=service.protocol,
        port=service.port,
        target_port=service.target_port,
        ports=service.ports,
        affinity=service.affinity,
        backends=tuple(
            Backend(
                name,
                name in alive,
                shares.get(name, 0.0),
                weight,
                name not in unready,
                ended.get(name, ""),
            )
            for name, weight in service.backends.items()
        ),
        table_size=entry.size,
        publish=service.publish,
    )


def _shares(view: View, entry: _abi.Service) -> dict[str, float]:
    """Part of the Maglev table that each function has."""
    slots: Counter[int] = Counter()
    for start in range(0, entry.size, _abi.MAGLEV_ROW):
        number = entry.row + start // _abi.MAGLEV_ROW
        row = view.maps["mesh_maglev"].get(ctypes.c_uint32(number))
        if row is not None:
            slots.update(row.function[: min(_abi.MAGLEV_ROW, entry.size - start)])
    return {view.name_of("function", n): count / entry.size for n, count in slots.items()}


def read_policies(view: View) -> list[Policy]:
    """All rules, those that decide first before the others, and then the defaults."""
    rules = sorted(view.record.policies(), key=lambda rule: (*rule[1].precedence, rule[0]))
    return [
        Policy(
            id=number,
            priority=rule.priority,
            source=str(rule.source),
            destination=str(rule.destination),
            sender=str(rule.source),
            receiver=str(rule.destination),
            protocol=rule.protocol,
            port=rule.port or None,
            port_end=rule.port_end or None,
            icmp_type=rule.icmp_type,
            action=rule.action,
        )
        for number, rule in rules
    ] + _defaults(bool(view.config.reject))
