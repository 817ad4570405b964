# SPDX-License-Identifier: BSD-2-Clause
"""The steps from one mesh to another, in an order that is safe while packets flow.

Pure: nothing is read or changed here. The order, and why:

1. rules become stricter: new denies and rejects, then allows that go. Until step 8 every rule is
   the stricter one of before and after, so that nothing passes that either of the two forbids;
2. services lose the functions that go; services that go, or move to other addresses, are removed;
3. functions that go are removed, and those that are replaced; then rules about who is gone, so
   that their ids are free for others, as they were until here from rules about who is new;
4. functions change tenant, audit or group where they are;
5. services are set as they shall be, if the functions they need have been there all along;
6. functions are added;
7. the other services are set: all their functions are there;
8. rules become looser: denies and rejects that go, then new allows.

Timeouts and ``reject`` come first: they say nothing about who may talk to whom.

At no time is a flow allowed that was not before and will not be after, and no service names a
function that is not there. Rules go by name: a deny comes before the function or service it
names, and leaves after it. Between 1 and 8 there can be more rules than in either mesh.

If two or more functions change tenant or group, a flow between them would meanwhile be judged by
the old one of one and the new one of the other; rules that keep them from sending cover step 4.

Services go with the backends that their groups have: one whose group grows or shrinks is set.
"""

import json
import shlex
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from typing import Literal, TypeVar

from ebpfmesh.errors import UsageError
from ebpfmesh.model import Function, Identity, Match, Mesh, Policy, Service, Timeouts, ports_text

Kind = Literal[
    "create-mesh",
    "set-timeouts",
    "set-reject",
    "add-function",
    "change-function",
    "remove-function",
    "set-service",
    "remove-service",
    "add-policy",
    "remove-policy",
    "repair",
]

_Named = TypeVar("_Named", Function, Service)
Object = Mesh | Timeouts | Function | Service | Policy | str
_MODELS: dict[str, type[Mesh | Timeouts | Function | Service | Policy]] = {
    "mesh": Mesh,
    "reject": Mesh,
    "timeouts": Timeouts,
    "function": Function,
    "service": Service,
    "policy": Policy,
}
_INVERSE: dict[Kind, Kind] = {
    "add-function": "remove-function",
    "remove-function": "add-function",
    "set-service": "remove-service",
    "remove-service": "set-service",
    "add-policy": "remove-policy",
    "remove-policy": "add-policy",
}
"""What undoes an operation that takes nothing's place; others are undone by what was there."""
M = TypeVar("M", bound=Mesh | Timeouts | Function | Service | Policy)
_Rules = dict[Match, Policy]

_SIGNS = {"create": "+", "add": "+", "change": "~", "set": "~", "remove": "-"}


@dataclass(frozen=True)
class Operation:
    """One step. ``old`` is what ``object`` takes the place of: in place, in one update.

    ``create-mesh`` has a mesh without functions, services and policies; so has ``set-reject``, of
    which the one setting counts. What is removed is ``object`` itself. A policy takes the place of
    the one with the same ``match``. ``repair`` is what was found wrong, and done about it before
    the others; ``object`` says what.
    """

    kind: Kind
    object: Object
    old: Object | None = None

    @property
    def name(self) -> str:
        """What it is about."""
        return str(getattr(self.object, "name", self.object))

    def of(self, model: type[M]) -> M:
        """Its object, which is of this kind."""
        if not isinstance(self.object, model):
            raise TypeError(f"{self.kind}: {type(self.object).__name__} is no {model.__name__}")
        return self.object

    def inverse(self) -> "Operation | None":
        """The operation that undoes it; None if there is nothing to undo."""
        if self.old is not None:
            return Operation(self.kind, self.old, self.object)
        back = _INVERSE.get(self.kind)
        return back and Operation(back, self.object)

    def dump(self) -> str:
        """As text that ``load`` reads."""
        parts = (part for part in (self.object, self.old) if part and not isinstance(part, str))
        return json.dumps([self.kind, *(part.model_dump_json() for part in parts)])

    @staticmethod
    def load(text: str) -> "Operation":
        """What ``dump`` wrote down."""
        kind, *parts = json.loads(text)
        model = _MODELS[kind.partition("-")[2]]
        return Operation(kind, *(model.model_validate_json(part) for part in parts))

    def describe(self) -> str:
        """One line for people, such as ``+ function decode-0  tenant op-a  198.18.0.2``."""
        if self.kind == "repair":
            return f"~ repaired {self.object}"
        verb, _, noun = self.kind.partition("-")
        sign = _SIGNS[verb]
        if verb in ("add", "set"):
            sign = "~" if self.old else "+"
        if isinstance(self.object, Function) and isinstance(self.old, Function):
            text = _changed(self.old, self.object)
        elif isinstance(self.object, Timeouts) and isinstance(self.old, Timeouts):
            text = _changed_timeouts(self.old, self.object)
        elif self.kind == "set-reject" and isinstance(self.object, Mesh):
            text = "on" if self.object.reject else "off"
        else:
            text = _text(self.object)
        return f"{sign} {noun} {text}"


