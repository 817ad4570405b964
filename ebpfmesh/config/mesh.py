# SPDX-License-Identifier: BSD-2-Clause
"""The mesh that the tables of its files mean, and from which table each part of it comes."""

from collections.abc import Sequence
from typing import Any, TypeVar

from ebpfmesh.config.addresses import assign_addresses
from ebpfmesh.config.check import Check
from ebpfmesh.config.documents import Document, read_source
from ebpfmesh.config.explain import make
from ebpfmesh.config.file import FunctionTable, RemoteTable, ServiceTable
from ebpfmesh.config.ports import policy_ports, service_ports
from ebpfmesh.config.tables import Tables, read
from ebpfmesh.model import (
    MEMBERS,
    Address,
    Function,
    Hints,
    Injection,
    Invalid,
    Location,
    Mesh,
    Network,
    Parts,
    Policy,
    Pool,
    Remote,
    Service,
    Uplink,
    groups_of,
    problems,
    ranked,
    too_many,
)
from ebpfmesh.model.injection import INJECTIONS
from ebpfmesh.model.pooled import refusal
from ebpfmesh.model.uplink import UPLINK_IN_PLACE

_Either = TypeVar("_Either", Address, Network)
_Origin = dict[Location, Location]


def build(files: list[dict[str, Any]], documents: Sequence[Document]) -> tuple[Mesh, Check]:
    """The mesh of the values of ``files``, and what is wrong with them."""
    file = read(files)
    origin: _Origin = {}
    parts: dict[str, Any] = {
        **{key: value for key, value in file.mesh if key != "prefix"},
        **_by_family("prefix", file.mesh.prefix),
    }
    try:
        frame = Parts.model_construct(**parts)
        parts["functions"] = _functions(file, frame, documents, origin)
    except Invalid as fault:  # without functions nothing can be said of the others
        file.check.add(fault)
        return Mesh.model_construct(**parts), file.check
    parts["functions"] = _pooled(file, parts["functions"], origin)
    parts["services"] = _services(file, origin)
    parts["uplinks"] = _uplinks(file, origin)
    parts["remotes"] = _remotes(file, origin)
    parts["rights"] = tuple(file.rights.values())
    origin |= {("rights", n): at for n, at in enumerate(file.rights)}
    mesh = Mesh.model_construct(**parts)
    mesh = mesh.model_copy(update={"policies": _policies(file, mesh, origin)})
    mesh = mesh.model_copy(update={"injections": _injections(file, documents, origin)})
    for found in problems(mesh, file.besides):
        if file.check.enough:
            break
        other = _in_file(file, origin, found.other) if found.other else ()
        path = _in_file(file, origin, found.path)
        file.check.add(Invalid(found.message, path=path, hint=found.hint, other=other))
    return mesh, file.check


def _in_file(file: Tables, origin: _Origin, at: Location) -> Location:
    """The place that comes from which is ``at`` in the mesh."""
    renamed = {"source": "from", "destination": "to"}
    for length in range(len(at), 0, -1):
        if found := origin.get(at[:length]):
            return found + tuple(renamed.get(str(part), part) for part in at[length:])
    return (file.home, *at)


def _own_names(file: Tables) -> dict[Location, tuple[str, ...]]:
    """What the functions of each table are called, as far as nothing before has these names."""
    known: dict[str, Location] = {}
    found: dict[Location, tuple[str, ...]] = {}
    total = 0
    for at, table in file.functions.items():
        total += table.replicas or 1
        if total > file.mesh.limits.functions:
            raise too_many("functions", file.mesh.limits.functions, (*at, "replicas"))
        names = {table.name, *table.names}
        if twice := min(names & known.keys(), default=""):
            what, hint = f'there are two functions called "{twice}"', "rename one of them"
            other = (*known[twice], "name")
            file.check.add(Invalid(what, path=(*at, "name"), hint=hint, other=other))
        else:
            known |= dict.fromkeys(names, at)
            found[at] = table.names
    return found


