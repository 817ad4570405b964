# SPDX-License-Identifier: BSD-2-Clause
"""What one tenant does to the room that all share costs no other tenant anything. Default limits.

flooder ──▶ sink (tenant a)      caller, client (b) ──▶ called, server (c)
"""

import os
import random
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.packet import Packet

from ebpfmesh import apply
from ebpfmesh._abi import Flow6Key
from ebpfmesh.kernel.interface import mac_of
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.model import Mesh
from ebpfmesh.observe import rooms
from ebpfmesh.observe.view import opened
from support.meshes import rule, service
from support.mute import MARK, frame, layer4, mute
from support.packets import Peer, fragments, sent, udp
from support.serving import answered_by, at, own_many, peer
from support.sockets import accepted, carries, connection, datagrams, frames, hears, listener
from support.tenants import FUNCTIONS, A, B, remembered, send, shared

OTHERS = {"called": "c", "client": "b", "server": "c"}
SERVICES = (
    service("web", 80, "server", address="198.19.0.1")
    + service("names", 53, "server", address="198.19.0.1", protocol="udp")
    + rule("tenant:b", "tenant:c")
)
MESH = shared("fair", functions=FUNCTIONS | OTHERS) + SERVICES
WEB, NAMES = ("198.19.0.1", 80), ("198.19.0.1", 53)
IDLE = 10
MANY = 100_000


@pytest.fixture
def mesh(mesh_up: Callable[[str], Mesh]) -> Mesh:
    return mesh_up(MESH)


def child_of(work: Callable[[], None]) -> int:
    """The process that does this."""
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            work()
            os._exit(0)
        os._exit(1)
    return child


def inside(mesh: Mesh, function: str, work: Callable[[], None]) -> None:
    """Do something as a process of a function."""
    with apply.opened(mesh.name) as live:
        home = live.home(function)

    def enter_and_work() -> None:
        home.enter()
        work()

    assert os.waitstatus_to_exitcode(os.waitpid(child_of(enter_and_work), 0)[1]) == 0


