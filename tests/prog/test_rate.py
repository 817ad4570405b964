# SPDX-License-Identifier: BSD-2-Clause
"""Rates: what a token bucket lets pass, what it takes, who asks it and who does not.

The buckets here are so slow that a test sees none of them fill: a unit costs a thousand seconds.
"""

import ctypes

import pytest
from scapy.packet import Packet

from ebpfmesh import _abi
from ebpfmesh._abi import Direction, EventKind, OutputKind, Reason
from ebpfmesh.kernel import bpf, rates
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.model import Mesh, Rate, Rights
from prog.lab import LIMITS, NAME, NOBODY, TC, TO_FN, Drop, Hook, Lab, Seen, peer, service
from prog.test_chain import NEXT, REDIRECT, Chains, chains, drop, end
from prog.test_events import events, listening
from prog.test_missing import without
from support.packets import Peer, fragments, ping, received, sent, tcp, udp

__all__ = ["chains", "end"]

A, B, C = peer("a"), peer("b"), peer("c")
WEB = service("web")
VERSIONS = pytest.mark.parametrize("v", [4, 6])
SECOND = 10**9
SLOW = 1000 * SECOND
ANY = Rate(send=1000, receive=1000)
SEND, RECEIVE = Direction.FROM_FN, Direction.TO_FN


def rated(lab: Lab, **functions: Rate | None) -> None:
    """Give functions of the lab rates, as a user would."""

    def change(mesh: Mesh) -> Mesh:
        rows = [
            one.model_copy(update={"rate": functions.get(one.name, one.rate)})
            for one in mesh.functions
        ]
        return mesh.model_copy(update={"functions": tuple(rows)})

    lab.change(change)


def put(lab: Lab, function: str, direction: Direction, row: _abi.Rate) -> None:
    """Write a rate as no user could ask for it; nobody but the kernel knows."""
    lab.maps["mesh_rate"].set(ctypes.c_uint32(rates.slot(lab.ids[function]) + direction), row)


def found(lab: Lab, function: str, direction: Direction) -> _abi.Rate:
    key = ctypes.c_uint32(rates.slot(lab.ids[function]) + direction)
    row = lab.maps["mesh_rate"].get(key)
    assert row
    return row


def slow(units: float) -> _abi.Bucket:
    """A bucket that lets so many units ahead of the last one."""
    return _abi.Bucket(cost=SLOW << _abi.RATE_SHIFT, burst=int(units * SLOW))


def run(lab: Lab, frame: bytes, *, size: int = 0, segments: int = 0) -> str:
    """What becomes of a frame of a's that GSO has yet to cut."""
    context = TC.context(lab.ifindex["a"], len(frame), segments, size)
    with bpf.obj_get(Pins(NAME).progs / TC.program) as program:
        return TC.word(bpf.prog_test_run(program, frame, context=context).verdict)


def many(lab: Lab, hook: Hook, function: str, frame: bytes, count: int = 5) -> list[Seen]:
    return [lab.run(hook, function, frame) for _ in range(count)]


@VERSIONS
@pytest.mark.parametrize("direction", rates.WAYS)
def test_as_many_packets_as_a_bucket_holds(lab: Lab, v: int, direction: Direction) -> None:
    """From a to b: three, and the rest is dropped and counted where the rate is."""
    who = "a" if direction == SEND else "b"
    rated(lab, **{who: ANY})
    put(lab, who, direction, _abi.Rate(packets=slow(2)))
    frame = bytes(sent(A, udp(v, A, B, 1000, 53)))
    seen = many(lab, TC, "a", frame)
    assert [one.verdict for one in seen] == ["forward"] * 3 + ["drop"] * 2
    assert seen[2].counted == {
        ("a", "red"): (1, len(frame), 0, 0),
        ("b", "red"): (0, 0, 1, len(frame)),
    }
    for one in seen[3:]:
        assert one.counted == {Drop(who, direction, Reason.RATE): (1, len(frame))}
    back = bytes(sent(B, udp(v, B, A, 53, 1000)))
    assert {one.verdict for one in many(lab, TC, "b", back)} == {"forward"}


def test_bytes_are_those_of_frames(lab: Lab) -> None:
    rated(lab, a=ANY)
    frame = bytes(sent(A, udp(4, A, B, 1000, 53)))
    put(lab, "a", SEND, _abi.Rate(bytes=slow(0)))
    row = found(lab, "a", SEND)
    row.bytes.cost //= 1000  # a second a byte
    row.bytes.burst = int(1.5 * len(frame)) * SECOND
    put(lab, "a", SEND, row)
    verdicts = [one.verdict for one in many(lab, TC, "a", frame)]
    assert verdicts == ["forward"] * 2 + ["drop"] * 3


