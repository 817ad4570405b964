# SPDX-License-Identifier: BSD-2-Clause
"""Functions of a mesh that lives through any changes: each has one address whenever it is there."""

from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address

from ebpfmesh.kernel import netns
from ebpfmesh.model import Function, Identity, Mesh, Pool, ranked

NAMES = ("a", "b", "c", "guest")
FRAMES = ("raw", "port", "mate")
"""Functions with raw frames: by a program of theirs, by a port; and one that shares a pool."""
OWN = netns.RUN / "mine"
"""The namespace of the guest, which is there before it and after."""


def function(name: str, tenant: str, group: str | None = None) -> Function:
    """A function at an address that it has whenever it is there."""
    number = 10 + (*NAMES, *FRAMES, "web-0", "web-1", "web-2").index(name)
    return Function(
        name=name,
        tenant=tenant,
        group=group,
        address4=IPv4Address("198.18.0.0") + number,
        address6=IPv6Address("2001:db8::") + number,
        netns=str(OWN) if name == "guest" else None,
    )


def packets(version: int) -> Function:
    """Its frames go by its program to its own stack."""
    source = f"int raw(struct xdp_md *ctx) {{ return XDP_PASS; }} /* {version} */"
    return function("raw", "one").model_copy(
        update={"datapath": "xdp", "program": "raw.c", "source": source}
    )


def sharing(names: Collection[str], slots: int) -> list[Function]:
    """Functions that share a pool, of which one has its frames in it."""
    update = {
        "command": ("sleep", "1000"),
        "pools": (Pool(name="shared", slots=slots, bytes=2048, members=2),),
    }
    ported = {"datapath": "af_xdp", "queues": 2, "frames_in": "shared"}
    return [
        function(name, "one").model_copy(update=update | (ported if name == "port" else {}))
        for name in names
    ]


def web(count: int, tenant: str) -> tuple[Function, ...]:
    return tuple(function(f"web-{number}", tenant, "web") for number in range(count))


def with_functions(mesh: Mesh, functions: tuple[Function, ...]) -> Mesh:
    """The mesh with these functions; services, rules and places lose whoever is gone."""
    names = {f.name for f in functions} | {f.group for f in functions if f.group}
    tenants = {f.tenant for f in functions}
    tenants |= {one.tenant for one in mesh.remotes}
    known = {"function": names, "group": names, "tenant": tenants}
    kept = (one for one in mesh.injections if one.target[1] in known[one.target[0]])

    def is_there(end: Identity) -> bool:
        return end.name in known.get(end.kind, {end.name})

    parts = {
        "functions": functions,
        "injections": ranked(tuple(kept)),
        "services": tuple(service.only(names) for service in mesh.services),
        "policies": tuple(
            one for one in mesh.policies if is_there(one.source) and is_there(one.destination)
        ),
    }
    return mesh.model_copy(update=parts)
