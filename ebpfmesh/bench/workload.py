# SPDX-License-Identifier: BSD-2-Clause
"""What is measured: the mesh of demo.toml, between as many other services as wanted.

Every path is built from the same ``Mesh``: the same functions, services and policies. The services
that fill the table stand before the measured ones, so a path that reads a list from its top finds
``samples`` as number n of n, and ``control``, ``api`` and ``bulk`` one to three places after it.
"""

import math
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Literal

from ebpfmesh import config
from ebpfmesh.bench.topology import address4, address6
from ebpfmesh.model import Address, Endpoint, Function, Identity, Limits, Mesh, Policy, Service

DEMO_FILE = Path(__file__).with_name("demo.toml")
CLIENT = "radio"
BLOCKED = "guest"
Version = Literal[4, 6]
SERVICES = {"pps": "samples", "rr": "control", "crr": "api", "stream": "bulk", "load": "bulk-udp"}
"""The service each kind of traffic goes to."""
TARGETS = 20
"""Neighbouring ports that take packets per second; see ``load``."""

FILLER = "filler-"
FILLER_ADDRESS = IPv4Address("198.19.0.0")
FILLER_PORT = 20000
FLOOD_ADDRESS = IPv4Address("198.19.221.9")
"""Whom nobody wants to hear: of nothing that is measured."""
IDLE_ADDRESS = IPv4Address("198.18.64.0")
MAX_SERVICES = MAX_RULES = 10000
MIN_FUNCTIONS, MAX_FUNCTIONS = 4, 1000
"""DEMO_FILE's own are the least: a client, one that is blocked, two backends."""
ROOM = 13 / 8
"""Slots for flows that a mesh needs for each that one of its three tenants may have: ``rooms``."""
LIMITS = Limits(services=16384, rules=16384, flows=162816)
"""Of every mesh that is measured, whatever it holds: room for MAX_SERVICES and 100 000 flows."""


@dataclass(frozen=True)
class Scale:
    """How much a path holds besides what is measured.

    ``services``: number of them up to the first that is measured, each with a policy. ``rules``:
    policies about no service that stand before those that let the measured traffic through.
    ``functions``: how many there are at least.
    """

    services: int = 1
    rules: int = 0
    functions: int = 0

    def __post_init__(self) -> None:
        for name, least, most in (
            ("services", 1, MAX_SERVICES), ("rules", 0, MAX_RULES), ("functions", 0, MAX_FUNCTIONS),
        ):  # fmt: skip
            if not least <= (value := getattr(self, name)) <= most:
                raise ValueError(f"{name}: {value} is not in {least}..{most}")

    def __str__(self) -> str:
        return f"{self.services}-{self.rules}-{self.functions}"


SMALLEST = Scale()


@dataclass(frozen=True)
class Target:
    """Where a client sends to: an address and port, a service's or a function's own."""

    address: Address
    port: int


def demo() -> Mesh:
    """The mesh of ``DEMO_FILE``, each function by its own name: other paths know no groups."""
    mesh = config.load(DEMO_FILE)
    functions = tuple(f.model_copy(update={"group": None}) for f in mesh.functions)
    services = tuple(
        service.model_copy(update={"functions": tuple(service.backends), "backends": {}})
        for service in mesh.backed
    )
    return mesh.model_copy(update={"functions": functions, "services": services})


def load(*, flows: int = 0) -> Mesh:
    """The mesh that every path is built from, with room for all that is measured.

    LIMITS are its limits, but that ``flows`` have room if they are more.

    Besides what the file has there is ``bulk`` for UDP, since iperf3 speaks both at one address;
    there are services at the ports after ``samples``', TARGETS in all, since one client has fewer
    ports than flows are wanted; and as many for TCP's SYNs.
    """
    mesh = demo()
    first = mesh.service(SERVICES["pps"])
    bulk = mesh.service(SERVICES["stream"])
    udp = bulk.model_copy(update={"name": SERVICES["load"], "protocol": "udp"})
    more = tuple(
        first.model_copy(
            update={
                "name": f"{first.name}-{protocol}-{number}",
                "protocol": protocol,
                "port": first.port + number,
                "target_port": first.target_port + number,
            }
        )
        for protocol in ("udp", "tcp")
        for number in range(TARGETS)
        if (protocol, number) != (first.protocol, 0)
    )
    rules = tuple(
        Policy(
            source=Identity.parse(f"function:{CLIENT}"),
            destination=Identity.parse(f"service:{service.name}"),
        )
        for service in (udp, *more)
    )
    parts = {"services": (*mesh.services, udp, *more), "policies": (*mesh.policies, *rules)}
    room = max(LIMITS.flows, math.ceil(flows * ROOM))
    limits = LIMITS.model_copy(update={"flows": room})
    return mesh.model_copy(update={**parts, "limits": limits})


def fill(mesh: Mesh, scale: Scale) -> Mesh:
    """``mesh`` with as much as ``scale`` says; what it adds comes before the mesh's own.

    The services lead from the client to the measured services' backends, on ports where nobody
    listens, and so do the ports the rules speak of. The functions do nothing.
    """
    backends = mesh.service(SERVICES["pps"]).functions
    client = Identity.parse(f"function:{CLIENT}")
    services = tuple(
        Service(
            name=f"{FILLER}{number}",
            address4=FILLER_ADDRESS + number,
            port=80,
            target_port=FILLER_PORT + number,
            functions=backends,
        )
        for number in range(1, scale.services)
    )
    policies = tuple(
        Policy(source=client, destination=Identity("service", service.name)) for service in services
    )
    rules = tuple(
        Policy(
            source=client,
            destination=Identity("function", backends[number % len(backends)]),
            protocol="tcp",
            port=FILLER_PORT + number,
        )
        for number in range(scale.rules)
    )
    idle = tuple(
        Function(name=f"idle-{number}", tenant="idle", address4=IDLE_ADDRESS + number)
        for number in range(1, scale.functions - len(mesh.functions) + 1)
    )
    return mesh.model_copy(
        update={
            "functions": mesh.functions + idle,
            "services": services + mesh.services,
            "policies": policies + rules + mesh.policies,
        }
    )


def service_target(mesh: Mesh, traffic: str, version: Version = 4) -> Target:
    """The service's address and port for a kind of traffic."""
    service = mesh.service(SERVICES[traffic])
    return Target(_address(service, version), service.port)


def backend_target(mesh: Mesh, traffic: str, version: Version = 4) -> Target:
    """The first backend's own address and port for a kind of traffic."""
    service = mesh.service(SERVICES[traffic])
    return Target(_address(mesh.function(service.functions[0]), version), service.target_port)


def _address(endpoint: Endpoint, version: Version) -> Address:
    return address4(endpoint) if version == 4 else address6(endpoint)


def backends(mesh: Mesh, traffic: str) -> tuple[str, ...]:
    """Names of the functions a kind of traffic can reach."""
    return mesh.service(SERVICES[traffic]).functions
