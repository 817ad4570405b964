# SPDX-License-Identifier: BSD-2-Clause
"""A dry run says what would become of a packet, and changes nothing."""

import pytest

from ebpfmesh._abi import Direction, Reason
from ebpfmesh.state.record import Record
from prog import changes, table_drop, table_error, table_forward, table_fragment, table_to_function
from prog.lab import NAME, NOBODY, STATE, TC, TO_FN, Answer, Drop, Hook, Lab, peer, policy, service
from prog.rows import Row, prepare
from prog.test_policy import QUESTIONS, Question
from prog.test_track import set_back, tick
from support.packets import ping, pong, received, sent, tcp, udp

A, B, C, D = (peer(name) for name in "abcd")
WEB, SELF, EMPTY = service("web"), service("self"), service("empty")
BOTH = pytest.mark.parametrize("v", [4, 6], ids=["v4", "v6"])
FROM, TO = Direction.FROM_FN, Direction.TO_FN


def ids(kind: str) -> dict[str, int]:
    """Numbers of the record by name."""
    record = Record(NAME)
    try:
        return {name: number for number, name in record.names(kind).items()}
    finally:
        record.close()


def rule_number(match: str) -> int:
    """The number of the rule that reads so."""
    record = Record(NAME)
    try:
        return next(number for number, rule in record.policies() if match in str(rule))
    finally:
        record.close()


def state(lab: Lab) -> dict[tuple[str, bytes], bytes]:
    """Everything a packet can change."""
    entries = {
        (name, bytes(key)): bytes(value) for name in STATE for key, value in lab.maps[name].items()
    }
    counts = {("counts", bytes([what])): bytes([n % 256]) for what, n in lab.counts().items()}
    return entries | counts | lab.snapshot()


@BOTH
def test_what_passes(lab: Lab, v: int) -> None:
    web, own = ids("service")["web"], ids("service")["self"]
    shop = ids("service")["shop"]
    for packet, expected in (
        (tcp(v, A, B, 1, 80), Answer(Reason.OK, 0, "b", 0, False, 80)),
        (tcp(v, A, WEB, 1, 80), Answer(Reason.OK, 0, "b", web, False, 8080)),
        (tcp(v, A, SELF, 1, 80), Answer(Reason.OK, 0, "a", own, False, 80)),
        (
            tcp(v, A, service("shop"), 1, 80),
            Answer(Reason.OK, rule_number("shop"), "c", shop, False, 8080),
        ),
        (tcp(v, A, C, 1, 443), Answer(Reason.OK, rule_number("443"), "c", 0, False, 443)),
        (tcp(v, A, D, 1, 80), Answer(Reason.OK, 0, "d", 0, True, 80)),
        (tcp(v, A, NOBODY, 1, 80), Answer(Reason.OK, 0, "outside", 0, False, 80)),
    ):
        assert lab.ask(FROM, "a", bytes(sent(A, packet))) == expected
    asked = lab.ask(TO, "a", bytes(received(A, tcp(v, NOBODY, A, 5000, 22))))
    assert asked == Answer(Reason.OK, rule_number("tcp/22"), "a", 0, False, 22)


@BOTH
def test_what_is_dropped(lab: Lab, v: int) -> None:
    denied = rule_number("666")
    for packet, reason, rule in (
        (udp(v, A, B, 1, 666), Reason.POLICY, denied),
        (tcp(v, A, C, 1, 80), Reason.POLICY, 0),
        (tcp(v, A, EMPTY, 1, 80), Reason.NO_BACKEND, 0),
        (tcp(v, A, WEB, 1, 81), Reason.NO_SERVICE, 0),
        (tcp(v, A, A, 1, 80), Reason.HAIRPIN, 0),
        (pong(v, A, B), Reason.NO_FLOW, 0),
        (tcp(v, B, A, 1, 80), Reason.SPOOF_IP, 0),
    ):
        answer = lab.ask(FROM, "a", bytes(sent(A, packet)))
        assert (answer.reason, answer.rule) == (reason, rule), packet.summary()
    frame = bytes(received(B, tcp(v, NOBODY, B, 5000, 22)))
    assert lab.ask(TO, "b", frame).reason == Reason.POLICY


ROWS: list[tuple[Hook, Row]] = [
    (TC, row)
    for table in (table_forward, table_drop, table_fragment, table_error)
    for row in table.ROWS[::3]
] + [(TO_FN, row) for row in table_to_function.ROWS]


def test_nothing_is_stored_or_counted(lab: Lab) -> None:
    """Of every third row, with the flow that it is of and without it."""
    for hook, row in ROWS:
        for given in (row.given, ()):
            lab.forget_flows()
            prepare(lab, TC, given)
            before = state(lab)
            lab.ask(hook.direction, row.step.function.name, row.step.frame)
            assert state(lab) == before, row.text


def test_what_is_asked_is_always_new(lab: Lab) -> None:
    """A flow that is open, or over, is no answer."""
    open_flow = bytes(sent(A, udp(4, A, C, 1000, 1)))
    lab.change(changes.policies(policy("function:a", "function:c", "udp/7")))
    frame = bytes(sent(A, udp(4, A, C, 1000, 7)))
    assert lab.run(TC, "a", frame).verdict == "forward"
    answer = bytes(sent(C, udp(4, C, A, 7, 1000)))
    assert lab.run(TC, "c", answer).verdict == "forward"
    assert lab.ask(FROM, "c", answer).reason == Reason.POLICY
    set_back(lab, tick(lab), {"on": 1 << 24, "back": 1 << 24})
    before = state(lab)
    assert lab.ask(FROM, "a", frame).reason == Reason.OK
    assert state(lab) == before
    assert lab.ask(FROM, "a", open_flow).reason == Reason.POLICY


def test_a_question_leaves_the_next_packet_alone(lab: Lab) -> None:
    """What is known of the one in the scratch map does not reach the other."""
    for asked in (tcp(4, A, WEB, 1, 80), tcp(4, A, C, 1, 80), ping(4, A, B)):
        lab.ask(FROM, "a", bytes(sent(A, asked)))
        seen = lab.run(TC, "b", bytes(sent(B, tcp(4, B, C, 1, 80))))
        assert set(seen.counted) == {Drop("b", FROM, Reason.POLICY)}
        assert lab.run(TC, "b", bytes(sent(B, tcp(4, B, A, 1, 80)))).verdict == "forward"
        lab.forget_flows()


def _dry(lab: Lab, question: Question) -> str:
    at, direction = (question.source, FROM) if question.source else (question.destination, TO)
    answer = lab.ask(direction, at or "", question.frame)
    assert answer.reason in (Reason.OK, Reason.POLICY)
    assert not answer.rejected or answer.reason
    return "reject" if answer.rejected else "deny" if answer.reason or answer.audited else "allow"


def test_a_dry_run_and_the_model_agree(lab: Lab) -> None:
    mesh = lab.set_policies(
        policy("tenant:red", "tenant:blue", "tcp/1-1024"),
        policy("any", "function:c", "icmp/8", priority=7),
        policy("outside:203.0.113.0/24", "any", "udp"),
        policy("function:b", "outside", "tcp", "deny"),
        policy("function:b", "tenant:blue", "udp", "reject"),
    )
    for question in QUESTIONS:
        assert _dry(lab, question) == question.decided(mesh), question
