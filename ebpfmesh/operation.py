# SPDX-License-Identifier: BSD-2-Clause
"""The steps of a change: what each does to a mesh that is up, what undoes it, how it reads.

Small and frozen, so that they can be written down before they are done, and undone after a kill.
``plan`` puts them in order; ``apply.batch`` does them.
"""

import abc
import functools
import json
import re
import shlex
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, Self

from pydantic import TypeAdapter

from ebpfmesh.model import (
    LIFE,
    SANDBOX,
    Function,
    Injection,
    Mesh,
    OnFailure,
    Policy,
    Rights,
    Service,
    Timeouts,
    Uplink,
    memory_text,
    ports_text,
)

_MIGRATION = re.compile(r"\bMESH_MIGRATE\s*\(\s*(\w+)\s*,([^,]*)")
AT_ONCE = ("tenant", "audit", "group", "cpu", "memory", "rate", "pids")
"""What of a function changes while its command runs, and counts from then on."""
IN_PLACE = (*AT_ONCE, "ready", "health", *LIFE, "env")
"""What changes without its command being started anew; the variables count when it is."""
ROLLED = (*IN_PLACE, "command", *SANDBOX)
"""What changes where the function is, if its command is started anew."""
Object = Mesh | Timeouts | Function | Service | Policy | Injection | Uplink | str


class Changes(Protocol):
    """What is done to a mesh. Each can be done again after it was cut short."""

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """How long flows live."""

    def set_reject(self, reject: bool) -> None:
        """Whether senders are told that no rule allows what they send."""

    def set_rights(self, rights: tuple[Rights, ...]) -> None:
        """What tenants may inject."""

    def set_on_failure(self, on_failure: OnFailure) -> None:
        """What becomes of a change when a function does not get ready."""

    def hold_programs(self, build: str, old: str) -> None:
        """Have the programs of a build pinned, and beside them those that run, ``old``."""

    def switch_programs(self, build: str) -> None:
        """The programs of a build take the places of those that run, if they are pinned."""

    def keep_programs(self, build: str) -> None:
        """Of programs that do not run, keep those of this build alone; empty: none."""

    def kept_programs(self) -> str:
        """The build whose programs are kept; empty: none."""
        ...

    def add_function(self, function: Function, *, adopt: str, force: bool) -> None:
        """A function is made, or taken that is there (``AddFunction``)."""

    def start_function(self, function: Function, *, again: int = 0) -> None:
        """Its command, if it has one; ``again`` as StartFunction has it."""

    def ask_to_stop(self, function: Function) -> None:
        """Its command is to be stopped from now on, and is asked to end."""

    def end_command(self, function: Function) -> None:
        """It has ended, if it is to be stopped: what does not end by itself is killed."""

    def is_stopped(self, function: str) -> bool:
        """Whether its command is to be stopped."""
        ...

    def keep_stopped(self, function: str) -> None:
        """Its command is not to be started with it."""

    def runs(self, function: str) -> bool:
        """Whether its command runs."""
        ...

    def roll_function(self, function: Function) -> None:
        """Its command ends when its connections have, and begins as it is now described.

        It gets no new flows until it is ready. Unready is raised if it does not get so.
        """

    def roll_back(self, function: Function, *, why: str, wait: bool) -> None:
        """Undo that, wherever it was cut short: as it was, with no new flows if there is a reason.

        Without one it is waited for, if it is to.
        """

    def change_function(self, function: Function) -> None:
        """What is ``ROLLED`` of one that is there, but for limits that become higher."""

    def limit_function(self, function: Function) -> None:
        """All its limits."""

    def remove_function(self, name: str) -> None:
        """As far as it is there."""

    def add_uplink(self, uplink: Uplink, *, force: bool) -> None:
        """An interface of the host's is one (``AddUplink``)."""

    def remove_uplink(self, name: str) -> None:
        """As far as it is there."""

    def is_uplink(self, name: str) -> bool:
        """Whether it is there, and nobody began to remove it."""
        ...

    def set_unready(self, function: str, why: str, *, asked: bool = False) -> None:
        """It gets no new flows of services; empty: it does (``SetReady``)."""

    def unready(self, function: str, *, asked: bool = False) -> str:
        """Why it gets none; empty: it does."""
        ...

    def is_whole(self, function: str) -> bool:
        """Whether it is there, and nobody began to remove it."""
        ...

    def adopted(self, function: str) -> str:
        """The interface of others that it has; empty if it is ours."""
        ...

    def set_service(self, service: Service) -> None:
        """With its backends, in one update."""

    def remove_service(self, service: Service) -> None:
        """As far as it is there."""

    def set_policy(self, policy: Policy) -> None:
        """A rule, in the place of the one with the same match."""

    def remove_policy(self, policy: Policy) -> None:
        """As far as it is there."""

    def set_injection(self, injection: Injection) -> None:
        """A program of somebody's, in the place of the one of its name."""

    def remove_injection(self, name: str) -> None:
        """As far as it is there."""


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
        return json.dumps([self.kind, _adapter(type(self)).dump_json(self).decode()])


