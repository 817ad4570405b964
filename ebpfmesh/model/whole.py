# SPDX-License-Identifier: BSD-2-Clause
"""What must hold between the parts of a mesh.

Each check yields what is wrong; the caller raises the first, or tells all.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from itertools import accumulate, chain

from ebpfmesh._abi import PREFIXES
from ebpfmesh.model.base import Address, Hints, Invalid, Location, Network, repeated, too_many
from ebpfmesh.model.injection import INJECTIONS, LOG_LEAST
from ebpfmesh.model.parts import Parts
from ebpfmesh.model.pooled import bad_pools
from ebpfmesh.model.ports import ports_text
from ebpfmesh.model.remote import REMOTES
from ebpfmesh.model.shares import guaranteed, size_of
from ebpfmesh.model.uplink import UPLINKS


def problems(mesh: Parts, besides: Collection[str] = ()) -> Iterator[Invalid]:
    """What is wrong with a mesh as a whole, its parts being right.

    ``besides`` are names that it has too, of things too wrong to be parts of it.
    """
    checks = (
        _over_limits,
        _same_names,
        _same_addresses,
        _same_ports,
        _bad_prefixes,
        _bad_rights,
        _bad_shares,
        _small_logs,
        _bad_uplinks,
        bad_pools,
        _masqueraded,
    )
    named = (_bad_backends, _bad_publish, _bad_policies, _bad_injections, _bad_remotes)
    return chain(
        chain.from_iterable(check(mesh) for check in checks),
        chain.from_iterable(check(mesh, besides) for check in named),
    )


def _over_limits(mesh: Parts) -> Iterator[Invalid]:
    limits = mesh.limits
    if len(mesh.functions) > limits.functions:
        yield too_many("functions", limits.functions, ("functions", limits.functions))
    elif len(mesh.functions) + len(mesh.remotes) > limits.functions:
        at: Location = ("remotes", limits.functions - len(mesh.functions))
        yield too_many("functions", limits.functions, at)
    if len(mesh.remotes) > REMOTES:
        what = f"more than {REMOTES} remotes"
        yield Invalid(what, path=("remotes", REMOTES), hint="leave out some")
    sizes = [service.entries for service in mesh.services]
    if (index := _beyond(sizes, limits.services)) is not None:
        yield too_many("services", limits.services, ("services", index))
    if (index := _beyond([len(p.prefixes) for p in mesh.policies], limits.rules)) is not None:
        yield too_many("rules", limits.rules, ("policies", index))
    for tenant in mesh.tenants[limits.tenants : limits.tenants + 1]:
        for key, things in (("functions", mesh.functions), ("remotes", mesh.remotes)):
            tenants = [one.tenant for one in things]
            if tenant in tenants:
                path = (key, tenants.index(tenant), "tenant")
                yield too_many("tenants", limits.tenants, path)
                break


def _beyond(sizes: list[int], limit: int) -> int | None:
    """Index of the first that has no room; a range of ports takes more than one."""
    return next((i for i, total in enumerate(accumulate(sizes)) if total > limit), None)


def _same_names(mesh: Parts) -> Iterator[Invalid]:
    functions = [function.name for function in mesh.functions]
    services = [service.name for service in mesh.services]
    for key, names in (("functions", functions), ("services", services)):
        for index, first, name in repeated(names):
            what, hint = f'there are two {key} called "{name}"', "rename one of them"
            yield Invalid(what, path=(key, index, "name"), hint=hint, other=(key, first, "name"))
    groups = {function.group for function in mesh.functions}
    remotes = [remote.name for remote in mesh.remotes]
    for key, names in (("functions", functions), ("remotes", remotes)):
        for index, name in enumerate(names):
            if name in groups:
                what = f'{key[:-1]} "{name}": a group of functions has that name'
                yield Invalid(what, path=(key, index, "name"), hint="rename one of them")
    for index, first, name in repeated([*functions, *remotes]):
        if index >= len(functions):
            at = "functions" if first < len(functions) else "remotes"
            yield Invalid(
                f'remote "{name}": another {at[:-1]} has that name',
                path=("remotes", index - len(functions), "name"), hint="rename one of them",
                other=(at, first - (0 if at == "functions" else len(functions)), "name"),
            )  # fmt: skip
    yield from _hidden_names(functions, services, remotes)
    for index, first, netns in repeated([function.netns for function in mesh.functions]):
        if netns:
            what = f'function "{mesh.functions[index].name}": another one is in netns {netns} too'
            path = ("functions", index, "netns")
            other = ("functions", first, "netns")
            yield Invalid(what, path=path, hint="a namespace holds one function", other=other)


def _hidden_names(
    functions: list[str], services: list[str], remotes: list[str]
) -> Iterator[Invalid]:
    """One name for two addresses in /etc/hosts: the one that stands there first hides the other."""
    known = {*functions, *remotes}
    for key, names in (("functions", functions), ("services", services), ("remotes", remotes)):
        for index, name in enumerate(names):
            path = (key, index, "name")
            what = f'{key[:-1]} "{name}": '
            if name == "localhost":
                hint = "inside a function that is the function itself; choose another name"
                yield Invalid(f"{what}that name is taken", path=path, hint=hint)
            elif key == "services" and name in known:
                what += "a function has that name, and would hide it in /etc/hosts"
                yield Invalid(what, path=path, hint="rename one of them")


_OTHER_ADDRESS = {
    "functions": "choose another one, or leave address out",
    "remotes": "a remote has the address of another machine",
    "services": "choose another address for the service",
}
"""What to do about an address that somebody has already."""


def _same_addresses(mesh: Parts) -> Iterator[Invalid]:
    owners: dict[Address, str] = {
        network.network_address: "of the mesh itself" for network in (mesh.prefix4, mesh.prefix6)
    }
    for key, hint in _OTHER_ADDRESS.items():
        for index, one in enumerate(getattr(mesh, key)):
            called = f'{key.removesuffix("s")} "{one.name}"'
            for address in one.addresses:
                if owner := owners.get(address):
                    path = (key, index, f"address{address.version}")
                    what = f"{called}: {address} is the address {owner}"
                    yield Invalid(what, path=path, hint=hint)
                if key != "services":  # of which several may have one, each a port of it
                    owners[address] = f"of {called}"


def _same_ports(mesh: Parts) -> Iterator[Invalid]:
    ranges = defaultdict(list)  # (first port, last, index of the service), by where they are
    for index, service in enumerate(mesh.services):
        for address, first, last, protocol in service.frontends:
            ranges[f"{protocol} {address}"].append((first, last, index))
        for uplink, first, last in service.published:
            ranges[f"{service.protocol} {uplink}"].append((first, last, index))
    found = []
    for where, given in ranges.items():
        given.sort()
        widest = given[0]  # of those before, the one that reaches furthest
        for other in given[1:]:
            if widest[1] >= other[0]:
                ports = ports_text(other[0], min(widest[1], other[1]))
                older, newer = sorted((widest[2], other[2]))
                found.append((newer, older, f"{where} port {ports}"))
            widest = max(widest, other, key=lambda one: one[1])
    for newer, older, where in sorted(found):
        name, owner = mesh.services[newer].name, mesh.services[older].name
        what = f'service "{name}": {where} is taken by "{owner}"'
        hint = "choose another address, port or protocol"
        yield Invalid(what, path=("services", newer, "port"), hint=hint)


def _bad_backends(mesh: Parts, besides: Collection[str]) -> Iterator[Invalid]:
    groups = mesh.groups
    group_of = {function.name: function.group for function in mesh.functions}
    families: dict[str, set[int]] = {}  # that all functions of a name have
    for function in mesh.functions:
        versions = {int(address.version) for address in function.addresses}
        families[function.name] = versions
        if function.group:
            families[function.group] = versions & families.get(function.group, versions)
    for remote in mesh.remotes:
        families[remote.name] = {int(address.version) for address in remote.addresses}
    hint_for = Hints(families)
    for number, service in enumerate(mesh.services):
        named = set(service.functions)
        for index, name in enumerate(service.functions):
            path: Location = ("services", number, "functions", index)
            if name not in families:
                if name not in besides:
                    what = f'service "{service.name}" names an unknown function "{name}"'
                    yield Invalid(what, path=path, hint=hint_for(name))
                continue
            if group_of.get(name) in named:
                what = f'service "{service.name}": "functions" names "{name}" twice'
                hint = f'it is one of "{group_of[name]}"'
                yield Invalid(what, path=path, hint=hint)
            for address in service.addresses:
                if address.version not in families[name]:
                    what = f'service "{service.name}": function "{name}" has no '
                    what += f"IPv{address.version} address, but the service has {address}"
                    hint = f"give the function an IPv{address.version} address too"
                    yield Invalid(what, path=path, hint=hint)
        strange = [n for n in service.weights if n not in named and group_of.get(n) not in named]
        if strange:
            own = Hints([*named, *(name for group in named for name in groups.get(group, ()))])
        for name in strange:
            what = (
                f'service "{service.name}": "weights" names "{name}", which is not of its functions'
            )
            path = ("services", number, "weights", name)
            yield Invalid(what, path=path, hint=own(name))


def _bad_uplinks(mesh: Parts) -> Iterator[Invalid]:
    """Each has a name, an interface and addresses of its own; there are few."""
    if len(mesh.uplinks) > UPLINKS:
        what, path = f"more than {UPLINKS} uplinks", ("uplinks", UPLINKS)
        yield Invalid(what, path=path, hint="one interface can carry all")
    for key, what in (("name", "called"), ("interface", "at interface")):
        for index, first, value in repeated([getattr(one, key) for one in mesh.uplinks]):
            message = f'there are two uplinks {what} "{value}"'
            at: Location = ("uplinks", index, key)
            yield Invalid(message, path=at, hint="leave out one", other=("uplinks", first, key))
    items = [*mesh.functions, *mesh.services, *mesh.remotes]
    taken = {address: item.name for item in items for address in item.addresses}
    for index, uplink in enumerate(mesh.uplinks):
        for address in uplink.addresses:
            if owner := taken.get(address):
                message = f'uplink "{uplink.name}": {address} is the address of "{owner}"'
                at = ("uplinks", index, f"address{address.version}")
                yield Invalid(message, path=at, hint="name one that the interface has")
            taken[address] = uplink.name


def _bad_publish(mesh: Parts, besides: Collection[str]) -> Iterator[Invalid]:
    known = {uplink.name for uplink in mesh.uplinks}
    hint_for = Hints(known)
    for number, service in enumerate(mesh.services):
        for index, one in enumerate(service.published):
            if one.uplink not in known and one.uplink not in besides:
                what = f'service "{service.name}": there is no uplink "{one.uplink}"'
                path: Location = ("services", number, "publish", index)
                yield Invalid(what, path=path, hint=hint_for(one.uplink))


def _masqueraded(mesh: Parts) -> Iterator[Invalid]:
    """A port at which services are published is no flow's."""
    uplinks = {one.name: one for one in mesh.uplinks if one.masquerade}
    for number, service in enumerate(mesh.services):
        for index, one in enumerate(service.published):
            if (uplink := uplinks.get(one.uplink)) is None:
                continue
            first, last = uplink.ports
            if one.first <= last and first <= one.last:
                what = f'service "{service.name}": {one} is among the ports to which uplink '
                what += f'"{uplink.name}" translates, {uplink.masquerade_ports}'
                path: Location = ("services", number, "publish", index)
                hint = "publish another one, or give the uplink other masquerade_ports"
                yield Invalid(what, path=path, hint=hint)


