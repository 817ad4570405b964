# SPDX-License-Identifier: BSD-2-Clause
"""The outside behind an uplink: a namespace with two addresses of each family, behind a veth.

    mesh ── host ── up0 ═══ eth0 ── client, 198.19.21N.2 and .130 (N: the number of the uplink)

The host has .1 there, and a route to what is behind it. Functions are reached by way of the host.
"""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from ebpfmesh.kernel import netns
from ebpfmesh.model import Address


@dataclass(frozen=True)
class Beyond:
    """An uplink and the client behind it; addresses are IPv4 and IPv6."""

    interface: str
    client: Path
    host: tuple[Address, Address]
    near: tuple[Address, Address]
    """The client's first addresses."""
    far: tuple[Address, Address]
    """Its others, of prefixes of their own: ``far_prefixes``."""
    far_prefixes: tuple[str, str]


def _ip(namespace: str | None, lines: str) -> None:
    where = ["-netns", namespace] if namespace else []
    subprocess.run(["ip", *where, "-batch", "-"], input=lines.strip(), check=True, text=True)


def _delete(interface: str) -> None:
    subprocess.run(["ip", "link", "del", interface], check=False, stderr=subprocess.DEVNULL)


@contextmanager
def beyond(number: int = 0, *, interface: str = "") -> Iterator[Beyond]:
    """An uplink for the ``with`` block; what is removed meanwhile may be."""
    four, six = f"198.19.21{number}", f"2001:db8:d{number}"
    name, interface = f"beyond{number}", interface or f"up{number}"
    with ExitStack() as stack:
        netns.create(name)
        stack.callback(netns.remove, name)
        stack.callback(_delete, interface)  # the kernel would do it some time after
        _ip(
            None,
            f"""
link add {interface} type veth peer name eth0 netns {name}
link set {interface} up addrgenmode none
addr add {four}.1/25 dev {interface}
addr add {six}::1/64 dev {interface} nodad
addr add fe80::1/64 dev {interface} nodad
route add {four}.128/25 via {four}.2
route add {six}:f::/80 via {six}::2
""",
        )
        _ip(
            name,
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
        )
        yield Beyond(
            interface,
            netns.find(name),
            (ip_address(f"{four}.1"), ip_address(f"{six}::1")),
            (ip_address(f"{four}.2"), ip_address(f"{six}::2")),
            (ip_address(f"{four}.130"), ip_address(f"{six}:f::2")),
            (f"{four}.128/25", f"{six}:f::/80"),
        )
