# SPDX-License-Identifier: BSD-2-Clause
"""How long flows live: what begins, ends and forgets them.

a (tenant a) ──▶ b (tenant b): one way by a rule, whatever b says must belong to a flow of a's.
Both stacks are mute: all that is said there is written by the tests. c and d (tenant c) speak.
"""

import socket
import struct
from collections.abc import Iterator

import pytest
from scapy.layers.inet import ICMP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest

from ebpfmesh import apply
from ebpfmesh._abi import FlowFlag, Reason
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.model import Mesh
from support.meshes import function, mesh_file, rule
from support.mute import DESTINATION_PORT, ECHO_ID, SOURCE_PORT, frame, mute, renumbered
from support.sockets import (
    accepted,
    carries,
    connection,
    family_of,
    frames,
    listener,
    made,
)
from support.topology import drops, running, wait_until

NAME = "flows"
MESH = mesh_file(
    "flows",
    function("a", "a", address=["198.18.0.1", "2001:db8::1"]),
    function("b", "b", address=["198.18.0.2", "2001:db8::2"]),
    function("c", "c", address=["198.18.0.3", "2001:db8::3"]),
    function("d", "c", address=["198.18.0.4", "2001:db8::4"]),
    rule("function:a", "function:b"),
    timeouts=dict.fromkeys(("handshake", "established", "closing", "udp", "icmp"), 60),
)
FIRST_PORT, PORT = 20_000, 7000
YOUNG, OLD = 40, 70
"""Seconds of silence after which a flow lives, and after which its time is over."""


class Talk:
    """Numbered flows from a to b: a opens one, b answers in it."""

    def __init__(
        self, mesh: Mesh, version: int, protocol: str, a: socket.socket, b: socket.socket
    ) -> None:
        self._version = version
        asked, answered = (
            (ECHO_ID, ECHO_ID) if protocol == "icmp" else (SOURCE_PORT, DESTINATION_PORT)
        )
        self._a = (a, asked, ("a", "b"))
        self._b = (b, answered, ("b", "a"))
        layers = {
            "icmp": (ICMP(type=8), ICMP(type=0)),
            "icmpv6": (ICMPv6EchoRequest(), ICMPv6EchoReply()),
            "udp": (UDP(dport=PORT, chksum=0), UDP(sport=PORT, chksum=0)),
            "tcp": (
                TCP(dport=PORT, flags="S"),
                TCP(sport=PORT, flags="SA"),
                TCP(dport=PORT, flags="A"),
                TCP(sport=PORT, flags="PA"),
            ),
        }["icmpv6" if (protocol, version) == ("icmp", 6) else protocol]
        self._frames = [
            frame(mesh, version, *(self._b if number % 2 else self._a)[2], layer)
            for number, layer in enumerate(layers)
        ]

    def _say(self, step: int, number: int) -> None:
        mouth, field, _ = self._b if step % 2 else self._a
        mouth.send(renumbered(self._version, self._frames[step], field, FIRST_PORT + number))

    def opened(self, number: int) -> None:
        for step in range(len(self._frames) - 1):
            self._say(step, number)

    def answered(self, number: int) -> None:
        self._say(len(self._frames) - 1, number)


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with running(MESH) as mesh:
        mute(mesh, "a", "b")
        yield mesh


def dropped(mesh: Mesh, function: str) -> dict[Reason, int]:
    found: dict[Reason, int] = {}
    for (name, _, reason), packets in drops(mesh).items():
        if name == function and reason != Reason.MULTICAST:
            found[reason] = found.get(reason, SOURCE_PORT) + packets
    return found


def flags(mesh: Mesh, version: int, port: int) -> list[int]:
    """FlowFlag bits of the entries of the flow in which either side has this port."""
    maps = Maps(Pins(mesh.name))
    return [
        flow.flags
        for key, flow in maps[f"mesh_flow{version}"].items()
        if port in (key.source_port, key.destination_port)
    ]


# ---- time


def age(mesh: Mesh, version: int, number: int, seconds: int) -> None:
    """Have a numbered flow be silent for so long already."""
    port, table = FIRST_PORT + number, Maps(Pins(mesh.name))[f"mesh_flow{version}"]
    for key, flow in list(table.items()):
        if port in (key.source_port, key.destination_port):
            flow.seen = (flow.seen - seconds) & 0xFFFFFFFF
            table.set(key, flow)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", ["udp", "icmp", "tcp"])
