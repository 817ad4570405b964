# SPDX-License-Identifier: BSD-2-Clause
"""Chains: what becomes of packets on their way through injected programs.

The programs here answer the same to every packet, whatever it is; they are put together by hand.
"""

import ctypes
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet

from ebpfmesh import _abi, apply
from ebpfmesh._abi import Direction, EventKind, InjectedAction, InjectedVerdict, Reason
from ebpfmesh.apply.control.config import inverse
from ebpfmesh.compile import compiled
from ebpfmesh.compile.build import instructions
from ebpfmesh.compile.source import bpf_dir
from ebpfmesh.inject.compose import compose
from ebpfmesh.kernel import bpf
from ebpfmesh.kernel.pins import Pins
from prog.lab import NAME, NOBODY, TC, TO_FN, Drop, Lab, Seen, peer, service
from prog.test_events import events, listening, tuple_of
from support.packets import fragments, ping, received, sent, tcp, udp

A, B, C = peer("a"), peer("b"), peer("c")
WEB = service("web")
VERSIONS = pytest.mark.parametrize("v", [4, 6])
NEXT, DROP, REDIRECT = (int(action) for action in list(InjectedAction)[:3])


def drop(index: int) -> int:
    """The verdict that a packet is dropped for a reason of the program's own."""
    return DROP | index << 2


def dscp(value: int) -> int:
    """The verdict that a packet gets this DSCP."""
    return NEXT | value << 6 | InjectedVerdict.SET_DSCP


def author(verdict: int) -> bytes:
    """A program that gives every packet the same verdict."""
    words = (0xB4, 0, 0, verdict), (0x95, 0, 0, 0)  # w0 = verdict; exit
    return b"".join(struct.pack("=BBhi", *one) for one in words)


@dataclass
class Chains:
    """What is injected into the lab's mesh."""

    lab: Lab
    end: bytes
    used: int = 0

    def put(self, function: str, direction: Direction, *verdicts: int, gap: int = -1) -> None:
        """Give a function a chain of programs with these verdicts; one place of it may be empty.

        Ids of the programs are 1, 2 … from the first that a packet meets.
        """
        self.used += 16
        for place, verdict in enumerate(verdicts):
            slot = ctypes.c_uint32(self.used + _abi.CHAIN_MAX - place)
            if place != gap:
                table = self.lab.maps["mesh_injected"]
                code = compose(
                    author(verdict),
                    self.end,
                    number=place + 1,
                    following=slot.value - 1 if place + 1 < len(verdicts) else 0,
                    tables=self.lab.injected,
                )
                with bpf.prog_load(bpf.PROG_TYPE_SCHED_CLS, "injected", code) as made:
                    table.set(slot, ctypes.c_uint32(made.fileno()))
        row = self._row(function)
        row.head[direction] = self.used + _abi.CHAIN_MAX
        self.lab.maps["mesh_chain"].set(ctypes.c_uint32(self.lab.ids[function]), row)
        self.commit()

    def _row(self, function: str) -> _abi.Chain:
        key = ctypes.c_uint32(self.lab.ids[function])
        return self.lab.maps["mesh_chain"].get(key) or _abi.Chain()

    def commit(self) -> None:
        """Have flows judged again."""
        with apply.opened(NAME) as live:
            live.control.commit()

    def clear(self) -> None:
        """Nothing is injected."""
        for number in self.lab.ids.values():
            self.lab.maps["mesh_chain"].set(ctypes.c_uint32(number), _abi.Chain())
        for slot in range(16, self.used + 32):
            self.lab.maps["mesh_injected"].delete(ctypes.c_uint32(slot))
        for name in ("mesh_refused", "mesh_target"):
            for key, _ in list(self.lab.maps[name].items()):
                self.lab.maps[name].delete(key)
        self.commit()

    def refused(self) -> dict[tuple[int, int], int]:
        """Packets that programs dropped, by program and reason."""
        rows = self.lab.maps["mesh_refused"].items()
        return {(key.program, key.index): row.packets for key, row in rows}


@pytest.fixture(scope="module")
def end(_lab: Lab) -> Iterator[bytes]:
    """The instructions that stand behind every injected program."""
    with ExitStack() as stack:
        source, defines = (
            bpf_dir() / "mesh_chain.c",
            compiled.defines(Pins(NAME).maps, count_flows=False),
        )
        code, maps = instructions(source, "mesh_chain_end", defines=defines)
        for one in maps:
            stack.enter_context(one)
        yield code


