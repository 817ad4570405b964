# SPDX-License-Identifier: BSD-2-Clause
"""What real stacks make of payloads that an injected function writes to: changed, and in one piece.

a ──▶ b, and a ──▶ the host ──▶ router ──▶ a server outside.

The function makes a lower-case letter at a place of each packet a capital, so what arrives tells
which bytes were written, wherever the sender's stack, GSO or a retransmission has cut.
"""

import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpfmesh import apply
from ebpfmesh.bench.topology import set_offload
from ebpfmesh.config import edit
from ebpfmesh.kernel import netns
from ebpfmesh.model import Address, Injection, Mesh
from ebpfmesh.observe import injected, view
from support.meshes import function, mesh_file
from support.outside import beyond_router
from support.sockets import Place, accepted, connect, datagrams, home, listener
from support.topology import running

MESH = mesh_file("write", function("a", "one"), function("b", "one"))
CAPITAL = """
#include "mesh_function.h"
MESH_PARAMETER(u32, at, 0, "of the payload");
MESH_COUNTER(asked, "packets that are to be written to");
MESH_FUNCTION(p)
{
	u8 letter = 0;

	if (mesh_get(at) >= p->payload_length)
		return mesh_next();
	if (mesh_read(p, p->payload + mesh_get(at), &letter, 1))
		return mesh_next();
	mesh_count(asked);
	return mesh_write(mesh_next(), mesh_get(at), letter & ~0x20, 1);
}
"""
CHECKSUMS = ("tx-checksum-ip-generic",)
SEGMENTS = ("tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-generic-segmentation")
VERSIONS = pytest.mark.parametrize("v", [4, 6])
OFFLOADS = pytest.mark.parametrize(
    "offload", [True, False], indirect=True, ids=["offloads", "no-offloads"]
)
SIZE = 8 << 20


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with running(MESH) as found:
        one = Injection(name="capital", at="a/egress", file="capital.c", source=CAPITAL)
        apply.edit(found.name, lambda whole: edit.inject(whole, one))
        yield found


def seen(mesh: Mesh) -> injected.Injected:
    with view.opened(mesh.name) as opened:
        return injected.one(opened, "capital")


def place(mesh: Mesh, at: int) -> None:
    """Which byte of each packet is made a capital."""
    apply.edit(mesh.name, lambda whole: edit.swap(whole, "capital", parameters={"at": at}))


def unwritten(mesh: Mesh, before: injected.Injected) -> set[str]:
    """Why packets were not written to, since then."""
    now, then = seen(mesh).unwritten, before.unwritten
    return {why for why, packets in now.items() if packets > then.get(why, 0)}


def address(mesh: Mesh, function: str, v: int) -> Address:
    found = mesh.function(function)
    address = found.address4 if v == 4 else found.address6
    assert address
    return address


def letters(size: int) -> bytes:
    table = bytes(97 + value % 26 for value in range(256))
    return random.Random(size).randbytes(size).translate(table)


def moved(source: socket.socket, sink: socket.socket, data: bytes) -> bytes:
    """What comes out where this goes in."""
    got = bytearray()
    sender = threading.Thread(target=source.sendall, args=(data,))
    sender.start()
    while len(got) < len(data) and (part := sink.recv(1 << 20)):
        got += part
    sender.join()
    return bytes(got)


def errors(mesh: Mesh, where: Place) -> dict[str, int]:
    """Checksums that a stack found wrong, by what they are of."""
    with netns.entered(home(mesh, where)):
        four = Path("/proc/thread-self/net/snmp").read_text().splitlines()
        six = Path("/proc/thread-self/net/snmp6").read_text().split()
    found = {name: int(value) for name, value in zip(six[::2], six[1::2], strict=True)
             if "CsumErrors" in name}  # fmt: skip
    for names, values in zip(four[::2], four[1::2], strict=True):
        row = dict(zip(names.split(), values.split(), strict=True))
        if "InCsumErrors" in row:
            found[names.partition(":")[0]] = int(row["InCsumErrors"])
    return found