def _bad_remotes(mesh: Parts, besides: Collection[str]) -> Iterator[Invalid]:
    """Each is beyond an uplink there is."""
    known = {uplink.name for uplink in mesh.uplinks}
    hint_for = Hints(known)
    for index, remote in enumerate(mesh.remotes):
        if remote.uplink not in known and remote.uplink not in besides:
            what = f'remote "{remote.name}": there is no uplink "{remote.uplink}"'
            yield Invalid(what, path=("remotes", index, "uplink"), hint=hint_for(remote.uplink))


def _bad_policies(mesh: Parts, besides: Collection[str]) -> Iterator[Invalid]:
    known = {
        "function": {one.name for one in (*mesh.functions, *mesh.remotes)},
        "group": {function.group for function in mesh.functions if function.group},
        "tenant": set(mesh.tenants),
        "service": {service.name for service in mesh.services},
    }
    hints = {kind: Hints(names) for kind, names in known.items()}
    hints["function"] = Hints(known["function"] | known["group"])
    for index, policy in enumerate(mesh.policies):
        for key, identity in (("source", policy.source), ("destination", policy.destination)):
            name, names = identity.name, known.get(identity.kind)
            if name and names is not None and name not in names and name not in besides:
                what = f'policy {policy}: there is no {identity.kind} "{name}"'
                yield Invalid(what, path=("policies", index, key), hint=hints[identity.kind](name))
    for index, first, _ in repeated(policy.match for policy in mesh.policies):
        what = f"policy {mesh.policies[index]}: another one is about the same flows"
        hint = "keep one, or make them differ in from, to, protocol or port"
        yield Invalid(what, path=("policies", index), hint=hint, other=("policies", first))


