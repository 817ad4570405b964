# SPDX-License-Identifier: BSD-2-Clause
"""Maps that make room by themselves: where all entries are in use, the new one does not go first.

To make room the kernel takes what nobody has looked up since it was made before what somebody has
(kernel/bpf/bpf_lru_list.c): the first entry of a flow for the second one, if nobody looks. It keeps
a list for each core, so all of a test happens on one. Both functions are mute.
"""

import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.packet import Packet

from ebpfmesh.bench.tools import one_core
from ebpfmesh.kernel import interface, sockets
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.model import Mesh
from support.mute import MARK, frame, layer4, mute
from support.packets import Peer, fragments, sent, udp
from support.serving import at, own_many, peer
from support.sockets import accepted, frames, hears, listener
from support.topology import unavailable

ROOM = 1024
"""Flows that have room, and connections begun, and fragmented datagrams."""
SOCKETS = 768
MESH = f"""
[mesh]
name = "lru"
limits = {{ flows = {ROOM}, half_open = {ROOM}, fragments = {ROOM}, sockets = {SOCKETS} }}
[[function]]
name = "here"
[[function]]
name = "there"
"""
SERVICES = """
[[service]]
name = "web"
address = "198.19.0.1"
port = 80
functions = ["there"]
[[service]]
name = "names"
address = "198.19.0.1"
port = 53
protocol = "udp"
functions = ["there"]
"""
NEW = range(ROOM, ROOM + 100)
BOTH = pytest.mark.parametrize("v", [4, 6])


class Talk:
    """Flows between the two, by number; each packet is said after the one before was heard."""

    def __init__(self, mesh: Mesh, v: int, stack: ExitStack) -> None:
        self._mesh, self._v = mesh, v
        self._ends = {name: stack.enter_context(frames(mesh, name)) for name in ("here", "there")}

    def say(self, numbers: Iterable[int], *words: tuple[str, Packet]) -> None:
        """Packets of each flow, in turn: who sends it, and its header with the ports to be set."""
        made = [
            (name, frame(self._mesh, self._v, name, "there" if name == "here" else "here", layer))
            for name, layer in words
        ]
        for number in numbers:
            for name, packet in made:
                ports = (20_000 + number, 7000) if name == "here" else (7000, 20_000 + number)
                struct.pack_into(">HH", packet, layer4(self._v), *ports)
                self._ends[name].send(packet)
                assert hears(self._ends["there" if name == "here" else "here"], MARK), number


@pytest.fixture
def talk(mesh_up: Callable[[str], Mesh], v: int) -> Iterator[Talk]:
    mesh = mesh_up(MESH)
    mute(mesh, "here", "there")
    with one_core(), ExitStack() as stack:
        yield Talk(mesh, v, stack)


DATAGRAMS = ("here", UDP(chksum=0)), ("there", UDP(chksum=0))
BEGUN = ("here", TCP(flags="S")), ("there", TCP(flags="SA"))
ENDED = ("here", TCP(flags="A")), ("here", TCP(flags="FA")), ("there", TCP(flags="FA"))


@BOTH
def test_new_flows(talk: Talk) -> None:
    for _ in range(2):
        talk.say(range(ROOM), *DATAGRAMS)
    talk.say(NEW, *DATAGRAMS)


@BOTH
def test_new_connections(talk: Talk) -> None:
    for _ in range(2):
        talk.say(range(ROOM), *DATAGRAMS)
    talk.say(NEW, *BEGUN, *ENDED)
    assert Maps(Pins("lru"))["mesh_half"].count() == 0


@BOTH
def test_connections_that_are_begun(talk: Talk) -> None:
    for _ in range(2):
        talk.say(range(ROOM), *BEGUN)
    talk.say(NEW, *BEGUN, *ENDED)


@BOTH
def test_fragmented_datagrams(mesh_up: Callable[[str], Mesh], v: int) -> None:
    """Two at a time: the later fragments come after the first ones of both."""
    mesh = mesh_up(MESH)
    mute(mesh, "here", "there")
    here, there = (
        Peer(name, *map(str, mesh.function(name).addresses), interface.mac_of("lru", name))
        for name in ("here", "there")
    )
    cut = fragments(udp(v, here, there, 1000, 53, MARK + MARK[:8] + MARK), 24)
    made = [bytearray(bytes(sent(here, one))) for one in cut]
    at = 18 if v == 4 else 14 + 40 + 6  # the identification, in its last two bytes
    with one_core(), frames(mesh, "here") as mouth, frames(mesh, "there") as ear:

        def say(number: int, *which: int) -> None:
            for one in which:
                struct.pack_into(">H", made[one], at, number)
                mouth.send(made[one])
                assert hears(ear, MARK), number

        for number in range(ROOM):
            say(number, 0, 1)
        for number in range(ROOM):
            say(number, 1)
        for number in range(2000, 2100, 2):
            say(number, 0)
            say(number + 1, 0, 1)
            say(number, 1)


def test_sockets_that_mean_a_service(mesh_up: Callable[[str], Mesh]) -> None:
    """A socket of UDP has two entries, which tell it the service's address and the backend's."""
    if not sockets.supported():
        unavailable("no cgroup v2, or a kernel without programs for it")
    mesh = mesh_up(MESH + SERVICES)
    with ExitStack() as stack:
        stack.enter_context(one_core())
        server = stack.enter_context(listener(mesh, "there", at(mesh, "there", 4), 80))
        streams = list[socket.socket]()
        for _ in range(SOCKETS // 128):
            for sock in own_many(mesh, "here", socket.AF_INET, socket.SOCK_STREAM, 128):
                streams.append(stack.enter_context(sock))
                sock.connect(("198.19.0.1", 80))
                accepted(server).close()
        for _ in range(2):
            assert {peer(sock) for sock in streams} == {("198.19.0.1", 80)}
        for sock in own_many(mesh, "here", socket.AF_INET, socket.SOCK_DGRAM, 100):
            stack.enter_context(sock).connect(("198.19.0.1", 53))
            assert peer(sock) == ("198.19.0.1", 53)
