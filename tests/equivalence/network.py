# SPDX-License-Identifier: BSD-2-Clause
"""Who there is, on either side, and the mesh that joins them.

a1, a2   tenant a ─┐                    ┌─ o1 … o4, the outside: one namespace, four addresses
b1       tenant b ─┼─ a host that routes┘  in prefixes that hold one another
c1       tenant c ─┤
probe    its own  ─┘  sends what marks the end of a batch: its rule is the strongest
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from ebpfmesh.kernel.interface import mac_of
from ebpfmesh.model import Function, Identity, Limits, Mesh, Network, Policy
from support.packets import Peer

NAME = "eqv"
OUTSIDE_MAC = "02:eb:9f:00:0f:01"
PROBE = "probe"
TENANTS = {"a1": "a", "a2": "a", "b1": "b", "c1": "c", PROBE: "probe"}
FUNCTIONS = ("a1", "a2", "b1", "c1")
OUTSIDERS = {
    "o1": ("198.19.1.129", "2001:db8:5:1:8000::81"),
    "o2": ("198.19.1.1", "2001:db8:5:1::1"),
    "o3": ("198.19.0.1", "2001:db8:5::1"),
    "o4": ("198.19.128.1", "2001:db8:5:8000::1"),
}
EVERYWHERE: dict[int, Network] = {4: IPv4Network("0.0.0.0/0"), 6: IPv6Network("::/0")}
OUTSIDE: dict[int, Network] = {4: IPv4Network("198.19.0.0/16"), 6: IPv6Network("2001:db8:5::/48")}
"""All that is outside here: what iptables takes for it, which has no word for "the others"."""
STRONGEST = Policy(
    source=Identity("function", PROBE), destination=Identity("any"), action="allow", priority=0
)
"""For the probe; the generated rules are weaker."""


def _functions() -> tuple[Function, ...]:
    return tuple(
        Function(
            name=name,
            tenant=tenant,
            address4=IPv4Address(f"198.18.0.{number}"),
            address6=IPv6Address(f"2001:db8::{number}"),
        )
        for number, (name, tenant) in enumerate(TENANTS.items(), 1)
    )


MESH = Mesh(
    name=NAME,
    limits=Limits(functions=15, tenants=7, services=7, rules=512, flows=8192),
    functions=_functions(),
    policies=(STRONGEST,),
)
PEERS = {
    **{
        function.name: Peer(
            function.name,
            str(function.address4),
            str(function.address6),
            mac_of(NAME, function.name),
        )
        for function in MESH.functions
    },
    **{name: Peer(name, *addresses, OUTSIDE_MAC) for name, addresses in OUTSIDERS.items()},
}
PAIRS = tuple(
    (one, other)
    for one in (*FUNCTIONS, *OUTSIDERS)
    for other in (*FUNCTIONS, *OUTSIDERS)
    if one != other and not {one, other} <= set(OUTSIDERS)
)
"""Everybody who could talk to somebody through the mesh: (sender, receiver)."""


def home(party: str) -> str:
    """The namespace a party lives in: its own, or the outside's."""
    return "outside" if party in OUTSIDERS else party


def function(party: str) -> Function | None:
    """The function of this name; None: it is outside."""
    return None if party in OUTSIDERS else MESH.function(party)


def with_rules(rules: tuple[Policy, ...]) -> Mesh:
    """The mesh with these rules, and the probe's."""
    return Mesh.model_validate({**dict(MESH), "policies": (STRONGEST, *rules)})
