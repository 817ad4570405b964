# SPDX-License-Identifier: BSD-2-Clause
"""What is beyond the host: a server behind a router, over a link with a smaller MTU.

function ──▶ host ── MTU 1500 ──▶ router ── MTU 1400 ──▶ server (addresses in two prefixes)

Link-local addresses are given, since a router asks for neighbours from them, and those the kernel
makes are not usable at once. The server announces an MSS for an MTU of 1500, as if its link were
not the narrow one: what fits is for the router to say.
"""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from ebpfmesh.kernel import netns
from ebpfmesh.model import Address

MTU = 1400
ROUTER, SERVER = "outside-router", "outside-server"
HOST4, HOST6 = "198.19.200.1", "2001:db8:c8::1"
ROUTER4, ROUTER6 = "198.19.200.2", "2001:db8:c8::2"
NEAR4, NEAR6 = "198.19.201.2", "2001:db8:c9::2"
FAR4, FAR6 = "198.19.202.2", "2001:db8:ca::2"
HOST_SIDE = f"""
link add mesh-out type veth peer name out netns {ROUTER}
link set mesh-out up addrgenmode none
addr add {HOST4}/24 dev mesh-out
addr add {HOST6}/64 dev mesh-out nodad
addr add fe80::1/64 dev mesh-out nodad
route add 198.19.201.0/24 via {ROUTER4}
route add 198.19.202.0/24 via {ROUTER4}
route add 2001:db8:c9::/64 via {ROUTER6}
route add 2001:db8:ca::/64 via {ROUTER6}
"""
ROUTER_SIDE = f"""
link set lo up
link add narrow mtu {MTU} type veth peer name eth0 mtu {MTU} netns {SERVER}
link set out up addrgenmode none
link set narrow up addrgenmode none
addr add {ROUTER4}/24 dev out
addr add {ROUTER6}/64 dev out nodad
addr add fe80::2/64 dev out nodad
addr add 198.19.201.1/24 dev narrow
addr add 2001:db8:c9::1/64 dev narrow nodad
addr add fe80::1/64 dev narrow nodad
route add default via {HOST4}
route add default via {HOST6}
route add 198.19.202.0/24 via {NEAR4}
route add 2001:db8:ca::/64 via {NEAR6}
"""
SERVER_SIDE = f"""
link set lo up
link set eth0 up addrgenmode none
addr add {NEAR4}/24 dev eth0
addr add {NEAR6}/64 dev eth0 nodad
addr add fe80::2/64 dev eth0 nodad
addr add {FAR4}/32 dev lo
addr add {FAR6}/128 dev lo nodad
route add default via 198.19.201.1 advmss 1460
route add default via 2001:db8:c9::1 advmss 1440
"""
FORWARDING = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")


@dataclass(frozen=True)
class Outside:
    """The server's namespace and addresses; a rule may speak of their prefixes apart."""

    server: Path
    near: tuple[Address, Address]
    far: tuple[Address, Address]
    near_prefixes: tuple[str, str] = ("198.19.201.0/24", "2001:db8:c9::/64")


@contextmanager
def outside() -> Iterator[Outside]:
    """The two namespaces and the way to them, for the ``with`` block."""
    with ExitStack() as stack:
        for name in (ROUTER, SERVER):
            netns.create(name)
            stack.callback(netns.remove, name)
        _ip(None, HOST_SIDE)
        stack.callback(_ip, None, "link del mesh-out")
        stack.callback(_forward, None, 0)
        _forward(None, 1)
        _ip(ROUTER, ROUTER_SIDE)
        _forward(ROUTER, 1)
        _ip(SERVER, SERVER_SIDE)
        yield Outside(
            netns.find(SERVER),
            (ip_address(NEAR4), ip_address(NEAR6)),
            (ip_address(FAR4), ip_address(FAR6)),
        )


def _ip(namespace: str | None, lines: str) -> None:
    where = ["-netns", namespace] if namespace else []
    subprocess.run(["ip", *where, "-batch", "-"], input=lines.strip(), check=True, text=True)


def _forward(namespace: str | None, value: int) -> None:
    prefix = ["ip", "netns", "exec", namespace] if namespace else []
    settings = [f"{name}={value}" for name in FORWARDING]
    subprocess.run([*prefix, "sysctl", "-q", "-w", *settings], check=True)