class _Removal(Operation):
    """What takes something away."""

    @property
    def _sign(self) -> str:
        return "-"


@dataclass(frozen=True)
class CreateMesh(Operation):
    """Of a mesh without functions, services and policies; made before there are operations."""

    object: Mesh
    kind = "create-mesh"

    def do(self, to: Changes) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Repair(Operation):
    """What was found wrong, and done about it before the others."""

    object: str
    kind = "repair"

    def do(self, to: Changes) -> None:
        """Nothing."""

    def describe(self) -> str:
        """One line for people."""
        return f"~ repaired {self.object}"


@dataclass(frozen=True)
class ReplacePrograms(Operation):
    """Programs of a build run where those of another did; each is put in place in one step.

    ``keep`` is the build that one can return to after it, ``kept`` the one before it.
    """

    object: str
    old: str
    keep: str = ""
    kept: str = ""
    kind = "replace-programs"

    def do(self, to: Changes) -> None:
        """Both stay pinned until the change is done."""
        to.hold_programs(self.object, self.old)
        to.switch_programs(self.object)

    def inverse(self) -> Operation:
        """The old ones run again."""
        return ReplacePrograms(self.old, self.object, keep=self.kept, kept=self.keep)

    def prepared(self, to: Changes) -> Self:
        """With what is kept."""
        return replace(self, keep=self.old, kept=to.kept_programs())

    def undo(self, to: Changes) -> Operation:
        """Where they are not pinned yet, nothing was replaced."""
        to.switch_programs(self.old)
        to.keep_programs(self.kept)
        return self.inverse()

    def finish(self, to: Changes) -> None:
        """Let go of what was kept before."""
        to.keep_programs(self.keep)

    def _text(self) -> str:
        return f"{self.old} → {self.object}"


@dataclass(frozen=True)
class SetTimeouts(Operation):
    """How long flows live."""

    object: Timeouts
    old: Timeouts
    kind = "set-timeouts"

    def do(self, to: Changes) -> None:
        """For all flows, from the end of the change on."""
        to.set_timeouts(self.object)

    def _text(self) -> str:
        pairs = zip(self.old, self.object, strict=True)
        return "  ".join(f"{key} {was} → {now} s" for (key, was), (_, now) in pairs if was != now)


@dataclass(frozen=True)
class SetReject(Operation):
    """Whether senders are told; of the two meshes that one setting counts."""

    object: Mesh
    old: Mesh
    kind = "set-reject"

    def do(self, to: Changes) -> None:
        """From the end of the change on."""
        to.set_reject(self.object.reject)

    def _text(self) -> str:
        return "on" if self.object.reject else "off"


