# SPDX-License-Identifier: BSD-2-Clause
"""The outside: namespaces beyond the host, with addresses of both families and routes both ways.

    beyond(N)          host ── upN ═══ eth0 ── .2 and .130 of 198.19.21N.0/24, 2001:db8:dN::
    beyond_router()    host ── mesh-out ═══ router ── MTU 1400 ── eth0 ── .2 of two networks

Functions are reached by way of the host. The fixtures ``outside`` and ``routed`` of
``netns/conftest.py`` are these for all tests of a module. Addresses have no duplicate detection,
and link-local ones are given, since those that the kernel makes are not usable at once.
"""

import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from ebpfmesh.kernel import netns
from ebpfmesh.model import Address

MTU = 1400
HOST4, ROUTER4 = "198.19.200.1", "198.19.200.2"
FORWARDING = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")


@dataclass(frozen=True)
class Outside:
    """Somebody outside, and the way there; addresses and prefixes are of IPv4 and IPv6."""

    interface: str
    """Of the host."""
    home: Path
    """The namespace; its interface is eth0."""
    host: tuple[Address, Address]
    """The host's addresses at the interface."""
    router: tuple[Address, Address]
    """The host's next hop."""
    near: tuple[Address, Address]
    near_prefixes: tuple[str, str]
    far: tuple[Address, Address]
    """Other addresses there, of prefixes of their own."""
    far_prefixes: tuple[str, str]

    def run(self, line: str) -> str:
        """What a command says there."""
        return run(line, home=self.home)

    def pings(self, target: object, source: object = "", *, seconds: float = 20) -> bool:
        """Whether an echo request is answered within this time."""
        words = f"ping -c 1 -W {seconds} {f'-I {source}' if source else ''} {target}"
        try:
            return bool(self.run(words))
        except subprocess.CalledProcessError:
            return False


def run(line: str, *, home: Path | None = None) -> str:
    """What a command says, in a namespace or at the host; it must succeed."""
    where = ["nsenter", f"--net={home}"] if home else []
    words = [*where, *line.split()]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def batch(lines: str, namespace: str = "") -> None:
    """Lines for ip(8), in a namespace of this name or at the host."""
    where = ["-netns", namespace] if namespace else []
    subprocess.run(["ip", *where, "-batch", "-"], input=lines.strip(), check=True, text=True)


def sysctl(*settings: str, home: Path | None = None) -> None:
    run(f"sysctl -qw {' '.join(settings)}", home=home)


def forward(value: int, *, home: Path | None = None) -> None:
    """Have the host route, or not."""
    sysctl(*(f"{name}={value}" for name in FORWARDING), home=home)


def redirected(interface: str) -> int:
    """Frames that XDP at an interface has sent on to another one so far."""
    found = re.findall(r"rx_queue_\d+_xdp_redirect: (\d+)", run(f"ethtool -S {interface}"))
    return sum(map(int, found))


def namespaces(stack: ExitStack, *names: str) -> None:
    """New ones, which go with the stack."""
    for name in names:
        netns.create(name)
        stack.callback(netns.remove, name)


def pair(four: str, six: str) -> tuple[Address, Address]:
    return ip_address(four), ip_address(six)


def delete(interface: str) -> None:
    """Of a veth, which the kernel would do some time after its namespace is gone."""
    subprocess.run(["ip", "link", "del", interface], check=False, stderr=subprocess.DEVNULL)


@contextmanager
def addressed(*addresses: object, home: Path | None = None) -> Iterator[None]:
    """More addresses of a namespace, or of the host, for the ``with`` block."""
    for one in addresses:
        run(f"ip addr add {one} dev lo {'nodad' if ':' in str(one) else ''}", home=home)
    yield
    for one in addresses:
        run(f"ip addr del {one} dev lo", home=home)


def mac(interface: str) -> str:
    """Of this thread's namespace."""
    with netns.rtnetlink() as ip:
        return str(ip.link("get", ifname=interface)[0].get_attr("IFLA_ADDRESS"))


