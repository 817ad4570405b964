# SPDX-License-Identifier: BSD-2-Clause
"""The steps from one mesh to another, in an order that is safe while packets flow.

Pure: nothing is read or changed here. The order, and why:

1. rules become stricter: new denies and rejects, then allows that go. Until step 8 every rule is
   the stricter one of before and after, so that nothing passes that either of the two forbids;
2. services lose the functions, remotes and uplinks that go; services that go, or move to other
   addresses, are removed;
3. remotes, uplinks and functions that go are removed, and those that are replaced; then rules about
   who is gone, so that their ids are free for others, as they were until here from rules about who
   is new;
4. functions change tenant, audit, group, limits or how commands are kept, where they are, and
   uplinks whether they masquerade, once no service is published at the ports for that;
5. services are set as they shall be, if the functions and uplinks they need have been there all
   along;
6. functions and uplinks are added, then remotes;
7. the other services are set: all their functions and uplinks are there;
8. rules become looser: denies and rejects that go, then new allows;
9. commands are started anew that are others now, one after the other.

Programs of another build come first, so that all that follows is done for those that will meet it.
Timeouts, ``reject`` and ``host`` come next: they say nothing about who may talk to whom. Then what
is injected, since a program that is refused must not cost anything; packets meet it, as they lose
what is ejected, when all else is in place.

At no time is a flow allowed that was not before and will not be after, and no service names a
function that is not there. Rules go by name: a deny comes before the function or service it
names, and leaves after it. Between 1 and 8 there can be more rules than in either mesh.

If two or more functions change tenant or group, a flow between them would meanwhile be judged by
the old one of one and the new one of the other; rules that keep them from sending cover step 4.

Services go with the backends that their groups have: one whose group grows or shrinks is set.
"""

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from typing import TypeVar

from ebpfmesh.errors import UsageError
from ebpfmesh.model import (
    UPLINK_IN_PLACE,
    Function,
    Identity,
    Injection,
    Match,
    Mesh,
    Policy,
    Remote,
    Service,
    Uplink,
)
from ebpfmesh.operation import (
    AT_ONCE,
    IN_PLACE,
    ROLLED,
    AddFunction,
    AddPolicy,
    AddRemote,
    AddUplink,
    ChangeFunction,
    ChangeUplink,
    CreateMesh,
    Object,
    Operation,
    RemoveFunction,
    RemoveInjection,
    RemovePolicy,
    RemoveRemote,
    RemoveService,
    RemoveUplink,
    ReplacePrograms,
    RollFunction,
    SetHost,
    SetInjection,
    SetOnFailure,
    SetReject,
    SetRights,
    SetService,
    SetTimeouts,
    shown,
)

_Named = TypeVar("_Named", Function, Service, Injection, Uplink, Remote)
_Rules = dict[Match, Policy]


def diff(
    current: Mesh | None, wanted: Mesh, builds: tuple[str, str] = ("", "")
) -> tuple[Operation, ...]:
    """The operations that make ``wanted`` of ``current``; none if they mean the same.

    ``builds`` are that of the programs that run and the one that shall; the same: they stay.
    Raises ``UsageError`` if they differ in what is fixed while a mesh is up: its name, limits,
    hook, grace periods and prefixes.
    """
    create: list[Operation] = []
    if current is None:
        current = _bare(wanted)
        create = [CreateMesh(current)]
    _check_fixed(current, wanted)
    before, after = _by_name(current.functions), _by_name(wanted.functions)
    rolled = {n: f for n, f in before.items() if n in after and _is_rolled(f, after[n])}
    between = after | {n: _like(f, after[n], AT_ONCE) for n, f in rolled.items()}
    alone = _alone(wanted) if rolled else {}
    changed = {n: f for n, f in before.items() if n in after and _in_place(f, between[n])}
    staying = {n for n, f in before.items() if n in changed or between.get(n) == f}
    moving = [n for n, f in changed.items() if _place(f) != _place(after[n])]
    changes = _uplink_changes(current, wanted)
    lasting = {one.name for one in current.uplinks if one in wanted.uplinks}
    lasting |= {step.name for step in changes}
    kept = {r.name for r in current.remotes if r in wanted.remotes and r.uplink in lasting}
    staying |= kept
    leave, enter = _service_steps(current, wanted, staying, lasting, some_move=bool(moving))
    ready = [step for step in enter if _can_be(step, staying, lasting)]
    old_rules = {policy.match: policy for policy in current.policies}
    new_rules = {policy.match: policy for policy in wanted.policies}
    strict = _stricter(old_rules, new_rules) | _quarantine(moving)
    stricter = sorted(_rule_steps(old_rules, strict), key=_adds_rule, reverse=True)
    looser = sorted(_rule_steps(strict, new_rules), key=_adds_rule)
    names = [{*found, *_by_name(m.remotes)} for found, m in ((before, current), (after, wanted))]
    gone, new = names[0] - names[1], names[1] - names[0]
    return (
        *create,
        *_program_steps(*builds),
        *_setting_steps(current, wanted),
        *_injection_steps(current, wanted),
        *(step for step in stricter if not _is_about(step, new)),
        *leave,
        *(RemoveRemote(one) for one in current.remotes if one.name not in kept),
        *(RemoveUplink(one) for one in current.uplinks if one.name not in lasting),
        *(RemoveFunction(f) for n, f in before.items() if n not in staying),
        *(step for step in looser if _is_about(step, gone)),
        *(ChangeFunction(between[n], old) for n, old in changed.items()),
        *changes,
        *ready,
        *(step for step in stricter if _is_about(step, new)),
        *(AddFunction(f) for n, f in after.items() if n not in staying),
        *(AddUplink(one) for one in wanted.uplinks if one.name not in lasting),
        *(AddRemote(one) for one in wanted.remotes if one.name not in kept),
        *(step for step in enter if not _can_be(step, staying, lasting)),
        *(step for step in looser if not _is_about(step, gone)),
        *_ejection_steps(current, wanted),
        *(RollFunction(after[n], between[n], alone.get(n, ())) for n in rolled),
    )


