# SPDX-License-Identifier: BSD-2-Clause
"""A tenant's room that is in use to the last place: a new flow gets one, and is whole.

Both functions are mute.
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.packet import Packet

from ebpfmesh._abi import FlowFlag
from ebpfmesh.kernel import interface
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.model import Mesh
from support.mute import MARK, frame, layer4, mute
from support.packets import Peer, fragments, sent, udp
from support.sockets import frames, hears

LIMIT = 1024
ROOM = LIMIT * 15 // 16
"""Flows of the only tenant that have room, and connections that are begun."""
FRAGMENTS = LIMIT * 7 // 8
"""And fragmented datagrams."""
MESH = f"""
[mesh]
name = "room"
limits = {{ flows = {LIMIT}, half_open = {LIMIT}, fragments = {LIMIT} }}
[[function]]
name = "here"
[[function]]
name = "there"
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
    with ExitStack() as stack:
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
def test_new_connections(talk: Talk, v: int) -> None:
    for _ in range(2):
        talk.say(range(ROOM), *DATAGRAMS)
    talk.say(NEW, *BEGUN, *ENDED)
    flows = Maps(Pins("room"))[f"mesh_flow{v}"]
    assert not any(flow.flags & FlowFlag.HALF for _, flow in flows.items())


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
        Peer(name, *map(str, mesh.function(name).addresses), interface.mac_of("room", name))
        for name in ("here", "there")
    )
    cut = fragments(udp(v, here, there, 1000, 53, MARK + MARK[:8] + MARK), 24)
    made = [bytearray(bytes(sent(here, one))) for one in cut]
    at = 18 if v == 4 else 14 + 40 + 6  # the identification, in its last two bytes
    with frames(mesh, "here") as mouth, frames(mesh, "there") as ear:

        def say(number: int, *which: int) -> None:
            for one in which:
                struct.pack_into(">H", made[one], at, number)
                mouth.send(made[one])
                assert hears(ear, MARK), number

        for number in range(FRAGMENTS):
            say(number, 0, 1)
        for number in range(FRAGMENTS):
            say(number, 1)
        for number in range(2000, 2100, 2):
            say(number, 0)
            say(number + 1, 0, 1)
            say(number, 1)
