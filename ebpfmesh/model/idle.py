# SPDX-License-Identifier: BSD-2-Clause
"""What a mesh may say and says in vain: rules that never apply, a limit that nothing has."""

from collections.abc import Iterator

from ebpfmesh.model.parts import Parts
from ebpfmesh.model.policy import Policy
from ebpfmesh.model.ports import ports_text
from ebpfmesh.model.service import Service


def warnings(mesh: Parts) -> Iterator[str]:
    """All of it, a line each."""
    if "sockets" in mesh.limits.model_fields_set:
        yield "limits.sockets has no effect any more: leave it out"
    yield from (text for _, text in idle_rules(mesh))


def idle_rules(mesh: Parts) -> Iterator[tuple[Policy, str]]:
    """The rules of a mesh that can never match, each with a line that says why."""
    services = {service.name: service for service in mesh.services}
    for policy in mesh.policies:
        if why := _why_idle(policy, services.get(policy.destination.name)):
            yield policy, f"policy {policy} can never match: {why}"


def _why_idle(policy: Policy, service: Service | None) -> str:
    to = policy.destination.kind
    if policy.source.kind == "outside" and to in ("outside", "service"):
        if to == "outside":
            return "what goes from outside to outside does not pass through the mesh"
        if service is None or not service.publish:
            return "the outside does not reach the service, which is published nowhere"
    if to != "service" or service is None:
        return ""
    if policy.protocol not in ("any", service.protocol):
        return f"service {service.name} speaks {service.protocol}"
    if policy.port and (policy.port > service.last_port or policy.last_port < service.port):
        ports = ports_text(service.port, service.last_port)
        return f"service {service.name} has port {ports}"
    return ""