def diff(current: Mesh | None, wanted: Mesh) -> tuple[Operation, ...]:
    """The operations that make ``wanted`` of ``current``; none if they mean the same.

    Raises ``UsageError`` if they differ in what is fixed while a mesh is up: its name, limits,
    hook, grace periods and prefixes.
    """
    create: list[Operation] = []
    if current is None:
        current = _bare(wanted)
        create = [Operation("create-mesh", current)]
    _check_fixed(current, wanted)
    before, after = _by_name(current.functions), _by_name(wanted.functions)
    changed = {n: f for n, f in before.items() if n in after and _in_place(f, after[n])}
    staying = {n for n, f in before.items() if n in changed or after.get(n) == f}
    moving = [n for n, f in changed.items() if _place(f) != _place(after[n])]
    leave, enter = _service_steps(current, wanted, staying, some_move=bool(moving))
    ready = [step for step in enter if staying.issuperset(_backends(step))]
    old_rules = {policy.match: policy for policy in current.policies}
    new_rules = {policy.match: policy for policy in wanted.policies}
    strict = _stricter(old_rules, new_rules) | _quarantine(moving)
    stricter = sorted(_rule_steps(old_rules, strict), key=lambda step: step.kind != "add-policy")
    looser = sorted(_rule_steps(strict, new_rules), key=lambda step: step.kind == "add-policy")
    gone, new = before.keys() - after.keys(), after.keys() - before.keys()
    return (
        *create,
        *_setting_steps(current, wanted),
        *(step for step in stricter if not _is_about(step, new)),
        *leave,
        *(Operation("remove-function", f) for n, f in before.items() if n not in staying),
        *(step for step in looser if _is_about(step, gone)),
        *(Operation("change-function", after[n], old) for n, old in changed.items()),
        *ready,
        *(step for step in stricter if _is_about(step, new)),
        *(Operation("add-function", f) for n, f in after.items() if n not in staying),
        *(step for step in enter if not staying.issuperset(_backends(step))),
        *(step for step in looser if not _is_about(step, gone)),
    )


def _check_fixed(current: Mesh, wanted: Mesh) -> None:
    for key in ("name", "limits", "hook", "expedited", "prefix4", "prefix6"):
        if getattr(current, key) != getattr(wanted, key):
            what = "the prefixes" if key.startswith("prefix") else f"the {key}"
            message = f'mesh "{current.name}" is up: {what} cannot change while it is'
            raise UsageError(message, hint="take it down first, then bring it up again")


def _bare(mesh: Mesh) -> Mesh:
    nothing: dict[str, object] = {"functions": (), "services": (), "policies": ()}
    return mesh.model_copy(update=nothing)


def _setting_steps(current: Mesh, wanted: Mesh) -> Iterator[Operation]:
    if current.timeouts != wanted.timeouts:
        yield Operation("set-timeouts", wanted.timeouts, current.timeouts)
    if current.reject != wanted.reject:
        yield Operation("set-reject", _bare(wanted), _bare(current))


def _backends(step: Operation) -> tuple[str, ...]:
    return tuple(step.object.backends) if isinstance(step.object, Service) else ()


def _by_name(items: Iterable[_Named]) -> dict[str, _Named]:
    return {item.name: item for item in items}


def _place(function: Function) -> tuple[str, str | None]:
    """What rules about many functions know it by."""
    return function.tenant, function.group


def _in_place(old: Function, new: Function) -> bool:
    """Whether ``old`` becomes ``new`` by tenant, audit or group alone."""
    settings = {"tenant": new.tenant, "audit": new.audit, "group": new.group}
    return old != new and old.model_copy(update=settings) == new


def _service_steps(
    current: Mesh, wanted: Mesh, staying: set[str], *, some_move: bool
) -> tuple[list[Operation], list[Operation]]:
    """What is done to services before functions go, and after their functions are there.

    A service that only needs functions that stay goes over to them in one step, unless a tenant
    changes meanwhile. Any other has, until it is set, the functions it has before and after.
    """
    before, after = _by_name(current.backed), _by_name(wanted.backed)
    groups = wanted.groups.keys()
    leave, enter = [], []
    for name, old in before.items():
        new = after.pop(name, None)
        if new is None or new.frontends != old.frontends:
            leave.append(Operation("remove-service", old))
            enter += [Operation("set-service", new)] if new else []
            continue
        one_step = staying.issuperset(new.backends) and not some_move
        keep = staying if one_step else staying.intersection(new.backends)
        between = old.only(keep | groups)
        if between != old:
            leave.append(Operation("set-service", between, old))
        if between != new:
            enter.append(Operation("set-service", new, between))
    return leave, [*enter, *(Operation("set-service", service) for service in after.values())]


