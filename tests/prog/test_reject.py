# SPDX-License-Identifier: BSD-2-Clause
"""Answers to what is dropped: where they depend on more than one packet and the rules it meets."""

import ctypes
from collections.abc import Callable

import pytest
from scapy.layers.inet import TCP
from scapy.packet import Packet

from ebpfmesh import _abi
from ebpfmesh._abi import Direction, Reason
from prog import changes
from prog.lab import MESH, NOBODY, TC, TO_FN, Drop, Hook, Lab, Seen, peer, policy, service
from prog.test_change import open_direct, send
from prog.test_missing import without
from support.packets import Peer, ip, ping, received, reset, sent, tcp, told, udp

A, B, C = (peer(name) for name in "abc")
WEB, EMPTY = service("web"), service("empty")
BOTH = pytest.mark.parametrize("v", [4, 6], ids=["v4", "v6"])
REJECT = policy("function:a", "function:b", "tcp", "reject")


def answered(seen: Seen, sender: Peer, packet: Packet, answer: Packet, reason: Reason) -> None:
    """It was counted as dropped, and the sender gets ``answer``."""
    where = Drop(sender.name, Direction.FROM_FN, reason)
    assert seen.counted == {where: (1, len(sent(sender, packet)))}
    assert (seen.verdict, seen.frame.hex()) == ("forward", bytes(received(sender, answer)).hex())


def without_rule(lab: Lab, reject: bool = True) -> None:
    """The mesh with ``reject`` set."""
    lab.change(lambda mesh: mesh.model_copy(update={"reject": reject}))


@BOTH
def test_without_a_rule(lab: Lab, v: int) -> None:
    """What another tenant, a service's other port and a service of nobody say to whom asks."""
    cases = (
        (C, Reason.POLICY, "prohibited", 80),
        (WEB, Reason.NO_SERVICE, "port unreachable", 81),
        (EMPTY, Reason.NO_BACKEND, "port unreachable", 80),
    )
    without_rule(lab)
    for to, reason, kind, port in cases:
        packet = tcp(v, A, to, 1000, port)
        answered(send(lab, TC, A, packet), A, packet, reset(packet), reason)
        if reason != Reason.NO_BACKEND:  # that service is of TCP
            for packet in (udp(v, A, to, 1000, port), ping(v, A, to)):
                answered(send(lab, TC, A, packet), A, packet, told(v, A, packet, kind), reason)
    without_rule(lab, reject=False)
    for to, reason, _, port in cases:
        seen = send(lab, TC, A, tcp(v, A, to, 1000, port))
        assert (seen.verdict, [*seen.counted]) == ("drop", [Drop("a", Direction.FROM_FN, reason)])


@BOTH
def test_a_deny_is_a_deny(lab: Lab, v: int) -> None:
    without_rule(lab)
    assert send(lab, TC, A, udp(v, A, B, 1, 666)).verdict == "drop"


@BOTH
def test_an_open_connection_is_reset_at_both_ends(lab: Lab, v: int) -> None:
    """Each end gets a reset at the number it waits for."""
    open_direct(lab, TC, v)
    lab.change(changes.policies(REJECT))
    for here, there, ports, seq, ack in ((A, B, (1000, 80), 7, 500), (B, A, (80, 1000), 500, 9)):
        head = TCP(sport=ports[0], dport=ports[1], flags="PA", seq=seq, ack=ack)
        packet = ip(v, here, there) / head / b"data"
        seen = send(lab, TC, here, packet)
        answered(seen, here, packet, reset(packet), Reason.POLICY)
        assert TCP(bytes(reset(packet)[TCP])).seq == ack


def _nearly_all(lab: Lab, way: Direction, act: Callable[[], Seen]) -> list[Seen]:
    """What ``act`` sees of the first ICMP message of a tick, of the last one and of two more."""
    for _ in range(50):
        lab.forget_answers()
        seen = [act()]
        row = _answers(lab)
        tick, row.sent[way] = row.tick[way], _abi.ANSWERS - 1
        lab.maps["mesh_answers"].set(ctypes.c_uint32(lab.ids["a"]), row)
        seen += [act() for _ in range(3)]
        if _answers(lab).tick[way] == tick:
            return seen
    pytest.fail("the ticks are too short")