def _check_fixed(current: Mesh, wanted: Mesh) -> None:
    for key in ("name", "limits", "hook", "expedited", "count_flows", "prefix4", "prefix6"):
        if _fixed(current, key) != _fixed(wanted, key):
            what = "the prefixes" if key.startswith("prefix") else f"the {key}"
            message = f'mesh "{current.name}" is up: {what} cannot change while it is'
            raise UsageError(message, hint="take it down first, then bring it up again")


def _fixed(mesh: Mesh, key: str) -> object:
    """What of a key cannot change; a limit that has no effect may."""
    return mesh.limits.model_dump(exclude={"sockets"}) if key == "limits" else getattr(mesh, key)


def _bare(mesh: Mesh) -> Mesh:
    parts = ("functions", "services", "policies", "injections", "uplinks", "remotes")
    return mesh.model_copy(update=dict.fromkeys(parts, ()))


def _program_steps(runs: str, wanted: str) -> Iterator[Operation]:
    if runs != wanted:
        yield ReplacePrograms(wanted, runs)


def _setting_steps(current: Mesh, wanted: Mesh) -> Iterator[Operation]:
    if current.timeouts != wanted.timeouts:
        yield SetTimeouts(wanted.timeouts, current.timeouts)
    if current.reject != wanted.reject:
        yield SetReject(_bare(wanted), _bare(current))
    if current.host != wanted.host:
        yield SetHost(_bare(wanted), _bare(current))
    if current.on_failure != wanted.on_failure:
        yield SetOnFailure(_bare(wanted), _bare(current))
    if current.rights != wanted.rights:
        yield SetRights(_bare(wanted), _bare(current))


def _injection_steps(current: Mesh, wanted: Mesh) -> Iterator[Operation]:
    before = _by_name(current.injections)
    for one in wanted.injections:
        old = before.get(one.name)
        if old is None or old.model_copy(update={"file": one.file}) != one:  # called otherwise
            yield SetInjection(one, old)


def _ejection_steps(current: Mesh, wanted: Mesh) -> Iterator[Operation]:
    after = _by_name(wanted.injections)
    return (RemoveInjection(one) for one in current.injections if one.name not in after)


def _uplink_changes(current: Mesh, wanted: Mesh) -> list[ChangeUplink]:
    """Uplinks that change in place."""
    before = _by_name(current.uplinks)
    return [
        ChangeUplink(one, old)
        for one in wanted.uplinks
        if (old := before.get(one.name)) is not None
        and old != one
        and old.model_copy(update={key: getattr(one, key) for key in UPLINK_IN_PLACE}) == one
    ]


def _can_be(step: Operation, functions: set[str], uplinks: set[str]) -> bool:
    """Whether what a service needs is among these."""
    service = step.object
    return not isinstance(service, Service) or (
        functions >= service.backends.keys()
        and uplinks.issuperset(one.uplink for one in service.published)
    )


def _by_name(items: Iterable[_Named]) -> dict[str, _Named]:
    return {item.name: item for item in items}


def _place(function: Function) -> tuple[str, str | None]:
    """What rules about many functions know it by."""
    return function.tenant, function.group


