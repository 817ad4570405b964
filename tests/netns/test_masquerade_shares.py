# SPDX-License-Identifier: BSD-2-Clause
"""One tenant has taken all ports to a peer: another gets some of them, and no more than that.

web (default), other (b) ─── host, mesh-out 198.19.200.1 ─── router ─── server 198.19.201.2
"""

import contextlib
import socket
from collections.abc import Callable

import pytest

from ebpfmesh._abi import Direction, Reason
from ebpfmesh.model import Mesh
from support.masquerade import text, unforwarding
from support.outside import Outside
from support.sockets import datagrams, ready
from support.topology import drops, wait_until

FIRST, COUNT = 61000, 40
PEER = 5006


MESH, OUTSIDE = text(ports=f"{FIRST}-{FIRST + COUNT - 1}"), unforwarding


class Ends:
    """Sockets of functions, and the server that they speak with."""

    def __init__(self, mesh: Mesh, server: socket.socket, open_: Callable[[str], socket.socket]):
        self.mesh, self.server, self._open = mesh, server, open_

    def refused(self, name: str) -> int:
        return drops(self.mesh).get((name, Direction.FROM_FN, Reason.NO_PORT), 0)

    def new(self, name: str) -> tuple[socket.socket, int] | None:
        """A flow of its own and the port that it has; None if it got none."""
        one, before = self._open(name), self.refused(name)
        one.sendto(b"ask", self.server.getsockname())
        came_or_not = lambda: ready([self.server], 0) or self.refused(name) > before  # noqa: E731
        wait_until(came_or_not, what="it is heard or refused")
        if self.refused(name) > before:
            assert self.refused(name) == before + 1
            assert not ready([self.server], 0)
            return None
        found, sender = self.server.recvfrom(64)
        assert found == b"ask"
        return one, sender[1]


def test_who_has_none_gets_some(mesh: Mesh, outside: Outside) -> None:
    """A flow of who has too many ends for it; its answers are the new one's."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(datagrams(mesh, outside.home, outside.near[0], PEER))

        def opened(name: str) -> socket.socket:
            own = mesh.function(name).address4
            return stack.enter_context(datagrams(mesh, name, own))

        ends = Ends(mesh, server, opened)
        taken: dict[int, socket.socket] = {}
        while len(taken) < COUNT:  # 32 of 40 are tried, so the last are not found at once
            if flow := ends.new("web"):
                assert flow[1] not in taken
                taken[flow[1]] = flow[0]
        assert ends.new("web") is None  # of its own tenant nothing is taken

        got = [flow for _ in range(5) if (flow := ends.new("other"))]
        assert len({port for _, port in got}) == 5
        for one, port in got:
            server.sendto(b"%d" % port, ("198.19.200.1", port))
            assert one.recv(64) == b"%d" % port
            taken[port].setblocking(False)
            with pytest.raises(BlockingIOError):
                taken.pop(port).recv(64)
        more = [flow for _ in range(12) if (flow := ends.new("other"))]
        assert len(more) < 12
        assert ends.new("web") is None  # it has far more than the other
        for port in {port for _, port in more}:
            taken.pop(port, None)
        assert len(taken) >= COUNT - 14
        for port, one in taken.items():  # the others go on
            server.sendto(b"kept", ("198.19.200.1", port))
            assert one.recv(64) == b"kept"