def _bad_injections(mesh: Parts, besides: Collection[str]) -> Iterator[Invalid]:
    if len(mesh.injections) > INJECTIONS:
        what, path = f"more than {INJECTIONS} are injected", ("injections", INJECTIONS)
        yield Invalid(what, path=path, hint="inject at tenants or groups")
    for index, first, name in repeated([one.name for one in mesh.injections]):
        what, hint = f'there are two injected functions called "{name}"', "rename one of them"
        other: Location = ("injections", first, "name")
        yield Invalid(what, path=("injections", index, "name"), hint=hint, other=other)
    functions = {function.name for function in mesh.functions} | set(mesh.groups)
    known = {"function": functions, "tenant": set(mesh.tenants)}
    hints = {kind: Hints(names) for kind, names in known.items()}
    for index, one in enumerate(mesh.injections):
        kind, name = one.target
        if name not in known[kind] and name not in besides:
            what = f'injected function "{one.name}": there is no {kind} "{name}"'
            yield Invalid(what, path=("injections", index, "at"), hint=hints[kind](name))


def _bad_rights(mesh: Parts) -> Iterator[Invalid]:
    """Tenants inject at places of their own, as many as they may."""
    for index, first, name in repeated(one.name for one in mesh.rights):
        what, hint = f'there are two tables for tenant "{name}"', "make one of them"
        other: Location = ("rights", first, "name")
        yield Invalid(what, path=("rights", index, "name"), hint=hint, other=other)
    owners: dict[tuple[str, str], set[str]] = {("tenant", name): {name} for name in mesh.tenants}
    for function in mesh.functions:
        for name in filter(None, (function.name, function.group)):
            owners.setdefault(("function", name), set()).add(function.tenant)
    counts: dict[str, int] = {}
    for index, one in enumerate(mesh.injections):
        if one.tenant is None:
            continue
        rights, what = mesh.rights_of(one.tenant), f'injected function "{one.name}": '
        path: Location = ("injections", index, "at")
        if owners.get(one.target, {one.tenant}) != {one.tenant}:
            what += f'{one.at} is not a place of tenant "{one.tenant}"'
            yield Invalid(what, path=path, hint="a tenant injects at functions of its own")
        counts[one.tenant] = counts.get(one.tenant, 0) + 1
        if counts[one.tenant] > rights.inject:
            what += f'tenant "{one.tenant}" may inject {rights.inject}'
            yield Invalid(what, path=path, hint="raise inject under [[tenant]]")
        elif one.way not in rights.ways:
            what += f'tenant "{one.tenant}" may not inject at {one.way}'
            yield Invalid(what, path=path, hint="add it to ways under [[tenant]]")