@pytest.fixture
def chains(lab: Lab, end: bytes) -> Iterator[Chains]:
    found = Chains(lab, end)
    found.clear()  # of what other tests of this mesh have dropped
    yield found
    found.clear()


def first_packets(v: int) -> list[Packet]:
    """From a to b: what begins a TCP flow, what establishes it, and what follows."""
    return [
        tcp(v, A, B, 1000, 80, "S"),
        tcp(v, B, A, 80, 1000, "SA"),
        tcp(v, A, B, 1000, 80, "A"),
        tcp(v, A, B, 1000, 80, "PA", b"data"),
        tcp(v, B, A, 80, 1000, "PA", b"answer"),
        tcp(v, A, B, 1000, 80, "FA"),
    ]


def send(lab: Lab, packet: Packet) -> Seen:
    """A packet from the function whose address it has."""
    source = packet.src
    who = next(one for one in (A, B, C) if source in (one.address4, one.address6))
    return lab.run(TC, who.name, bytes(sent(who, packet)))


@VERSIONS
def test_what_passes_is_as_without(lab: Lab, chains: Chains, v: int) -> None:
    """Frame, verdict and meters of every packet of a flow, on the fast path and beside it."""
    without = [send(lab, packet) for packet in first_packets(v)]
    lab.forget_flows()
    for name in "ab":
        chains.put(name, Direction.FROM_FN, *[NEXT] * 8)
        chains.put(name, Direction.TO_FN, *[NEXT] * 8)
    assert [send(lab, packet) for packet in first_packets(v)] == without
    assert {seen.verdict for seen in without} == {"forward"}
    kinds = {flow.output >> _abi.IFINDEX_BITS for flow in lab.flows().values()}
    assert kinds == {_abi.OutputKind.CHAIN}


@VERSIONS
def test_a_flow_that_is_there_meets_what_is_injected(lab: Lab, chains: Chains, v: int) -> None:
    packets = first_packets(v)[:4]
    assert {send(lab, packet).verdict for packet in packets} == {"forward"}
    chains.put("b", Direction.TO_FN, drop(0))
    where = Drop("b", Direction.TO_FN, Reason.INJECTED)
    for _ in range(2):  # the first of a new epoch, and one that is known
        seen = send(lab, packets[-1])
        assert (seen.verdict, list(seen.counted)) == ("drop", [where])
    assert chains.refused() == {(1, 0): 2}
    assert send(lab, first_packets(v)[4]).verdict == "forward"


ENDS = pytest.mark.parametrize(
    ("function", "direction"), [("a", Direction.FROM_FN), ("b", Direction.TO_FN)], ids=["out", "in"]
)


@VERSIONS
@ENDS
@pytest.mark.parametrize("place", range(3))
def test_a_drop_is_counted_where_it_is(
    lab: Lab, chains: Chains, v: int, function: str, direction: Direction, place: int
) -> None:
    verdicts = [NEXT] * 3
    verdicts[place] = drop(place + 5)
    chains.put(function, direction, *verdicts)
    frame = bytes(sent(A, udp(v, A, B, 1000, 53)))
    for times in (1, 2):
        seen = lab.run(TC, "a", frame)
        assert seen.verdict == "drop"
        assert seen.counted == {Drop(function, direction, Reason.INJECTED): (1, len(frame))}
        assert chains.refused() == {(place + 1, place + 5): times}


@VERSIONS
@ENDS
def test_a_drop_is_told_of(
    lab: Lab, chains: Chains, v: int, function: str, direction: Direction
) -> None:
    """Once, to whoever wants to know of drops, with both ends and what the packet was."""
    chains.put(function, direction, NEXT, drop(1))
    frame = bytes(sent(A, udp(v, A, B, 1000, 53)))
    with listening(lab, EventKind.DROP, 96) as ring:
        for _ in range(2):  # on the slow path, and on the fast one
            lab.run(TC, "a", frame)
            [(event, data)] = events(ring)
            assert (event.kind, event.reason) == (EventKind.DROP, Reason.INJECTED)
            assert (event.sender, event.receiver) == (lab.ids["a"], lab.ids["b"])
            assert (event.ifindex, event.direction) == (lab.ifindex["a"], Direction.FROM_FN)
            assert tuple_of(event) == (A.at(v), 1000, B.at(v), 53, 17)
            assert (event.length, data[14:]) == (len(frame), event_frame(v)[:82])