@dataclass(frozen=True)
class SetRights(Operation):
    """What tenants may inject; of the two meshes that alone counts."""

    object: Mesh
    old: Mesh
    kind = "set-rights"

    def do(self, to: Changes) -> None:
        """For what is injected from now on."""
        to.set_rights(self.object.rights)

    def _text(self) -> str:
        before, after = ({one.name: one for one in mesh.rights} for mesh in (self.old, self.object))
        names = sorted({*before, *after})
        return ", ".join(name for name in names if before.get(name) != after.get(name))


@dataclass(frozen=True)
class SetOnFailure(Operation):
    """What becomes of changes that fail so; of the two meshes that one setting counts."""

    object: Mesh
    old: Mesh
    kind = "set-on-failure"

    def do(self, to: Changes) -> None:
        """For changes from now on."""
        to.set_on_failure(self.object.on_failure)

    def _text(self) -> str:
        return self.object.on_failure


@dataclass(frozen=True)
class AddFunction(Operation):
    """``adopt``: the interface that a container keeps; ``force``: beside programs of others.

    ``stopped``: its command is not started.
    """

    object: Function
    old: None = None
    adopt: str = ""
    force: bool = False
    stopped: bool = False
    kind = "add-function"

    def do(self, to: Changes) -> None:
        """Make it, or take what is there."""
        to.add_function(self.object, adopt=self.adopt, force=self.force)
        if self.stopped:
            to.keep_stopped(self.object.name)

    def inverse(self) -> Operation:
        """It is removed."""
        return RemoveFunction(self.object)

    def finish(self, to: Changes) -> None:
        """Start its command."""
        if not self.stopped:
            to.start_function(self.object)


@dataclass(frozen=True)
class ChangeFunction(Operation):
    """What is ``IN_PLACE`` of a function changes where it is, while its processes run.

    Limits become lower at once, which may be refused, and higher when all else is in place: what is
    given back when a change is undone was not used meanwhile.
    """

    object: Function
    old: Function
    kind = "change-function"

    def do(self, to: Changes) -> None:
        """In one update."""
        to.change_function(self.object)

    def finish(self, to: Changes) -> None:
        """Limits that become higher."""
        if (self.old.cpu, self.old.memory) != (self.object.cpu, self.object.memory):
            to.limit_function(self.object)

    def _text(self) -> str:
        old, new = self.old, self.object
        parts = [new.name]
        if old.tenant != new.tenant:
            parts.append(f"tenant {old.tenant} → {new.tenant}")
        if old.group != new.group:
            parts.append(f"of group {new.group}" if new.group else "of no group")
        if old.audit != new.audit:
            parts.append(f"audit {'on' if new.audit else 'off'}")
        if old.cpu != new.cpu:
            parts.append(f"cpu {_cpu(old)} → {_cpu(new)}")
        if old.memory != new.memory:
            parts.append(f"memory {_memory(old)} → {_memory(new)}")
        if old.rate != new.rate:
            parts.append(f"rate {old.rate or 'none'} → {new.rate or 'none'}")
        parts += [
            f"{key} changed"
            for key in ("ready", "health")
            if getattr(old, key) != getattr(new, key)
        ]
        for key in LIFE:
            if (was := getattr(old, key)) != (now := getattr(new, key)):
                parts.append(f"{key} {was} → {now}")
        if old.env != new.env:
            parts.append("env changed, at the next start")
        return "  ".join(parts)


def _cpu(function: Function) -> str:
    return "none" if function.cpu is None else f"{function.cpu:g}"


def _memory(function: Function) -> str:
    return "none" if function.memory is None else memory_text(function.memory)