@contextmanager
def beyond(number: int = 0, *, interface: str = "") -> Iterator[Outside]:
    """Who is behind an uplink, for the ``with`` block; what is removed meanwhile may be."""
    four, six = f"198.19.21{number}", f"2001:db8:d{number}"
    name, interface = f"beyond{number}", interface or f"up{number}"
    with ExitStack() as stack:
        namespaces(stack, name)
        stack.callback(delete, interface)
        batch(
            f"""
link add {interface} type veth peer name eth0 netns {name}
link set {interface} up addrgenmode none
addr add {four}.1/25 dev {interface}
addr add {six}::1/64 dev {interface} nodad
addr add fe80::1/64 dev {interface} nodad
route add {four}.128/25 via {four}.2
route add {six}:f::/80 via {six}::2
"""
        )
        batch(
            f"""
link set lo up
link set eth0 up addrgenmode none
addr add {four}.2/25 dev eth0
addr add {six}::2/64 dev eth0 nodad
addr add fe80::2/64 dev eth0 nodad
addr add {four}.130/32 dev lo
addr add {six}:f::2/128 dev lo nodad
route add default via {four}.1
route add default via {six}::1
""",
            name,
        )
        near = pair(f"{four}.2", f"{six}::2")
        yield Outside(
            interface,
            netns.find(name),
            host=pair(f"{four}.1", f"{six}::1"),
            router=near,
            near=near,
            near_prefixes=(f"{four}.0/25", f"{six}::/64"),
            far=pair(f"{four}.130", f"{six}:f::2"),
            far_prefixes=(f"{four}.128/25", f"{six}:f::/80"),
        )


HOST_SIDE = f"""
link add mesh-out type veth peer name out netns outside-router
link set mesh-out up addrgenmode none
addr add {HOST4}/24 dev mesh-out
addr add 2001:db8:c8::1/64 dev mesh-out nodad
addr add fe80::1/64 dev mesh-out nodad
route add 198.19.201.0/24 via {ROUTER4}
route add 198.19.202.0/24 via {ROUTER4}
route add 2001:db8:c9::/64 via 2001:db8:c8::2
route add 2001:db8:ca::/64 via 2001:db8:c8::2
"""
ROUTER_SIDE = f"""
link set lo up
link add narrow mtu {MTU} type veth peer name eth0 mtu {MTU} netns outside-server
link set out up addrgenmode none
link set narrow up addrgenmode none
addr add {ROUTER4}/24 dev out
addr add 2001:db8:c8::2/64 dev out nodad
addr add fe80::2/64 dev out nodad
addr add 198.19.201.1/24 dev narrow
addr add 2001:db8:c9::1/64 dev narrow nodad
addr add fe80::1/64 dev narrow nodad
route add default via {HOST4}
route add default via 2001:db8:c8::1
route add 198.19.202.0/24 via 198.19.201.2
route add 2001:db8:ca::/64 via 2001:db8:c9::2
"""
SERVER_SIDE = """
link set lo up
link set eth0 up addrgenmode none
addr add 198.19.201.2/24 dev eth0
addr add 2001:db8:c9::2/64 dev eth0 nodad
addr add fe80::2/64 dev eth0 nodad
addr add 198.19.202.2/32 dev lo
addr add 2001:db8:ca::2/128 dev lo nodad
route add default via 198.19.201.1 advmss 1460
route add default via 2001:db8:c9::1 advmss 1440
"""
"""It announces an MSS for an MTU of 1500: what fits is for the router to say."""


@contextmanager
def beyond_router() -> Iterator[Outside]:
    """A server behind a router and a link with a smaller MTU; the host forwards."""
    with ExitStack() as stack:
        namespaces(stack, "outside-router", "outside-server")
        batch(HOST_SIDE)
        stack.callback(delete, "mesh-out")
        stack.callback(forward, 0)
        forward(1)
        batch(ROUTER_SIDE, "outside-router")
        forward(1, home=netns.find("outside-router"))
        batch(SERVER_SIDE, "outside-server")
        yield Outside(
            "mesh-out",
            netns.find("outside-server"),
            host=pair(HOST4, "2001:db8:c8::1"),
            router=pair(ROUTER4, "2001:db8:c8::2"),
            near=pair("198.19.201.2", "2001:db8:c9::2"),
            near_prefixes=("198.19.201.0/24", "2001:db8:c9::/64"),
            far=pair("198.19.202.2", "2001:db8:ca::2"),
            far_prefixes=("198.19.202.0/24", "2001:db8:ca::/64"),
        )
