# SPDX-License-Identifier: BSD-2-Clause
"""How far a flow has got: its handshake, its end, and the time after which it is nobody's.

Time is not waited for: the entries' own is set back.
"""

from collections.abc import Callable

import pytest
from scapy.packet import Packet

from ebpfmesh._abi import Count, Direction, Flow, Flow4Key, Flow6Key, FlowFlag, Reason, Timeout
from prog import changes
from prog.lab import (
    FLOWS,
    HAIRPIN,
    LIMITS,
    NOBODY,
    TC,
    TO_FN,
    Drop,
    Hook,
    Lab,
    Seen,
    peer,
    policy,
    service,
)
from support.packets import Peer, error, ping, pong, received, sent, tcp, udp

A, B, C = (peer(name) for name in "abc")
WEB, SELF = service("web"), service("self")
BOTH = pytest.mark.parametrize("v", [4, 6], ids=["v4", "v6"])
FIN, CLOSING, REPLIED = FlowFlag.FIN, FlowFlag.CLOSING, FlowFlag.REPLIED
PROGRESS = FIN | CLOSING | REPLIED


def send(lab: Lab, hook: Hook, sender: Peer, *packets: Packet) -> Seen:
    """What became of the last of some packets of a function."""
    for packet in packets:
        seen = lab.run(hook, sender.name, bytes(sent(sender, packet)))
    return seen


def on(v: int, flags: str = "A", port: int = 1000, **rest: int) -> Packet:
    """From a to c, which it may reach and which may not reach it."""
    return tcp(v, A, C, port, 443, flags, **rest)


def back(v: int, flags: str = "A", port: int = 1000) -> Packet:
    return tcp(v, C, A, 443, port, flags)


def handshake(lab: Lab, hook: Hook, v: int) -> None:
    """A TCP connection from a to c."""
    for sender, packet in ((A, on(v, "S")), (C, back(v, "SA")), (A, on(v))):
        assert send(lab, hook, sender, packet).verdict == "forward"


def whole(lab: Lab, v: int) -> dict[bytes, Flow]:
    """Entries of the fast path."""
    table = lab.maps[f"mesh_flow{v}"]
    return {bytes(key): flow for key, flow in table.items() if not flow.flags & FlowFlag.HALF}


def half(lab: Lab) -> dict[bytes, Flow]:
    """Entries of TCP flows of which one side was heard."""
    return {key: flow for key, flow in lab.flows().items() if flow.flags & FlowFlag.HALF}


def progress(flows: dict[bytes, Flow]) -> dict[str, int]:
    """Flags that tell how far a flow has got, of its two entries."""
    return {
        "back" if flow.flags & FlowFlag.REPLY else "on": flow.flags & PROGRESS
        for flow in flows.values()
    }


def counted(lab: Lab, before: dict[Count, int]) -> dict[Count, int]:
    """What moved of the counts."""
    return {what: now - before[what] for what, now in lab.counts().items() if now != before[what]}


# The handshake


@BOTH
def test_a_handshake_moves_the_flow_to_the_fast_path(lab: Lab, v: int) -> None:
    before = lab.counts()
    send(lab, TC, A, on(v, "S"))
    assert (progress(half(lab)), whole(lab, v)) == ({"on": 0, "back": 0}, {})
    send(lab, TC, A, on(v, "S"))  # lost, and sent again
    send(lab, TC, A, on(v))  # nobody has answered
    assert (progress(half(lab)), whole(lab, v)) == ({"on": 0, "back": 0}, {})
    send(lab, TC, C, back(v, "SA"))
    send(lab, TC, C, back(v, "SA"))
    send(lab, TC, A, on(v, "S"))
    heard = {"on": REPLIED, "back": REPLIED}
    assert (progress(half(lab)), whole(lab, v)) == (heard, {})
    send(lab, TC, A, on(v))
    assert (half(lab), progress(whole(lab, v))) == ({}, heard)
    assert counted(lab, before) == {Count.HALF_MADE: 1, Count.FLOW_MADE: 1}
    assert send(lab, TC, A, on(v, "PA")).verdict == "forward"
    assert send(lab, TC, C, back(v, "PA")).verdict == "forward"