@dataclass(frozen=True)
class RemoveFunction(_Removal):
    """``adopt``: the interface of others that is given back, and that undoing it takes again.

    ``stopped``: its command was, and is when it is undone.
    """

    object: Function
    old: None = None
    adopt: str = ""
    stopped: bool = False
    kind = "remove-function"

    def do(self, to: Changes) -> None:
        """Remove it, as far as it is there."""
        to.remove_function(self.object.name)

    def inverse(self) -> Operation:
        """It is there again, with programs of others beside if they were."""
        return AddFunction(self.object, adopt=self.adopt, force=True, stopped=self.stopped)

    def prepared(self, to: Changes) -> Self:
        """With the interface."""
        name = self.object.name
        return replace(self, adopt=to.adopted(name), stopped=to.is_stopped(name))

    def undo(self, to: Changes) -> Operation | None:
        """Unless its removal had not begun."""
        if to.is_whole(self.object.name):
            return None
        self.do(to)
        return super().undo(to)


@dataclass(frozen=True)
class AddUplink(Operation):
    """Packets that come in by an interface of the host's may be the mesh's.

    ``force``: beside programs of others.
    """

    object: Uplink
    old: None = None
    force: bool = False
    kind = "add-uplink"

    def do(self, to: Changes) -> None:
        """Attach the program."""
        to.add_uplink(self.object, force=self.force)

    def inverse(self) -> Operation:
        """It is the host's alone."""
        return RemoveUplink(self.object)


@dataclass(frozen=True)
class RemoveUplink(_Removal):
    """An interface is the host's alone again; nothing is published on it any more."""

    object: Uplink
    old: None = None
    kind = "remove-uplink"

    def do(self, to: Changes) -> None:
        """Detach the program, as far as it is there."""
        to.remove_uplink(self.object.name)

    def inverse(self) -> Operation:
        """It is one again, with programs of others beside if they were."""
        return AddUplink(self.object, force=True)

    def undo(self, to: Changes) -> Operation | None:
        """Unless its removal had not begun."""
        if to.is_uplink(self.object.name):
            return None
        self.do(to)
        return super().undo(to)


@dataclass(frozen=True)
class SetReady(Operation):
    """A function gets new flows of services, or none for a reason; what it has stays.

    ``asked``: that is as somebody asked, and not by what was seen of it. It gets them if neither is
    a reason.
    """

    object: str
    old: None = None
    why: str = ""
    before: str = ""
    asked: bool = False
    kind = "set-ready"

    def do(self, to: Changes) -> None:
        """Each service in one update."""
        to.set_unready(self.object, self.why, asked=self.asked)

    def prepared(self, to: Changes) -> Self:
        """With what was."""
        return replace(self, before=to.unready(self.object, asked=self.asked))

    def inverse(self) -> Operation:
        """As before."""
        return replace(self, why=self.before, before=self.why)

    def describe(self) -> str:
        """One line for people."""
        return f"~ function {self.object}  {f'not ready: {self.why}' if self.why else 'ready'}"


@dataclass(frozen=True)
class StopFunction(Operation):
    """Its command ends, and is not started but by StartFunction; all else of it stays.

    It gets no new flows from before that on. ``stopped``: it was before.
    """

    object: Function
    old: None = None
    stopped: bool = False
    kind = "stop-function"

    def do(self, to: Changes) -> None:
        """Ask it to end; ``finish`` waits, for many at a time."""
        to.ask_to_stop(self.object)

    def finish(self, to: Changes) -> None:
        """Unless it was started again meanwhile, it has ended."""
        to.end_command(self.object)

    def inverse(self) -> Operation | None:
        """It runs, if it did."""
        return None if self.stopped else StartFunction(self.object)

    def prepared(self, to: Changes) -> Self:
        """With what it was."""
        return replace(self, stopped=to.is_stopped(self.object.name))

    def describe(self) -> str:
        """One line for people."""
        return f"~ function {self.name}  stopped"