def _answers(lab: Lab) -> _abi.Answers:
    """How many a had."""
    row = lab.maps["mesh_answers"].get(ctypes.c_uint32(lab.ids["a"]))
    assert isinstance(row, _abi.Answers)
    return row


@BOTH
def test_icmp_is_limited_by_function_and_resets_are_not(lab: Lab, v: int) -> None:
    query, echo, syn = udp(v, A, C, 1000, 9), ping(v, B, C), tcp(v, A, C, 1000, 9)
    found = _nearly_all(lab, Direction.FROM_FN, lambda: send(lab, TC, A, query))
    assert [seen.verdict for seen in found] == ["forward", "forward", "drop", "drop"]
    assert {tuple(seen.counted) for seen in found} == {tuple(found[0].counted)}
    row = _answers(lab)
    assert send(lab, TC, A, syn).verdict == "forward"
    assert bytes(_answers(lab)) == bytes(row)
    assert send(lab, TC, B, echo).verdict == "forward"
    row.tick[Direction.FROM_FN] -= 1  # of a tick before
    lab.maps["mesh_answers"].set(ctypes.c_uint32(lab.ids["a"]), row)
    assert send(lab, TC, A, query).verdict == "forward"


@BOTH
def test_what_the_host_sends_has_a_limit_of_its_own(lab: Lab, v: int) -> None:
    inward = bytes(received(A, udp(v, NOBODY, A, 1000, 9)))
    found = _nearly_all(lab, Direction.TO_FN, lambda: lab.run(TO_FN, "a", inward))
    assert [seen.verdict for seen in found] == ["forward", "forward", "drop", "drop"]
    assert send(lab, TC, A, udp(v, A, C, 1000, 9)).verdict == "forward"


@BOTH
def test_an_answer_to_the_host_passes_on_its_way_in(lab: Lab, v: int) -> None:
    """It carries a mark, which it loses there; without that it is a packet of no flow."""
    for packet in (tcp(v, NOBODY, A, 5000, 9), udp(v, NOBODY, A, 5000, 9)):
        back = lab.run(TO_FN, "a", bytes(received(A, packet)))
        assert (back.verdict, back.mark) == ("forward", _abi.ANSWER)
        seen = lab.run(TC, "a", back.frame, mark=back.mark)
        assert (seen.verdict, seen.mark, seen.frame) == ("pass", 0, back.frame)
        assert not seen.counted
        forged = lab.run(TC, "a", back.frame)
        assert (forged.verdict, *forged.counted) == (
            "drop",
            Drop("a", Direction.FROM_FN, Reason.NO_FLOW),
        )
    assert lab.run(TO_FN, "a", bytes(received(A, packet)), mark=_abi.ANSWER).verdict == "forward"


@pytest.mark.parametrize("hook", [TC, TO_FN], ids=["tc", "to"])
def test_without_its_program_nobody_is_told(lab: Lab, hook: Hook) -> None:
    packet = tcp(4, NOBODY, A, 5000, 9) if hook is TO_FN else tcp(4, A, C, 1000, 9)
    frame = bytes(received(A, packet) if hook is TO_FN else sent(A, packet))
    with without(lab, _abi.CALL_ANSWER):
        seen = lab.run(hook, "a", frame)
    where = Drop("a", hook.direction, Reason.POLICY)
    assert (seen.verdict, seen.counted) == ("drop", {where: (1, len(frame))})
    assert seen.frame == frame
    assert lab.run(hook, "a", frame).verdict == "forward"


def test_a_dry_run_says_it(lab: Lab) -> None:
    for packet, rejected in ((udp(4, A, C, 1, 9), True), (udp(4, A, C, 1, 10), False)):
        answer = lab.ask(Direction.FROM_FN, "a", bytes(sent(A, packet)))
        assert (answer.reason, answer.rejected) == (Reason.POLICY, rejected)
    without_rule(lab)
    answer = lab.ask(Direction.FROM_FN, "a", bytes(sent(A, tcp(4, A, WEB, 1, 81))))
    assert (answer.reason, answer.rejected) == (Reason.NO_SERVICE, True)
    assert not lab.ask(Direction.FROM_FN, "a", bytes(sent(A, udp(4, A, peer("d"), 1, 9)))).rejected


def test_the_mesh_of_the_tables_does_not_reject_without_a_rule() -> None:
    assert not MESH.reject
