# SPDX-License-Identifier: BSD-2-Clause
"""A mesh with one thing of it changed, as the command line says it; pure.

What comes back is whole: whatever is wrong with it is an ``Invalid`` in words for people.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from ebpfmesh.config.addresses import assign_addresses, parse_address
from ebpfmesh.config.explain import make
from ebpfmesh.config.ports import policy_ports, service_ports
from ebpfmesh.errors import NotFound, UsageError
from ebpfmesh.model import (
    Address,
    Canary,
    Function,
    Identity,
    Injection,
    Invalid,
    Mesh,
    Policy,
    Remote,
    Scope,
    Service,
    Uplink,
    parse_ports,
    ranked,
    suggest,
)


def new_function(mesh: Mesh, name: str, *, addresses: Iterable[str], **settings: Any) -> Function:
    """A function that ``mesh`` could have too; without addresses it is assigned some.

    ``settings`` are keys of FunctionSettings; raises Invalid for what the mesh cannot have.
    """
    if any(name in (function.name, function.group) for function in mesh.functions):
        hint = "detach it first, or choose another name"
        raise UsageError(f'there is a function "{name}" already', hint=hint)
    given = _by_family(parse_address(text) for text in addresses)
    if not given:
        things = (*mesh.functions, *mesh.services, *mesh.remotes)
        used = {address for thing in things for address in thing.addresses}
        given = {
            "address4": assign_addresses([name], mesh.prefix4, used)[name],
            "address6": assign_addresses([name], mesh.prefix6, used)[name],
        }
    function = make(Function, name=name, **given, **settings)
    _whole(mesh, functions=(*mesh.functions, function))
    return function


def with_others(current: Mesh, wanted: Mesh) -> Mesh:
    """``wanted``, and besides what of ``current`` it does not name.

    A group that it names has the replicas that it says. What names somebody who goes with that goes
    too. What it injects stands among the others where it stood.
    """
    named = {*wanted.groups, *(one.name for one in (*wanted.functions, *wanted.remotes))}
    services = {one.name for one in wanted.services}
    matches = {one.match for one in wanted.policies}
    tenants = {one.name for one in wanted.rights}
    both = _with_other_uplinks(current, wanted).made_of(
        (*wanted.functions, *(f for f in current.functions if named.isdisjoint({f.name, f.group}))),
        (*wanted.services, *(one for one in current.services if one.name not in services)),
        (*wanted.policies, *(one for one in current.policies if one.match not in matches)),
        _with_other_injections(current.injections, wanted.injections),
    )
    rights = (*wanted.rights, *(one for one in current.rights if one.name not in tenants))
    return _whole(both, rights=rights)


def _with_other_uplinks(current: Mesh, wanted: Mesh) -> Mesh:
    names = {one.name for one in wanted.uplinks}
    others = (one for one in current.uplinks if one.name not in names)
    known = {one.name for one in (*wanted.remotes, *wanted.functions)} | wanted.groups.keys()
    beyond = (one for one in current.remotes if one.name not in known)
    parts = {
        "uplinks": (*wanted.uplinks, *others),
        "remotes": (*wanted.remotes, *beyond),
    }
    return wanted.model_copy(update=parts)


def add_uplink(
    mesh: Mesh, name: str, interface: str, addresses: Iterable[str] = (), **settings: object
) -> Mesh:
    """``mesh`` with one more uplink."""
    if any(one.name == name for one in mesh.uplinks):
        hint = "detach it first, or choose another name"
        raise UsageError(f'there is an uplink "{name}" already', hint=hint)
    given = _by_family(parse_address(text) for text in addresses)
    uplink = make(Uplink, name=name, interface=interface, **given, **settings)
    return _whole(mesh, uplinks=(*mesh.uplinks, uplink))


def delete_uplink(mesh: Mesh, name: str) -> Mesh:
    """``mesh`` without an uplink; what is published on it is no longer, nor is who is beyond it."""
    return _without(mesh, "uplink", name)


def add_remote(
    mesh: Mesh, name: str, *, addresses: Iterable[str], uplink: str, tenant: str
) -> Mesh:
    """``mesh`` with one more remote."""
    given = _by_family(parse_address(text) for text in addresses)
    remote = make(Remote, name=name, uplink=uplink, tenant=tenant, **given)
    return _whole(mesh, remotes=(*mesh.remotes, remote))


def delete_remote(mesh: Mesh, name: str) -> Mesh:
    """``mesh`` without a remote, and without rules about it."""
    return _without(mesh, "remote", name)


def _without(mesh: Mesh, kind: Literal["uplink", "remote"], name: str) -> Mesh:
    """Without one, and without what names it."""
    there: tuple[Uplink | Remote, ...] = getattr(mesh, f"{kind}s")
    others = tuple(one for one in there if one.name != name)
    if len(others) == len(there):
        hint = suggest(name, (one.name for one in there))
        raise NotFound(f'there is no {kind} "{name}"', hint=hint)
    left = mesh.model_copy(update={f"{kind}s": others})
    return _whole(left.made_of(mesh.functions, mesh.services, mesh.policies, mesh.injections))


def _with_other_injections(
    current: Iterable[Injection], wanted: Iterable[Injection]
) -> Iterator[Injection]:
    """Those that are wanted take, in their order, the places that any of them have."""
    left = {one.name: one for one in wanted}
    names = set(left)
    for old in current:
        if old.name not in names:
            yield old
        elif first := next((one for one in left.values() if one.at == old.at), None):
            yield left.pop(first.name)
    yield from left.values()


def add_service(
    mesh: Mesh,
    name: str,
    *,
    addresses: Iterable[str],
    port: int | str,
    target_port: int | str | None = None,
    **values: Any,
) -> Mesh:
    """``mesh`` with one more service; its ``target_port`` is its port if left out.

    Ports may be ranges, such as "8000-8099".
    """
    if any(service.name == name for service in mesh.services):
        hint = "ebpfmesh service set changes it"
        raise UsageError(f'there is a service "{name}" already', hint=hint)
    values |= _by_family(parse_address(text) for text in addresses)
    values |= service_ports(parse_ports(port), _parsed(target_port))
    return _whole(mesh, services=(*mesh.services, make(Service, name=name, **values)))


def set_service(
    mesh: Mesh,
    name: str,
    *,
    addresses: Iterable[str],
    port: int | str | None = None,
    target_port: int | str | None = None,
    weights: Mapping[str, int] | None = None,
    **values: Any,
) -> Mesh:
    """``mesh`` with the given values of a service changed; addresses replace those it has.

    A service whose target port was its own port goes on like that. Weights that are not given
    stay, as far as their functions do.
    """
    old = mesh.service(name)
    wanted = old.model_dump() | values
    own = _parsed(port) or (old.port, old.last_port)
    target = _parsed(target_port)
    if target is None and old.shift:
        # With another number of ports it is not known what was meant: the user is asked.
        target = old.target_port, old.target_port + old.ports - 1
    wanted |= service_ports(own, target)
    named = set(wanted["functions"])
    group_of = {function.name: function.group for function in mesh.functions}
    kept = {n: w for n, w in old.weights.items() if n in named or group_of.get(n) in named}
    wanted["weights"] = kept | dict(weights or {})
    if given := _by_family(parse_address(text) for text in addresses):
        wanted |= {"address4": None, "address6": None, **given}
    new = make(Service, **wanted)
    return _whole(mesh, services=tuple(new if s is old else s for s in mesh.services))


def _parsed(ports: int | str | None) -> tuple[int, int] | None:
    return None if ports is None else parse_ports(ports)


def delete_service(mesh: Mesh, name: str) -> Mesh:
    """``mesh`` without a service and the rules about it."""
    gone, identity = mesh.service(name), Identity("service", name)
    services = tuple(service for service in mesh.services if service is not gone)
    policies = tuple(rule for rule in mesh.policies if rule.destination != identity)
    return _whole(mesh, services=services, policies=policies)


def rule(source: str, destination: str, port: int | str | None = None, **values: Any) -> Policy:
    """A policy as it is given on the command line; ``port`` may be a range."""
    ports = policy_ports(_parsed(port))
    return make(Policy, source=source, destination=destination, **ports, **values)


def add_policy(mesh: Mesh, policy: Policy) -> Mesh:
    """``mesh`` with one more rule, in the place of the one about the same flows if there is."""
    policy = policy.named(mesh.groups)
    others = tuple(rule for rule in mesh.policies if rule.match != policy.match)
    return _whole(mesh, policies=(*others, policy))


def delete_policy(mesh: Mesh, policy: Policy) -> Mesh:
    """``mesh`` without the rule about the same flows as ``policy``, whatever it said."""
    policy = policy.named(mesh.groups)
    others = tuple(rule for rule in mesh.policies if rule.match != policy.match)
    if len(others) == len(mesh.policies):
        what = f"there is no policy about {policy.source} → {policy.destination}"
        detail = f" {policy.what}" if policy.what else ""
        raise NotFound(what + detail, hint="ebpfmesh show policies lists them")
    return _whole(mesh, policies=others)


def set_limits(mesh: Mesh, name: str, **limits: Any) -> Mesh:
    """``mesh`` with other limits for a function, or for all replicas of a name.

    ``limits`` are ``cpu``, ``memory`` and ``rate`` as in a mesh file, None for no limit. One of
    several replicas has those of its group: a file could not say it.
    """
    chosen = [one for one in mesh.functions if name in (one.name, one.group)]
    if not chosen:
        known = {*mesh.groups, *(one.name for one in mesh.functions)}
        raise NotFound(f'there is no function "{name}"', hint=suggest(name, known))
    if group := next((one.group for one in chosen if one.name == name), None):
        what = f'"{name}" is one of the replicas of "{group}", which are alike'
        raise UsageError(what, hint=f"ebpfmesh set {group} changes all of them")
    new = {one.name: make(Function, **(dict(one) | limits)) for one in chosen}
    return _whole(mesh, functions=tuple(new.get(one.name, one) for one in mesh.functions))


def scope_of_function(name: str, *, addresses: Iterable[str] = ()) -> Scope:
    """What ``new_function`` looks at, but for the addresses it could assign."""
    found = tuple(parse_address(text) for text in addresses)
    return Scope(functions=(name,), services=(name,), addresses=found)


def scope_of_service(
    name: str,
    *,
    addresses: Iterable[str] = (),
    functions: Iterable[str] = (),
    publish: Iterable[str] = (),
) -> Scope:
    """What ``add_service``, ``set_service`` and ``delete_service`` look at."""
    return Scope(
        functions=tuple(functions),
        services=(name,),
        addresses=tuple(parse_address(text) for text in addresses),
        uplinks=tuple(text.rpartition(":")[0] for text in publish),
        about=(Identity("service", name),),
    )


def scope_of_policy(policy: Policy) -> Scope:
    """What ``add_policy`` and ``delete_policy`` look at."""
    return Scope(rules=(policy,))


def _whole(mesh: Mesh, **parts: Any) -> Mesh:
    """``mesh`` with other parts, checked as if it came from a file."""
    return make(Mesh, **{key: getattr(mesh, key) for key in type(mesh).model_fields} | parts)


def _by_family(addresses: Iterable[Address]) -> dict[str, Address]:
    found: dict[str, Address] = {}
    for address in addresses:
        key = f"address{address.version}"
        if key in found:
            hint = "give at most one of IPv4 and one of IPv6"
            raise Invalid(f"{address} is the second of IPv{address.version}", hint=hint)
        found[key] = address
    return found


def inject(
    mesh: Mesh, injection: Injection, *, before: str | None = None, after: str | None = None
) -> Mesh:
    """``mesh`` with one more injected program, the last at its place or beside another."""
    rows = list(mesh.injections)
    if any(one.name == injection.name for one in rows):
        hint = f"ebpfmesh swap {injection.name} FILE.c puts another in its place; or --name"
        raise UsageError(f'"{injection.name}" is injected already', hint=hint)
    place = len(rows)
    if beside := before or after:
        place = rows.index(_injection(mesh, beside)) + bool(after)
        if rows[place - bool(after)].at != injection.at:
            what = f'"{beside}" is at {rows[place - bool(after)].at}, not at {injection.at}'
            raise UsageError(what, hint="name one of the same place")
    return _whole(mesh, injections=ranked((*rows[:place], injection, *rows[place:])))


def swap(mesh: Mesh, name: str, **changes: Any) -> Mesh:
    """``mesh`` with another file, text or parameters for an injected program."""
    old = _injection(mesh, name)
    new = make(Injection, **(dict(old) | changes))
    return _whole(mesh, injections=tuple(new if one is old else one for one in mesh.injections))


def canary(mesh: Mesh, name: str, **values: Any) -> Mesh:
    """``mesh`` with a canary for an injected program; ``values`` are those of ``Canary``."""
    _injection(mesh, name)
    return swap(mesh, name, canary=make(Canary, **values))


def promote(mesh: Mesh, name: str) -> Mesh:
    """``mesh`` with a canary in the place of what it was tried beside."""
    old = _injection(mesh, name)
    if old.canary is None:
        hint = "begin one: ebpfmesh swap NAME FILE.c --canary 10%"
        raise NotFound(f'"{name}" has no canary', hint=hint)
    new = old.promoted
    return _whole(mesh, injections=tuple(new if one is old else one for one in mesh.injections))


def eject(mesh: Mesh, name: str) -> Mesh:
    """``mesh`` without an injected program."""
    old = _injection(mesh, name)
    return _whole(mesh, injections=ranked(tuple(i for i in mesh.injections if i is not old)))


def _injection(mesh: Mesh, name: str) -> Injection:
    for one in mesh.injections:
        if one.name == name:
            return one
    hint = suggest(name, (one.name for one in mesh.injections))
    raise NotFound(f'nothing called "{name}" is injected', hint=hint)
