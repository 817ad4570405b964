# SPDX-License-Identifier: BSD-2-Clause
"""What all operations have: how they are done, undone, written down and read to people."""

import abc
import functools
import json
import shlex
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import TypeAdapter

from ebpfmesh.model import (
    Function,
    Injection,
    Mesh,
    Policy,
    Remote,
    Service,
    Timeouts,
    Uplink,
    ports_text,
)
from ebpfmesh.operation.changes import Changes

Object = Mesh | Timeouts | Function | Service | Policy | Injection | Uplink | Remote | str


@dataclass(frozen=True)
class Operation(abc.ABC):
    """One step. ``old`` is what ``object`` takes the place of: in place, in one update.

    What is removed is ``object`` itself.
    """

    object: Object
    old: Object | None = None
    kind: ClassVar[str]

    @abc.abstractmethod
    def do(self, to: Changes) -> None:
        """Do it; again, if that was cut short."""

    def inverse(self) -> "Operation | None":
        """The operation that undoes it; None if there is nothing to undo."""
        return None if self.old is None else type(self)(self.old, self.object)

    def prepared(self, _to: Changes) -> Self:
        """With what undoing it needs to know of the mesh as it is before."""
        return self

    def undo(self, to: Changes) -> "Operation | None":
        """Undo it, also if it was cut short; what was done."""
        back = self.inverse()
        if back:
            back.do(to)
        return back

    def finish(self, to: Changes) -> None:  # noqa: B027  (most have nothing)
        """Do what is left when all of a change is in place."""

    @property
    def name(self) -> str:
        """What it is about."""
        return str(getattr(self.object, "name", self.object))

    def describe(self) -> str:
        """One line for people, such as ``+ function decode-0  tenant op-a  198.18.0.2``."""
        return f"{self._sign} {self.kind.partition('-')[2]} {self._text()}"

    @property
    def _sign(self) -> str:
        return "~" if self.old else "+"

    def _text(self) -> str:
        return _text(self.object)

    def dump(self) -> str:
        """As text that ``load`` reads."""
        return json.dumps([self.kind, adapter(type(self)).dump_json(self).decode()])


class Removal(Operation):
    """What takes something away."""

    @property
    def _sign(self) -> str:
        return "-"


@functools.cache
def adapter(kind: type[Operation]) -> TypeAdapter[Any]:
    """What reads and writes operations of a class."""
    return TypeAdapter(kind)


def shown(value: object) -> str:
    """A value of the mesh file as people are told it."""
    if isinstance(value, list):
        return shlex.join(map(_part, value)) or "none"
    return "none" if value is None else str(value)


def _part(value: object) -> str:
    """One of several values; a pool by its name and its places."""
    if isinstance(value, dict):
        return f"{value['name']}:{value['slots']}x{value['bytes']}"
    return str(value)


def _text(item: Object) -> str:
    match item:
        case Function():
            parts = [item.name, f"tenant {item.tenant}", *map(str, item.addresses)]
            if item.has_frames:
                parts += [" ".join(filter(None, (item.datapath, item.program)))]
            parts += [f"pools {' '.join(one.name for one in item.pools)}"] if item.pools else []
            return "  ".join(parts)
        case Service():
            return "  ".join([item.name, *map(str, item.addresses), *_service_text(item)])
        case Uplink():
            return "  ".join([item.name, f"interface {item.interface}", *_uplink_text(item)])
        case Remote():
            where = (f"tenant {item.tenant}", f"beyond {item.uplink}")
            return "  ".join([item.name, *where, *map(str, item.addresses)])
        case Timeouts():
            return "  ".join(f"{key} {value} s" for key, value in item)
        case Mesh():
            return item.name
    return str(item)


def _uplink_text(uplink: Uplink) -> list[str]:
    ports = [f"masquerades by ports {uplink.masquerade_ports}"] if uplink.masquerade else []
    return [*map(str, uplink.addresses), *ports]


def _service_text(service: Service) -> list[str]:
    names = service.functions
    target = service.target_port
    ports = f"{service.protocol}/{ports_text(service.port, service.last_port)}"
    if service.shift:
        ports += f" → {ports_text(target, target + service.ports - 1)}"
    parts = [ports, ", ".join(names) if 0 < len(names) <= 4 else f"{len(names)} functions"]
    if service.weights:
        weights = sorted(service.weights.items())
        parts.append("weights " + ", ".join(f"{name} {weight}" for name, weight in weights))
    parts += ["affinity source"] if service.affinity == "source" else []
    return parts + ([f"published at {', '.join(service.publish)}"] if service.publish else [])
