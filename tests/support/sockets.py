# SPDX-License-Identifier: BSD-2-Clause
"""Sockets of the test process in the namespaces of functions: traffic without another program.

A socket stays in the namespace it was made in, so one process can be all sides of a conversation.
"""

import contextlib
import errno
import random
import selectors
import socket
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from ebpfmesh import apply
from ebpfmesh.kernel import netns
from ebpfmesh.model import Address, Mesh
from support.topology import SLOWER, poll, unavailable

SECONDS = 20.0 * SLOWER
"""For what must arrive: the deadline of connect, accept and recv."""
BLOCKED_SECONDS = 0.3 * SLOWER
"""For what must not arrive: how long it is waited for."""
PART = 1 << 18
UDP_SEGMENT = 103  # linux/udp.h

Place = str | Path | None
"""Where a socket is: in a function, in the namespace of this path, or at the host (None)."""


def home(mesh: Mesh, function: Place) -> Path:
    """Path of a function's namespace; None: the host's."""
    if function is None:
        return Path("/proc/thread-self/ns/net")
    if isinstance(function, Path):
        return function
    with apply.opened(mesh.name) as live:
        return live.home(function).netns


def made(mesh: Mesh, function: Place, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """A socket in a function's namespace, with SECONDS as its deadline."""
    with netns.entered(home(mesh, function)):
        made = socket.socket(family, kind, protocol)
    made.settimeout(SECONDS)
    return made


def ready(sockets: Iterable[socket.socket], seconds: float) -> list[socket.socket]:
    """Those that have something to read, as soon as one has; none if it takes longer.

    select(2) cannot wait for a descriptor from 1024 on, which a process of many tests comes to.
    """
    with selectors.DefaultSelector() as selector:
        for one in sockets:
            selector.register(one, selectors.EVENT_READ, one)
        return [key.data for key, _ in selector.select(seconds)]


def family_of(address: Address) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


@contextlib.contextmanager
def listener(mesh: Mesh, function: Place, address: Address, port: int) -> Iterator[socket.socket]:
    """A TCP socket that listens on an address of the function."""
    with made(mesh, function, family_of(address), socket.SOCK_STREAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((str(address), port))
        server.listen(64)
        yield server


def connect(
    mesh: Mesh, function: Place, address: Address, port: int, *, own_port: int = 0,
    seconds: float = SECONDS,
) -> socket.socket:  # fmt: skip
    """A TCP connection from a function; TimeoutError if nothing answers."""
    client = made(mesh, function, family_of(address), socket.SOCK_STREAM)
    client.settimeout(seconds)
    try:
        if own_port:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.bind(("", own_port))
        client.connect((str(address), port))
    except OSError:
        client.close()
        raise
    client.settimeout(SECONDS)
    return client


def accepted(server: socket.socket) -> socket.socket:
    """The next connection to a listener, with SECONDS as its deadline."""
    there, _ = server.accept()
    there.settimeout(SECONDS)
    return there


def connects(
    mesh: Mesh,
    function: Place,
    address: Address,
    port: int,
    *,
    seconds: float = SECONDS,
) -> bool:
    """Whether a TCP connection comes about in this time."""
    try:
        connect(mesh, function, address, port, seconds=seconds).close()
    except TimeoutError:
        return False
    return True


def is_blocked(
    mesh: Mesh, function: Place, address: Address, port: int, *, seconds: float = BLOCKED_SECONDS
) -> bool:
    """Whether no TCP connection comes about, waited for so long."""
    return not connects(mesh, function, address, port, seconds=seconds)


@contextlib.contextmanager
def connection(
    mesh: Mesh, client: Place, server: Place, address: Address, port: int
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a TCP connection from one function to another at an address of its own."""
    with (
        listener(mesh, server, address, port) as listening,
        connect(mesh, client, address, port) as here,
        accepted(listening) as there,
    ):
        yield here, there


def carries(
    here: socket.socket, there: socket.socket, data: bytes = b"ping", *, seconds: float = SECONDS
) -> bool:
    """Whether what is written into one end of a connection comes out of the other in this time."""
    here.sendall(data)
    got = b""
    there.settimeout(seconds)
    with contextlib.suppress(TimeoutError):
        while len(got) < len(data):
            got += there.recv(len(data) - len(got))
    there.settimeout(SECONDS)
    return got == data


def is_cut(here: socket.socket, there: socket.socket) -> bool:
    """Whether what is written into one end of a connection does not come out of the other."""
    return not carries(here, there, seconds=BLOCKED_SECONDS)


def moved_whole(source: socket.socket, sink: socket.socket, size: int = 32 << 20) -> bool:
    """Whether random bytes come out as they went in; each part of them has SECONDS."""
    data = random.Random(size).randbytes(size)
    got = bytearray()

    def send() -> None:
        for at in range(0, size, PART):
            source.sendall(data[at : at + PART])

    sender = threading.Thread(target=send)
    sender.start()
    while len(got) < size and (part := sink.recv(1 << 20)):
        got += part
    sender.join()
    return got == data


@contextlib.contextmanager
def datagrams(
    mesh: Mesh, function: Place, address: Address, port: int = 0
) -> Iterator[socket.socket]:
    """A UDP socket at an address of the function."""
    with made(mesh, function, family_of(address), socket.SOCK_DGRAM) as made_socket:
        made_socket.bind((str(address), port))
        yield made_socket


def send_segments(one: socket.socket, text: bytes, size: int) -> None:
    """Send datagrams of ``size`` bytes as one, by GSO; skip where the kernel cannot from there."""
    one.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)
    try:
        one.send(text)
    except OSError as error:  # udp_send_skb() in linux/net/ipv4/udp.c
        if error.errno != errno.EIO:
            raise
        unavailable("the kernel segments UDP only where checksums are offloaded (till 6.10)")


@contextlib.contextmanager
def frames(mesh: Mesh, function: Place, interface: str = "eth0") -> Iterator[socket.socket]:
    """A packet socket on an interface: sends and hears whole frames, whatever is in them."""
    everything = 0x0003  # ETH_P_ALL
    with made(mesh, function, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(everything)) as raw:
        raw.bind((interface, everything))
        yield raw


def hears(raw: socket.socket, mark: bytes, *, seconds: float = SECONDS) -> bool:
    """Whether a packet socket hears a frame with ``mark`` in it in this time."""
    raw.setblocking(False)

    def heard() -> bool:
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, where = raw.recvfrom(65536)
                if mark in frame and where[2] != socket.PACKET_OUTGOING:
                    return True
        return False

    return poll(heard, seconds=seconds / SLOWER)
