# SPDX-License-Identifier: BSD-2-Clause
"""The mesh as a whole, its services and its policies."""

import ctypes
from collections import Counter
from dataclasses import dataclass

from ebpfmesh import _abi
from ebpfmesh.kernel import links
from ebpfmesh.kernel.control import service_keys
from ebpfmesh.kernel.place import fault
from ebpfmesh.model import Service as ServiceModel
from ebpfmesh.observe.view import View


@dataclass(frozen=True)
class Mesh:
    """A mesh in one row. ``memory`` is what its maps hold, in bytes; ``limits`` their sizes.

    ``interrupted``: a change was cut short; the next ``up`` or ``gc`` finishes or undoes it.
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
    memory: int
    pins: str
    interrupted: bool


@dataclass(frozen=True)
class Backend:
    """A function behind a service; ``share`` of all flows, 0 to 1, as the table has it."""

    function: str
    alive: bool
    share: float


@dataclass(frozen=True)
class Service:
    """A service; it is reached at each of ``addresses``."""

    id: int
    name: str
    addresses: tuple[str, ...]
    protocol: str
    port: int
    target_port: int
    backends: tuple[Backend, ...]
    table_size: int

    @property
    def alive(self) -> int:
        """Number of backends that are there."""
        return sum(backend.alive for backend in self.backends)


@dataclass(frozen=True)
class Policy:
    """A rule; id and priority are None for what holds where no rule does."""

    id: int | None
    priority: int | None
    source: str
    destination: str
    protocol: str
    port: int | None
    action: str


DEFAULTS = (
    Policy(None, None, "any", "same tenant", "any", None, "allow"),
    Policy(None, None, "any function", "outside", "any", None, "allow"),
    Policy(None, None, "any", "any", "any", None, "deny"),
)
"""What holds where no rule does, in order (policy_default of bpf/lib/policy.h)."""


def read_mesh(view: View) -> Mesh:
    """The mesh in one row."""
    model = view.record.model()
    return Mesh(
        name=view.name,
        abi=_abi.ABI,
        netns_inode=int(view.record.get("netns")),
        hook="TCX link" if links.has_tcx() else "clsact filter",
        epoch=view.config.epoch,
        functions=len(view.functions),
        functions_broken=sum(bool(fault(view.ip, row)) for row in view.functions),
        tenants=len({row.function.tenant for row in view.functions}),
        services=len(model.services),
        policies=len(model.policies),
        prefixes=(str(model.prefix4), str(model.prefix6)),
        limits=view.record.limits().model_dump(),
        memory=sum(view.maps.memory().values()),
        pins=str(view.pins.root),
        interrupted=bool(view.record.get("dirty")),
    )


def read_services(view: View) -> list[Service]:
    """All services, by name."""
    alive = {row.function.name for row in view.functions if not fault(view.ip, row)}
    return [_service(view, service, alive) for service in view.record.services()]


def _service(view: View, service: ServiceModel, alive: set[str]) -> Service:
    entry = view.maps["mesh_service"].get(service_keys(service)[0]) or _abi.Service()
    shares = _shares(view, entry)
    return Service(
        id=entry.id,
        name=service.name,
        addresses=tuple(map(str, service.addresses)),
        protocol=service.protocol,
        port=service.port,
        target_port=service.target_port,
        backends=tuple(
            Backend(name, name in alive, shares.get(name, 0.0)) for name in service.functions
        ),
        table_size=entry.size,
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
            protocol=rule.protocol,
            port=rule.port or None,
            action=rule.action,
        )
        for number, rule in rules
    ] + list(DEFAULTS)