@VERSIONS
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_gso_packet_counts_as_its_frames(lab: Lab, v: int, transport: str) -> None:
    """Each with headers of its own, however many segments its sender says it has."""
    rated(lab, a=ANY)
    if transport == "tcp":
        small, large = (tcp(v, A, B, 1000, 80, "A", bytes(size)) for size in (100, 1050))
    else:
        small, large = (udp(v, A, B, 1000, 53, bytes(size)) for size in (100, 1050))
    first, frame = bytes(sent(A, small)), bytes(sent(A, large))
    headers = len(first) - 100
    cost = SECOND << _abi.RATE_SHIFT
    bucket = _abi.Bucket(cost=cost, burst=4000 * SECOND)
    put(lab, "a", SEND, _abi.Rate(bytes=bucket, packets=bucket))
    assert run(lab, first) == "forward"
    for segments in (0, 11):
        before = found(lab, "a", SEND)
        assert run(lab, frame, size=100, segments=segments) == "forward"
        after = found(lab, "a", SEND)
        assert after.packets.due - before.packets.due == 11 * SECOND
        assert after.bytes.due - before.bytes.due == (1050 + 11 * headers) * SECOND


@VERSIONS
def test_what_the_host_sends(lab: Lab, v: int) -> None:
    rated(lab, a=ANY)
    put(lab, "a", RECEIVE, _abi.Rate(packets=slow(1)))
    frame = bytes(received(A, tcp(v, NOBODY, A, 5000, 22)))
    seen = many(lab, TO_FN, "a", frame, 3)
    assert [one.verdict for one in seen] == ["pass", "pass", "drop"]
    assert seen[2].counted == {Drop("a", RECEIVE, Reason.RATE): (1, len(frame))}


@VERSIONS
def test_what_goes_to_the_host(lab: Lab, v: int) -> None:
    rated(lab, a=ANY)
    put(lab, "a", SEND, _abi.Rate(packets=slow(1)))
    frame = bytes(sent(A, udp(v, A, NOBODY, 1000, 53)))
    assert [one.verdict for one in many(lab, TC, "a", frame, 3)] == ["pass", "pass", "drop"]


def slow_packets(v: int) -> list[Packet]:
    """What never meets the fast path."""
    large = udp(v, A, B, 1000, 53, bytes(3000))
    first, *others = fragments(large, 1480)
    return [
        tcp(v, A, B, 1000, 80), ping(v, A, B), tcp(v, A, WEB, 1001, 80), first, *others,
    ]  # fmt: skip


@VERSIONS
def test_the_slow_path(lab: Lab, v: int) -> None:
    """What opens a flow, fragments, ICMP, and what is translated: each counts."""
    packets = [bytes(sent(A, packet)) for packet in slow_packets(v)]
    assert {lab.run(TC, "a", frame).verdict for frame in packets} == {"forward"}
    rated(lab, a=ANY)
    for burst in range(len(packets)):
        lab.forget_flows()
        put(lab, "a", SEND, _abi.Rate(packets=slow(burst)))
        verdicts = [lab.run(TC, "a", frame).verdict for frame in packets]
        passed = burst + 1
        assert verdicts == ["forward"] * passed + ["drop"] * (len(packets) - passed)


def test_who_has_none_asks_nobody(lab: Lab) -> None:
    """Flows between others do not meet the program, and their entries say so."""
    frame = bytes(sent(A, udp(4, A, B, 1000, 53)))
    lab.run(TC, "a", frame)
    rated(lab, c=ANY)
    with without(lab, _abi.CALL_RATE):
        assert {one.verdict for one in many(lab, TC, "a", frame)} == {"forward"}
        kinds = {flow.output >> _abi.IFINDEX_BITS for flow in lab.flows().values()}
        assert kinds == {OutputKind.PEER}
        rated(lab, a=Rate(receive=1000))
        assert {one.verdict for one in many(lab, TC, "a", frame)} == {"forward"}
        rated(lab, a=Rate(send_pps=1))
        seen = lab.run(TC, "a", frame)
        assert seen.counted == {Drop("a", SEND, Reason.NO_PROGRAM): (1, len(frame))}
    assert lab.run(TC, "a", frame).verdict == "forward"


