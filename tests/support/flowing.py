# SPDX-License-Identifier: BSD-2-Clause
"""Datagrams from outside to the host while lists of who is denied change."""

import json
import os
import select
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ebpfmesh.model import Mesh
from support.outside import Outside
from support.sockets import datagrams
from support.topology import SLOWER


class Traffic:
    """Numbered datagrams to the host from the client, in a process of its own until stopped.

    Those from the near address all arrive, and from the far one none.
    """

    def __init__(self, mesh: Mesh, outside: Outside) -> None:
        with ExitStack() as stack:
            there = stack.enter_context(datagrams(mesh, None, outside.host[0], 5300))
            near = stack.enter_context(datagrams(mesh, outside.home, outside.near[0]))
            far = stack.enter_context(datagrams(mesh, outside.home, outside.far[0]))
            ours, theirs = socket.socketpair()
            self._control = ours
            self._child = os.fork()
            if self._child == 0:
                status = 1
                try:
                    self._run(theirs, there, near, far, (str(outside.host[0]), 5300))
                    status = 0
                finally:
                    os._exit(status)
            theirs.close()

    @staticmethod
    def _run(
        control: socket.socket,
        there: socket.socket,
        near: socket.socket,
        far: socket.socket,
        host: tuple[str, int],
    ) -> None:
        sent, lost, strange = 0, 0, 0
        own = near.getsockname()
        there.settimeout(20 * SLOWER)
        while not select.select([control], [], [], 0)[0]:
            for number in range(16):
                near.sendto((sent + number).to_bytes(8), host)
                far.sendto(b"far", host)
            missing = set(range(sent, sent + 16))
            sent += 16
            while missing:
                try:
                    data, peer = there.recvfrom(64)
                except TimeoutError:
                    lost += len(missing)
                    break
                if peer == own:
                    missing.discard(int.from_bytes(data))
                else:
                    strange += 1
        control.sendall(json.dumps([sent, lost, strange]).encode())

    def stop(self) -> tuple[int, int, int]:
        """How many of the near ones were sent, how many lost, and how many of the far came."""
        self._control.sendall(b"!")
        told = self._control.recv(4096)
        self._control.close()
        _, status = os.waitpid(self._child, 0)
        assert status == 0
        sent, lost, strange = json.loads(told)
        return sent, lost, strange

    def kill(self) -> None:
        if self._control.fileno() >= 0:
            os.kill(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)
            self._control.close()


@contextmanager
def traffic(mesh: Mesh, outside: Outside) -> Iterator[Traffic]:
    made = Traffic(mesh, outside)
    try:
        yield made
    finally:
        made.kill()
