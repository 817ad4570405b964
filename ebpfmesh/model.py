# SPDX-License-Identifier: BSD-2-Clause
"""What a mesh is: functions, the services in front of them, and who may talk to whom.

The models are frozen and strict, know nothing of the kernel and do no I/O. They survive JSON
(``model_dump_json`` and ``model_validate_json``), which is how the record keeps them. What is
wrong with a value is an ``Invalid``; pydantic collects it like any ``ValueError``, and
``ebpfmesh.config`` makes one line for people of it.

Memory is in bytes, CPU in CPUs; ports are numbers as people write them.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Annotated, Literal, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    model_validator,
)

from ebpfmesh.errors import NotFound, UsageError

Action = Literal["allow", "deny"]
Kind = Literal["any", "function", "tenant", "service", "outside"]
Protocol = Literal["any", "tcp", "udp", "icmp"]
Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Location = tuple[str | int, ...]
"""Keys and indices that lead from an object to a part of it: ``("functions", 2, "tenant")``."""

_Address = TypeVar("_Address", bound=Address)
_Network = TypeVar("_Network", bound=Network)

_Item = TypeVar("_Item")
_Named = TypeVar("_Named", "Function", "Service")

_LABEL = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"
_LABEL_TEXT = "lower-case letters, digits and inner hyphens, at most"
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_UNUSABLE: dict[Network, str] = {
    IPv4Network("0.0.0.0/8"): "an unspecified",
    IPv4Network("127.0.0.0/8"): "a loopback",
    IPv4Network("169.254.0.0/16"): "a link-local",
    IPv4Network("224.0.0.0/4"): "a multicast",
    IPv4Network("255.255.255.255/32"): "the broadcast",
    IPv6Network("::/128"): "the unspecified",
    IPv6Network("::1/128"): "the loopback",
    IPv6Network("::ffff:0:0/96"): "an IPv4-mapped",
    IPv6Network("fe80::/10"): "a link-local",
    IPv6Network("ff00::/8"): "a multicast",
}


class Invalid(UsageError, ValueError):
    """A value that cannot be meant; ``path`` leads to it from the object being validated."""

    def __init__(self, message: str, *, path: Location = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.path = path


def show(value: str) -> str:
    """A text somebody wrote, for a message: quoted, on one line, cut at 64 characters."""
    return f'"{repr(value if len(value) <= 64 else value[:63] + "…")[1:-1]}"'


def too_many(limit: str, size: int, path: Location) -> Invalid:
    """What to raise at ``path`` when a mesh has more ``limit`` than ``size``."""
    return Invalid(f"more than {size} {limit}", path=path, hint=f"raise limits.{limit} in [mesh]")


def suggest(name: str, known: Iterable[str]) -> str:
    """A hint for a ``name`` that is not among ``known``: the nearest of them, or the first few."""
    names = sorted(set(known))
    if near := get_close_matches(name, names, n=1):
        return f'did you mean "{near[0]}"?'
    more = ", …" if len(names) > 8 else ""
    return f"known: {', '.join(names[:8])}{more}" if names else "there is none"


def check_address(address: _Address) -> _Address:
    """``address`` if a function or a service can have it; raises ``Invalid`` if it cannot."""
    if "%" in str(address):
        raise Invalid(f"address {address} has a zone", hint="leave out the % and all after it")
    for network, what in _UNUSABLE.items():
        if address in network:
            hint = "give a unicast address, such as 198.18.0.10 or 2001:db8::10"
            raise Invalid(f"{address} is {what} address", hint=hint)
    return address


def check_prefix(prefix: _Network) -> _Network:
    """``prefix`` if functions can have any address of it; raises ``Invalid`` if they cannot."""
    for network, what in _UNUSABLE.items():
        if network.version == prefix.version and network.overlaps(prefix):
            hint = "choose a prefix of unicast addresses, such as 198.18.0.0/16"
            raise Invalid(f"prefix {prefix} holds {what} address", hint=hint)
    return prefix


def _memory(value: object) -> object:
    """Bytes of a text such as ``64M``; anything but a string is left to the field's own checks."""
    if not isinstance(value, str):
        return value
    if not (match := re.fullmatch(r"([0-9]{1,15})([KMGT]?)", value)):
        hint = 'a number of bytes, or a string such as "512K", "64M" or "1G"'
        raise Invalid(f'"memory" cannot be {show(value)}', hint=hint)
    return int(match[1]) * _UNITS[match[2]]


def _command(words: tuple[str, ...]) -> tuple[str, ...]:
    """A command the kernel can execute: a program, and no NUL in any word."""
    for index, word in enumerate(words):
        if "\0" in word or not (word or index):
            hint = 'the program and its arguments, such as ["iperf3", "-s"]'
            raise Invalid(f'"command" cannot hold {show(word)} here', path=(index,), hint=hint)
    return words