def _small_logs(mesh: Parts) -> Iterator[Invalid]:
    """Of each command something has to be kept."""
    talking = Counter(function.tenant for function in mesh.functions if function.command)
    for index, rights in enumerate(mesh.rights):
        least = talking[rights.name] * LOG_LEAST
        if rights.log and rights.log < least:
            what = f'tenant "{rights.name}": log is {rights.log} bytes for '
            what += f"{talking[rights.name]} commands"
            yield Invalid(what, path=("rights", index, "log"), hint=f"give it {least} or more")


def _bad_shares(mesh: Parts) -> Iterator[Invalid]:
    """What is guaranteed must be there; it is told of each who has a part of what is too much."""
    parts: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for index, rights in enumerate(mesh.rights):
        for key, guarantee in rights.guarantees():
            parts[key].append((index, guarantee))
    for key, given in parts.items():
        total, size = sum(one for _, one in given), size_of(key, mesh.limits)
        if total <= guaranteed(size):
            continue
        for index, guarantee in given:
            what = f'tenant "{mesh.rights[index].name}": {key} guaranteed to tenants are {total}'
            what += f", {guarantee} of them here, and {guaranteed(size)} of {size} can be"
            path: Location = ("rights", index, key, "guarantee")
            more = "" if key == "events" else f", or raise limits.{key} in [mesh]"
            yield Invalid(what, path=path, hint=f"lower one{more}")