@pytest.fixture
def offload(mesh: Mesh, request: pytest.FixtureRequest) -> Iterator[None]:
    """Whether a's stack leaves segments and checksums to its interface."""
    on: bool = request.param
    set_offload(home(mesh, "a"), "eth0", *CHECKSUMS, on=on)
    set_offload(home(mesh, "a"), "eth0", *SEGMENTS, on=on)
    yield
    set_offload(home(mesh, "a"), "eth0", *CHECKSUMS, on=True)
    set_offload(home(mesh, "a"), "eth0", *SEGMENTS, on=True)


@VERSIONS
@OFFLOADS
@pytest.mark.usefixtures("offload")
@pytest.mark.parametrize("at", [0, 7, 1000])
def test_a_stream_arrives_whole_and_changed(mesh: Mesh, v: int, at: int) -> None:
    """Every byte is its own or its capital; as many are as were asked for, but what came twice."""
    place(mesh, at)
    to, data = address(mesh, "b", v), letters(SIZE)
    before, wrong = seen(mesh), errors(mesh, "b")
    with (
        listener(mesh, "b", to, 7000 + v) as server,
        connect(mesh, "a", to, 7000 + v) as here,
        accepted(server) as there,
    ):
        got = moved(here, there, data)
    asked = seen(mesh).counters["asked"] - before.counters["asked"]
    assert got.lower() == data
    assert 0 < sum(one.isupper() for one in map(chr, got)) <= asked
    assert unwritten(mesh, before) == set()
    assert errors(mesh, "b") == wrong


@VERSIONS
@OFFLOADS
@pytest.mark.usefixtures("offload")
def test_messages(mesh: Mesh, v: int) -> None:
    """Small ones, by TCP and by UDP, each a packet."""
    place(mesh, 3)
    to, own = address(mesh, "b", v), address(mesh, "a", v)
    before, wrong = seen(mesh), errors(mesh, "b")
    with (
        listener(mesh, "b", to, 7100 + v) as server,
        connect(mesh, "a", to, 7100 + v) as here,
        accepted(server) as there,
        datagrams(mesh, "b", to, 7200 + v) as receiver,
        datagrams(mesh, "a", own) as sender,
    ):
        here.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for size in (4, 5, 8, 99):
            message = letters(size)
            wanted = message[:3] + message[3:4].upper() + message[4:]
            assert moved(here, there, message) == wanted
            sender.sendto(message, (str(to), 7200 + v))
            assert receiver.recv(200) == wanted
    assert seen(mesh).counters["asked"] - before.counters["asked"] == 8
    assert unwritten(mesh, before) == set()
    assert errors(mesh, "b") == wrong


@VERSIONS
def test_far_in_a_gso_packet_nothing_is_written(mesh: Mesh, v: int) -> None:
    """And the packets that were not are counted."""
    place(mesh, 30000)
    to, data = address(mesh, "b", v), letters(SIZE)
    before = seen(mesh)
    with (
        listener(mesh, "b", to, 7300 + v) as server,
        connect(mesh, "a", to, 7300 + v) as here,
        accepted(server) as there,
    ):
        assert moved(here, there, data) == data
    assert unwritten(mesh, before) == {"of several segments"}


@VERSIONS
def test_what_is_cut_and_summed_up_afterwards(mesh: Mesh, v: int) -> None:
    """GSO packets that the host's stack cuts into segments, whose checksums it fills in."""
    place(mesh, 1001)
    data = letters(SIZE)
    with beyond_router() as there:
        set_offload(Path("/proc/thread-self/ns/net"), "mesh-out", *CHECKSUMS, on=False)
        set_offload(Path("/proc/thread-self/ns/net"), "mesh-out", *SEGMENTS, on=False)
        to, wrong = there.near[v == 6], errors(mesh, there.home)
        with (
            listener(mesh, there.home, to, 7400) as server,
            connect(mesh, "a", to, 7400) as here,
            accepted(server) as far,
        ):
            got = moved(here, far, data)
        assert got.lower() == data
        assert got != data
        assert errors(mesh, there.home) == wrong