def event_frame(v: int) -> bytes:
    """The packet as b would have got it."""
    return bytes(udp(v, A, B, 1000, 53, ttl=63))


@ENDS
@pytest.mark.parametrize("place", range(2))
def test_an_empty_slot_lets_nothing_pass(
    lab: Lab, chains: Chains, function: str, direction: Direction, place: int
) -> None:
    chains.put(function, direction, NEXT, NEXT, gap=place)
    frame = bytes(sent(A, udp(4, A, B, 1000, 53)))
    for _ in range(2):
        seen = lab.run(TC, "a", frame)
        where = Drop(function, direction, Reason.NO_PROGRAM)
        assert (seen.verdict, seen.counted) == ("drop", {where: (1, len(frame))})


@pytest.mark.parametrize("verdict", [3, 3 | 7 << 2, REDIRECT | 9 << 2])
def test_what_means_nothing_is_a_drop(lab: Lab, chains: Chains, verdict: int) -> None:
    """An action that there is none of, and a target that nobody wrote down."""
    chains.put("a", Direction.FROM_FN, verdict)
    seen = lab.run(TC, "a", bytes(sent(A, udp(4, A, B, 1000, 53))))
    assert (seen.verdict, [one.reason for one in seen.counted]) == ("drop", [Reason.INJECTED])


def ends_of(v: int) -> Callable[[Packet], int]:
    """The byte with DSCP and ECN of a packet."""
    return (lambda packet: int(packet.tos)) if v == 4 else (lambda packet: int(packet.tc))


@VERSIONS
@pytest.mark.parametrize(
    ("before", "verdict", "after"),
    [
        (0, dscp(46), 46 << 2),
        (0xFF, dscp(0), 3),
        (46 << 2 | 2, dscp(63), 63 << 2 | 2),
        (46 << 2 | 2, InjectedVerdict.SET_CE, 46 << 2 | 3),
        (46 << 2 | 1, dscp(8) | InjectedVerdict.SET_CE, 8 << 2 | 3),
        (46 << 2, InjectedVerdict.SET_CE, 46 << 2),
    ],
)
def test_edits(lab: Lab, chains: Chains, v: int, before: int, verdict: int, after: int) -> None:
    """DSCP and ECN, with the checksum over them; CE only where the sender understands ECN."""
    chains.put("a", Direction.FROM_FN, int(verdict))
    packet = udp(v, A, B, 1000, 53, b"data")
    if v == 4:
        packet[IP].tos = before
    else:
        packet[IPv6].tc = before
    for _ in range(2):
        seen = lab.run(TC, "a", bytes(sent(A, packet)))
        found = (IP if v == 4 else IPv6)(seen.frame[14:])
        assert (seen.verdict, ends_of(v)(found)) == ("forward", after)
        again = (IP if v == 4 else IPv6)(bytes(found))
        if v == 4:
            del again.chksum
        assert bytes(again) == seen.frame[14:]


@VERSIONS
def test_redirect(lab: Lab, chains: Chains, v: int) -> None:
    """To another function of the tenant, metered as its own, through the chain that it has."""
    key = _abi.InjectedKey(program=1, index=3)
    lab.maps["mesh_target"].set(key, ctypes.c_uint32(lab.ids["b"]))
    chains.put("a", Direction.FROM_FN, REDIRECT | 3 << 2)
    frame = bytes(sent(A, udp(v, A, NOBODY, 1000, 53)))
    for _ in range(2):
        seen = lab.run(TC, "a", frame)
        assert seen.verdict == "forward"
        assert seen.frame[:6] == bytes.fromhex(B.mac.replace(":", ""))
        assert seen.frame[12:] == frame[12:]
        assert seen.counted["b", "red"] == (0, 0, 1, len(frame))
    chains.put("b", Direction.TO_FN, NEXT, drop(1))
    seen = lab.run(TC, "a", frame)
    assert list(seen.counted) == [Drop("b", Direction.TO_FN, Reason.INJECTED)]