def _functions(
    file: Tables, parts: Parts, documents: Sequence[Document], origin: _Origin
) -> tuple[Function, ...]:
    """Its functions, replicas and assigned addresses included, and texts of programs."""
    tables: tuple[FunctionTable | ServiceTable | RemoteTable, ...]
    tables = (*file.functions.values(), *file.services.values(), *file.remotes.values())
    used = {address for table in tables for address in table.address}
    own = _own_names(file)
    for table in file.functions.values():
        used.update(address for both in table.addresses.values() for address in both)
    owners = {
        name: at
        for at, names in own.items()
        if not file.functions[at].address
        for name in names
        if name not in file.functions[at].addresses
    }
    try:
        assigned4 = assign_addresses(owners, parts.prefix4, used)
        assigned6 = assign_addresses(owners, parts.prefix6, used)
    except Invalid as fault:
        fault.path = owners[str(fault.path[0])]
        raise
    functions: list[Function] = []
    for at, names in own.items():
        table = file.functions[at]
        settings = table.model_dump(exclude={"name", "replicas", "address", "addresses"})
        settings["group"] = table.name if table.replicas else None
        if table.program is not None:
            try:
                settings["source"] = read_source(documents[int(at[0])].beside / table.program)
            except Invalid as fault:
                file.add(fault, (*at, "program"))
        elif table.source is not None:
            settings["program"] = f"{table.name}.c"
        for name in names:
            given = table.addresses.get(name, table.address)
            where = (*at, "addresses", name) if name in table.addresses else (*at, "address")
            addresses = given or (assigned4[name], assigned6[name])
            made = ("functions", len(functions))
            origin[made] = at
            _note(origin, made, where, given)
            try:
                function = make(Function, name=name, **settings, **_by_family("address", addresses))
            except Invalid as fault:
                file.add(fault, at)
                break
            functions.append(function)
    return tuple(functions)


def _pooled(file: Tables, functions: tuple[Function, ...], origin: _Origin) -> tuple[Function, ...]:
    """The functions, each with the pools that it shares."""
    groups = groups_of(functions)
    numbers = {one.name: number for number, one in enumerate(functions)}
    shared: dict[int, dict[str, Pool]] = {}
    hint_for, tables = Hints(numbers.keys() | groups.keys()), dict[str, Location]()
    for at, table in file.pools.items():
        if table.name in tables:
            what, hint = f'there are two pools called "{table.name}"', "rename one of them"
            other = (*tables[table.name], "name")
            file.check.add(Invalid(what, path=(*at, "name"), hint=hint, other=other))
            continue
        tables[table.name] = at
        names: dict[str, int] = {}
        for index, name in enumerate(table.functions):
            if name not in numbers and name not in groups:
                if name not in file.besides:
                    what = f'pool "{table.name}" names an unknown function "{name}"'
                    file.add(Invalid(what, path=("functions", index), hint=hint_for(name)), at)
                continue
            for one in groups.get(name, (name,)):
                fault = refusal(functions[numbers[one]], table.name, table.tenant)
                if fault or one in names:
                    fault = fault or Invalid(f'pool "{table.name}" names "{one}" twice')
                    fault.path = ("functions", index)
                    file.add(fault, at)
                    break
                names[one] = index
        room = table.members or min(len(names), MEMBERS) or 1
        if len(names) > room:
            what = f'pool "{table.name}" has room for {room} members, and there are {len(names)}'
            hint = "raise members" if room < MEMBERS else "make two pools of it"
            file.add(
                Invalid(what, path=("members" if table.members else "functions",), hint=hint), at
            )
            continue
        pool = Pool(name=table.name, slots=table.slots, bytes=table.bytes, members=room)
        for one, index in names.items():
            own = shared.setdefault(numbers[one], {})
            origin["functions", numbers[one], "pools", len(own)] = (*at, "functions", index)
            own[pool.name] = pool
    return tuple(
        one.model_copy(update={"pools": tuple(shared[number].values())})
        if number in shared
        else one
        for number, one in enumerate(functions)
    )