def test_a_rate_that_is_taken_away(lab: Lab) -> None:
    rated(lab, a=Rate(send_pps=1))
    frame = bytes(sent(A, udp(4, A, B, 1000, 53)))
    passed = [one.verdict for one in many(lab, TC, "a", frame, 2 * rates.LEAST_PACKETS)]
    assert passed[: rates.LEAST_PACKETS] == ["forward"] * rates.LEAST_PACKETS
    rated(lab, a=None)
    assert lab.run(TC, "a", frame).verdict == "forward"
    kinds = {flow.output >> _abi.IFINDEX_BITS for flow in lab.flows().values()}
    assert kinds == {OutputKind.PEER}


def test_what_one_side_has_no_room_for_takes_nothing_of_it(lab: Lab) -> None:
    """Of the receiver's no more than it got; the sender's is paid for what it sent."""
    rated(lab, a=ANY, b=ANY)
    octets = _abi.Bucket(cost=SECOND << _abi.RATE_SHIFT, burst=SLOW)
    put(lab, "a", SEND, _abi.Rate(bytes=octets, packets=slow(3)))
    put(lab, "b", RECEIVE, _abi.Rate(bytes=octets, packets=slow(1)))
    frame = bytes(sent(A, udp(4, A, B, 1000, 53)))
    counted = [tuple(one.counted) for one in many(lab, TC, "a", frame)]
    theirs, own = (Drop("b", RECEIVE, Reason.RATE),), (Drop("a", SEND, Reason.RATE),)
    assert counted[2:] == [theirs, theirs, own]
    sent_, got = found(lab, "a", SEND), found(lab, "b", RECEIVE)
    assert got.packets.due - got.bytes.due == 2 * (SLOW - len(frame) * SECOND)
    assert sent_.packets.due - sent_.bytes.due == 4 * (SLOW - len(frame) * SECOND)


def test_a_bucket_that_says_what_cannot_be_is_begun_anew(lab: Lab) -> None:
    """As if a rate was written while a packet paid: not for ever does nothing pass."""
    rated(lab, a=ANY)
    row = _abi.Rate(packets=slow(1))
    row.packets.due = 1 << 62
    put(lab, "a", SEND, row)
    frame = bytes(sent(A, udp(4, A, B, 1000, 53)))
    assert [one.verdict for one in many(lab, TC, "a", frame, 3)] == ["forward"] * 2 + ["drop"]


def test_an_event_tells(lab: Lab) -> None:
    rated(lab, b=ANY)
    put(lab, "b", RECEIVE, _abi.Rate(packets=slow(0)))
    frame = bytes(sent(A, udp(4, A, B, 1000, 53)))
    with listening(lab, EventKind.DROP) as ring:
        many(lab, TC, "a", frame, 2)
        ((event, _),) = events(ring)
    assert (event.kind, event.reason) == (EventKind.DROP, Reason.RATE)
    assert (event.sender, event.receiver) == (lab.ids["a"], lab.ids["b"])


def test_before_what_is_injected(lab: Lab, chains: Chains) -> None:
    """Nothing of its time is spent on what is too much; what passes meets it."""
    rated(lab, a=ANY)
    put(lab, "a", SEND, _abi.Rate(packets=slow(1)))
    chains.put("a", SEND, NEXT, drop(1))
    frame = bytes(sent(A, udp(4, A, B, 1000, 53)))
    reasons = [next(iter(one.counted)).reason for one in many(lab, TC, "a", frame, 3)]
    assert reasons == [Reason.INJECTED, Reason.INJECTED, Reason.RATE]
    assert chains.refused() == {(2, 1): 2}


@VERSIONS
def test_a_redirect_takes_from_whom_it_leads_to(lab: Lab, chains: Chains, v: int) -> None:
    """And from the sender once."""
    rated(lab, a=ANY, b=ANY)
    put(lab, "a", SEND, _abi.Rate(packets=slow(9)))
    put(lab, "b", RECEIVE, _abi.Rate(packets=slow(1)))
    key = _abi.InjectedKey(program=1, index=0)
    lab.maps["mesh_target"].set(key, ctypes.c_uint32(lab.ids["b"]))
    chains.put("a", SEND, REDIRECT)
    chains.put("b", RECEIVE, NEXT)
    frame = bytes(sent(A, udp(v, A, NOBODY, 1000, 53)))
    seen = many(lab, TC, "a", frame, 3)
    assert [one.verdict for one in seen] == ["forward", "forward", "drop"]
    assert seen[1].counted["b", "red"] == (0, 0, 1, len(frame))
    assert seen[2].counted == {Drop("b", RECEIVE, Reason.RATE): (1, len(frame))}


