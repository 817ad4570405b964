# SPDX-License-Identifier: BSD-2-Clause
"""Who may talk to whom: identities and rules."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Annotated, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

from ebpfmesh.model.base import (
    LABEL,
    LABEL_TEXT,
    Invalid,
    Model,
    Network,
    integer,
    parse_prefix,
    show,
)
from ebpfmesh.model.ports import port_prefixes, ports_text

Action = Literal["deny", "reject", "allow"]
"""What a rule says. Of two with the same priority the first of these decides."""
Kind = Literal["any", "function", "tenant", "service", "outside", "group"]
Protocol = Literal["any", "tcp", "udp", "icmp"]


@dataclass(frozen=True)
class Identity:
    """Whom a policy speaks of: ``any``, ``outside``, or a function, tenant or service by name.

    ``group:NAME`` is all functions of a group; ``function:NAME`` means the same where NAME is one.

    Written ``function:NAME`` and so on: in files, on the command line and in JSON. The name of
    ``outside:PREFIX`` is a prefix: the outside as far as its address is in it.
    """

    kind: Kind
    name: str = ""

    def __post_init__(self) -> None:
        hint = "any, outside, outside:PREFIX, function:NAME, tenant:NAME or service:NAME"
        if self.kind not in get_args(Kind):
            near = get_close_matches(self.kind, get_args(Kind), n=1)
            hint = f'did you mean "{near[0]}"?' if near else hint
            raise Invalid(f"{show(self.kind)} is no kind of identity", hint=hint)
        named = self.kind in ("function", "tenant", "service", "group")
        if named != bool(self.name) and not self.kind == "outside":
            raise Invalid(f"{show(str(self))} is not an identity", hint=hint)
        if self.kind == "outside" and self.name:
            prefix = parse_prefix(self.name)
            object.__setattr__(self, "name", str(prefix))  # one way to write it
            self.__dict__["prefix"] = prefix
        elif self.name and not (len(self.name) <= 63 and re.fullmatch(LABEL, self.name)):
            raise Invalid(f"{show(self.name)} is not a name", hint=f"{LABEL_TEXT} 63")

    @cached_property
    def prefix(self) -> Network | None:
        """The prefix of ``outside:PREFIX``."""
        return None

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


def _written(*kinds: str) -> WithJsonSchema:
    """How identities of these kinds are written, besides those that need no name."""
    named = rf"({'|'.join(kinds)}):{LABEL[1:-1]}"
    return WithJsonSchema({"type": "string", "pattern": rf"^(any|outside(:.+)?|{named})$"})


Destination = Annotated[
    Identity,
    PlainValidator(Identity.parse),
    PlainSerializer(str),
    _written("function", "group", "tenant", "service"),
]
Source = Annotated[
    Identity,
    PlainValidator(Identity.parse),
    PlainSerializer(str),
    AfterValidator(_sender),
    _written("function", "group", "tenant"),
]


Match = tuple[Identity, Identity, Protocol, int, int, int | None]
"""What a rule applies to: source, destination, protocol, first and last port, ICMP type."""


class PolicySettings(Model):
    """What a policy says, but for the ports."""

    source: Source
    destination: Destination
    protocol: Protocol = Field(default="any", description='"any", "tcp", "udp" or "icmp"')
    icmp_type: int | None = Field(
        default=None, ge=0, le=255, description="0 to 255; echo requests are 8, of IPv6 too"
    )
    action: Action = Field(default="allow", description='"allow", "deny" or "reject"')
    priority: int = integer(100, 0, 65535)


class Policy(PolicySettings):
    """A rule about who may open a flow to whom; answers to a flow need no rule.

    ``port`` is the receiver's own, also for what comes through a service, so that a rule about a
    function cannot be passed by way of another port; of a rule to a service it is the service's.
    0 means any. With ``port_end`` it is the first of a range. The lowest ``priority`` decides.
    What is rejected is denied, and its sender is told.
    """

    port: int = Field(default=0, ge=0, le=65535, description="1 to 65535, or 0 for any port")
    port_end: int = Field(default=0, ge=0, le=65535, description="the last port of a range, or 0")

    @property
    def last_port(self) -> int:
        """The last of its ports."""
        return self.port_end or self.port

    @property
    def match(self) -> Match:
        """What it applies to; no two policies of a mesh have the same."""
        ports = self.port, self.last_port, self.icmp_type
        return self.source, self.destination, self.protocol, *ports

    def named(self, groups: Collection[str]) -> Self:
        """The same with ``group:NAME`` where ``function:NAME`` means one of the ``groups``."""
        ends = {
            key: Identity("group", end.name)
            for key, end in (("source", self.source), ("destination", self.destination))
            if end.kind == "function" and end.name in groups
        }
        return self.model_copy(update=ends) if ends else self

    @property
    def precedence(self) -> tuple[int, int]:
        """The lowest of those that match decides: by priority, deny before reject before allow."""
        return self.priority, get_args(Action).index(self.action)

    @property
    def prefixes(self) -> tuple[tuple[int, int], ...]:
        """The (port or ICMP type, leading bits that count) that are together what it is about."""
        if self.icmp_type is not None:
            return ((self.icmp_type, 16),)
        return port_prefixes(self.port, self.last_port) if self.port else ((0, 0),)

    @property
    def what(self) -> str:
        """Protocol and ports as people write them; empty for any."""
        if self.icmp_type is not None:
            return f"icmp/{self.icmp_type}"
        ports = f"/{ports_text(self.port, self.last_port)}" if self.port else ""
        return f"{self.protocol}{ports}" if self.protocol != "any" else ""

    def __str__(self) -> str:
        what = f" {self.what}" if self.what else ""
        priority = f" priority {self.priority}" if self.priority != 100 else ""
        return f"{self.source} → {self.destination}{what} {self.action}{priority}"

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.port and self.protocol not in ("tcp", "udp"):
            hint = "name the protocol: tcp or udp"
            what = f"port {ports_text(self.port, self.last_port)} needs a protocol that has ports"
            raise Invalid(what, path=("port",), hint=hint)
        if self.port_end and not 0 < self.port < self.port_end:
            what = f"a range of ports cannot be {self.port}-{self.port_end}"
            raise Invalid(what, path=("port_end",), hint="the first port comes first")
        if self.icmp_type is not None and self.protocol != "icmp":
            hint = "name the protocol icmp, or leave the type out"
            what = f"ICMP type {self.icmp_type} needs protocol ICMP"
            raise Invalid(what, path=("icmp_type",), hint=hint)
        return self