@BOTH
@pytest.mark.parametrize("front", [WEB, SELF], ids=["service", "hairpin"])
def test_a_handshake_through_a_service(lab: Lab, v: int, front: Peer) -> None:
    there, seen_as, port = (B, A, 8080) if front is WEB else (A, HAIRPIN, 80)
    send(lab, TC, A, tcp(v, A, front, 1000, 80))
    send(lab, TC, there, tcp(v, there, seen_as, port, 1000, "SA"))
    assert (len(half(lab)), whole(lab, v)) == (2, {})
    send(lab, TC, A, tcp(v, A, front, 1000, 80, "A"))
    assert (half(lab), len(whole(lab, v))) == ({}, 2)
    assert send(lab, TC, A, tcp(v, A, front, 1000, 80, "A")).verdict == "forward"
    assert send(lab, TC, there, tcp(v, there, seen_as, port, 1000, "A")).verdict == "forward"


@BOTH
def test_a_handshake_with_the_outside(lab: Lab, v: int) -> None:
    def host(packet: Packet) -> str:
        return lab.run(TO_FN, "a", bytes(received(A, packet))).verdict

    assert host(tcp(v, NOBODY, A, 5000, 22)) == "pass"
    assert send(lab, TC, A, tcp(v, A, NOBODY, 22, 5000, "SA")).verdict == "pass"
    assert (len(half(lab)), whole(lab, v)) == (2, {})
    assert host(tcp(v, NOBODY, A, 5000, 22, "A")) == "pass"
    assert (half(lab), len(whole(lab, v))) == ({}, 2)


@BOTH
def test_a_flow_from_before_the_mesh(lab: Lab, v: int) -> None:
    """Its first packet is no SYN; the rest is like a handshake."""
    send(lab, TC, A, on(v))
    send(lab, TC, C, back(v))
    send(lab, TC, A, on(v))
    assert (half(lab), progress(whole(lab, v))) == ({}, {"on": REPLIED, "back": REPLIED})


@BOTH
def test_half_open_flows_push_no_other_out(lab: Lab, v: int) -> None:
    handshake(lab, TC, v)
    for port in range(2000, 2600):
        assert send(lab, TC, A, on(v, "S", port)).verdict == "forward"
    assert len(whole(lab, v)) == 2
    assert 0 < len(half(lab)) <= 2 * LIMITS.half_open
    assert send(lab, TC, C, back(v, "SA", 2599)).verdict == "forward"


def test_what_is_no_tcp_is_established_at_once(lab: Lab) -> None:
    for v in (4, 6):
        send(lab, TC, A, udp(v, A, B, 1000, 53), ping(v, A, B))
        assert len(whole(lab, v)) == 4
    assert half(lab) == {}


# The end


@BOTH
def test_both_sides_close(lab: Lab, v: int) -> None:
    handshake(lab, TC, v)
    send(lab, TC, A, on(v, "FA"))
    assert progress(whole(lab, v)) == {"on": FIN | REPLIED, "back": REPLIED}
    assert send(lab, TC, C, back(v, "PA")).verdict == "forward"  # half closed
    send(lab, TC, A, on(v, "FA"))  # again
    assert progress(whole(lab, v)) == {"on": FIN | REPLIED, "back": REPLIED}
    send(lab, TC, C, back(v, "FA"))
    closed = {"on": FIN | REPLIED | CLOSING, "back": FIN | REPLIED | CLOSING}
    assert progress(whole(lab, v)) == closed
    assert send(lab, TC, A, on(v)).verdict == "forward"
    assert progress(whole(lab, v)) == closed


@BOTH
@pytest.mark.parametrize("sender", ["a", "c"])
def test_one_side_resets(lab: Lab, v: int, sender: str) -> None:
    handshake(lab, TC, v)
    reset = (A, on(v, "R")) if sender == "a" else (C, back(v, "RA"))
    assert send(lab, TC, *reset).verdict == "forward"
    assert progress(whole(lab, v)) == {"on": REPLIED | CLOSING, "back": REPLIED | CLOSING}


