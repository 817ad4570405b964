# SPDX-License-Identifier: BSD-2-Clause
"""What a mesh file may hold, and the mesh that it means."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

from ebpfmesh.config import toml
from ebpfmesh.config.addresses import assign_addresses, parse_address
from ebpfmesh.config.check import Check
from ebpfmesh.config.explain import make
from ebpfmesh.config.ports import policy_ports, service_ports
from ebpfmesh.errors import MeshError
from ebpfmesh.model import (
    Address,
    Destination,
    Function,
    FunctionSettings,
    Hook,
    Injection,
    InjectionSettings,
    Invalid,
    Limits,
    Location,
    Mesh,
    MeshName,
    Model,
    Name,
    Network,
    Parts,
    Policy,
    PolicySettings,
    Rights,
    Service,
    Source,
    Timeouts,
    Weight,
    few,
    parse_ports,
    parse_prefix,
    problems,
    ranked,
    show,
    too_many,
)
from ebpfmesh.model.injection import INJECTIONS, SOURCE_CHARACTERS

_Either = TypeVar("_Either", Address, Network)
_Table = TypeVar("_Table", bound=Model)
_Origin = dict[Location, Location]


def load(path: Path) -> Mesh:
    """The mesh described by the file at ``path``; raises ``ConfigError`` for whatever is wrong."""
    text = toml.read(path)
    mesh, check = _build(toml.parse(path, text), path.parent)
    if check.told:
        raise toml.fault(path, text, check.told, check.more)
    return mesh


def locate(error: MeshError, path: Path) -> None:
    """Say where in a mesh file it stands, if an error is about a key of one of its functions."""
    if error.about is None:
        return
    name, key = error.about
    text = toml.read(path)
    for number, table in enumerate(toml.parse(path, text).get("function", ())):
        if table["name"] == (name.rpartition("-")[0] if "replicas" in table else name):
            at = "function", number, key
            line = toml.line_of(toml.lines(text, [at]), at)
            error.message = f"{path}:{line}: {error.message}"


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else few(value)


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


_ADDRESS = {"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}
_PREFIX = {"type": "string", "pattern": r"^[0-9a-fA-F.:]+(/[0-9]+)?$"}
_PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
_RANGE = {"type": "string", "pattern": "^[0-9]{1,5}-[0-9]{1,5}$"}


def _one_or_two(item: dict[str, Any]) -> WithJsonSchema:
    both = {"type": "array", "items": item, "minItems": 1, "maxItems": 2}
    return WithJsonSchema({"anyOf": [item, both]})


_Addresses = Annotated[
    tuple[Annotated[Address, PlainValidator(parse_address)], ...],
    Field(
        min_length=1,
        strict=False,
        description="an address, or an array of one IPv4 and one IPv6 address",
    ),
    BeforeValidator(_listed),
    AfterValidator(_one_per_family),
    _one_or_two(_ADDRESS),
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
    _one_or_two(_PREFIX),
]
_PORTS = 'a port from 1 to 65535, or a range such as "8000-8099"'
_Ports = Annotated[
    tuple[int, int],
    PlainValidator(_ports),
    Field(description=_PORTS),
    WithJsonSchema({"anyOf": [_PORT, _RANGE]}),
]


class MeshTable(Model):
    """The table [mesh]."""

    name: MeshName
    limits: Limits = Field(default=Limits(), description="a table, such as {functions = 2048}")
    timeouts: Timeouts = Field(default=Timeouts(), description="a table, such as {udp = 30}")
    prefix: _Prefixes = ()
    hook: Hook = Field(default="auto", description='"auto", "tcx" or "clsact"')
    expedited: bool = Field(default=False, description="true or false")
    reject: bool = Field(default=False, description="true or false")
    count_flows: bool = Field(default=False, description="true or false")


class FunctionTable(FunctionSettings):
    """A table [[function]]."""

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


class ServiceTable(Model):
    """A table [[service]]."""

    name: Name
    address: _Addresses
    port: _Ports
    target_port: _Ports | None = Field(default=None, description=_PORTS)
    protocol: Literal["tcp", "udp"] = Field(default="tcp", description='"tcp" or "udp"')
    functions: Annotated[tuple[Name, ...], BeforeValidator(few)] = Field(
        min_length=1, strict=False, description="an array of the names of functions"
    )
    affinity: Literal["none", "source"] = Field(default="none", description='"none" or "source"')
    weights: Annotated[dict[Name, Weight], BeforeValidator(few)] = Field(
        default={}, description="a table of integers from 0 to 100, such as {web-1 = 0}"
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        service_ports(self.port, self.target_port)
        return self


class PolicyTable(PolicySettings):
    """A table [[policy]]."""

    source: Source = Field(alias="from", description='such as "tenant:op-a" or "any"')
    destination: Destination = Field(alias="to", description='such as "service:decoder"')
    port: _Ports | None = Field(default=None, description=_PORTS)


class InjectTable(InjectionSettings):
    """A table [[inject]]."""

    name: Name
    file: str = Field(
        min_length=1, max_length=4095, description="a C file, by its path from the mesh file"
    )


class MeshFile(Model):
    """A mesh file."""

    mesh: MeshTable = Field(description="a table [mesh] with a name")
    function: tuple[FunctionTable, ...] = Field(
        default=(), strict=False, description="tables, each under [[function]]"
    )
    service: tuple[ServiceTable, ...] = Field(
        default=(), strict=False, description="tables, each under [[service]]"
    )
    policy: tuple[PolicyTable, ...] = Field(
        default=(), strict=False, description="tables, each under [[policy]]"
    )
    tenant: tuple[Rights, ...] = Field(
        default=(), strict=False, description="tables, each under [[tenant]]"
    )
    inject: tuple[InjectTable, ...] = Field(
        default=(), strict=False, description="tables, each under [[inject]]"
    )


@dataclass(frozen=True)
class _File:
    """The tables of a file that can be understood, by their indices, and what is wrong with it."""

    check: Check
    mesh: MeshTable
    functions: dict[int, FunctionTable]
    services: dict[int, ServiceTable]
    policies: dict[int, PolicyTable]
    injections: dict[int, InjectTable]
    rights: dict[int, Rights]
    besides: frozenset[str]
    """Names that stand in the other tables."""


def _build(values: dict[str, Any], beside: Path) -> tuple[Mesh, Check]:
    """The mesh of the ``values`` of a file, and what is wrong with them, ``path`` by the file.

    Files that it names are read from where it is, ``beside``.
    """
    file = _read(values)
    origin: _Origin = {}
    parts: dict[str, Any] = {
        **{key: value for key, value in file.mesh if key != "prefix"},
        **_by_family("prefix", file.mesh.prefix),
    }
    try:
        parts["functions"] = _functions(file, Parts.model_construct(**parts), origin)
    except Invalid as fault:  # without functions nothing can be said of the others
        file.check.add(fault)
        return Mesh.model_construct(**parts), file.check
    parts["services"] = _services(file, origin)
    parts["rights"] = tuple(file.rights.values())
    origin |= {("rights", n): ("tenant", index) for n, index in enumerate(file.rights)}
    mesh = Mesh.model_construct(**parts)
    mesh = mesh.model_copy(update={"policies": _policies(file, mesh, origin)})
    mesh = mesh.model_copy(update={"injections": _injections(file, beside, origin)})
    for found in problems(mesh, file.besides):
        if file.check.enough:
            break
        path = _in_file(origin, found.path)
        file.check.add(Invalid(found.message, path=path, hint=found.hint))
    return mesh, file.check


def _read(values: dict[str, Any]) -> _File:
    """The tables of a file, each looked at by itself."""
    check = Check(MeshFile, values)
    frame = dict(values)
    mesh = MeshTable(name="mesh")
    if isinstance(values.get("mesh"), dict):
        frame["mesh"] = mesh
        mesh = check.table(MeshTable, values["mesh"], ("mesh",), name=mesh.name) or mesh
    functions = _tables(check, "function", FunctionTable, frame)
    services = _tables(check, "service", ServiceTable, frame)
    policies = _tables(check, "policy", PolicyTable, frame)
    injections = _tables(check, "inject", InjectTable, frame)
    rights = _tables(check, "tenant", Rights, frame)
    check.table(MeshFile, frame, ())  # what is left there is the shape of the file
    besides = frozenset(
        table[name]
        for key, made in (("function", functions), ("service", services))
        for index, table in enumerate(values[key] if isinstance(values.get(key), list) else ())
        for name in ("name", "tenant")
        if index not in made and isinstance(table, dict) and isinstance(table.get(name), str)
    )
    return _File(check, mesh, functions, services, policies, injections, rights, besides)


def _tables(
    check: Check, key: str, model: type[_Table], frame: dict[str, Any]
) -> dict[int, _Table]:
    """The tables of an array of a file, by their indices; they are taken out of its ``frame``."""
    found = {}
    if isinstance(frame.get(key), list):
        for index, table in enumerate(frame[key]):
            if check.enough:
                break
            if (made := check.table(model, table, (key, index))) is not None:
                found[index] = made
        frame[key] = ()
    return found


def _in_file(origin: _Origin, at: Location) -> Location:
    """Where in the file that comes from which is ``at`` in the mesh."""
    renamed = {"source": "from", "destination": "to"}
    for length in range(len(at), 0, -1):
        if found := origin.get(at[:length]):
            return found + tuple(renamed.get(str(part), part) for part in at[length:])
    return at


def _own_names(file: _File) -> dict[int, tuple[str, ...]]:
    """What the functions of each table are called, as far as nothing before has these names."""
    known, found = set[str](), {}
    total = 0
    for index, table in file.functions.items():
        total += table.replicas or 1
        if total > file.mesh.limits.functions:
            path = ("function", index, "replicas")
            raise too_many("functions", file.mesh.limits.functions, path)
        names = {table.name, *table.names}
        if twice := min(names & known, default=""):
            what = f'there are two functions called "{twice}"'
            path = ("function", index, "name")
            file.check.add(Invalid(what, path=path, hint="rename one of them"))
        else:
            known |= names
            found[index] = table.names
    return found


def _functions(file: _File, parts: Parts, origin: _Origin) -> tuple[Function, ...]:
    """Its functions, replicas and assigned addresses included."""
    tables: tuple[FunctionTable | ServiceTable, ...]
    tables = (*file.functions.values(), *file.services.values())
    used = {address for table in tables for address in table.address}
    own = _own_names(file)
    owners = {
        name: index
        for index, names in own.items()
        if not file.functions[index].address
        for name in names
    }
    try:
        assigned4 = assign_addresses(owners, parts.prefix4, used)
        assigned6 = assign_addresses(owners, parts.prefix6, used)
    except Invalid as fault:
        fault.path = ("function", owners[str(fault.path[0])])
        raise
    functions: list[Function] = []
    for index, names in own.items():
        table = file.functions[index]
        settings = table.model_dump(exclude={"name", "replicas", "address"})
        settings["group"] = table.name if table.replicas else None
        for name in names:
            addresses = table.address or (assigned4[name], assigned6[name])
            _note(origin, ("functions", len(functions)), ("function", index), table.address)
            try:
                function = make(Function, name=name, **settings, **_by_family("address", addresses))
            except Invalid as fault:
                path = ("function", index, *fault.path)
                file.check.add(Invalid(fault.message, path=path, hint=fault.hint))
                break
            functions.append(function)
    return tuple(functions)


def _services(file: _File, origin: _Origin) -> tuple[Service, ...]:
    """Its services."""
    services: list[Service] = []
    for index, table in file.services.items():
        values = dict(table) | service_ports(table.port, table.target_port)
        del values["address"]
        _note(origin, ("services", len(services)), ("service", index), table.address)
        try:
            services.append(make(Service, **values, **_by_family("address", table.address)))
        except Invalid as fault:
            path = ("service", index, *fault.path)
            file.check.add(Invalid(fault.message, path=path, hint=fault.hint))
    return tuple(services)


def _policies(file: _File, mesh: Mesh, origin: _Origin) -> tuple[Policy, ...]:
    """Its policies; a function's name that stands for its replicas becomes that of their group."""
    policies: list[Policy] = []
    groups = frozenset(mesh.groups)
    for index in list(file.policies):
        table = file.policies.pop(index)  # two of everything would be much, if there are many
        values = dict(table) | policy_ports(table.port)
        origin["policies", len(policies)] = ("policy", index)
        try:
            policy = make(Policy, **values)
        except Invalid as fault:
            what = f"policy number {index + 1}: {fault.message}"
            path = ("policy", index, *fault.path)
            file.check.add(Invalid(what, path=path, hint=fault.hint))
        else:
            policies.append(policy.named(groups))
    return tuple(policies)


