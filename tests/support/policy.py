# SPDX-License-Identifier: BSD-2-Clause
"""What the policy of a mesh says of a flow, in plain words: the programs must agree with it."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Literal

from ebpfmesh.model import Action, Function, Identity, Mesh, Policy, Protocol, Service

ECHO_REQUEST = 8  # the only ICMP that opens a flow
Party = Function | IPv4Address | IPv6Address | None
"""A function, or the outside: at an address, or nowhere in particular."""


@dataclass(frozen=True)
class Verdict:
    """What the policy says of a flow, and the rule that said so (``None``: the default)."""

    action: Action
    rule: Policy | None


def decide(
    mesh: Mesh,
    source: Party,
    destination: Party,
    service: Service | None,
    protocol: Literal["tcp", "udp", "icmp"],
    port: int,
) -> Verdict:
    """Whether ``source`` may open a flow to ``destination``, be it through ``service``.

    ``port`` is what the sender connects to, the service's own if there is one; the receiver's is
    then that of the service shifted. ICMP has none: what opens a flow is an echo request. Of the
    rules that apply the lowest priority decides, deny before reject before allow. Without a rule,
    functions reach their own tenant and the outside, and nothing else passes. ``audit`` does not
    change the verdict, only what is done about it.
    """
    if protocol == "icmp":
        port = ECHO_REQUEST
    own_port = port + service.shift if service else port
    rules = [
        rule
        for rule in mesh.policies
        if _is(rule.source, source, None)
        and _is(rule.destination, destination, service)
        and _covers(rule, protocol, port if rule.destination.kind == "service" else own_port)
    ]
    if rules:
        rule = min(rules, key=lambda rule: rule.precedence)
        return Verdict(rule.action, rule)
    allowed = isinstance(source, Function) and (
        not isinstance(destination, Function) or source.tenant == destination.tenant
    )
    return Verdict("allow" if allowed else "reject" if mesh.reject else "deny", None)


def _covers(rule: Policy, protocol: Protocol, port: int) -> bool:
    """Whether a rule is about this protocol and port; of ICMP the port is the type."""
    if rule.protocol not in ("any", protocol):
        return False
    if rule.icmp_type is not None:
        return rule.icmp_type == port
    return not rule.port or rule.port <= port <= rule.last_port


def _is(identity: Identity, party: Party, service: Service | None) -> bool:
    """Whether a policy that names ``identity`` speaks of this party of a flow."""
    match identity.kind:
        case "any":
            return True
        case "function":
            return isinstance(party, Function) and party.name == identity.name
        case "group":
            return isinstance(party, Function) and party.group == identity.name
        case "tenant":
            return isinstance(party, Function) and party.tenant == identity.name
        case "service":
            return service is not None and service.name == identity.name
    if isinstance(party, Function):
        return False
    prefix = identity.prefix
    return prefix is None or (party is not None and party in prefix)