@BOTH
def test_a_connection_is_refused(lab: Lab, v: int) -> None:
    """A reset of what was half open; the same ports may try again."""
    send(lab, TC, A, on(v, "S"))
    assert send(lab, TC, C, back(v, "RA")).verdict == "forward"
    assert progress(half(lab)) == {"on": REPLIED | CLOSING, "back": REPLIED | CLOSING}
    handshake(lab, TC, v)
    assert (half(lab), progress(whole(lab, v))) == ({}, {"on": REPLIED, "back": REPLIED})


def close(lab: Lab, hook: Hook, v: int) -> None:
    """The connection of ``handshake``, from both sides."""
    send(lab, hook, A, on(v, "FA"))
    send(lab, hook, C, back(v, "FA"))
    assert send(lab, hook, A, on(v)).verdict == "forward"


@BOTH
def test_a_new_connection_with_the_ports_of_a_closed_one(lab: Lab, v: int) -> None:
    handshake(lab, TC, v)
    close(lab, TC, v)
    send(lab, TC, A, on(v, "S"))
    assert (progress(half(lab)), whole(lab, v)) == ({"on": 0, "back": 0}, {})
    handshake(lab, TC, v)
    assert (half(lab), progress(whole(lab, v))) == ({}, {"on": REPLIED, "back": REPLIED})


@BOTH
def test_a_closed_connection_is_known_for_a_while(lab: Lab, v: int) -> None:
    """Though the slot of an earlier one with its ports is the first that is looked at."""
    for _ in range(2):
        handshake(lab, TC, v)
        close(lab, TC, v)
    for key, room in list(lab.maps["mesh_room"].items()):
        room.own.hand = room.common.hand = 0
        lab.maps["mesh_room"].set(key, room)
    for port in range(2000, 2010):
        assert send(lab, TC, A, udp(v, A, B, port, 53)).verdict == "forward"
    assert send(lab, TC, C, back(v, "FA")).verdict == "forward"


@BOTH
def test_a_new_connection_is_judged_anew(lab: Lab, v: int) -> None:
    """By its opener, who may be the other side now; an old flow's answer is still one."""
    handshake(lab, TC, v)
    close(lab, TC, v)
    where = Drop("c", Direction.FROM_FN, Reason.POLICY)
    assert set(send(lab, TC, C, back(v, "S")).counted) == {where}
    assert send(lab, TC, C, back(v, "SA")).verdict == "forward"
    assert send(lab, TC, C, back(v, "A")).verdict == "forward"


@BOTH
def test_who_was_called_may_not_call_back(lab: Lab, v: int) -> None:
    """A SYN of its own is not an answer, whatever connection has its ports; that one goes on."""
    handshake(lab, TC, v)
    where = Drop("c", Direction.FROM_FN, Reason.POLICY)
    assert set(send(lab, TC, C, back(v, "S")).counted) == {where}
    assert send(lab, TC, A, on(v)).verdict == "forward"
    assert send(lab, TC, C, back(v)).verdict == "forward"


@BOTH
def test_a_new_connection_gets_a_backend_anew(lab: Lab, v: int) -> None:
    """The flow would keep the one it has; another flow with its ports does not."""
    lab.change(changes.policies(policy("function:a", "service:web")))

    def asked(flags: str) -> str:
        return send(lab, TC, A, tcp(v, A, WEB, 1000, 80, flags)).frame[:6].hex(":")

    def answered(flags: str) -> None:
        assert send(lab, TC, B, tcp(v, B, A, 8080, 1000, flags)).verdict == "forward"

    assert asked("S") == B.mac
    answered("SA")
    assert asked("A") == B.mac
    lab.change(changes.set_service("web", functions=("c",)))
    assert asked("S") == asked("FA") == B.mac
    answered("FA")
    assert asked("A") == B.mac
    assert asked("S") == C.mac
    assert send(lab, TC, C, tcp(v, C, A, 8080, 1000, "SA")).verdict == "forward"
    assert asked("A") == C.mac
    assert asked("PA") == C.mac


@BOTH
def test_a_syn_in_an_open_connection_is_one_of_its_packets(lab: Lab, v: int) -> None:
    handshake(lab, TC, v)
    assert send(lab, TC, A, on(v, "S")).verdict == "forward"
    assert progress(whole(lab, v)) == {"on": REPLIED, "back": REPLIED}


# Time


CLOCK = udp(4, B, A, 9, 9)
"""A packet of nobody's concern; its entry tells the time."""