def test_an_idle_flow_is_forgotten(mesh: Mesh, protocol: str, version: int) -> None:
    """Then an answer comes too late. A flow in which somebody speaks goes on all the while."""
    # TCP and UDP of b's would open a flow of its own, and none is permitted.
    reason = Reason.NO_FLOW if protocol == "icmp" else Reason.POLICY
    kept, late, again = range(3)
    with frames(mesh, "a") as a, frames(mesh, "b") as b:
        talk = Talk(mesh, version, protocol, a, b)
        for number in (kept, late, again):
            talk.opened(number)
        before = dropped(mesh, "b")
        for _ in range(2):
            age(mesh, version, kept, YOUNG)
            talk.answered(kept)
        assert dropped(mesh, "b") == before
        for number in (late, again):
            age(mesh, version, number, OLD)
        talk.answered(late)
        after = {**before, reason: before.get(reason, 0) + 1}
        wait_until(lambda: dropped(mesh, "b") == after, what="an answer is too late")
        talk.answered(kept)
        talk.opened(again)
        talk.answered(again)
        assert dropped(mesh, "b") == after


def test_timeouts_change_while_flows_are_open(mesh: Mesh) -> None:
    """Flows that are there live as long as the mesh says now."""
    with frames(mesh, "a") as a, frames(mesh, "b") as b:
        talk = Talk(mesh, 4, "udp", a, b)
        talk.opened(0)
        longer = mesh.timeouts.model_copy(update={"udp": 300})
        apply.edit(NAME, lambda now: now.model_copy(update={"timeouts": longer}))
        shorter = Talk(mesh, 4, "icmp", a, b)
        shorter.opened(1)
        before = dropped(mesh, "b")
        for number in range(2):
            age(mesh, 4, number, OLD)
        shorter.answered(1)
        wait_until(lambda: dropped(mesh, "b") != before, what="an echo reply is too late")
        after = dropped(mesh, "b")
        talk.answered(0)
        assert dropped(mesh, "b") == after
        apply.up(mesh)


# ---- beginning and end of connections


@pytest.mark.parametrize("version", [4, 6])
def test_a_reset_ends_a_flow(mesh: Mesh, version: int) -> None:
    address = mesh.function("d").addresses[0 if version == 4 else 1]
    with connection(mesh, "c", "d", address, 7001) as (here, there):
        assert carries(here, there)
        port = here.getsockname()[1]
        assert len(flags(mesh, version, port)) == 2
        assert not any(flag & FlowFlag.CLOSING for flag in flags(mesh, version, port))
        reset(here)
        with pytest.raises(ConnectionResetError):
            there.recv(1)
    assert all(flag & FlowFlag.CLOSING for flag in flags(mesh, version, port))


def reset(sock: socket.socket) -> None:
    """Close by RST (SO_LINGER of 0 seconds)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, SOURCE_PORT))
    sock.close()


@pytest.mark.parametrize("version", [4, 6])
def test_two_closes_end_a_flow_and_one_does_not(mesh: Mesh, version: int) -> None:
    address = mesh.function("d").addresses[0 if version == 4 else 1]
    with connection(mesh, "c", "d", address, 7001) as (here, there):
        port = here.getsockname()[1]

        def closing() -> list[bool]:
            return [bool(flag & FlowFlag.CLOSING) for flag in flags(mesh, version, port)]

        there.shutdown(socket.SHUT_WR)
        assert here.recv(1) == b""
        assert closing() == [False, False]
        assert carries(here, there)
        here.shutdown(socket.SHUT_WR)
        assert there.recv(1) == b""
        assert closing() == [True, True]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("end", ["reset", "close"])
def test_a_port_is_used_again(mesh: Mesh, end: str, version: int) -> None:
    """The next connection from it is a new flow, not the rest of the one before."""
    address = mesh.function("d").addresses[0 if version == 4 else 1]
    own = str(mesh.function("c").addresses[0 if version == 4 else 1])
    port = 30_000 + version * 10 + len(end)  # of this test alone
    with listener(mesh, "d", address, 7001) as server:
        for _ in range(3):
            with made(mesh, "c", family_of(address), socket.SOCK_STREAM) as here:
                here.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                here.bind((own, port))
                here.connect((str(address), 7001))
                with accepted(server) as there:
                    assert carries(here, there)
                    assert carries(there, here)
                    found = flags(mesh, version, port)
                    assert [bool(flag & FlowFlag.CLOSING) for flag in found] == [False, False]
                    if end == "reset":
                        reset(here)
                        continue
                    there.shutdown(socket.SHUT_WR)  # so that the client's port is free at once
                    assert here.recv(1) == b""
