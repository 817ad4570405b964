# SPDX-License-Identifier: BSD-2-Clause
"""Both ends of a connection close at once, on two cores: its flow is over all the same."""

import os
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack

from ebpfmesh.model import Mesh
from ebpfmesh.observe import flows
from ebpfmesh.observe.view import opened
from support.meshes import function, mesh_file
from support.sockets import connect, listener

MESH = mesh_file("close", function("a"), function("b"))
CONNECTIONS, PORT = 400, 8080
PAUSE_NS = 50_000
AHEAD_NS = 20_000_000


def shut(sockets: Sequence[socket.socket], begin: int, core: int) -> None:
    """End what each has to say, one after the other, to the tick of a clock."""
    os.sched_setaffinity(0, {core})
    for number, one in enumerate(sockets):
        while time.monotonic_ns() < begin + number * PAUSE_NS:
            pass
        one.shutdown(socket.SHUT_WR)


def shut_both(here: Sequence[socket.socket], there: Sequence[socket.socket]) -> None:
    cores = sorted(os.sched_getaffinity(0))
    begin = time.monotonic_ns() + AHEAD_NS
    if not (child := os.fork()):
        try:
            shut(there, begin, cores[-1])
        finally:
            os._exit(0)
    shut(here, begin, cores[0])
    os.waitpid(child, 0)
    os.sched_setaffinity(0, cores)


def unclosed(mesh: Mesh) -> list[flows.Flow]:
    with opened(mesh.name) as view:
        return [row for row in flows.read(view) if row.protocol == "tcp" and row.state != "closed"]


def test_both_ends_close_at_once(mesh: Mesh) -> None:
    (to, _) = mesh.function("b").addresses
    for _ in range(4):
        with ExitStack() as stack, listener(mesh, "b", to, PORT) as server:
            here, there = [], []
            for _ in range(CONNECTIONS):
                here.append(stack.enter_context(connect(mesh, "a", to, PORT)))
                there.append(stack.enter_context(server.accept()[0]))
            assert len(unclosed(mesh)) == 2 * CONNECTIONS
            shut_both(here, there)
            assert all(not one.recv(1) for one in (*here, *there))
            assert unclosed(mesh) == []
