# SPDX-License-Identifier: BSD-2-Clause
"""A mesh whose functions speak to the outside by an uplink's address; the host forwards nothing.

web, other ─── host, mesh-out 198.19.200.1 ─── router ── MTU 1400 ── server 198.19.201.2
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from support.outside import HOST4, Outside, beyond_router, forward, sysctl

PORTS = "61000-65535"
MESH = """
[mesh]
name = "hidden"
{settings}
[[function]]
name = "web"
[[function]]
name = "other"
tenant = "b"
rate = "1G"
[[uplink]]
name = "u0"
interface = "mesh-out"
masquerade = {on}
masquerade_ports = "{ports}"
[[service]]
name = "site"
address = ["198.19.0.1", "2001:db8:1::1"]
port = 80
functions = ["web"]
publish = ["u0:80"]
[[policy]]
from = "outside"
to = "service:site"
"""


def text(on: str = "true", ports: str = PORTS, settings: str = "") -> str:
    """The mesh file."""
    return MESH.format(on=on, ports=ports, settings=settings)


@contextmanager
def unforwarding() -> Iterator[Outside]:
    """The outside behind a host that forwards nothing, and tells its routes."""
    with beyond_router() as found:
        forward(0)
        sysctl("net.ipv4.conf.lo.forwarding=1", "net.ipv6.conf.lo.forwarding=1")
        yield found


def is_translated(peer: tuple[str, int], ports: str = PORTS) -> bool:
    """Whether somebody at a server is who the uplink stands for."""
    first, last = map(int, ports.split("-"))
    return peer[0] == HOST4 and first <= peer[1] <= last


def exchanged(here: socket.socket, server: socket.socket, at: tuple[str, int]) -> bool:
    """Whether a datagram to ``at`` is answered to who sent it."""
    here.sendto(b"ask", at)
    try:
        _, sender = server.recvfrom(64)
    except TimeoutError:
        return False
    server.sendto(b"tell", sender)
    return here.recv(64) == b"tell"
