# SPDX-License-Identifier: BSD-2-Clause
"""What a mesh file may hold, and the mesh that it means."""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    ValidationError,
    model_validator,
)

from ebpfmesh.config import toml
from ebpfmesh.config.addresses import assign_addresses, parse_address
from ebpfmesh.config.explain import explain, make
from ebpfmesh.config.ports import policy_ports, service_ports
from ebpfmesh.model import (
    Address,
    Destination,
    FunctionSettings,
    Hook,
    Identity,
    Invalid,
    Limits,
    Location,
    Mesh,
    MeshName,
    Model,
    Name,
    Network,
    Policy,
    PolicySettings,
    Source,
    Timeouts,
    Weight,
    parse_ports,
    parse_prefix,
    show,
    suggest,
    too_many,
)

_Either = TypeVar("_Either", Address, Network)
_Names = Mapping[str, tuple[str, ...]]
_Origin = dict[Location, Location]


def load(path: Path) -> Mesh:
    """The mesh described by the file at ``path``; raises ``ConfigError`` for whatever is wrong."""
    text = toml.read(path)
    made = _build(toml.parse(path, text))
    if isinstance(made, Mesh):
        return made
    raise toml.fault(path, text, made)


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _one_per_family(items: tuple[_Either, ...]) -> tuple[_Either, ...]:
    versions = [item.version for item in items]
    for index, item in enumerate(items):
        if item.version in versions[:index]:
            what = f"{item} is the second of IPv{item.version}"
            raise Invalid(what, path=(index,), hint="give at most one of IPv4 and one of IPv6")
    return items


def _ports(value: object) -> tuple[int, int]:
    if isinstance(value, str) and value.isdecimal():
        what = f"a port must be an integer, not a string: {show(value)}"
        raise Invalid(what, hint="leave out the quotes; a range has them")
    return parse_ports(value)


_Addresses = Annotated[
    tuple[Annotated[Address, PlainValidator(parse_address)], ...],
    Field(
        min_length=1,
        strict=False,
        description="an address, or an array of one IPv4 and one IPv6 address",
    ),
    BeforeValidator(_listed),
    AfterValidator(_one_per_family),
]
_Prefixes = Annotated[
    tuple[Annotated[Network, PlainValidator(parse_prefix)], ...],
    Field(
        min_length=1,
        strict=False,
        description="a prefix, or an array of one IPv4 and one IPv6 prefix",
    ),
    BeforeValidator(_listed),
    AfterValidator(_one_per_family),
]


_Ports = Annotated[
    tuple[int, int],
    PlainValidator(_ports),
    Field(description='a port from 1 to 65535, or a range such as "8000-8099"'),
]


class _MeshTable(Model):
    name: MeshName
    limits: Limits = Field(default=Limits(), description="a table, such as {functions = 2048}")
    timeouts: Timeouts = Field(default=Timeouts(), description="a table, such as {udp = 30}")
    prefix: _Prefixes = ()
    hook: Hook = Field(default="auto", description='"auto", "tcx" or "clsact"')
    expedited: bool = Field(default=False, description="true or false")


class _FunctionTable(FunctionSettings):
    name: Name
    replicas: int | None = Field(
        default=None, ge=1, le=65535, description="an integer from 1 to 65535"
    )
    address: _Addresses = ()

    @property
    def names(self) -> tuple[str, ...]:
        """What its functions are called: NAME, or NAME-0, NAME-1, … if it has ``replicas``."""
        if self.replicas is None:
            return (self.name,)
        return tuple(f"{self.name}-{index}" for index in range(self.replicas))

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        for key in ("address", "netns"):
            if (self.replicas or 1) > 1 and getattr(self, key):
                what = f'"{key}" is for one function, not for {self.replicas} replicas'
                raise Invalid(what, path=(key,), hint=f"leave out {key}, or replicas")
        return self


