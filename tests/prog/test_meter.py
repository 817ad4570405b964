# SPDX-License-Identifier: BSD-2-Clause
"""Meters are exact to the packet and the byte, whatever the mixture; drops too."""

import random
from collections import Counter

import pytest
from scapy.packet import Packet

from ebpfmesh._abi import Direction, Reason
from prog.lab import NOBODY, TC, TO_FN, Counters, Drop, Hook, Lab, peer, service
from prog.rows import tenant_of
from support.packets import Peer, ping, pong, received, sent, tcp, udp

A, B, C, D = (peer(name) for name in "abcd")
WEB, DNS, SHOP = service("web"), service("dns"), service("shop")


def _traffic(v: int, size: int) -> list[tuple[Hook | None, Peer, Peer | None, Packet]]:
    """(hook, sender, receiver, packet), in an order in which all pass but the last two.

    The hook is None for the one under test; a receiver of None is a drop.
    """
    data = bytes(size)
    return [
        (None, A, B, tcp(v, A, B, 1000, 80, payload=data)),
        (None, B, A, tcp(v, B, A, 80, 1000, "SA", data)),
        (None, A, B, tcp(v, A, WEB, 1001, 80, payload=data)),
        (None, B, A, tcp(v, B, A, 8080, 1001, "A", data)),
        (None, B, C, tcp(v, B, SHOP, 1000, 80, payload=data)),
        (None, C, B, tcp(v, C, B, 8080, 1000, "A", data)),
        (None, A, B, udp(v, A, DNS, 1000, 53, data)),
        (None, B, A, udp(v, B, A, 5353, 1000, data)),
        (None, C, D, ping(v, C, D)),
        (None, D, C, pong(v, D, C)),
        (None, A, NOBODY, udp(v, A, NOBODY, 1000, 53, data)),
        (TO_FN, NOBODY, A, udp(v, NOBODY, A, 53, 1000, data)),
        (None, A, None, tcp(v, A, C, 1000, 80, payload=data)),
        (None, A, None, udp(v, A, C, 1000, 53, data)),
    ]


@pytest.mark.parametrize("seed", range(4))
def test_a_mixture(lab: Lab, seed: int) -> None:
    """Every packet counted once, in bytes of its frame, at its sender and its receiver."""
    chosen = random.Random(seed)
    before, expected = lab.snapshot(), Counter[tuple[object, int]]()
    for _ in range(12):
        rows = _traffic(chosen.choice((4, 6)), chosen.randint(0, 1300))
        for own, sender, receiver, packet in rows[: chosen.randint(1, len(rows))]:
            at = receiver if own is TO_FN else sender
            frame = bytes(received(at, packet) if own is TO_FN else sent(at, packet))
            passed = "pass" if NOBODY in (sender, receiver) else "forward"
            seen = lab.run(own or TC, at.name, frame)
            assert seen.verdict == (passed if receiver else "drop")
            for key, values in _counted(sender, receiver, len(frame)).items():
                expected.update({(key, place): value for place, value in enumerate(values)})
    assert _flat(lab.moved(before)) == +expected


def _counted(sender: Peer, receiver: Peer | None, length: int) -> dict[object, tuple[int, ...]]:
    if receiver is None:
        return {Drop(sender.name, Direction.FROM_FN, Reason.POLICY): (1, length)}
    return {
        (sender.name, tenant_of(receiver)): (1, length, 0, 0),
        (receiver.name, tenant_of(sender)): (0, 0, 1, length),
    }


def _flat(counted: Counters) -> Counter[tuple[object, int]]:
    """Each number of each counter by itself."""
    flat = Counter[tuple[object, int]]()
    for key, values in counted.items():
        flat.update({(key, place): value for place, value in enumerate(values)})
    return +flat


@pytest.mark.parametrize("segments", [1, 2, 44])
def test_a_segmented_packet_counts_as_its_segments(lab: Lab, segments: int) -> None:
    frame = bytes(sent(A, tcp(4, A, B, 1000, 80, payload=bytes(1000))))
    seen = lab.run(TC, "a", frame, segments=segments)
    assert seen.counted[("a", "red")] == (segments, len(frame), 0, 0)
    assert seen.counted[("b", "red")] == (0, 0, segments, len(frame))
    denied = bytes(sent(A, tcp(4, A, C, 1000, 80, payload=bytes(1000))))
    where = Drop("a", Direction.FROM_FN, Reason.POLICY)
    seen = lab.run(TC, "a", denied, segments=segments)
    assert seen.counted == {where: (segments, len(denied))}


def test_padding_counts_and_what_the_stack_answers_does_not(lab: Lab) -> None:
    frame = bytes(sent(A, tcp(4, A, B, 1000, 80))) + bytes(10)
    assert lab.run(TC, "a", frame).counted[("a", "red")] == (1, 64, 0, 0)