def test_a_function_that_reaches_itself(lab: Lab) -> None:
    """Through a service: it sends, and it gets."""
    rated(lab, a=ANY)
    put(lab, "a", RECEIVE, _abi.Rate(packets=slow(1)))
    frame = bytes(sent(A, udp(4, A, service("mirror"), 1000, 53)))
    seen = many(lab, TC, "a", frame, 3)
    assert [one.verdict for one in seen] == ["forward", "forward", "drop"]


def test_many_together(lab: Lab) -> None:
    """Whoever sends: what b gets is what its bucket holds."""
    rated(lab, b=ANY)
    put(lab, "b", RECEIVE, _abi.Rate(packets=slow(3)))
    peers: list[Peer] = [A, B]
    frames = [(one, bytes(sent(one, udp(4, one, service("dns"), 1000, 53)))) for one in peers]
    verdicts = [lab.run(TC, one.name, frame).verdict for one, frame in frames * 3]
    assert verdicts == ["forward"] * 4 + ["drop"] * 2


def tenant_rated(lab: Lab, tenant: str, rate: Rate | None) -> None:
    """Give a tenant a rate, as a user would."""
    rights = (Rights(name=tenant, rate=rate),)
    lab.change(lambda mesh: mesh.model_copy(update={"rights": rights}))


def shared(lab: Lab, tenant: str, direction: Direction) -> ctypes.c_uint32:
    """Where the rate of a tenant is."""
    (number,) = (number for number, name in lab.tenants.items() if name == tenant)
    return ctypes.c_uint32(rates.tenant_slot(LIMITS, number) + direction)


@pytest.mark.parametrize("direction", rates.WAYS)
def test_a_tenant_has_a_rate_of_all_its_functions(lab: Lab, direction: Direction) -> None:
    """What a sends and what b does come out of one bucket; c is another's, and has none."""
    tenant_rated(lab, "red", ANY)
    key = shared(lab, "red", direction)
    lab.maps["mesh_rate"].set(key, _abi.Rate(packets=slow(3)))
    peers = [A, B] * 3
    frames = [(one, bytes(sent(one, udp(4, one, service("dns"), 1000, 53)))) for one in peers]
    seen = [lab.run(TC, one.name, frame) for one, frame in frames]
    assert [one.verdict for one in seen] == ["forward"] * 4 + ["drop"] * 2
    whose = ["a", "b"] if direction == SEND else ["b", "b"]
    for one, name in zip(seen[4:], whose, strict=True):
        assert list(one.counted) == [Drop(name, direction, Reason.TENANT_RATE)]
    other = bytes(sent(C, udp(4, C, peer("d"), 1000, 53)))
    assert {one.verdict for one in many(lab, TC, "c", other)} == {"forward"}


def test_a_function_has_its_own_besides(lab: Lab) -> None:
    """Whichever is less holds; what its own has no room for takes nothing of the tenant's."""
    tenant_rated(lab, "red", Rate(send=1000))
    rated(lab, a=Rate(send_pps=1))
    row = found(lab, "a", SEND)
    assert row.tenant == shared(lab, "red", SEND).value
    assert found(lab, "a", RECEIVE).tenant == 0
    row.packets = slow(0)
    put(lab, "a", SEND, row)
    lab.maps["mesh_rate"].set(shared(lab, "red", SEND), _abi.Rate(packets=slow(2)))
    peers = [A, A, A, B, B, B]
    frames = [(one, bytes(sent(one, udp(4, one, service("dns"), 1000, 53)))) for one in peers]
    seen = [lab.run(TC, one.name, frame) for one, frame in frames]
    reasons = [next(iter(one.counted)) for one in seen if one.verdict == "drop"]
    own, theirs = Drop("a", SEND, Reason.RATE), Drop("b", SEND, Reason.TENANT_RATE)
    assert reasons == [own, own, theirs]


def test_a_tenants_rate_that_goes(lab: Lab) -> None:
    frame = bytes(sent(A, udp(4, A, B, 1000, 53)))
    tenant_rated(lab, "red", ANY)
    lab.run(TC, "a", frame)
    kinds = {flow.output >> _abi.IFINDEX_BITS for flow in lab.flows().values()}
    assert kinds == {OutputKind.RATE}
    tenant_rated(lab, "red", None)
    lab.run(TC, "a", frame)
    kinds = {flow.output >> _abi.IFINDEX_BITS for flow in lab.flows().values()}
    assert kinds == {OutputKind.PEER}
    for one in rates.WAYS:
        assert not any(bytes(lab.maps["mesh_rate"].get(shared(lab, "red", one))))
