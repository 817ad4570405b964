# SPDX-License-Identifier: BSD-2-Clause
"""Events: one a packet, with what it was and what became of it; and no packet fares otherwise."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import pytest

from ebpfmesh import _abi
from ebpfmesh._abi import Count, Direction, Event, EventKind, Reason
from ebpfmesh.kernel import bpf
from ebpfmesh.kernel.ring import Ring
from prog import (
    table_drop,
    table_error,
    table_extension,
    table_forward,
    table_fragment,
    table_reject,
    table_to_function,
)
from prog.lab import NOBODY, TC, TO_FN, Drop, Hook, Lab, peer, service
from prog.rows import Row, compare, prepare
from prog.test_missing import without
from support.packets import Peer, error, received, sent, tcp, udp

A, B, C, D = (peer(name) for name in "abcd")
WEB = service("web")
ALL = EventKind.DROP | EventKind.FLOW | EventKind.VERDICT
ONLY = ctypes.c_uint32(0)
TABLES = {
    "forward": (TC, table_forward.ROWS),
    "drop": (TC, table_drop.ROWS),
    "fragment": (TC, table_fragment.ROWS),
    "extension": (TC, table_extension.ROWS),
    "error": (TC, table_error.ROWS),
    "to-function": (TO_FN, table_to_function.ROWS),
    "reject": (TC, table_reject.ROWS),
    "reject-in": (TO_FN, table_reject.TO_FUNCTION),
}


@contextmanager
def listening(lab: Lab, kinds: int, snap: int = 0) -> Iterator[Ring]:
    """Events of these kinds, with so many bytes of each packet."""
    before = lab.maps.config.get(ONLY)
    config = lab.maps.config.get(ONLY)
    config.events, config.snap = kinds, snap
    config.epoch = 0 if kinds & EventKind.VERDICT else config.judged
    lab.maps.config.set(ONLY, config)
    try:
        with Ring(lab.maps["mesh_events"].fd) as ring:
            ring.skip()
            yield ring
    finally:
        lab.maps.config.set(ONLY, before)


def events(ring: Ring) -> list[tuple[Event, bytes]]:
    """The events since the last time, each with its part of the packet."""
    size = ctypes.sizeof(Event)
    return [(Event.from_buffer_copy(record), record[size:]) for record in ring.read()]


def expected(row: Row, *, is_new: bool) -> tuple[EventKind, Reason, int]:
    """Kind, reason and whether it is audited."""
    for where in row.counted:
        if isinstance(where, Drop):
            return EventKind.DROP, where.reason, int(where.audited)
    return (EventKind.FLOW if is_new else EventKind.VERDICT), Reason.OK, 0


def traced(lab: Lab, hook: Hook, row: Row, ring: Ring) -> None:
    """A row whose packets are all told of: it comes out as ever, and there is one event of it."""
    lab.forget_flows()
    prepare(lab, TC if hook is TO_FN else hook, row.given)
    flows = set(lab.flows())
    ring.skip()
    compare(lab, hook, row)
    [(event, data)] = events(ring)
    wanted = expected(row, is_new=set(lab.flows()) != flows)
    assert (event.kind, event.reason, event.audited) == wanted
    answered = row.verdict == "forward" and wanted == (EventKind.DROP, Reason.POLICY, 0)
    assert event.rejected >= answered
    length = len(row.step.frame)
    assert (event.length, event.captured) == (length, min(96, length))
    assert data == row.step.frame[:96]
    name = row.step.function.name
    from_function = hook is not TO_FN and name != "outside"
    assert event.sender == (lab.ids[name] if from_function else 0)
    assert (event.ifindex, event.direction) == (lab.ifindex[name], hook.direction)


@pytest.mark.parametrize("table", TABLES)
def test_one_event_of_every_row(lab: Lab, table: str) -> None:
    hook, rows = TABLES[table]
    with listening(lab, ALL, 96) as ring:
        for row in rows:
            try:
                traced(lab, hook, row, ring)
            except AssertionError as failed:
                failed.add_note(row.text)
                raise


def send(lab: Lab, hook: Hook, sender: Peer, packet: object) -> bytes:
    frame = bytes(sent(sender, packet))
    lab.run(hook, sender.name, frame)
    return frame


def tuple_of(event: Event) -> tuple[str, int, str, int, int]:
    """Who asks whom, in words."""
    t = event.tuple
    ends = [ip_address(bytes(end)) for end in (t.source, t.destination)]
    source, destination = (str(getattr(end, "ipv4_mapped", None) or end) for end in ends)
    return source, t.source_port, destination, t.destination_port, t.protocol


@pytest.mark.parametrize("v", [4, 6])
def test_what_is_told(lab: Lab, v: int) -> None:
    with listening(lab, ALL) as ring:
        send(lab, TC, A, udp(v, A, service("dns"), 1000, 53))
        [(asked, data)] = events(ring)
        send(lab, TC, B, udp(v, B, A, 5353, 1000))
        [(answered, _)] = events(ring)
        send(lab, TC, B, error(v, B, A, udp(v, A, B, 1000, 5353, ttl=63)))
        [(about, _)] = events(ring)
        send(lab, TC, A, udp(v, A, B, 1, 666))
        [(denied, _)] = events(ring)
        send(lab, TC, A, udp(v, A, C, 1, 9))
        [(rejected, _)] = events(ring)
    assert (denied.rejected, rejected.rejected) == (0, 1)
    a, b, dns = (one.at(v) for one in (A, B, service("dns")))
    assert tuple_of(asked) == (a, 1000, dns, 53, 17)
    assert tuple_of(answered) == tuple_of(about) == (b, 5353, a, 1000, 17)
    assert (asked.kind, answered.kind, about.kind) == (2, 4, 4)
    assert (asked.sender, asked.receiver) == (lab.ids["a"], lab.ids["b"])
    assert (answered.sender, about.sender) == (lab.ids["b"], lab.ids["b"])
    assert (answered.receiver, about.receiver) == (lab.ids["a"], lab.ids["a"])
    assert answered.service == about.service == asked.service
    assert asked.service != 0 == asked.rule
    assert data == b""
    assert (denied.kind, denied.reason, denied.rule != 0) == (EventKind.DROP, Reason.POLICY, True)
    assert tuple_of(denied) == (a, 1, b, 666, 17)
    assert asked.time <= answered.time <= about.time <= denied.time


KINDS = {
    EventKind.DROP: ["drop", "audited"],
    EventKind.FLOW: ["new"],
    EventKind.VERDICT: ["new", "known"],
    EventKind.DROP | EventKind.FLOW: ["new", "drop", "audited"],
    ALL: ["new", "known", "drop", "audited"],
    0: [],
}


@pytest.mark.parametrize("kinds", KINDS)
def test_only_what_is_asked_for(lab: Lab, kinds: int) -> None:
    packets = {
        "new": udp(4, A, B, 1000, 53),
        "known": udp(4, A, B, 1000, 53),
        "drop": udp(4, A, B, 1000, 666),
        "audited": udp(4, A, D, 1000, 53),
    }
    with listening(lab, kinds) as ring:
        told = []
        for name, packet in packets.items():
            send(lab, TC, A, packet)
            told += [name] * len(events(ring))
    assert told == KINDS[kinds]


@pytest.mark.parametrize("snap", [0, 1, 14, 60, 61, 1500, 2048, 9000])
def test_as_much_of_the_packet_as_is_wanted(lab: Lab, snap: int) -> None:
    for size in (0, 18, 1400, 3000):
        with listening(lab, ALL, snap) as ring:
            frame = send(lab, TC, A, udp(4, A, B, 1000, 53, bytes(k % 251 for k in range(size))))
            [(event, data)] = events(ring)
        wanted = min(snap, len(frame), _abi.SNAP_MAX)
        assert (event.captured, data, event.length) == (wanted, frame[:wanted], len(frame))


def test_a_full_ring_is_counted_and_stops_nothing(lab: Lab) -> None:
    size = bpf.map_info(lab.maps["mesh_events"].fd).max_entries
    frame = bytes(sent(A, udp(4, A, B, 1000, 53, bytes(1400))))
    with listening(lab, ALL, 2048) as ring:
        before = lab.counts()[Count.EVENT_LOST]
        for _ in range(size // len(frame) + 1):
            assert lab.run(TC, "a", frame).verdict == "forward"
        assert lab.counts()[Count.EVENT_LOST] > before
        ring.skip()


def test_a_dry_run_tells_nothing(lab: Lab) -> None:
    with listening(lab, ALL) as ring:
        lab.ask(Direction.FROM_FN, "a", bytes(sent(A, udp(4, A, B, 1000, 53))))
        lab.ask(Direction.FROM_FN, "a", bytes(sent(A, udp(4, A, B, 1000, 666))))
        lab.ask(Direction.TO_FN, "a", bytes(received(A, tcp(4, NOBODY, A, 5000, 22))))
        assert events(ring) == []


def test_what_is_listened_to_needs_the_program_that_tells(lab: Lab) -> None:
    frame = bytes(sent(A, tcp(4, A, B, 1000, 80)))
    where = Drop("a", TC.direction, Reason.NO_PROGRAM)
    with without(lab, _abi.CALL_EVENT):
        assert lab.run(TC, "a", frame).verdict == "forward"
        with listening(lab, EventKind.VERDICT):
            seen = lab.run(TC, "a", frame)
    assert (seen.verdict, seen.counted) == ("drop", {where: (1, len(frame))})
    assert lab.run(TC, "a", frame).verdict == "forward"