@dataclass(frozen=True)
class StartFunction(Operation):
    """Its command runs from the beginning; what is left of the run before ends first.

    It gets new flows once it is ready, if that is waited for. ``stopped``: it was to be stopped
    before, ``unready``: why it got none. ``again``: nobody asked for it but its own end, and so
    many runs in a row were no good ones. ``was``: how it ended, for people.
    """

    object: Function
    old: None = None
    stopped: bool = False
    again: int = 0
    unready: str = ""
    was: str = ""
    kind = "start-function"

    def do(self, to: Changes) -> None:
        """In the sandbox that it had."""
        to.start_function(self.object, again=self.again)

    def inverse(self) -> Operation | None:
        """It is stopped, if it was: who has been started may run."""
        return StopFunction(self.object) if self.stopped else SetReady(self.name, why=self.unready)

    def prepared(self, to: Changes) -> Self:
        """With what it was."""
        name = self.object.name
        return replace(self, stopped=to.is_stopped(name), unready=to.unready(name))

    def describe(self) -> str:
        """One line for people."""
        return f"~ function {self.name}  {f'{self.was}, ' if self.was else ''}started"


@dataclass(frozen=True)
class RollFunction(Operation):
    """A function's command ends, and begins as it is now described; all else of it stays.

    The same as ``old``: it is started anew. ``alone``: services that have no other meanwhile.
    ``stopped``: it is to be stopped, so that it only changes. ``ran``, ``why``: whether it ran, and
    why it got no new flows, if it did not.
    """

    object: Function
    old: Function
    alone: tuple[str, ...] = ()
    stopped: bool = False
    ran: bool = True
    why: str = ""
    kind = "roll-function"

    def do(self, to: Changes) -> None:
        """All of it, when everything else of a change is in place: one after the other."""
        if self.stopped:
            to.change_function(self.object)
            to.limit_function(self.object)
        else:
            to.roll_function(self.object)

    def inverse(self) -> Operation:
        """It is as before."""
        return replace(self, object=self.old, old=self.object)

    def prepared(self, to: Changes) -> Self:
        """With what it was."""
        name = self.object.name
        stopped, ran, why = to.is_stopped(name), to.runs(name), to.unready(name)
        return replace(self, stopped=stopped, ran=ran, why=why)

    def undo(self, to: Changes) -> Operation:
        """As it is done, so that its services go on."""
        if self.stopped:
            to.change_function(self.old)
        else:
            to.roll_back(self.old, why=self.why, wait=self.ran)
        return self.inverse()

    def _text(self) -> str:
        before, after = (one.model_dump(mode="json") for one in (self.old, self.object))
        parts = [self.name]
        for key in (key for key in after if before[key] != after[key]):
            was, now = before[key], after[key]
            plain = not isinstance(was, dict) and not isinstance(now, dict)
            parts.append(f"{key} {shown(was)} → {shown(now)}" if plain else f"{key} changed")
        if self.old == self.object:
            parts.append("restarted")
        if self.alone:
            parts.append(f"(alone behind {', '.join(self.alone)}, which waits for it)")
        return "  ".join(parts)


@dataclass(frozen=True)
class SetService(Operation):
    """A service, with the backends its groups have."""

    object: Service
    old: Service | None = None
    kind = "set-service"

    def do(self, to: Changes) -> None:
        """In one update."""
        to.set_service(self.object)

    def inverse(self) -> Operation:
        """What was there, or nothing."""
        return super().inverse() or RemoveService(self.object)


@dataclass(frozen=True)
class RemoveService(_Removal):
    """A service goes."""

    object: Service
    old: None = None
    kind = "remove-service"

    def do(self, to: Changes) -> None:
        """Flows through it end."""
        to.remove_service(self.object)

    def inverse(self) -> Operation:
        """It is there again."""
        return SetService(self.object)


@dataclass(frozen=True)
class AddPolicy(Operation):
    """A rule, in the place of the one with the same ``match``."""

    object: Policy
    old: Policy | None = None
    kind = "add-policy"

    def do(self, to: Changes) -> None:
        """From the end of the change on."""
        to.set_policy(self.object)

    def inverse(self) -> Operation:
        """What was there, or nothing."""
        return super().inverse() or RemovePolicy(self.object)


@dataclass(frozen=True)
class RemovePolicy(_Removal):
    """A rule goes."""

    object: Policy
    old: None = None
    kind = "remove-policy"

    def do(self, to: Changes) -> None:
        """From the end of the change on."""
        to.remove_policy(self.object)

    def inverse(self) -> Operation:
        """It is there again."""
        return AddPolicy(self.object)


