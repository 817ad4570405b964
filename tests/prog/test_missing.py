# SPDX-License-Identifier: BSD-2-Clause
"""NO_PROGRAM: a slot of the calls is empty, so what would go on there is dropped."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ebpfmesh import _abi
from ebpfmesh._abi import Reason
from ebpfmesh.apply.programs import set_calls
from ebpfmesh.kernel import programs
from ebpfmesh.kernel.pins import Pins
from prog.lab import NAME, NOBODY, TC, TO_FN, Drop, Hook, Lab, peer
from support.packets import received, sent, tcp, udp

A, B = peer("a"), peer("b")
SLOTS = pytest.mark.parametrize(
    "slot", [_abi.CALL_SLOW, _abi.CALL_JUDGE, _abi.CALL_DECIDE], ids=["slow", "judge", "policy"]
)
HOOKS = pytest.mark.parametrize("hook", [TC, TO_FN], ids=["tc", "to"])


@contextmanager
def without(lab: Lab, slot: int) -> Iterator[None]:
    """The mesh without one of its programs."""
    assert lab.maps["mesh_tc_calls"].delete(ctypes.c_uint32(slot))
    try:
        yield
    finally:
        set_calls(Pins(NAME), "mesh_tc_calls", programs.CALLS)


@SLOTS
@HOOKS
def test_a_new_flow_needs_every_program(lab: Lab, hook: Hook, slot: int) -> None:
    packet = tcp(4, NOBODY, A, 5000, 22) if hook is TO_FN else tcp(4, A, B, 1000, 80)
    frame = bytes(received(A, packet) if hook is TO_FN else sent(A, packet))
    with without(lab, slot):
        seen = lab.run(hook, "a", frame)
    where = Drop("a", hook.direction, Reason.NO_PROGRAM)
    assert (seen.verdict, seen.counted) == ("drop", {where: (1, len(frame))})
    assert seen.frame == frame
    assert lab.flows() == {}
    assert lab.run(hook, "a", frame).verdict == ("pass" if hook is TO_FN else "forward")


def test_an_established_flow_needs_none(lab: Lab) -> None:
    frame = bytes(sent(A, udp(4, A, B, 1000, 53)))
    assert lab.run(TC, "a", frame).verdict == "forward"
    with without(lab, _abi.CALL_SLOW):
        assert lab.run(TC, "a", frame).verdict == "forward"


@HOOKS
def test_a_known_flow_needs_no_judge(lab: Lab, hook: Hook) -> None:
    packet = tcp(4, NOBODY, A, 5000, 22) if hook is TO_FN else tcp(4, A, B, 1000, 80)
    frame = bytes(received(A, packet) if hook is TO_FN else sent(A, packet))
    passed = lab.run(hook, "a", frame).verdict
    with without(lab, _abi.CALL_JUDGE), without(lab, _abi.CALL_DECIDE):
        assert lab.run(hook, "a", frame).verdict == passed != "drop"