def is_clock(key: Flow4Key | Flow6Key) -> bool:
    return bool(key.source_port == key.destination_port)


def tick(lab: Lab) -> int:
    """The programs' clock."""
    send(lab, TC, B, CLOCK)
    return max(flow.seen for key, flow in lab.maps["mesh_flow4"].items() if is_clock(key))


def set_back(lab: Lab, now: int, ages: dict[str, int]) -> None:
    """Have the entries of one direction, ``on`` or ``back``, be as old as this."""
    for name in FLOWS:
        for key, flow in list(lab.maps[name].items()):
            if not is_clock(key):
                age = ages["back" if flow.flags & FlowFlag.REPLY else "on"]
                flow.seen = (now - age) & 0xFFFFFFFF
                lab.maps[name].set(key, flow)


def aged(
    lab: Lab, prepare: Callable[[], None], ages: dict[str, int], act: Callable[[], Seen]
) -> Seen:
    """What ``act`` sees of flows that are so old, to the tick."""
    for _ in range(20):
        lab.forget_flows()
        prepare()
        now = tick(lab)
        set_back(lab, now, ages)
        seen = act()
        if tick(lab) == now:
            return seen
    pytest.fail("a tick takes longer than this")


def _open(lab: Lab, hook: Hook, v: int) -> dict[str, tuple[Callable[[], None], Timeout, Packet]]:
    """States of a flow from a to c: how it gets there, its timeout, and what only c's answer is."""

    def steps(*packets: tuple[Peer, Packet]) -> Callable[[], None]:
        def run() -> None:
            for sender, packet in packets:
                assert send(lab, hook, sender, packet).verdict == "forward"

        return run

    syn = ((A, on(v, "S")), (C, back(v, "SA")))
    established = (*syn, (A, on(v)))
    fin = back(v, "FA")
    return {
        "half open": (steps(*syn), Timeout.HANDSHAKE, back(v, "SA")),
        "established": (steps(*established), Timeout.ESTABLISHED, back(v, "SA")),
        "plain": (steps(*established), Timeout.ESTABLISHED, back(v, "A")),
        "one side closed": (steps(*established, (A, on(v, "F"))), Timeout.ESTABLISHED, fin),
        "closing": (steps(*established, (A, on(v, "FA")), (C, fin)), Timeout.CLOSING, fin),
        "reset": (steps(*established, (A, on(v, "R"))), Timeout.CLOSING, back(v, "A")),
        "refused": (steps(syn[0], (C, back(v, "RA"))), Timeout.CLOSING, back(v, "SA")),
        "udp": (steps((A, udp(v, A, C, 1000, 53))), Timeout.UDP, udp(v, C, A, 53, 1000)),
        "ping": (steps((A, ping(v, A, C))), Timeout.ICMP, pong(v, C, A)),
    }  # fmt: skip


STATES = ("half open", "established", "plain", "one side closed", "closing", "reset", "refused",
          "udp", "ping")  # fmt: skip


@BOTH
@pytest.mark.parametrize("state", STATES)
def test_a_flow_lives_so_long_and_no_longer(lab: Lab, v: int, state: str) -> None:
    lab.set_policies(policy("function:a", "function:c"))
    config = lab.maps.config.get(b"\0\0\0\0")
    prepare, timeout, answer = _open(lab, TC, v)[state]
    limit = config.timeouts[timeout]
    last = {"on": limit, "back": limit}
    assert aged(lab, prepare, last, lambda: send(lab, TC, C, answer)).verdict == "forward"
    over = {"on": limit + 1, "back": limit + 1}
    before = lab.counts()[Count.EXPIRED]
    assert aged(lab, prepare, over, lambda: send(lab, TC, C, answer)).verdict == "drop"
    assert lab.counts()[Count.EXPIRED] > before


@BOTH
@pytest.mark.parametrize("state", STATES)
def test_either_side_keeps_a_flow_alive(lab: Lab, v: int, state: str) -> None:
    lab.set_policies(policy("function:a", "function:c"))
    limit = max(lab.maps.config.get(b"\0\0\0\0").timeouts)
    prepare, _, answer = _open(lab, TC, v)[state]
    for ages in ({"on": 0, "back": limit + 1}, {"on": limit + 1, "back": 0}):
        assert aged(lab, prepare, ages, lambda: send(lab, TC, C, answer)).verdict == "forward"