Name = Annotated[str, Field(pattern=_LABEL, max_length=63, description=f"{_LABEL_TEXT} 63")]
MeshName = Annotated[str, Field(pattern=_LABEL, max_length=32, description=f"{_LABEL_TEXT} 32")]
Port = Annotated[int, Field(ge=1, le=65535, description="an integer from 1 to 65535")]


class Model(BaseModel):
    """Base of all models: frozen, strict about types, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _integer(default: int, least: int, most: int) -> int:
    text = f"an integer from {least} to {most}"
    field: int = Field(default=default, ge=least, le=most, description=text)
    return field


class Limits(Model):
    """How many entries the maps of a mesh have room for; fixed while the mesh is up."""

    functions: int = _integer(1024, 1, 65535)
    tenants: int = _integer(16, 1, 255)
    services: int = _integer(1024, 1, 65535)
    rules: int = _integer(16384, 1, 1 << 20)
    flows: int = _integer(65536, 1024, 1 << 22)


class Endpoint(Model):
    """What packets can be sent to by name; ``None`` for an address: none of that family."""

    name: Name
    address4: Annotated[IPv4Address, AfterValidator(check_address)] | None = None
    address6: Annotated[IPv6Address, AfterValidator(check_address)] | None = None

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Its addresses, IPv4 first: one or two."""
        return tuple(a for a in (self.address4, self.address6) if a is not None)

    @model_validator(mode="after")
    def _has_address(self) -> Self:
        if not self.addresses:
            raise Invalid("it has no address", hint="give it an IPv4 or an IPv6 address")
        return self


class FunctionSettings(Model):
    """What a function may have besides its name and addresses."""

    tenant: Name = "default"
    cpu: float | None = Field(
        default=None, ge=0.01, le=8192, description="a number of CPUs from 0.01 to 8192"
    )
    memory: Annotated[int, BeforeValidator(_memory)] | None = Field(
        default=None, ge=4096, le=1 << 50, description='4096 or more, such as "64M" or "1G"'
    )
    datapath: Literal["tc"] = Field(default="tc", description='"tc"')
    audit: bool = Field(default=False, description="true or false")
    netns: str | None = Field(
        default=None,
        pattern=r"^(/[\x21-\x7e]+|[A-Za-z0-9][A-Za-z0-9._:@+-]*)$",
        max_length=4095,
        description="a name under /run/netns, or an absolute path",
    )
    command: Annotated[tuple[str, ...], Field(strict=False), AfterValidator(_command)] = Field(
        default=(), description='an array of strings, such as ["iperf3", "-s"]'
    )


class Function(FunctionSettings, Endpoint):
    """A container of the mesh."""


class Service(Endpoint):
    """A stable address and port in front of functions.

    ``functions`` are the names of its backends. It may be empty: a service without backends is
    there and refuses, as while its last function is being replaced.
    """

    port: Port
    target_port: Port
    protocol: Literal["tcp", "udp"] = "tcp"
    functions: tuple[Name, ...] = ()

    @property
    def frontends(self) -> tuple[tuple[Address, int, str], ...]:
        """What clients connect to: (address, port, protocol), one for each address."""
        return tuple((address, self.port, self.protocol) for address in self.addresses)

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        for index, name in _repeated(self.functions):
            path = ("functions", index)
            raise Invalid(f'"functions" names "{name}" twice', path=path, hint="name it once")
        return self


@dataclass(frozen=True)
class Identity:
    """Whom a policy speaks of: ``any``, ``outside``, or a function, tenant or service by name.

    Written ``function:NAME`` and so on: in files, on the command line and in JSON.
    """

    kind: Kind
    name: str = ""

    def __post_init__(self) -> None:
        hint = "any, outside, function:NAME, tenant:NAME or service:NAME"
        if self.kind not in get_args(Kind):
            near = get_close_matches(self.kind, get_args(Kind), n=1)
            hint = f'did you mean "{near[0]}"?' if near else hint
            raise Invalid(f"{show(self.kind)} is no kind of identity", hint=hint)
        if bool(self.name) != (self.kind in ("function", "tenant", "service")):
            raise Invalid(f"{show(str(self))} is not an identity", hint=hint)
        if self.name and not (len(self.name) <= 63 and re.fullmatch(_LABEL, self.name)):
            raise Invalid(f"{show(self.name)} is not a name", hint=f"{_LABEL_TEXT} 63")

    @classmethod
    def parse(cls, text: object) -> "Identity":
        """The identity written as ``text``, or that is there already; else raises ``Invalid``."""
        if isinstance(text, Identity):
            return text
        if not isinstance(text, str):
            raise Invalid("an identity must be a string", hint='such as "tenant:op-a" or "any"')
        kind, colon, name = text.partition(":")
        if colon and not name:
            raise Invalid(f"{show(text)} names nothing", hint=f'put a name after "{kind}:"')
        return cls(kind, name)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind


