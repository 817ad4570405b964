# SPDX-License-Identifier: BSD-2-Clause
"""No room for a flow: every slot that its tenant may have is being given away on other cores."""

import ctypes
from collections.abc import Iterator

import pytest

from ebpfmesh._abi import Direction, Reason
from prog.lab import TC, Drop, Lab, peer
from support.packets import sent, tcp, udp

A, B = peer("a"), peer("b")
BOTH = pytest.mark.parametrize("v", [4, 6], ids=["v4", "v6"])
NO_ROOM = Drop("a", Direction.FROM_FN, Reason.FLOW_FULL)


def give_away(lab: Lab, users: int) -> None:
    slots = lab.maps["mesh_slot"]
    for key, slot in list(slots.items()):
        slot.users = users
        slots.set(ctypes.c_uint32(key.value), slot)


@pytest.fixture
def busy(lab: Lab) -> Iterator[None]:
    give_away(lab, 1)
    yield
    give_away(lab, 0)


@BOTH
@pytest.mark.parametrize("make", [udp, tcp])
@pytest.mark.usefixtures("busy")
def test_no_room_for_a_flow(lab: Lab, v: int, make: type) -> None:
    frame = bytes(sent(A, make(v, A, B, 1000, 53)))
    seen = lab.run(TC, "a", frame)
    assert (seen.verdict, seen.frame) == ("drop", frame)
    assert seen.counted == {NO_ROOM: (1, len(frame))}
    assert lab.flows() == {}


@BOTH
def test_no_room_for_an_established_one(lab: Lab, v: int) -> None:
    """A connection goes on half open until there is; what is known needs none."""
    for end, packet in (
        (A, tcp(v, A, B, 1000, 80, "S")),
        (B, tcp(v, B, A, 80, 1000, "SA")),
    ):
        assert lab.run(TC, end.name, bytes(sent(end, packet))).verdict == "forward"
    half = lab.flows()
    data = (A, tcp(v, A, B, 1000, 80, "PA", b"data")), (B, tcp(v, B, A, 80, 1000, "PA", b"data"))
    for users in (1, 0):
        give_away(lab, users)
        for end, packet in data:
            assert lab.run(TC, end.name, bytes(sent(end, packet))).verdict == "forward"
        epochs = {flow.epoch for flow in lab.flows().values()}
        assert (epochs == {flow.epoch for flow in half.values()}) == bool(users)