@BOTH
def test_each_packet_keeps_its_flow_alive(lab: Lab, v: int) -> None:
    """On the fast path as on the slow one, and on the way between them."""
    ages: dict[int, int] = {}

    def sends() -> Seen:
        seen = send(lab, TC, A, on(v))
        now = tick(lab)
        ages.update(
            (flow.flags & FlowFlag.REPLY, now - flow.seen)
            for flow in whole(lab, v).values()
            if flow.flags & REPLIED
        )
        return seen

    for age in (0, 1, 2, 100):
        ages.clear()
        seen = aged(lab, lambda: handshake(lab, TC, v), {"on": age, "back": 50}, sends)
        assert seen.verdict == "forward"
        assert ages == {0: 0, FlowFlag.REPLY: 50}


@BOTH
@pytest.mark.parametrize("ended", ["expired", "closed"])
def test_what_comes_after_the_end_is_a_flow_of_its_own(lab: Lab, v: int, ended: str) -> None:
    """Nothing of the old entries is left: neither how far it got nor whom it went to."""
    lab.change(changes.policies(policy("function:a", "service:web")))
    limit = max(lab.maps.config.get(b"\0\0\0\0").timeouts)

    def asked(flags: str) -> Seen:
        return send(lab, TC, A, tcp(v, A, WEB, 1000, 80, flags))

    asked("S")
    send(lab, TC, B, tcp(v, B, A, 8080, 1000, "SA"))
    asked("A")
    lab.change(changes.set_service("web", functions=("c",)))
    if ended == "closed":
        send(lab, TC, B, tcp(v, B, A, 8080, 1000, "R"))
    else:
        set_back(lab, tick(lab), {"on": limit + 2, "back": limit + 2})
    assert asked("S").frame[:6].hex(":") == C.mac
    assert progress(half(lab)) == {"on": 0, "back": 0}
    assert send(lab, TC, C, tcp(v, C, A, 8080, 1000, "SA")).verdict == "forward"
    assert asked("A").frame[:6].hex(":") == C.mac
    assert half(lab) == {}
    assert asked("PA").frame[:6].hex(":") == C.mac


@BOTH
def test_an_expired_datagram_flow_is_opened_anew(lab: Lab, v: int) -> None:
    limit = max(lab.maps.config.get(b"\0\0\0\0").timeouts)
    query = udp(v, A, B, 1000, 53)
    send(lab, TC, A, query)
    set_back(lab, tick(lab), {"on": limit + 2, "back": limit + 2})
    before = lab.counts()
    assert send(lab, TC, A, query).verdict == "forward"
    assert counted(lab, before) == {Count.EXPIRED: 1, Count.FLOW_MADE: 1}
    assert len(lab.flows()) == 4  # with that of the clock


@BOTH
@pytest.mark.parametrize("lost", [0, FlowFlag.REPLY], ids=["on", "back"])
def test_a_flow_outlives_the_loss_of_an_entry(lab: Lab, v: int, lost: int) -> None:
    """The kernel makes room for others: what is judged again is soon established again."""
    handshake(lab, TC, v)
    for key, flow in list(lab.maps[f"mesh_flow{v}"].items()):
        if flow.flags & FlowFlag.REPLY == lost:
            lab.maps[f"mesh_flow{v}"].delete(key)
    for _ in range(2):
        assert send(lab, TC, A, on(v)).verdict == "forward"
        assert send(lab, TC, C, back(v)).verdict == ("drop" if lost else "forward")
    for _ in range(2):
        assert send(lab, TC, A, on(v)).verdict == "forward"


@BOTH
def test_an_error_about_an_expired_flow_belongs_to_none(lab: Lab, v: int) -> None:
    limit = max(lab.maps.config.get(b"\0\0\0\0").timeouts)
    send(lab, TC, A, udp(v, A, B, 1000, 53))
    set_back(lab, tick(lab), {"on": limit + 2, "back": limit + 2})
    seen = send(lab, TC, B, error(v, B, A, udp(v, A, B, 1000, 53, ttl=63)))
    assert set(seen.counted) == {Drop("b", Direction.FROM_FN, Reason.NO_FLOW)}