def _sender(identity: Identity) -> Identity:
    if identity.kind == "service":
        hint = "a service only receives; name its functions or their tenant instead"
        raise Invalid(f'"{identity}" cannot be a source', hint=hint)
    return identity


Destination = Annotated[Identity, PlainValidator(Identity.parse), PlainSerializer(str)]
Source = Annotated[Destination, AfterValidator(_sender)]


class Policy(Model):
    """A rule about who may open a flow to whom; answers to a flow need no rule.

    ``port`` is the receiver's own, also for what comes through a service, so that a rule about a
    function cannot be passed by way of another port; of a rule to a service it is the service's.
    0 means any. The lowest ``priority`` decides.
    """

    source: Source
    destination: Destination
    protocol: Protocol = Field(default="any", description='"any", "tcp", "udp" or "icmp"')
    port: int = Field(default=0, ge=0, le=65535, description="1 to 65535, or 0 for any port")
    action: Action = Field(default="allow", description='"allow" or "deny"')
    priority: int = _integer(100, 0, 65535)

    @property
    def match(self) -> tuple[Identity, Identity, Protocol, int]:
        """What it applies to; no two policies of a mesh have the same."""
        return self.source, self.destination, self.protocol, self.port

    @property
    def precedence(self) -> tuple[int, bool]:
        """The lowest of those that match decides: by priority, deny before allow."""
        return self.priority, self.action == "allow"

    def __str__(self) -> str:
        port = f"/{self.port}" if self.port else ""
        what = f" {self.protocol}{port}" if self.protocol != "any" else ""
        priority = f" priority {self.priority}" if self.priority != 100 else ""
        return f"{self.source} → {self.destination}{what} {self.action}{priority}"

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.port and self.protocol not in ("tcp", "udp"):
            hint = 'add protocol = "tcp" or protocol = "udp"'
            what = f"port {self.port} needs a protocol that has ports"
            raise Invalid(what, path=("port",), hint=hint)
        return self


@dataclass(frozen=True)
class Verdict:
    """What the policy says of a flow, and the rule that said so (``None``: the default)."""

    action: Action
    rule: Policy | None


class Mesh(Model):
    """A whole mesh: every name is unique and known, no address is used twice.

    ``prefix4`` and ``prefix6`` are where functions without a given address get theirs from.
    """

    name: MeshName
    limits: Limits = Limits()
    prefix4: Annotated[IPv4Network, AfterValidator(check_prefix)] = IPv4Network("198.18.0.0/16")
    prefix6: Annotated[IPv6Network, AfterValidator(check_prefix)] = IPv6Network("2001:db8::/64")
    functions: tuple[Function, ...] = ()
    services: tuple[Service, ...] = ()
    policies: tuple[Policy, ...] = ()

    @property
    def tenants(self) -> tuple[str, ...]:
        """The tenants of its functions, each once, in the order they first appear."""
        return tuple(dict.fromkeys(function.tenant for function in self.functions))

    def function(self, name: str) -> Function:
        """The function called ``name``; raises ``NotFound``."""
        return _named(self.functions, "function", name)

    def service(self, name: str) -> Service:
        """The service called ``name``; raises ``NotFound``."""
        return _named(self.services, "service", name)

    def decide(
        self,
        source: Function | None,
        destination: Function | None,
        service: Service | None,
        protocol: Literal["tcp", "udp", "icmp"],
        port: int,
    ) -> Verdict:
        """Whether ``source`` may open a flow to ``destination``, be it through ``service``.

        ``None`` for a function is the outside. ``port`` is what the sender connects to: 0 for ICMP,
        and the service's own if there is one; the receiver's is then its ``target_port``. Of the
        rules that apply the lowest priority decides, deny before allow. Without a rule, functions
        reach their own tenant and the outside, and nothing else passes. ``audit`` does not change
        the verdict, only what is done about it.
        """
        senders, receivers = _identities(source), _identities(destination)
        if service:
            receivers.add(Identity("service", service.name))
        own_port = service.target_port if service else port
        rules = [
            rule
            for rule in self.policies
            if rule.source in senders
            and rule.destination in receivers
            and rule.protocol in ("any", protocol)
            and rule.port in (0, port if rule.destination.kind == "service" else own_port)
        ]
        if rules:
            rule = min(rules, key=lambda rule: rule.precedence)
            return Verdict(rule.action, rule)
        allowed = source and (destination is None or source.tenant == destination.tenant)
        return Verdict("allow" if allowed else "deny", None)

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        for check in (_over_limits, _same_names, _same_addresses, _bad_backends, _bad_policies):
            for problem in check(self):
                raise problem
        return self