def connects(kind: int, address: tuple[str, int]) -> None:
    for _ in range(MANY // 5):
        with socket.socket(socket.AF_INET, kind) as sock:
            sock.setblocking(False)
            with suppress(BlockingIOError):
                sock.connect(address)


@contextmanager
def idle(mesh: Mesh, version: int) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    """Connections of tenant b that have spoken once."""
    with ExitStack() as stack:
        address = mesh.function("server").addresses[version == 6]
        pairs = [
            stack.enter_context(connection(mesh, "client", "server", address, 7001 + number))
            for number in range(IDLE)
        ]
        assert all(carries(*pair) for pair in pairs)
        yield pairs


def flood(mesh: Mesh, version: int, layer: Packet) -> None:
    """Packets of tenant a, each of a flow of its own."""
    packet, at = frame(mesh, version, "flooder", "sink", layer), layer4(version)
    with frames(mesh, "flooder") as mouth:
        for number in range(MANY):
            struct.pack_into(">HH", packet, at, number & 0xFFFF, 7000 + (number >> 16))
            mouth.send(packet)


def flood_datagrams(mesh: Mesh, version: int) -> None:
    """Real ones of tenant a, to every port there is; the other side says that nobody listens."""
    own, to = (mesh.function(name).addresses[version == 6] for name in ("flooder", "sink"))
    with datagrams(mesh, "flooder", own) as sock:
        for port in range(1, 0x10000):
            with suppress(ConnectionRefusedError):
                sock.sendto(b"x", (str(to), port))


def flood_fragments(mesh: Mesh, version: int) -> None:
    """First fragments of tenant a, each of another datagram."""
    packet, at = first_and_rest(mesh, version, "flooder", "sink")[0]
    with frames(mesh, "flooder") as mouth:
        for number in range(MANY):
            struct.pack_into(">H", packet, at, number & 0xFFFF)
            mouth.send(packet)


def first_and_rest(
    mesh: Mesh, version: int, source: str, destination: str
) -> list[tuple[bytearray, int]]:
    """Two fragments of a datagram, with the place of their identification."""
    ends = [
        Peer(name, *map(str, mesh.function(name).addresses), mac_of(mesh.name, name))
        for name in (source, destination)
    ]
    cut = fragments(udp(version, *ends, 1000, 53, MARK + MARK[:8] + MARK), 24)
    at = 18 if version == 4 else 14 + 40 + 6
    return [(bytearray(bytes(sent(ends[0], one))), at) for one in cut]


FLOODS: dict[str, Callable[[Mesh, int], None]] = {
    "datagrams": flood_datagrams,
    "spoken": lambda mesh, version: flood(mesh, version, UDP(chksum=0)),
    "syn": lambda mesh, version: flood(mesh, version, TCP(flags="S")),
    "fragments": flood_fragments,
}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("what", FLOODS)
def test_floods(mesh: Mesh, what: str, version: int) -> None:
    """Idle connections, one half open, a datagram half arrived: all go on, whoever is first."""
    mute(mesh, "caller", "called")
    if what != "datagrams":
        mute(mesh, "flooder", "sink")
    (first, _), (rest, _) = first_and_rest(mesh, version, "caller", "called")
    syn = frame(mesh, version, "caller", "called", TCP(sport=999, dport=9, flags="S"))
    answer = frame(mesh, version, "called", "caller", TCP(sport=9, dport=999, flags="SA"))
    with (
        idle(mesh, version) as pairs,
        frames(mesh, "caller") as caller,
        frames(mesh, "called") as called,
    ):
        for packet in (syn, first):
            caller.send(packet)
            assert hears(called, MARK)
        FLOODS[what](mesh, version)
        caller.send(rest)
        assert hears(called, MARK)
        called.send(answer)
        assert hears(caller, MARK)
        for here, there in pairs:
            assert carries(there, here)
            assert carries(here, there)


@pytest.mark.usefixtures("at_sockets")
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_flood_of_connect(mesh: Mesh, kind: int) -> None:
    """By one that may not reach the service at all: the sockets of others know whom they meant."""
    with ExitStack() as stack:
        server = stack.enter_context(listener(mesh, "server", at(mesh, "server", 4), 80))
        names = stack.enter_context(datagrams(mesh, "server", at(mesh, "server", 4), 53))
        (asker,) = own_many(mesh, "client", socket.AF_INET, socket.SOCK_DGRAM, 1)
        stack.enter_context(asker).connect(NAMES)
        pairs = []
        for here in own_many(mesh, "client", socket.AF_INET, socket.SOCK_STREAM, IDLE):
            stack.enter_context(here).connect(WEB)
            pairs.append((here, stack.enter_context(accepted(server))))
        inside(mesh, "flooder", lambda: connects(kind, WEB if kind == 1 else NAMES))
        assert {peer(here) for here, _ in pairs} == {WEB}
        assert all(carries(here, there) and carries(there, here) for here, there in pairs)
        asker.send(b"question")
        assert answered_by({"server": names}) == "server"
        assert asker.recvfrom(64) == (b"answer", NAMES)


SMALL = MESH.replace('name = "fair"', 'name = "fair"\nlimits = { flows = 512, half_open = 256 }')


def test_a_tenant_pushes_out_its_own_that_were_silent_longest(
    mesh_up: Callable[[str], Mesh],
) -> None:
    """Of flows that are alike, twenty are older: they go, and next to none of the others."""
    mesh = mesh_up(SMALL)
    mute(mesh, "flooder", "sink", "caller", "called")
    table, layer = Maps(Pins(mesh.name))["mesh_flow4"], UDP(chksum=0)
    send(mesh, B, layer, range(1, 11))
    others = remembered(mesh)
    assert len(others) == 20
    room = room_of(mesh, "a")
    send(mesh, A, layer, range(10_000, 10_000 + room))
    assert len(remembered(mesh)) == 20 + 2 * room
    old = range(10_100, 10_120)
    for key, flow in list(table.items()):
        if {key.source_port, key.destination_port}.intersection(old):
            flow.seen = (flow.seen - 60) & 0xFFFFFFFF
            table.set(key, flow)
    send(mesh, A, layer, range(20_000, 20_060))
    assert remembered(mesh) >= others
    assert len(remembered(mesh)) == 20 + 2 * room
    assert len([port for port in old if remembered(mesh, port=port)]) <= 5


def room_of(mesh: Mesh, tenant: str) -> int:
    with opened(mesh.name) as view:
        (row,) = [
            row for row in rooms.read_rooms(view) if (row.tenant, row.what) == (tenant, "flows")
        ]
    return row.own + row.common


def test_both_cores_at_once(mesh_up: Callable[[str], Mesh]) -> None:
    """Connections begun, established, begun anew with the same ports: no entry loses its slot."""
    mesh = mesh_up(SMALL)
    mute(mesh, "flooder", "sink")
    words = [
        ("flooder", "sink", TCP(flags="S")),
        ("sink", "flooder", TCP(flags="SA")),
        ("flooder", "sink", TCP(flags="A")),
        ("flooder", "sink", UDP(chksum=0)),
        ("flooder", "sink", TCP(flags="R")),
    ]
    frames_of = [(source, frame(mesh, 4, source, to, layer)) for source, to, layer in words]

    def talk(core: int) -> None:
        os.sched_setaffinity(0, {core})
        chosen = random.Random(core)
        with frames(mesh, "flooder") as flooder, frames(mesh, "sink") as sink:
            mouths = {"flooder": flooder, "sink": sink}
            for _ in range(20_000):
                port = 1000 + chosen.randrange(800)
                for source, packet in frames_of:
                    ports = (port, 7000) if source == "flooder" else (7000, port)
                    struct.pack_into(">HH", packet, layer4(4), *ports)
                    mouths[source].send(packet)

    cores = sorted(os.sched_getaffinity(0))[:2]
    children = [child_of(lambda core=core: talk(core)) for core in cores]
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * len(
        cores
    )
    slots = [slot for _, slot in Maps(Pins(mesh.name))["mesh_slot"].items()]
    assert not any(slot.users for slot in slots)
    named = {flow4(key) for slot in slots if slot.tenant for key in slot.key}
    assert remembered(mesh) <= named
    assert 600 < len(remembered(mesh)) <= 2 * (512 + 256)


def flow4(key: Flow6Key) -> bytes:
    """A key of mesh_slot as mesh_flow4 has it."""
    raw = bytes(key)
    return raw[12:16] + raw[28:32] + raw[32:]