def _bad_prefixes(mesh: Parts) -> Iterator[Invalid]:
    """The outside is what is not the mesh's; prefixes of it are nested a few deep at most."""
    given: dict[Network, Location] = {}
    for index, policy in enumerate(mesh.policies):
        for key, identity in (("source", policy.source), ("destination", policy.destination)):
            if identity.prefix:
                given.setdefault(identity.prefix, ("policies", index, key))
    if not given:
        return
    if len(given) > mesh.limits.prefixes:
        path = list(given.values())[mesh.limits.prefixes]
        yield too_many("prefixes", mesh.limits.prefixes, path)
    owners = {
        (address.version, int(address)): f'{kind} "{item.name}" has {address}'
        for kind, items in (("function", mesh.functions), ("service", mesh.services))
        for item in items
        for address in item.addresses
    }
    taken = sorted(owners)
    for prefix, path in given.items():
        what = f"policy {mesh.policies[int(path[1])]}: {prefix} is not all outside: "
        hint = "the outside is what is not of the mesh; name functions or tenants instead"
        own = mesh.prefix4 if prefix.version == 4 else mesh.prefix6
        if prefix.overlaps(own):
            yield Invalid(f"{what}the mesh has {own}", path=path, hint=hint)
        at = bisect_left(taken, (prefix.version, int(prefix.network_address)))
        if at < len(taken) and taken[at] <= (prefix.version, int(prefix.broadcast_address)):
            yield Invalid(what + owners[taken[at]], path=path, hint=hint)
    yield from _deep_prefixes(given)


def _deep_prefixes(given: dict[Network, Location]) -> Iterator[Invalid]:
    around: list[Network] = []  # those that hold the prefix before, the widest first
    for prefix in sorted(given, key=lambda p: (p.version, p.network_address, p.prefixlen)):
        while around and not _holds(around[-1], prefix):
            around.pop()
        around.append(prefix)
        if len(around) > PREFIXES:
            what = f"{prefix} is in {PREFIXES} other prefixes that policies name"
            hint = f"at most {PREFIXES} may hold one another: {', '.join(map(str, around[:-1]))}"
            yield Invalid(what, path=given[prefix], hint=hint)


def _holds(wider: Network, prefix: Network) -> bool:
    return wider.version == prefix.version and prefix.subnet_of(wider)  # type: ignore[arg-type]