@VERSIONS
def test_redirects_that_lead_round_end(lab: Lab, chains: Chains, v: int) -> None:
    """At the kernel's limit of tail calls, 33 of them: the packet is dropped, and counted."""
    for program, to in ((1, "b"), (2, "a")):
        key = _abi.InjectedKey(program=program, index=0)
        lab.maps["mesh_target"].set(key, ctypes.c_uint32(lab.ids[to]))
    chains.put("a", Direction.FROM_FN, REDIRECT)
    chains.put("a", Direction.TO_FN, REDIRECT)
    chains.put("b", Direction.TO_FN, NEXT, REDIRECT)
    frame = bytes(sent(A, udp(v, A, B, 1000, 53)))
    for _ in range(2):
        seen = lab.run(TC, "a", frame)
        assert seen.verdict == "drop"
        assert [one.reason for one in seen.counted] == [Reason.NO_PROGRAM]


@VERSIONS
@pytest.mark.parametrize("verdict", [NEXT, drop(2), REDIRECT])
def test_from_the_host(lab: Lab, chains: Chains, v: int, verdict: int) -> None:
    """What the host sends meets the receiver's chain, and is redirected nowhere."""
    chains.put("a", Direction.TO_FN, verdict)
    frame = bytes(received(A, tcp(v, NOBODY, A, 5000, 22)))
    seen = lab.run(TO_FN, "a", frame)
    assert seen.verdict == ("pass" if verdict == NEXT else "drop")
    if verdict != NEXT:
        where = Drop("a", Direction.TO_FN, Reason.INJECTED)
        assert seen.counted == {where: (1, len(frame))}


@VERSIONS
def test_to_the_outside(lab: Lab, chains: Chains, v: int) -> None:
    """What leaves the mesh meets the sender's chain, and is else as it was."""
    frame = bytes(sent(A, udp(v, A, NOBODY, 1000, 53)))
    without = lab.run(TC, "a", frame)
    chains.put("a", Direction.FROM_FN, NEXT)
    assert lab.run(TC, "a", frame) == lab.run(TC, "a", frame) == without
    chains.put("a", Direction.FROM_FN, drop(0))
    assert lab.run(TC, "a", frame).verdict == "drop"


@VERSIONS
def test_a_service_is_translated_before(lab: Lab, chains: Chains, v: int) -> None:
    packets = [tcp(v, A, WEB, 1000, 80, flags) for flags in ("S", "A")]
    without = [send(lab, packet) for packet in packets]
    lab.forget_flows()
    chains.put("a", Direction.FROM_FN, NEXT, NEXT)
    chains.put("b", Direction.TO_FN, NEXT)
    assert [send(lab, packet) for packet in packets] == without


@VERSIONS
def test_fragments_and_echo_meet_it_too(lab: Lab, chains: Chains, v: int) -> None:
    chains.put("a", Direction.FROM_FN, drop(0))
    packets = [ping(v, A, B), *fragments(udp(v, A, B, 1000, 53, bytes(64)), 24)]
    assert {send(lab, packet).verdict for packet in packets} == {"drop"}
    assert chains.refused() == {(1, 0): len(packets)}


@pytest.mark.parametrize("direction", [Direction.FROM_FN, Direction.TO_FN])
def test_policy_is_asked_first(lab: Lab, chains: Chains, direction: Direction) -> None:
    """What policy forbids meets nothing that is injected, at either end."""
    chains.put("a" if direction == Direction.FROM_FN else "c", direction, NEXT)
    seen = lab.run(TC, "a", bytes(sent(A, udp(4, A, C, 1000, 53))))
    assert list(seen.counted) == [Drop("a", Direction.FROM_FN, Reason.POLICY)]


def test_others_are_not_concerned(lab: Lab, chains: Chains) -> None:
    chains.put("a", Direction.TO_FN, drop(0))
    assert send(lab, udp(4, A, B, 1000, 53)).verdict == "forward"
    assert send(lab, udp(4, B, A, 1001, 53)).verdict == "drop"


@pytest.mark.parametrize("limit", [(1, 1), (15, 3), (1024, 16), (65535, 255), (4096, 100)])
def test_a_meter_knows_its_function(limit: tuple[int, int]) -> None:
    """The division by multiplication is exact for each slot of a mesh's ends, and some between."""
    functions, tenants = limit
    stride = 2 * tenants + 1
    times, shift = inverse(stride)
    assert times < 1 << 32
    for function in {0, 1, functions // 3, functions - 1, functions}:
        for slot in (function * stride, function * stride + stride - 1):
            assert slot * times >> shift == function
