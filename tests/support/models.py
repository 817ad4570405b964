# SPDX-License-Identifier: BSD-2-Clause
"""Small meshes as models, of functions a to d and of tenants x and y."""

from ipaddress import IPv4Address

from ebpfmesh.model import Function, Mesh, Policy, Service

EMPTY = Mesh(name="edge")
NAMES = ("a", "b", "c", "d")
TENANTS = ("x", "y")


def function(name: str, tenant: str = "x", *, low: int = 0, **settings: object) -> Function:
    """A function whose last byte of the address is its place in NAMES, ``low`` further on."""
    address = IPv4Address("198.18.0.1") + NAMES.index(name) + low
    return Function(name=name, tenant=tenant, address4=address, **settings)


def service(name: str, *functions: str, at: str = "", **settings: object) -> Service:
    """A service whose last byte of the address is its letter, or that of another, ``at``."""
    address = IPv4Address("198.18.128.0") + ord(at or name)
    ports = {"port": 80, "target_port": 5201} | settings
    return Service(name=name, address4=address, functions=functions, **ports)


def policy(source: str, destination: str, **rest: object) -> Policy:
    return Policy.model_validate({"source": source, "destination": destination, **rest})


def mesh(*items: Function | Service | Policy) -> Mesh:
    return Mesh(
        name="edge",
        functions=tuple(item for item in items if isinstance(item, Function)),
        services=tuple(item for item in items if isinstance(item, Service)),
        policies=tuple(item for item in items if isinstance(item, Policy)),
    )


X, Y = function("a"), function("b")
PACKET = X.model_copy(update={"datapath": "xdp", "program": "a.c", "source": "int a;"})