@dataclass(frozen=True)
class SetInjection(Operation):
    """A program is injected, or swapped for another, or gets other parameters."""

    object: Injection
    old: Injection | None = None
    kind = "set-injection"

    def do(self, to: Changes) -> None:
        """Compiled and checked now, met by packets from the end of the change on."""
        to.set_injection(self.object)

    def inverse(self) -> Operation:
        """What was there, or nothing."""
        return super().inverse() or RemoveInjection(self.object)

    def _text(self) -> str:
        old, new = self.old, self.object
        if old is None:
            return str(new)
        parts = [new.name]
        parts += [f"at {old.at} → {new.at}"] if old.at != new.at else []
        parts += [f"{old.file} → {new.file}"] if old.file != new.file else []
        parts += ["text changed"] if old.source != new.source else []
        parts += _migrations(old, new)
        parts += [f"place {old.rank + 1} → {new.rank + 1}"] if old.rank != new.rank else []
        if old.canary != new.canary:
            parts.append(f"canary {_share(old)} → {_share(new)}")
        names = sorted({*old.parameters, *new.parameters})
        pairs = ((name, old.parameters.get(name), new.parameters.get(name)) for name in names)
        parts += [f"{name} {_or_own(a)} → {_or_own(b)}" for name, a, b in pairs if a != b]
        return "  ".join(parts)


def _share(injection: Injection) -> str:
    canary = injection.canary
    return f"{canary.share} % {canary.file}" if canary else "none"


def _migrations(old: Injection, new: Injection) -> list[str]:
    """The maps of which a text says how they migrate, where the one that runs does not."""
    before, after = (set(_MIGRATION.findall(text)) for text in (old.source, _latest(new)))
    return [f"MESH_MIGRATE of {name}" for name, _ in sorted(after - before)]


def _latest(injection: Injection) -> str:
    return injection.canary.source if injection.canary else injection.source


def _or_own(value: int | None) -> str:
    return "its own" if value is None else str(value)


@dataclass(frozen=True)
class RemoveInjection(_Removal):
    """A program goes."""

    object: Injection
    old: None = None
    kind = "remove-injection"

    def do(self, to: Changes) -> None:
        """From the end of the change on."""
        to.remove_injection(self.object.name)

    def inverse(self) -> Operation:
        """It is there again."""
        return SetInjection(self.object)


_CLASSES: tuple[type[Operation], ...] = (
    CreateMesh, Repair, ReplacePrograms, SetTimeouts, SetReject, SetRights, SetOnFailure,
    AddFunction, ChangeFunction, RemoveFunction, StopFunction, StartFunction, RollFunction,
    SetReady, SetService, RemoveService, AddPolicy, RemovePolicy, SetInjection, RemoveInjection,
    AddUplink, RemoveUplink,
)  # fmt: skip
KINDS = {one.kind: one for one in _CLASSES}


def load(text: str) -> Operation:
    """What ``Operation.dump`` wrote down."""
    kind, fields = json.loads(text)
    found: Operation = _adapter(KINDS[kind]).validate_json(fields)
    return found


@functools.cache
def _adapter(kind: type[Operation]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def shown(value: object) -> str:
    """A value of the mesh file as people are told it."""
    if isinstance(value, list):
        return shlex.join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _text(item: Object) -> str:
    match item:
        case Function():
            return "  ".join([item.name, f"tenant {item.tenant}", *map(str, item.addresses)])
        case Service():
            return "  ".join([item.name, *map(str, item.addresses), *_service_text(item)])
        case Uplink():
            return "  ".join([item.name, f"interface {item.interface}", *map(str, item.addresses)])
        case Timeouts():
            return "  ".join(f"{key} {value} s" for key, value in item)
        case Mesh():
            return item.name
    return str(item)


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