def _named(objects: Iterable[_Named], kind: str, name: str) -> _Named:
    for item in objects:
        if item.name == name:
            return item
    hint = suggest(name, (item.name for item in objects))
    raise NotFound(f'there is no {kind} "{name}"', hint=hint)


def _identities(function: Function | None) -> set[Identity]:
    """All that a policy may call ``function``, or the outside."""
    if function is None:
        return {Identity("any"), Identity("outside")}
    own = Identity("function", function.name)
    return {Identity("any"), own, Identity("tenant", function.tenant)}


def _over_limits(mesh: Mesh) -> Iterator[Invalid]:
    limits = mesh.limits
    if len(mesh.functions) > limits.functions:
        yield too_many("functions", limits.functions, ("functions", limits.functions))
    if len(mesh.services) > limits.services:
        yield too_many("services", limits.services, ("services", limits.services))
    if len(mesh.policies) > limits.rules:
        yield too_many("rules", limits.rules, ("policies", limits.rules))
    for tenant in mesh.tenants[limits.tenants :]:
        index = [function.tenant for function in mesh.functions].index(tenant)
        yield too_many("tenants", limits.tenants, ("functions", index, "tenant"))


def _same_names(mesh: Mesh) -> Iterator[Invalid]:
    functions = [function.name for function in mesh.functions]
    services = [service.name for service in mesh.services]
    for key, names in (("functions", functions), ("services", services)):
        for index, name in _repeated(names):
            what = f'there are two {key} called "{name}"'
            yield Invalid(what, path=(key, index, "name"), hint="rename one of them")
    for index, netns in _repeated([function.netns for function in mesh.functions]):
        if netns:
            what = f'function "{mesh.functions[index].name}": another one is in netns {netns} too'
            path = ("functions", index, "netns")
            yield Invalid(what, path=path, hint="a namespace holds one function")


def _repeated(values: Iterable[_Item]) -> Iterator[tuple[int, _Item]]:
    """The (index, value) of all that were there before."""
    seen: set[_Item] = set()
    for index, value in enumerate(values):
        if value in seen:
            yield index, value
        seen.add(value)


def _same_addresses(mesh: Mesh) -> Iterator[Invalid]:
    owners: dict[Address, str] = {}
    for index, function in enumerate(mesh.functions):
        for address in function.addresses:
            if owner := owners.get(address):
                what = f'function "{function.name}": {address} is the address of {owner}'
                path = ("functions", index, f"address{address.version}")
                yield Invalid(what, path=path, hint="choose another one, or leave address out")
            owners[address] = f'function "{function.name}"'
    others: dict[tuple[Address, int, str], str] = {}
    for index, service in enumerate(mesh.services):
        for address, port, protocol in service.frontends:
            path = ("services", index, f"address{address.version}")
            if owner := owners.get(address):
                what = f'service "{service.name}": {address} is the address of {owner}'
                yield Invalid(what, path=path, hint="choose another address for the service")
            if other := others.get((address, port, protocol)):
                what = f'service "{service.name}": {protocol} {address} port {port} is taken by '
                hint = "choose another address, port or protocol"
                yield Invalid(f'{what}"{other}"', path=("services", index, "port"), hint=hint)
            others[address, port, protocol] = service.name


def _bad_backends(mesh: Mesh) -> Iterator[Invalid]:
    functions = {function.name: function for function in mesh.functions}
    for number, service in enumerate(mesh.services):
        for index, name in enumerate(service.functions):
            path = ("services", number, "functions", index)
            function = functions.get(name)
            if function is None:
                what = f'service "{service.name}" names an unknown function "{name}"'
                yield Invalid(what, path=path, hint=suggest(name, functions))
                continue
            families = {address.version for address in function.addresses}
            for address in service.addresses:
                if address.version not in families:
                    what = f'service "{service.name}": function "{name}" has no '
                    what += f"IPv{address.version} address, but the service has {address}"
                    hint = f"give the function an IPv{address.version} address too"
                    yield Invalid(what, path=path, hint=hint)


def _bad_policies(mesh: Mesh) -> Iterator[Invalid]:
    known = {
        "function": {function.name for function in mesh.functions},
        "tenant": {function.tenant for function in mesh.functions},
        "service": {service.name for service in mesh.services},
    }
    for index, policy in enumerate(mesh.policies):
        for key, identity in (("source", policy.source), ("destination", policy.destination)):
            if identity.name and identity.name not in known[identity.kind]:
                what = f'policy {policy}: there is no {identity.kind} "{identity.name}"'
                hint = suggest(identity.name, known[identity.kind])
                yield Invalid(what, path=("policies", index, key), hint=hint)
    for index, _ in _repeated(policy.match for policy in mesh.policies):
        what = f"policy {mesh.policies[index]}: another policy is about the same flows"
        hint = "keep one, or make them differ in from, to, protocol or port"
        yield Invalid(what, path=("policies", index), hint=hint)