def _stricter(old: _Rules, new: _Rules) -> dict[Match, Policy]:
    """For each match the less permissive of the ``old`` and the ``new`` rule, or neither."""
    strict = {}
    for match in old | new:
        rule = min(old.get(match), new.get(match), key=_permissiveness)
        if rule is not None:
            strict[match] = rule
    return strict


def _permissiveness(rule: Policy | None) -> tuple[int, int]:
    """Orders what there can be for a match: urgent deny, deny, nothing, allow, urgent allow.

    A reject is as strict as a deny.
    """
    if rule is None:
        return 0, 0
    return (1, -rule.priority) if rule.action == "allow" else (-1, rule.priority)


def _quarantine(moving: list[str]) -> dict[Match, Policy]:
    """Rules that keep functions from sending while more than one of them changes tenant."""
    rules = [
        Policy(
            source=Identity("function", name),
            destination=Identity("any"),
            action="deny",
            priority=0,
        )
        for name in moving
        if len(moving) > 1
    ]
    return {rule.match: rule for rule in rules}


def _is_about(step: Operation, functions: Set[str]) -> bool:
    """Whether a rule names one of these functions."""
    rule = step.object
    return isinstance(rule, Policy) and any(
        end.kind == "function" and end.name in functions for end in (rule.source, rule.destination)
    )


def _rule_steps(old: _Rules, new: _Rules) -> Iterator[Operation]:
    for match, rule in new.items():
        if old.get(match) != rule:
            yield Operation("add-policy", rule, old.get(match))
    for match, rule in old.items():
        if match not in new:
            yield Operation("remove-policy", rule)


def _text(item: Object) -> str:
    match item:
        case Function():
            return "  ".join([item.name, f"tenant {item.tenant}", *map(str, item.addresses)])
        case Service():
            return "  ".join([item.name, *map(str, item.addresses), *_service_text(item)])
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
    return parts + (["affinity source"] if service.affinity == "source" else [])


def _changed(old: Function, new: Function) -> str:
    parts = [new.name]
    if old.tenant != new.tenant:
        parts.append(f"tenant {old.tenant} → {new.tenant}")
    if old.group != new.group:
        parts.append(f"of group {new.group}" if new.group else "of no group")
    if old.audit != new.audit:
        parts.append(f"audit {'on' if new.audit else 'off'}")
    return "  ".join(parts)


def _changed_timeouts(old: Timeouts, new: Timeouts) -> str:
    pairs = zip(old, new, strict=True)
    return "  ".join(f"{key} {was} → {now} s" for (key, was), (_, now) in pairs if was != now)


@dataclass(frozen=True)
class Told:
    """A step as people and programs are told of it.

    ``fields`` are those that are another after it, with what they were and will be. A function
    that is made anew has them in both of its steps.
    """

    operation: Operation
    text: str
    fields: dict[str, tuple[object, object]]

    @property
    def action(self) -> str:
        """``add``, ``change`` or ``remove``; a function made anew is removed and added."""
        return {"+": "add", "~": "change", "-": "remove"}[self.text[0]]


def told(operations: Iterable[Operation]) -> Iterator[Told]:
    """Each step with what it changes."""
    steps = tuple(operations)
    gone = {step.name: step.object for step in steps if step.kind == "remove-function"}
    new = {step.name: step.object for step in steps if step.kind == "add-function"}
    anew = gone.keys() & new.keys()
    for step in steps:
        old, then = step.old, step.object
        if step.kind in ("remove-function", "add-function") and step.name in anew:
            old, then = gone[step.name], new[step.name]
        fields = _fields(old, then)
        text = step.describe()
        if step.kind == "remove-function" and fields:
            changes = ", ".join(
                f"{key} {_shown(a)} → {_shown(b)}" for key, (a, b) in fields.items()
            )
            text = f"- function {step.name}  to be made anew: {changes}"
        yield Told(step, text, fields)


def _fields(old: Object | None, new: Object) -> dict[str, tuple[object, object]]:
    if old is None or isinstance(old, str) or isinstance(new, str):
        return {}
    before, after = old.model_dump(mode="json"), new.model_dump(mode="json")
    return {key: (before[key], after[key]) for key in after if before[key] != after[key]}


def _shown(value: object) -> str:
    if isinstance(value, list):
        return shlex.join(map(str, value)) or "none"
    return "none" if value is None else str(value)