class _ServiceTable(Model):
    name: Name
    address: _Addresses
    port: _Ports
    target_port: _Ports | None = None
    protocol: Literal["tcp", "udp"] = Field(default="tcp", description='"tcp" or "udp"')
    functions: tuple[Name, ...] = Field(
        min_length=1, strict=False, description="an array of the names of functions"
    )
    affinity: Literal["none", "source"] = Field(default="none", description='"none" or "source"')
    weights: dict[Name, Weight] = Field(
        default={}, description="a table of integers from 0 to 100, such as {web-1 = 0}"
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        service_ports(self.port, self.target_port)
        return self


class _PolicyTable(PolicySettings):
    source: Source = Field(alias="from", description='such as "tenant:op-a" or "any"')
    destination: Destination = Field(alias="to", description='such as "service:decoder"')
    port: _Ports | None = None


class _MeshFile(Model):
    mesh: _MeshTable = Field(description="a table [mesh] with a name")
    function: tuple[_FunctionTable, ...] = Field(
        default=(), strict=False, description="tables, each under [[function]]"
    )
    service: tuple[_ServiceTable, ...] = Field(
        default=(), strict=False, description="tables, each under [[service]]"
    )
    policy: tuple[_PolicyTable, ...] = Field(
        default=(), strict=False, description="tables, each under [[policy]]"
    )


def _build(values: dict[str, Any]) -> Mesh | list[Invalid]:
    """The mesh of the ``values`` of a file, or what is wrong with them, ``path`` by the file."""
    try:
        file = _MeshFile.model_validate(values)
    except ValidationError as error:
        return explain(error, _MeshFile, values)
    origin: _Origin = {}
    try:
        names = _function_names(file)
        parts = {
            "name": file.mesh.name,
            "limits": file.mesh.limits,
            "timeouts": file.mesh.timeouts,
            "hook": file.mesh.hook,
            "expedited": file.mesh.expedited,
            **_by_family("prefix", file.mesh.prefix),
            "functions": _functions(file, origin),
            "services": _services(file, names, origin),
            "policies": _policies(file, names, origin),
        }
    except Invalid as fault:
        return [fault]
    try:
        return Mesh.model_validate(parts)
    except ValidationError as error:
        faults = explain(error, Mesh, parts)
    return [
        Invalid(fault.message, path=_in_file(origin, fault.path), hint=fault.hint)
        for fault in faults
    ]


def _in_file(origin: _Origin, at: Location) -> Location:
    """Where in the file that comes from which is ``at`` in the mesh."""
    renamed = {"source": "from", "destination": "to"}
    for length in range(len(at), 0, -1):
        if found := origin.get(at[:length]):
            return found + tuple(renamed.get(str(part), part) for part in at[length:])
    return at


def _function_names(file: _MeshFile) -> dict[str, tuple[str, ...]]:
    """What each name stands for: a function for itself, and with replicas for all of them."""
    known: dict[str, tuple[str, ...]] = {}
    total = 0
    for index, table in enumerate(file.function):
        total += table.replicas or 1
        if total > file.mesh.limits.functions:
            path = ("function", index, "replicas")
            raise too_many("functions", file.mesh.limits.functions, path)
        for name in (table.name, *table.names):
            if name in known:
                what = f'there are two functions called "{name}"'
                raise Invalid(what, path=("function", index, "name"), hint="rename one of them")
        known[table.name] = table.names
        known.update((name, (name,)) for name in table.names)
    return known


def _functions(file: _MeshFile, origin: _Origin) -> tuple[dict[str, Any], ...]:
    """Its functions, replicas and assigned addresses included."""
    tables: tuple[_FunctionTable | _ServiceTable, ...] = (*file.function, *file.service)
    used = {address for table in tables for address in table.address}
    owners = {
        name: index
        for index, table in enumerate(file.function)
        if not table.address
        for name in table.names
    }
    pools = Mesh(name=file.mesh.name).model_copy(update=_by_family("prefix", file.mesh.prefix))
    try:
        assigned4 = assign_addresses(owners, pools.prefix4, used)
        assigned6 = assign_addresses(owners, pools.prefix6, used)
    except Invalid as fault:
        fault.path = ("function", owners[str(fault.path[0])])
        raise
    functions: list[dict[str, Any]] = []
    for index, table in enumerate(file.function):
        settings = table.model_dump(exclude={"name", "replicas", "address"})
        for name in table.names:
            addresses = table.address or (assigned4[name], assigned6[name])
            _note(origin, ("functions", len(functions)), ("function", index), table.address)
            functions.append({**settings, "name": name, **_by_family("address", addresses)})
    return tuple(functions)


def _services(file: _MeshFile, names: _Names, origin: _Origin) -> tuple[dict[str, Any], ...]:
    """Its services, with the replicas in place of the names that stand for them."""
    services = []
    for number, table in enumerate(file.service):
        functions: list[str] = []
        _note(origin, ("services", number), ("service", number), table.address)
        for index, name in enumerate(table.functions):
            path: Location = ("service", number, "functions", index)
            if name not in names:
                what = f'service "{table.name}" names an unknown function "{name}"'
                raise Invalid(what, path=path, hint=suggest(name, names))
            for replica in names[name]:
                origin["services", number, "functions", len(functions)] = path
                functions.append(replica)
        weights = _weights(table, number, names, functions)
        values = table.model_dump(exclude={"address", "functions", "port", "target_port"})
        values |= {"functions": tuple(functions), "weights": weights}
        values |= service_ports(table.port, table.target_port)
        services.append(values | _by_family("address", table.address))
    return tuple(services)


def _weights(
    table: _ServiceTable, number: int, names: _Names, functions: list[str]
) -> dict[str, int]:
    """The weight of each function that ``weights`` speaks of; its own name says more."""
    weights: dict[str, int] = {}
    for name in sorted(table.weights, key=lambda name: names.get(name) == (name,)):
        replicas = set(names.get(name, ())) & set(functions)
        if not replicas:
            what = (
                f'service "{table.name}": "weights" names "{name}", which is not of its functions'
            )
            path = ("service", number, "weights", name)
            raise Invalid(what, path=path, hint=suggest(name, [*table.functions, *functions]))
        weights |= dict.fromkeys(sorted(replicas), table.weights[name])
    return weights


def _policies(file: _MeshFile, names: _Names, origin: _Origin) -> tuple[Policy, ...]:
    """Its policies, one for each pair of replicas.

    Where two are about the same flows, because one names replicas by their common name and the
    other by their own, the one that decides is kept.
    """
    given: dict[object, int] = {}
    kept: dict[object, tuple[Policy, int]] = {}
    for index, table in enumerate(file.policy):
        common = _common(table, index)
        if (other := given.setdefault(common.match, index)) != index:
            what = f"policy {common}: policy number {other + 1} is about the same flows"
            hint = "keep one, or make them differ in from, to, protocol or port"
            raise Invalid(what, path=("policy", index), hint=hint)
        sources = _replicas(common, "from", names, index)
        destinations = _replicas(common, "to", names, index)
        for source, destination in product(sources, destinations):
            policy = common.model_copy(update={"source": source, "destination": destination})
            rival, _ = kept.get(policy.match, (policy, index))
            if policy.precedence <= rival.precedence:
                kept[policy.match] = policy, index
            if len(kept) > file.mesh.limits.rules:
                raise too_many("rules", file.mesh.limits.rules, ("policy", index))
    for number, (_, index) in enumerate(kept.values()):
        origin["policies", number] = ("policy", index)
    return tuple(policy for policy, _ in kept.values())


def _common(table: _PolicyTable, index: int) -> Policy:
    """The rule of a table, its replicas still by their common name."""
    values = table.model_dump(exclude={"source", "destination", "port"})
    values |= policy_ports(table.port)
    try:
        return make(Policy, source=table.source, destination=table.destination, **values)
    except Invalid as fault:
        what = f"policy number {index + 1}: {fault.message}"
        raise Invalid(what, path=("policy", index, *fault.path), hint=fault.hint) from None


def _replicas(
    policy: Policy, key: Literal["from", "to"], names: _Names, index: int
) -> tuple[Identity, ...]:
    """Whom ``from`` or ``to`` of ``policy`` stands for: itself, or the replicas of that name."""
    identity = policy.source if key == "from" else policy.destination
    if identity.kind != "function":
        return (identity,)
    if identity.name not in names:
        what = f'policy {policy}: there is no function "{identity.name}"'
        raise Invalid(what, path=("policy", index, key), hint=suggest(identity.name, names))
    return tuple(Identity("function", name) for name in names[identity.name])


def _by_family(key: str, items: tuple[_Either, ...]) -> dict[str, _Either]:
    """``items`` as the model has them: ``key`` with 4 or 6 after it."""
    return {f"{key}{item.version}": item for item in items}


def _note(origin: _Origin, made: Location, at: Location, addresses: tuple[Address, ...]) -> None:
    """Note that the object ``made``, and its ``addresses``, are given ``at`` in the file."""
    origin[made] = at
    for index, address in enumerate(addresses):
        origin[(*made, f"address{address.version}")] = (*at, "address", index)
