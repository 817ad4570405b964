# SPDX-License-Identifier: BSD-2-Clause
"""A mesh whose functions speak to the outside by an uplink's address; the host forwards nothing.

web, other ─── host, mesh-out 198.19.200.1 ─── router ── MTU 1400 ── server 198.19.201.2
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from support.meshes import function, mesh_file, rule, service, table
from support.outside import HOST4, Outside, beyond_router, forward, sysctl

PORTS = "61000-65535"


def text(on: bool = True, ports: str = PORTS, **settings: object) -> str:
    """The mesh file."""
    return mesh_file(
        "hidden",
        function("web"),
        function("other", "b", rate="1G"),
        table("uplink", name="u0", interface="mesh-out", masquerade=on, masquerade_ports=ports),
        service("site", 80, "web", publish=["u0:80"]),
        rule("outside", "service:site"),
        **settings,
    )


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
