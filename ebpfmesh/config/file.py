# SPDX-License-Identifier: BSD-2-Clause
"""What a mesh file may hold, and the mesh that it means, or several files together.

While they are read, the place of something is the number of its file and what leads to it there.
"""

from collections.abc import Sequence
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
from ebpfmesh.errors import ConfigError, MeshError
from ebpfmesh.model import (
    MEMBERS,
    Address,
    Destination,
    Function,
    FunctionSettings,
    Hints,
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
    OnFailure,
    Parts,
    Policy,
    PolicySettings,
    Pool,
    Remote,
    Rights,
    Service,
    Source,
    Timeouts,
    Uplink,
    Weight,
    few,
    groups_of,
    parse_ports,
    parse_prefix,
    problems,
    ranked,
    show,
    suggest,
    too_many,
)
from ebpfmesh.model.base import MANY, integer
from ebpfmesh.model.injection import INJECTIONS
from ebpfmesh.model.objects import (
    BYTES,
    SOURCE_CHARACTERS,
    Publish,
    parse_bytes,
    power_of_two,
)
from ebpfmesh.model.pooled import refusal
from ebpfmesh.model.uplink import MASQUERADE_PORTS, UPLINK_IN_PLACE, Interface, PortRange

_Either = TypeVar("_Either", Address, Network)
_Table = TypeVar("_Table", bound=Model)
_Origin = dict[Location, Location]


STDIN = Path("-")
"""The path that stands for what is read from standard input."""
FILES = 256
"""The most files of a directory that are one mesh."""


@dataclass(frozen=True)
class Document:
    """A text that is a mesh file, or one of several that are a mesh together.

    ``path`` is what it is called in errors; what it names is searched from ``beside`` on.
    """

    path: Path
    text: str
    beside: Path


def read(path: Path) -> tuple[Document, ...]:
    """The file at ``path``, ``-`` for standard input, or all ``*.toml`` of a directory.

    Raises ``ConfigError``; together they are no larger than one may be.
    """
    if path == STDIN:
        return (Document(Path("<stdin>"), toml.read(path), Path()),)
    if not path.is_dir():
        return (Document(path, toml.read(path), path.parent),)
    found = [one for one in path.glob("*.toml") if one.is_file() and one.name[0] != "."]
    if not 0 < len(found) <= FILES:
        what = f"it has more than {FILES} files" if found else "no *.toml is in it"
        hint = "give a mesh file, or a directory of files that are one mesh"
        raise ConfigError(what, file=path, line=None, hint=hint)
    documents: list[Document] = []
    room = toml.MAX_BYTES
    for one in sorted(found):
        documents.append(Document(one, toml.read(one, room), path))
        room -= len(documents[-1].text.encode())
    toml.check_nested([(one.path, one.text) for one in documents])
    return tuple(documents)


def load(path: Path) -> Mesh:
    """The mesh of what is at ``path``; raises ``ConfigError`` for whatever is wrong with it."""
    return mesh_of(read(path))


def mesh_of(documents: Sequence[Document]) -> Mesh:
    """The mesh that they describe; raises ``ConfigError`` for whatever is wrong with them."""
    mesh, check = _build([toml.parse(one.path, one.text) for one in documents], documents)
    if check.told:
        raise _fault(documents, check)
    return mesh


def _fault(documents: Sequence[Document], check: Check) -> ConfigError:
    """All that is wrong, file by file, to be raised."""
    errors: list[ConfigError] = []
    for number, document in enumerate(documents):
        own = [
            Invalid(found.message + _other(documents, found), path=found.path[1:], hint=found.hint)
            for found in check.told
            if found.path[0] == number
        ]
        errors += toml.errors(document.path, document.text, own)
    return toml.fault(errors, check.more)


def _other(documents: Sequence[Document], found: Invalid) -> str:
    """Where the other one is that something cannot be beside."""
    if not found.other:
        return ""
    number, *rest = found.other
    document, at = documents[int(number)], tuple(rest)
    line = toml.line_of(toml.lines(document.text, [at]), at)
    return f", the other at {document.path}:{line}"


def locate(error: MeshError, documents: Sequence[Document]) -> None:
    """Say where in a mesh file it stands, if an error is about a key of a function or uplink."""
    if error.about is None:
        return
    name, key = error.about
    kind = "uplink" if key in UplinkTable.model_fields.keys() - {"name"} else "function"
    for path, text in ((one.path, one.text) for one in documents):
        for number, table in enumerate(toml.parse(path, text).get(kind, ())):
            if table["name"] == (name.rpartition("-")[0] if "replicas" in table else name):
                at = kind, number, key
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
    host: bool = Field(default=False, description="true or false")
    on_failure: OnFailure = Field(default="undo", description='"undo" or "keep"')


