# SPDX-License-Identifier: BSD-2-Clause
"""The rules of the iptables baseline, as text for iptables-restore.

nat: kube-proxy's chains. PREROUTING and OUTPUT jump to KUBE-SERVICES, which has a rule per
service; each jumps to a KUBE-SVC chain that picks a KUBE-SEP chain at random, which does the DNAT.
Left out, in the baseline's favour: comments, the KUBE-MARK-MASQ rules (nothing here needs
masquerading) and node ports. Conntrack is on, as NAT needs it; the nat table sees only the first
packet of a connection.

filter: FORWARD drops by default and has one rule for each policy that allows a service: from the
client, to the functions' prefix and the service's target port. This is a little less than the
policy says (any function behind that port), so that no service costs more than one rule. A policy
about a port of a function is a rule too. Before or after them stands the rule for established
connections:

- ``established_first``: before them, as kube-proxy, Docker and most firewalls have it. The list
  is then read for the first packets of a connection only: until it was answered.
- otherwise after them: each packet meets the list, as with rules that count or mark packets, or
  where a policy has to hold for connections that exist already, which is what the mesh does.
"""

import hashlib
from collections.abc import Iterable, Iterator

from ebpfmesh.bench.paths.allowed import Allowed, allowed
from ebpfmesh.model import Mesh, Policy, Service

ESTABLISHED = "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"


def ruleset(mesh: Mesh, *, established_first: bool) -> str:
    """Both tables of the baseline, in the order of the services and policies of ``mesh``."""
    forward = _forward(mesh, established_first=established_first)
    return _table("nat", _nat(mesh)) + _table("filter", [":FORWARD DROP [0:0]", *forward])


def add_service(mesh: Mesh, service: Service, *, append: bool) -> tuple[str, str]:
    """What to restore beside the rules of ``mesh`` to add a service, and to take it out again.

    The list of services is written anew, unless ``append``.
    """
    chains = _chains(service)
    jump, *rest = _service(mesh, service)
    services = [":KUBE-SERVICES - [0:0]", *(next(_service(mesh, old)) for old in mesh.services)]
    before, after = ([], [f"-D {jump[3:]}"]) if append else (services, services)
    gone = [f"{verb} {chain}" for verb in ("-F", "-X") for chain in chains]
    return (
        _table("nat", [*(f":{chain} - [0:0]" for chain in chains), *before, jump, *rest]),
        _table("nat", [*after, *gone]),
    )


def add_rule(
    mesh: Mesh, rule: Policy, *, established_first: bool = True, append: bool
) -> tuple[str, str]:
    """The same for a policy that allows a service."""
    more = mesh.model_copy(update={"policies": (*mesh.policies, rule)})
    old, new = (_forward(m, established_first=established_first) for m in (mesh, more))
    if append:
        (line,) = set(new) - set(old)
        return _table("filter", [line]), _table("filter", [f"-D {line[3:]}"])
    return _table("filter", ["-F FORWARD", *new]), _table("filter", ["-F FORWARD", *old])


def _table(name: str, lines: Iterable[str]) -> str:
    return "\n".join([f"*{name}", *lines, "COMMIT", ""])


def chain_name(kind: str, *parts: str) -> str:
    """A chain's name as kube-proxy makes it: the kind and 16 characters of a hash."""
    return f"KUBE-{kind}-{hashlib.sha256('/'.join(parts).encode()).hexdigest()[:16].upper()}"


def _nat(mesh: Mesh) -> Iterator[str]:
    yield ":KUBE-SERVICES - [0:0]"
    for service in mesh.services:
        for chain in _chains(service):
            yield f":{chain} - [0:0]"
    yield "-A PREROUTING -j KUBE-SERVICES"
    yield "-A OUTPUT -j KUBE-SERVICES"
    for service in mesh.services:
        yield from _service(mesh, service)


def _chains(service: Service) -> list[str]:
    ends = [chain_name("SEP", service.name, backend) for backend in service.functions]
    return [chain_name("SVC", service.name), *ends]


def _service(mesh: Mesh, service: Service) -> Iterator[str]:
    protocol = f"-p {service.protocol} -m {service.protocol}"
    chain = chain_name("SVC", service.name)
    yield f"-A KUBE-SERVICES -d {service.address4}/32 {protocol} --dport {service.port} -j {chain}"
    for left, backend in zip(range(len(service.functions), 0, -1), service.functions, strict=True):
        end = chain_name("SEP", service.name, backend)
        chance = f"-m statistic --mode random --probability {1 / left:.10f} " if left > 1 else ""
        yield f"-A {chain} {chance}-j {end}"
        address = f"{mesh.function(backend).address4}:{service.target_port}"
        yield f"-A {end} {protocol} -j DNAT --to-destination {address}"


def _forward(mesh: Mesh, *, established_first: bool) -> list[str]:
    rules = [_rule(mesh, one) for one in allowed(mesh)]
    return [ESTABLISHED, *rules] if established_first else [*rules, ESTABLISHED]


def _rule(mesh: Mesh, one: Allowed) -> str:
    to = mesh.prefix4 if one.service else f"{one.functions[0]}/32"
    return (
        f"-A FORWARD -s {one.source}/32 -d {to} -p {one.protocol} "
        f"-m {one.protocol} --dport {one.port} -j ACCEPT"
    )
