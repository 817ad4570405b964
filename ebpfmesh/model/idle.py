# SPDX-License-Identifier: BSD-2-Clause
"""Rules that are right and yet never apply to any packet."""

from collections.abc import Iterator

from ebpfmesh.model.objects import Service
from ebpfmesh.model.parts import Parts
from ebpfmesh.model.policy import Policy
from ebpfmesh.model.ports import ports_text


def idle_rules(mesh: Parts) -> Iterator[tuple[Policy, str]]:
    """The rules of a mesh that can never match, each with the reason."""
    services = {service.name: service for service in mesh.services}
    for policy in mesh.policies:
        if why := _why_idle(policy, services.get(policy.destination.name)):
            yield policy, why


def _why_idle(policy: Policy, service: Service | None) -> str:
    to = policy.destination.kind
    if policy.source.kind == "outside" and to in ("outside", "service"):
        if to == "outside":
            return "what goes from outside to outside does not pass through the mesh"
        return "services are for functions, the outside does not reach them"
    if to != "service" or service is None:
        return ""
    if policy.protocol not in ("any", service.protocol):
        return f"service {service.name} speaks {service.protocol}"
    if policy.port and (policy.port > service.last_port or policy.last_port < service.port):
        ports = ports_text(service.port, service.last_port)
        return f"service {service.name} has port {ports}"
    return ""
