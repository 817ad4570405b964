# SPDX-License-Identifier: BSD-2-Clause
"""A map of flows with room for one entry, where a flow needs two.

No packet can cause FLOW_FULL, since the kernel makes room in an LRU map. So the programs are loaded
once more, on the maps of the mesh but for one: flows are in a plain hash, or in an LRU hash.
"""

import ctypes
from collections.abc import Iterator

import pytest

from ebpfmesh import _abi
from ebpfmesh._abi import Direction, Reason
from ebpfmesh.apply.programs import TC_CALLS, load_sources, set_calls, tc_sources
from ebpfmesh.kernel import bpf
from ebpfmesh.kernel.pins import Pins
from prog.lab import TC, Drop, Lab, peer
from support.packets import sent, tcp, udp

A, B = peer("a"), peer("b")
SMALL, CALLS = "mesh_flow4", "mesh_tc_calls"


@pytest.fixture
def full(lab: Lab, kind: str) -> Iterator[bpf.Fd]:
    """mesh_from_fn with a flow map, of a kind of its own, that is full after half a flow."""
    pins = Pins("full")
    pins.create()
    try:
        for spec in _abi.MAPS:
            if spec.name not in (SMALL, CALLS):
                bpf.obj_pin(lab.maps[spec.name].fd, pins.maps / spec.name)
        sizes = ctypes.sizeof(_abi.Flow4Key), ctypes.sizeof(_abi.Flow)
        with (
            bpf.map_create(bpf.MAP_TYPE[kind], SMALL, *sizes, 1) as small,
            bpf.map_create(bpf.MAP_TYPE["prog"], CALLS, 4, 4, len(TC_CALLS)) as calls,
        ):
            bpf.obj_pin(small, pins.maps / SMALL)
            bpf.obj_pin(calls, pins.maps / CALLS)
        load_sources(pins, tc_sources())
        set_calls(pins, CALLS, TC_CALLS)
        with bpf.obj_get(pins.progs / TC.program) as program:
            yield program
    finally:
        pins.remove()


@pytest.mark.parametrize("kind", ["hash"])
def test_no_room_for_a_flow(lab: Lab, full: bpf.Fd) -> None:
    frame = bytes(sent(A, udp(4, A, B, 1000, 53)))
    before = lab.snapshot()
    run = bpf.prog_test_run(full, frame, context=TC.context(lab.ifindex["a"], len(frame), 0))
    assert TC.word(run.verdict) == "drop"
    assert run.packet == frame
    where = Drop("a", Direction.FROM_FN, Reason.FLOW_FULL)
    assert lab.moved(before) == {where: (1, len(frame))}


@pytest.mark.parametrize("kind", ["hash", "lru_hash"])
def test_no_room_for_a_connection(lab: Lab, full: bpf.Fd) -> None:
    """It goes on in mesh_half, whether the second entry has no place or takes the first one's."""
    for end, packet in (
        (A, tcp(4, A, B, 1000, 80, "S")),
        (B, tcp(4, B, A, 80, 1000, "SA")),
        (A, tcp(4, A, B, 1000, 80, "A")),
        (A, tcp(4, A, B, 1000, 80, "PA", b"data")),
        (B, tcp(4, B, A, 80, 1000, "PA", b"data")),
    ):
        frame = bytes(sent(end, packet))
        context = TC.context(lab.ifindex[end.name], len(frame), 0)
        assert TC.word(bpf.prog_test_run(full, frame, context=context).verdict) == "forward"
    assert lab.maps["mesh_half"].count() == 2