def _services(file: Tables, origin: _Origin) -> tuple[Service, ...]:
    """Its services."""
    services: list[Service] = []
    for at, table in file.services.items():
        values = dict(table) | service_ports(table.port, table.target_port)
        del values["address"]
        made = ("services", len(services))
        origin[made] = at
        _note(origin, made, (*at, "address"), table.address)
        try:
            services.append(make(Service, **values, **_by_family("address", table.address)))
        except Invalid as fault:
            file.add(fault, at)
    return tuple(services)


def _uplinks(file: Tables, origin: _Origin) -> tuple[Uplink, ...]:
    """Its uplinks."""
    found: list[Uplink] = []
    for at, table in file.uplinks.items():
        made = ("uplinks", len(found))
        origin[made] = at
        _note(origin, made, (*at, "address"), table.address)
        addresses = _by_family("address", table.address)
        own = table.model_dump(include={"name", "interface", "xdp", *UPLINK_IN_PLACE})
        found.append(make(Uplink, **own, **addresses))
    return tuple(found)


def _remotes(file: Tables, origin: _Origin) -> tuple[Remote, ...]:
    """Its remotes."""
    found: list[Remote] = []
    for at, table in file.remotes.items():
        made = ("remotes", len(found))
        origin[made] = at
        _note(origin, made, (*at, "address"), table.address)
        own = table.model_dump(include={"name", "uplink", "tenant"})
        found.append(make(Remote, **own, **_by_family("address", table.address)))
    return tuple(found)


def _policies(file: Tables, mesh: Mesh, origin: _Origin) -> tuple[Policy, ...]:
    """Its policies; a function's name that stands for its replicas becomes that of their group."""
    policies: list[Policy] = []
    groups = frozenset(mesh.groups)
    for at in list(file.policies):
        table = file.policies.pop(at)  # two of everything would be much, if there are many
        values = dict(table) | policy_ports(table.port)
        origin["policies", len(policies)] = at
        try:
            policy = make(Policy, **values)
        except Invalid as fault:
            fault.message = f"policy number {int(at[-1]) + 1}: {fault.message}"
            file.add(fault, at)
        else:
            policies.append(policy.named(groups))
    return tuple(policies)


def _injections(
    file: Tables, documents: Sequence[Document], origin: _Origin
) -> tuple[Injection, ...]:
    """What it injects, with the texts of the files."""
    found: list[Injection] = []
    if len(file.injections) > INJECTIONS:  # each would have its text read
        fault = Invalid(f"more than {INJECTIONS} are injected", hint="inject at tenants or groups")
        file.add(fault, list(file.injections)[INJECTIONS])
        return ()
    for at, table in file.injections.items():
        values = dict(table)
        if table.file is None:
            values["file"] = f"{table.name}.c"
        else:
            try:
                values["source"] = read_source(documents[int(at[0])].beside / table.file)
            except Invalid as fault:
                file.add(fault, (*at, "file"))
                continue
        origin["injections", len(found)] = at
        found.append(make(Injection, **values))
    try:
        return ranked(tuple(found))
    except Invalid as fault:
        path = _in_file(file, origin, fault.path)
        file.check.add(Invalid(fault.message, path=path, hint=fault.hint))
        return ()


def _by_family(key: str, items: tuple[_Either, ...]) -> dict[str, _Either]:
    """``items`` as the model has them: ``key`` with 4 or 6 after it."""
    return {f"{key}{item.version}": item for item in items}


def _note(origin: _Origin, made: Location, at: Location, addresses: tuple[Address, ...]) -> None:
    """Note that the ``addresses`` of the object ``made`` are given ``at`` a place."""
    for index, address in enumerate(addresses):
        origin[(*made, f"address{address.version}")] = (*at, index)