class FunctionTable(FunctionSettings):
    """A table [[function]]."""

    name: Name
    replicas: int | None = Field(
        default=None, ge=1, le=65535, description="an integer from 1 to 65535"
    )
    address: _Addresses = ()
    addresses: Annotated[dict[Name, _Addresses], BeforeValidator(few)] = Field(
        default={}, description='a table of addresses, such as {web-1 = "198.18.0.11"}'
    )

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
        names = set(self.names) if self.addresses and self.replicas else set()
        for name in self.addresses:
            if name not in names:
                hint = suggest(name, names) if names else "address is for a function without any"
                what = f'"addresses" names "{name}", which is not one of its replicas'
                raise Invalid(what, path=("addresses", name), hint=hint)
        if self.program is not None and self.source is not None:
            hint = "name a C file, or write its text under source"
            raise Invalid('it has both "program" and "source"', path=("program",), hint=hint)
        if self.address and self.addresses:
            hint = "leave one of them out"
            raise Invalid('it has both "address" and "addresses"', path=("addresses",), hint=hint)
        return self


class ServiceTable(Model):
    """A table [[service]]."""

    name: Name
    address: _Addresses
    port: _Ports
    target_port: _Ports | None = Field(default=None, description=_PORTS)
    protocol: Literal["tcp", "udp"] = Field(default="tcp", description='"tcp" or "udp"')
    functions: Annotated[tuple[Name, ...], BeforeValidator(few)] = Field(
        strict=False, description="an array of the names of functions"
    )
    affinity: Literal["none", "source"] = Field(default="none", description='"none" or "source"')
    weights: Annotated[dict[Name, Weight], BeforeValidator(few)] = Field(
        default={}, description="a table of integers from 0 to 100, such as {web-1 = 0}"
    )
    publish: Publish = Field(
        default=(), description='an array of "UPLINK:PORT" or "UPLINK:FIRST-LAST"'
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        service_ports(self.port, self.target_port)
        return self


class UplinkTable(Model):
    """A table [[uplink]]."""

    name: Name
    interface: Interface
    address: _Addresses = ()
    xdp: Literal["auto", "native", "generic", "off"] = Field(
        default="auto", description='"auto", "native", "generic" or "off"'
    )
    masquerade: bool = Field(default=False, description="true or false")
    masquerade_ports: PortRange = Field(
        default=MASQUERADE_PORTS, description='a port or a range, such as "61000-65535"'
    )


class PoolTable(Model):
    """A table [[pool]]."""

    name: Name
    tenant: Name = "default"
    functions: Annotated[tuple[Name, ...], BeforeValidator(few)] = Field(
        strict=False, min_length=1, description="an array of the names of functions"
    )
    slots: Annotated[int, AfterValidator(power_of_two)] = integer(1024, 2, 1 << 16)
    bytes: Annotated[int, BeforeValidator(parse_bytes), BYTES] = Field(
        default=2048,
        ge=64,
        le=1 << 20,
        multiple_of=64,
        description='a multiple of 64 up to 1M, such as 2048 or "64K"',
    )
    members: int | None = Field(
        default=None, ge=1, le=MEMBERS, description=f"an integer from 1 to {MEMBERS}"
    )


class RemoteTable(Model):
    """A table [[remote]]."""

    name: Name
    address: _Addresses
    uplink: Name
    tenant: Name = "default"


class PolicyTable(PolicySettings):
    """A table [[policy]]."""

    source: Source = Field(alias="from", description='such as "tenant:op-a" or "any"')
    destination: Destination = Field(alias="to", description='such as "service:decoder"')
    port: _Ports | None = Field(default=None, description=_PORTS)


class InjectTable(InjectionSettings):
    """A table [[inject]]."""

    name: Name
    file: str | None = Field(
        default=None,
        min_length=1,
        max_length=4095,
        description="a C file, by its path from the mesh file",
    )
    source: str | None = Field(
        default=None, max_length=SOURCE_CHARACTERS, description="C, as a file would hold it"
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.file is None) == (self.source is None):
            what = '"file" is missing' if self.file is None else 'it has both "file" and "source"'
            hint = "name a C file, or write its text under source"
            raise Invalid(what, path=("file",), hint=hint)
        return self


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
    uplink: tuple[UplinkTable, ...] = Field(
        default=(), strict=False, description="tables, each under [[uplink]]"
    )
    remote: tuple[RemoteTable, ...] = Field(
        default=(), strict=False, description="tables, each under [[remote]]"
    )
    tenant: tuple[Rights, ...] = Field(
        default=(), strict=False, description="tables, each under [[tenant]]"
    )
    inject: tuple[InjectTable, ...] = Field(
        default=(), strict=False, description="tables, each under [[inject]]"
    )
    pool: tuple[PoolTable, ...] = Field(
        default=(), strict=False, description="tables, each under [[pool]]"
    )


@dataclass(frozen=True)
class _File:
    """The tables that can be understood, by their places, and what is wrong with the others."""

    check: Check
    mesh: MeshTable
    home: int
    """The number of the file that has [mesh]."""
    functions: dict[Location, FunctionTable]
    services: dict[Location, ServiceTable]
    uplinks: dict[Location, UplinkTable]
    remotes: dict[Location, RemoteTable]
    policies: dict[Location, PolicyTable]
    injections: dict[Location, InjectTable]
    rights: dict[Location, Rights]
    pools: dict[Location, PoolTable]
    besides: frozenset[str]
    """Names that stand in the other tables."""

    def add(self, fault: Invalid, at: Location) -> None:
        """Something is wrong ``at`` a place, or inside of it."""
        path = (*at, *fault.path)
        self.check.add(Invalid(fault.message, path=path, hint=fault.hint, other=fault.other))


def _build(files: list[dict[str, Any]], documents: Sequence[Document]) -> tuple[Mesh, Check]:
    """The mesh of the values of ``files``, and what is wrong with them."""
    file = _read(files)
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


def _read(files: list[dict[str, Any]]) -> _File:
    """The tables of all files, each looked at by itself."""
    check = Check(MeshFile, files)
    frames = [dict(values) for values in files]
    mesh, home = _mesh_table(check, files, frames)
    functions = _tables(check, "function", FunctionTable, frames)
    services = _tables(check, "service", ServiceTable, frames)
    uplinks = _tables(check, "uplink", UplinkTable, frames)
    remotes = _tables(check, "remote", RemoteTable, frames)
    policies = _tables(check, "policy", PolicyTable, frames)
    injections = _tables(check, "inject", InjectTable, frames)
    rights = _tables(check, "tenant", Rights, frames)
    pools = _tables(check, "pool", PoolTable, frames)
    for number, frame in enumerate(frames):
        check.table(MeshFile, frame, (number,))  # what is left there is the shape of the file
    besides = frozenset(
        table[name]
        for key, made in (
            ("function", functions),
            ("service", services),
            ("uplink", uplinks),
            ("remote", remotes),
        )
        for number, values in enumerate(files)
        for index, table in enumerate(values[key] if isinstance(values.get(key), list) else ())
        for name in ("name", "tenant")
        if (number, key, index) not in made
        and isinstance(table, dict)
        and isinstance(table.get(name), str)
    )
    tables = functions, services, uplinks, remotes, policies, injections, rights, pools
    return _File(check, mesh, home, *tables, besides)


def _mesh_table(
    check: Check, files: list[dict[str, Any]], frames: list[dict[str, Any]]
) -> tuple[MeshTable, int]:
    """The table [mesh], and in which of the files it is; none other may have one."""
    mesh = MeshTable(name="mesh")
    homes = [number for number, values in enumerate(files) if "mesh" in values] or [0]
    home = homes[0]
    for number in homes[1:]:
        hint = "one file says what holds for the whole mesh"
        at, other = (number, "mesh"), (home, "mesh")
        check.add(Invalid("there are two tables [mesh]", path=at, hint=hint, other=other))
    table = files[home].get("mesh")
    if isinstance(table, dict):
        mesh = check.table(MeshTable, table, (home, "mesh"), name=mesh.name) or mesh
    for number, frame in enumerate(frames):
        if number != home or isinstance(table, dict):
            frame["mesh"] = mesh
    return mesh, home


def _tables(
    check: Check, key: str, model: type[_Table], frames: list[dict[str, Any]]
) -> dict[Location, _Table]:
    """The tables of an array, by their places; they are taken out of the ``frames`` of files.

    Of functions and services no more than one too many: that is told of them anyway.
    """
    found: dict[Location, _Table] = {}
    for number, frame in enumerate(frames):
        if isinstance(frame.get(key), list):
            for index, table in enumerate(frame[key]):
                if check.enough or (key in ("function", "service") and len(found) > MANY):
                    break
                at = (number, key, index)
                if (made := check.table(model, table, at)) is not None:
                    found[at] = made
            frame[key] = ()
    return found


def _in_file(file: _File, origin: _Origin, at: Location) -> Location:
    """The place that comes from which is ``at`` in the mesh."""
    renamed = {"source": "from", "destination": "to"}
    for length in range(len(at), 0, -1):
        if found := origin.get(at[:length]):
            return found + tuple(renamed.get(str(part), part) for part in at[length:])
    return (file.home, *at)


def _own_names(file: _File) -> dict[Location, tuple[str, ...]]:
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
    file: _File, parts: Parts, documents: Sequence[Document], origin: _Origin
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


def _pooled(file: _File, functions: tuple[Function, ...], origin: _Origin) -> tuple[Function, ...]:
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


def _services(file: _File, origin: _Origin) -> tuple[Service, ...]:
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


def _uplinks(file: _File, origin: _Origin) -> tuple[Uplink, ...]:
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


def _remotes(file: _File, origin: _Origin) -> tuple[Remote, ...]:
    """Its remotes."""
    found: list[Remote] = []
    for at, table in file.remotes.items():
        made = ("remotes", len(found))
        origin[made] = at
        _note(origin, made, (*at, "address"), table.address)
        own = table.model_dump(include={"name", "uplink", "tenant"})
        found.append(make(Remote, **own, **_by_family("address", table.address)))
    return tuple(found)


def _policies(file: _File, mesh: Mesh, origin: _Origin) -> tuple[Policy, ...]:
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
    file: _File, documents: Sequence[Document], origin: _Origin
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
    """Note that the ``addresses`` of the object ``made`` are given ``at`` a place."""
    for index, address in enumerate(addresses):
        origin[(*made, f"address{address.version}")] = (*at, index)