def _injections(file: _File, beside: Path, origin: _Origin) -> tuple[Injection, ...]:
    """What it injects, with the texts of the files."""
    found: list[Injection] = []
    if len(file.injections) > INJECTIONS:  # each would have its text read
        what, where = f"more than {INJECTIONS} are injected", ("inject", INJECTIONS)
        file.check.add(Invalid(what, path=where, hint="inject at tenants or groups"))
        return ()
    for index, table in file.injections.items():
        try:
            source = read_source(beside / table.file)
        except Invalid as fault:
            path = ("inject", index, "file")
            file.check.add(Invalid(fault.message, path=path, hint=fault.hint))
            continue
        origin["injections", len(found)] = ("inject", index)
        found.append(make(Injection, **dict(table), source=source))
    try:
        return ranked(tuple(found))
    except Invalid as fault:
        file.check.add(Invalid(fault.message, path=_in_file(origin, fault.path), hint=fault.hint))
        return ()


def read_source(path: Path) -> str:
    """The text of a program that is to be injected; raises ``Invalid``."""
    try:
        if path.exists() and not path.is_file():  # a FIFO would keep us waiting
            raise Invalid(f"{path}: not a regular file", hint="name a C file")
        with path.open("rb") as file:
            content = file.read(SOURCE_CHARACTERS + 1)
    except OSError as error:
        raise Invalid(f"{path}: {error.strerror}", hint="name a C file") from error
    if len(content) > SOURCE_CHARACTERS:
        raise Invalid(f"{path}: larger than {SOURCE_CHARACTERS >> 10} KiB", hint="split it")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise Invalid(f"{path}: no text", hint="it must be UTF-8") from None


def _by_family(key: str, items: tuple[_Either, ...]) -> dict[str, _Either]:
    """``items`` as the model has them: ``key`` with 4 or 6 after it."""
    return {f"{key}{item.version}": item for item in items}


def _note(origin: _Origin, made: Location, at: Location, addresses: tuple[Address, ...]) -> None:
    """Note that the object ``made``, and its ``addresses``, are given ``at`` in the file."""
    origin[made] = at
    for index, address in enumerate(addresses):
        origin[(*made, f"address{address.version}")] = (*at, "address", index)
