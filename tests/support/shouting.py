# SPDX-License-Identifier: BSD-2-Clause
"""Datagrams from every function to every other and to every service: who got them, and who should.

A datagram says when it was sent, so that one that comes late is judged by what was right then.
"""

import contextlib
import itertools
import socket
from collections.abc import Iterator
from pathlib import Path

from ebpfmesh.kernel import netns
from ebpfmesh.model import Function, Mesh, Service
from ebpfmesh.state.record import Record
from ebpfmesh.state.rows import FunctionRow
from support.policy import decide
from support.topology import poll

PORT, FROM = 7000, 6000
"""Where all listen, and where all send from: each pair has a flow as long as both live."""
FRESH = 10_000
"""From here on each port is taken once, or a flow of before would have the one that is chosen."""
Sent = tuple[int, str, str]
"""Number of the round, who sent it, whom it is for: a function, or a service."""


class Shouting:
    """The sockets of a mesh's functions, and what they sent and got."""

    def __init__(self) -> None:
        self._sockets: dict[tuple[str, int], tuple[socket.socket, socket.socket]] = {}
        self._may: dict[Sent, set[str]] = {}
        self._round = 0
        self._fresh = itertools.count(FRESH)

    @property
    def sockets(self) -> int:
        """How many are open."""
        return 2 * len(self._sockets)

    def once(self, mesh: Mesh) -> str:
        """One datagram for each pair; what is wrong with who got what, empty if nothing is."""
        self._round += 1
        self._open(mesh)
        must: set[Sent] = set()
        for function in mesh.functions:
            for sent, address, port, may, all_must in self._planned(mesh, function):
                self._may[sent] = may
                must |= {sent} if all_must else set()
                with self._sender(mesh, function, fresh=port != PORT) as sender:
                    sender.sendto(":".join(map(str, sent)).encode(), (address, port))
        got: set[Sent] = set()
        wrong: list[str] = []
        poll(lambda: self._hear(got, wrong) >= must)
        missing = [f"{sent} did not arrive" for sent in must - got]
        return "; ".join(missing + wrong)

    def close(self) -> None:
        """Close all."""
        for sock in itertools.chain(*self._sockets.values()):
            sock.close()
        self._sockets.clear()

    def _planned(
        self, mesh: Mesh, source: Function
    ) -> Iterator[tuple[Sent, str, int, set[str], bool]]:
        """What is sent, where to, who may get it, and whether somebody must."""
        for function in mesh.functions:
            if function != source:
                passes = decide(mesh, source, function, None, "udp", PORT).action == "allow"
                sent = (self._round, source.name, function.name)
                yield (
                    sent,
                    str(function.address4),
                    PORT,
                    {function.name} if passes else set(),
                    passes,
                )
        for service in mesh.backed:
            takes = {name for name, weight in service.backends.items() if weight}
            may = {name for name in takes if _reaches(mesh, source, service, name)}
            sent = (self._round, source.name, service.name)
            yield sent, str(service.address4), service.port, may, bool(may) and may == takes

    def _open(self, mesh: Mesh) -> None:
        """Sockets for who is new, none for who is gone; one that is made anew is both."""
        rows = {(row.function.name, row.attachment.netns_inode): row for row in _rows(mesh)}
        for key in self._sockets.keys() - rows.keys():
            for sock in self._sockets.pop(key):
                sock.close()
        for key in rows.keys() - self._sockets.keys():
            address = str(rows[key].function.address4)
            self._sockets[key] = _bound(rows[key], address, PORT), _bound(rows[key], address, FROM)

    @contextlib.contextmanager
    def _sender(self, mesh: Mesh, function: Function, *, fresh: bool) -> Iterator[socket.socket]:
        """What it sends from; ``fresh``: from a port of which no service remembers a flow."""
        if not fresh:
            yield next(
                pair[1] for (name, _), pair in self._sockets.items() if name == function.name
            )
            return
        row = next(row for row in _rows(mesh) if row.function.name == function.name)
        with _bound(row, str(function.address4), next(self._fresh)) as sock:
            yield sock

    def _hear(self, got: set[Sent], wrong: list[str]) -> set[Sent]:
        """Take what has arrived; what should not have is wrong, whenever it was sent."""
        for (name, _), (listening, _) in self._sockets.items():
            with contextlib.suppress(BlockingIOError):
                while True:
                    number, source, target = listening.recv(64).decode().split(":")
                    sent = (int(number), source, target)
                    if name not in self._may[sent]:
                        wrong.append(f"{sent} came to {name}")
                    got.add(sent)
        return got


def _reaches(mesh: Mesh, source: Function, service: Service, backend: str) -> bool:
    receiver = mesh.function(backend)
    found = decide(mesh, source, receiver, service, service.protocol, service.port)
    return found.action == "allow"


def _rows(mesh: Mesh) -> list[FunctionRow]:
    with contextlib.closing(Record(mesh.name)) as record:
        return list(record.functions())


def _bound(row: FunctionRow, address: str, port: int) -> socket.socket:
    with netns.entered(Path(row.attachment.netns)):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind((address, port))
    return sock
