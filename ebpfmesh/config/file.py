# SPDX-License-Identifier: BSD-2-Clause
"""What a mesh file may hold: a model of each table, and of the file as a whole.

docs/mesh-file.md and the JSON schema are made from them.
"""

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

from ebpfmesh.config.addresses import parse_address
from ebpfmesh.config.ports import service_ports
from ebpfmesh.model import (
    MEMBERS,
    Address,
    Destination,
    FunctionSettings,
    Hook,
    InjectionSettings,
    Invalid,
    Limits,
    MeshName,
    Model,
    Name,
    Network,
    OnFailure,
    PolicySettings,
    Rights,
    Source,
    Timeouts,
    Weight,
    few,
    parse_ports,
    parse_prefix,
    show,
    suggest,
)
from ebpfmesh.model.base import integer
from ebpfmesh.model.function import SOURCE_CHARACTERS
from ebpfmesh.model.service import Publish
from ebpfmesh.model.sizes import BYTES, parse_bytes, power_of_two
from ebpfmesh.model.uplink import MASQUERADE_PORTS, Interface, PortRange

_Either = TypeVar("_Either", Address, Network)


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
