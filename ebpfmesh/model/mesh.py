# SPDX-License-Identifier: BSD-2-Clause
"""A whole mesh, and what its policy says of a flow."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Literal, Self, TypeVar, get_args

from pydantic import AfterValidator, model_validator

from ebpfmesh.errors import NotFound
from ebpfmesh.model import whole
from ebpfmesh.model.base import Address, MeshName, Model, check_prefix, suggest
from ebpfmesh.model.objects import Function, Limits, Service, Timeouts
from ebpfmesh.model.policy import Action, Identity, Policy
from ebpfmesh.model.ports import port_prefixes

Hook = Literal["auto", "tcx", "clsact"]
ECHO_REQUEST = 8  # the only ICMP that opens a flow
Party = Function | Address | None
"""A function, or the outside: at an address, or nowhere in particular."""

_Named = TypeVar("_Named", Function, Service)


@dataclass(frozen=True)
class Verdict:
    """What the policy says of a flow, and the rule that said so (``None``: the default)."""

    action: Action
    rule: Policy | None


class Mesh(Model):
    """A whole mesh: every name is unique and known, no address is used twice.

    ``prefix4`` and ``prefix6`` are where functions without a given address get theirs from.
    ``hook`` is how programs are attached: by TCX link or clsact filter; auto means a link where
    packets of functions come by, if the kernel has it. While an ``expedited`` mesh is changed, the
    kernel's grace periods are shorter, for everybody. With ``reject`` the sender of what no rule
    allows is told, and of what no service or no function of it takes.
    """

    name: MeshName
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    hook: Hook = "auto"
    expedited: bool = False
    reject: bool = False
    prefix4: Annotated[IPv4Network, AfterValidator(check_prefix)] = IPv4Network("198.18.0.0/16")
    prefix6: Annotated[IPv6Network, AfterValidator(check_prefix)] = IPv6Network("2001:db8::/64")
    functions: tuple[Function, ...] = ()
    services: tuple[Service, ...] = ()
    policies: tuple[Policy, ...] = ()

    @property
    def tenants(self) -> tuple[str, ...]:
        """The tenants of its functions, each once, in the order they first appear."""
        return tuple(dict.fromkeys(function.tenant for function in self.functions))

    def sizes(self) -> dict[str, int]:
        """What it takes of the limits that count more than objects."""
        ends = (i for rule in self.policies for i in (rule.source, rule.destination))
        return {
            "services": sum(len(port_prefixes(s.port, s.last_port)) for s in self.services),
            "rules": sum(len(rule.prefixes) for rule in self.policies),
            "prefixes": len({identity.name for identity in ends if identity.prefix}),
        }

    def function(self, name: str) -> Function:
        """The function called ``name``; raises ``NotFound``."""
        return _named(self.functions, "function", name)

    def service(self, name: str) -> Service:
        """The service called ``name``; raises ``NotFound``."""
        return _named(self.services, "service", name)

    def decide(
        self,
        source: Party,
        destination: Party,
        service: Service | None,
        protocol: Literal["tcp", "udp", "icmp"],
        port: int,
    ) -> Verdict:
        """Whether ``source`` may open a flow to ``destination``, be it through ``service``.

        ``port`` is what the sender connects to, the service's own if there is one; the
        receiver's is then that of the service shifted. ICMP has none: what opens a flow is an echo
        request. Of the rules that apply the lowest priority decides, deny before reject before
        allow. Without a rule, functions reach their own tenant and the outside, and nothing else
        passes.
        ``audit`` does not change the verdict, only what is done about it.
        """
        if protocol == "icmp":
            port = ECHO_REQUEST
        own_port = port + service.shift if service else port
        rules = [
            rule
            for rule in self.policies
            if _is(rule.source, source, None)
            and _is(rule.destination, destination, service)
            and rule.covers(protocol, port if rule.destination.kind == "service" else own_port)
        ]
        if rules:
            rule = min(rules, key=lambda rule: rule.precedence)
            return Verdict(rule.action, rule)
        allowed = isinstance(source, Function) and (
            not isinstance(destination, Function) or source.tenant == destination.tenant
        )
        return Verdict("allow" if allowed else "reject" if self.reject else "deny", None)

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        for problem in whole.problems(self):
            raise problem
        return self


def _named(objects: Iterable[_Named], kind: str, name: str) -> _Named:
    for item in objects:
        if item.name == name:
            return item
    hint = suggest(name, (item.name for item in objects))
    raise NotFound(f'there is no {kind} "{name}"', hint=hint)


def _is(identity: Identity, party: Party, service: Service | None) -> bool:
    """Whether a policy that names ``identity`` speaks of this party of a flow."""
    match identity.kind:
        case "any":
            return True
        case "function":
            return isinstance(party, Function) and party.name == identity.name
        case "tenant":
            return isinstance(party, Function) and party.tenant == identity.name
        case "service":
            return service is not None and service.name == identity.name
    if isinstance(party, Function):
        return False
    prefix = identity.prefix
    return prefix is None or (isinstance(party, get_args(Address)) and party in prefix)
