# SPDX-License-Identifier: BSD-2-Clause
"""What the policies of a mesh mean to a path that knows addresses and ports only.

A policy that allows a service, or a port of a function, becomes: from this address, to that port
of these functions. The workload has no others. Everything else is dropped, but for answers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from ebpfmesh.bench.topology import address4
from ebpfmesh.model import Identity, Mesh, Policy, Service


@dataclass(frozen=True)
class Allowed:
    """From ``source`` to a port of any of ``functions``; ``service``: whether through one."""

    source: IPv4Address
    functions: tuple[IPv4Address, ...]
    protocol: str
    port: int
    service: bool


def allowed(mesh: Mesh) -> Iterator[Allowed]:
    """What the policies of ``mesh`` allow, in their order."""
    services = {service.name: service for service in mesh.services}
    addresses = {function.name: address4(function) for function in mesh.functions}
    for policy in mesh.policies:
        yield from _of_policy(mesh, services, addresses, policy)


def _of_policy(
    mesh: Mesh,
    services: Mapping[str, Service],
    addresses: Mapping[str, IPv4Address],
    policy: Policy,
) -> Iterator[Allowed]:
    to = policy.destination
    if policy.action != "allow" or to.kind not in ("service", "function"):
        return
    names: tuple[str, ...] = (to.name,)
    protocol, port = str(policy.protocol), policy.port
    if to.kind == "service":
        service = services[to.name]
        names, protocol, port = service.functions, service.protocol, service.target_port
    ends = tuple(addresses[name] for name in names)
    for source in _sources(mesh, policy.source):
        yield Allowed(source, ends, protocol, port, to.kind == "service")


def _sources(mesh: Mesh, identity: Identity) -> list[IPv4Address]:
    """Addresses of the functions a policy's source names."""
    return [
        address4(function)
        for function in mesh.functions
        if identity.kind == "any"
        or (identity.kind == "function" and identity.name == function.name)
        or (identity.kind == "tenant" and identity.name == function.tenant)
    ]
