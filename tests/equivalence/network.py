# SPDX-License-Identifier: BSD-2-Clause
"""Who there is, on either side, and the mesh that joins them.

a1, a2   tenant a ─┐                    ┌─ o1 … o4, the outside: one namespace, four addresses
b1       tenant b ─┼─ a host that routes┘  in prefixes that hold one another
c1       tenant c ─┤
probe    its own  ─┘  sends what marks the end of a batch: its rule is the strongest

With an uplink the outside is behind that, and reaches b1 and c1 by ports of the host's address too.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from ebpfmesh.kernel.interface import mac_of
from ebpfmesh.model import (
    Function,
    Identity,
    Limits,
    Mesh,
    Network,
    Policy,
    Protocol,
    Service,
    Uplink,
)
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
    limits=Limits(functions=15, tenants=7, services=15, rules=512, flows=8192),
    functions=_functions(),
    policies=(STRONGEST,),
)
HOST = {4: "192.0.2.1", 6: "2001:db8:9::1"}
"""Addresses of the host's at the uplink."""
UPLINK = "out0"


@dataclass(frozen=True)
class Front:
    """A published port of the host's, and the only function behind it."""

    protocol: Protocol
    port: int
    own_port: int
    """Of the service, which rules speak of."""
    function: str
    target_port: int


FRONTS = {
    "web": Front("tcp", 8081, 80, "b1", 18001),
    "talk": Front("udp", 5301, 53, "c1", 18002),
}
"""By the name of the service."""
UPLINKED = Mesh.model_validate(
    {
        **dict(MESH),
        "uplinks": (Uplink(name="u0", interface=UPLINK),),
        "services": tuple(
            Service.model_validate(
                {
                    "name": name,
                    "protocol": front.protocol,
                    "address4": IPv4Address(f"198.18.255.{number}"),
                    "address6": IPv6Address(f"2001:db8::ffff:{number}"),
                    "port": front.own_port,
                    "target_port": front.target_port,
                    "functions": (front.function,),
                    "publish": (f"u0:{front.port}",),
                }
            )
            for number, (name, front) in enumerate(FRONTS.items(), 1)
        ),
    }
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
    **{name: Peer(name, HOST[4], HOST[6], OUTSIDE_MAC) for name in FRONTS},
}
PAIRS = tuple(
    (one, other)
    for one in (*FUNCTIONS, *OUTSIDERS)
    for other in (*FUNCTIONS, *OUTSIDERS)
    if one != other and not {one, other} <= set(OUTSIDERS)
)
"""Everybody who could talk to somebody through the mesh: (sender, receiver)."""


UPLINK_PAIRS = tuple(pair for pair in PAIRS if {*pair} & OUTSIDERS.keys())
"""Those of them that meet an uplink."""


def home(party: str) -> str:
    """The namespace a party lives in: its own, or the outside's; that of who is behind a front."""
    if party in FRONTS:
        return FRONTS[party].function
    return "outside" if party in OUTSIDERS else party


def function(party: str) -> Function | None:
    """The function of this name; None: it is outside."""
    return None if party in OUTSIDERS else MESH.function(party)


def with_rules(rules: tuple[Policy, ...], base: Mesh = MESH) -> Mesh:
    """The mesh with these rules, and the probe's."""
    return Mesh.model_validate({**dict(base), "policies": (STRONGEST, *rules)})
