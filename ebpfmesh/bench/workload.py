# SPDX-License-Identifier: BSD-2-Clause
"""What is measured: the mesh of examples/demo.toml, between as many other services as wanted.

Every path is built from the same ``Mesh``: the same functions, services and policies. The services
that fill the table stand before the measured ones, so a path that reads a list from its top finds
``samples`` as number n of n, and ``control``, ``api`` and ``bulk`` one to three places after it.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from ebpfmesh.bench.topology import address4
from ebpfmesh.model import Identity, Mesh, Policy, Service

DEMO_FILE = Path(__file__).parents[2] / "examples" / "demo.toml"
CLIENT = "radio"
BLOCKED = "guest"
SERVICES = {"pps": "samples", "rr": "control", "crr": "api", "stream": "bulk"}
"""The service each kind of traffic goes to."""

FILLER_ADDRESS = IPv4Address("198.19.0.0")
FILLER_PORT = 20000
MAX_SERVICES = 10000


@dataclass(frozen=True)
class Target:
    """Where a client sends to: an address and port, a service's or a function's own."""

    address: IPv4Address
    port: int


def fill(mesh: Mesh, services: int) -> Mesh:
    """``mesh`` with ``services`` - 1 more services before its own, and a policy that allows each.

    They lead from the client to the measured services' backends, on ports where nobody listens.
    """
    if not 1 <= services <= MAX_SERVICES:
        raise ValueError(f"services: {services} is not in 1..{MAX_SERVICES}")
    backends = mesh.service(SERVICES["pps"]).functions
    fillers = tuple(
        Service(
            name=f"filler-{number}",
            address4=FILLER_ADDRESS + number,
            port=80,
            target_port=FILLER_PORT + number,
            functions=backends,
        )
        for number in range(1, services)
    )
    client = Identity.parse(f"function:{CLIENT}")
    policies = tuple(
        Policy(source=client, destination=Identity.parse(f"service:{filler.name}"), action="allow")
        for filler in fillers
    )
    return mesh.model_copy(
        update={"services": fillers + mesh.services, "policies": policies + mesh.policies}
    )


def service_target(mesh: Mesh, traffic: str) -> Target:
    """The service's address and port for a kind of traffic."""
    service = mesh.service(SERVICES[traffic])
    if service.address4 is None:
        raise ValueError(f"service {service.name} has no IPv4 address")
    return Target(service.address4, service.port)


def backend_target(mesh: Mesh, traffic: str) -> Target:
    """The first backend's own address and port for a kind of traffic."""
    service = mesh.service(SERVICES[traffic])
    return Target(address4(mesh.function(service.functions[0])), service.target_port)


def backends(mesh: Mesh, traffic: str) -> tuple[str, ...]:
    """Names of the functions a kind of traffic can reach."""
    return mesh.service(SERVICES[traffic]).functions