def _in_place(old: Function, new: Function) -> bool:
    """Whether ``old`` becomes ``new`` where it is, by what may change there alone."""
    return old != new and _like(old, new, IN_PLACE) == new and not _leaves_pools(old, new)


def _leaves_pools(old: Function, new: Function) -> bool:
    """Whether it would have memory of one tenant while it is another's: it is made anew."""
    return old.tenant != new.tenant and bool(old.pools or new.pools)


def _is_rolled(old: Function, new: Function) -> bool:
    """Whether ``old`` becomes ``new`` where it is, with its command started anew.

    Its network namespace stays: that of a sandbox is owned by the user namespace of it, which is
    made for its user, and only that has power over it.
    """
    changes = _like(old, new, ROLLED) == new and not _leaves_pools(old, new)
    if _like(old, new, IN_PLACE) == new or not changes:
        return False
    if not (old.sandboxed and new.sandboxed):
        return bool(old.privileged and new.privileged)
    before, power = (
        {one for one in function.capabilities if one.startswith("NET_")} for function in (old, new)
    )
    owner = "user", "rootfs", "image"  # what of may say who that user is
    return not power or (power <= before and _like(old, new, owner) == old)


def _like(old: Function, new: Function, keys: Iterable[str]) -> Function:
    """``old`` with some of what ``new`` has."""
    return old.model_copy(update={key: getattr(new, key) for key in keys})


def _alone(mesh: Mesh) -> dict[str, tuple[str, ...]]:
    """By function, services that send new flows to it, and to no other."""
    found: dict[str, tuple[str, ...]] = {}
    for service in mesh.backed:
        match [name for name, weight in service.backends.items() if weight]:
            case [name]:
                found[name] = (*found.get(name, ()), service.name)
    return found


def _service_steps(
    current: Mesh, wanted: Mesh, staying: set[str], lasting: set[str], *, some_move: bool
) -> tuple[list[Operation], list[Operation]]:
    """What is done to services before functions go, and after their functions are there.

    A service that only needs functions that stay goes over to them in one step, unless a tenant
    changes meanwhile. Any other has, until it is set, the functions it has before and after, and is
    published where it is before and after.
    """
    before, after = _by_name(current.backed), _by_name(wanted.backed)
    groups = wanted.groups.keys()
    leave: list[Operation] = []
    enter: list[Operation] = []
    for name, old in before.items():
        new = after.pop(name, None)
        if new is None or new.frontends != old.frontends:
            leave.append(RemoveService(old))
            enter += [SetService(new)] if new else []
            continue
        one_step = staying.issuperset(new.backends) and not some_move
        keep = staying if one_step else staying.intersection(new.backends)
        between = old.only(keep | groups).published_on(lasting)
        both = tuple(one for one in between.publish if one in new.publish)
        between = between.model_copy(update={"publish": both})
        if between != old:
            leave.append(SetService(between, old))
        if between != new:
            enter.append(SetService(new, between))
    return leave, [*enter, *(SetService(service) for service in after.values())]


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


def _adds_rule(step: Operation) -> bool:
    return isinstance(step, AddPolicy)


def _rule_steps(old: _Rules, new: _Rules) -> Iterator[Operation]:
    for match, rule in new.items():
        if old.get(match) != rule:
            yield AddPolicy(rule, old.get(match))
    for match, rule in old.items():
        if match not in new:
            yield RemovePolicy(rule)


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
    gone = {step.name: step.object for step in steps if isinstance(step, RemoveFunction)}
    new = {step.name: step.object for step in steps if isinstance(step, AddFunction)}
    anew = gone.keys() & new.keys()
    for step in steps:
        old, then = step.old, step.object
        if isinstance(step, RemoveFunction | AddFunction) and step.name in anew:
            old, then = gone[step.name], new[step.name]
        fields = _fields(old, then)
        if isinstance(step, ReplacePrograms):
            fields = {"build": (step.old, step.object)}
        text = step.describe()
        if isinstance(step, RemoveFunction) and fields:
            changes = ", ".join(f"{key} {shown(a)} → {shown(b)}" for key, (a, b) in fields.items())
            text = f"- function {step.name}  to be made anew: {changes}"
        yield Told(step, text, fields)


def _fields(old: Object | None, new: Object) -> dict[str, tuple[object, object]]:
    if old is None or isinstance(old, str) or isinstance(new, str):
        return {}
    before, after = old.model_dump(mode="json"), new.model_dump(mode="json")
    return {key: (before[key], after[key]) for key in after if before[key] != after[key]}
