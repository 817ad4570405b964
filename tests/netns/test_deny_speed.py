# SPDX-License-Identifier: BSD-2-Clause
"""What a packet costs at XDP of an uplink with 100 000 denied prefixes, beside a bare XDP_DROP.

64-byte frames come in by the uplink; CPU time of the thread that sends them, the generator's part
and the veth's in both. What is not denied is dropped here too, so that its way through the stack is
in neither. `make deny-speed` prints it; without ROUNDS it is only seen to count what it drops.
"""

import logging
import os
import socket
import statistics
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_network
from pathlib import Path

import pytest

from ebpfmesh import apply
from ebpfmesh._abi import Direction, Reason
from ebpfmesh.compile import compiled
from ebpfmesh.compile.build import build
from ebpfmesh.compile.source import bpf_dir, flatten
from ebpfmesh.kernel import bpf, netns, private
from ebpfmesh.kernel.pins import BPFFS, Pins
from ebpfmesh.kernel.programs import DENY, Program
from ebpfmesh.model import Mesh
from support.meshes import function, mesh_file, uplink
from support.outside import Outside, beyond
from support.topology import drops, running

ROUNDS = int(os.environ.get("EBPFMESH_DENY_SPEED", "0"))
PREFIXES = 100_000 if ROUNDS else 1_000
FRAMES = 1 << 18 if ROUNDS else 1 << 12
MESH = mesh_file("speed", function("a"), uplink())
TRAFFIC = (
    "one source that is denied",
    "65 536 that are",
    "67 million, 1 % are",
    "67 million others",
)
SOURCES = Path(__file__).parents[1] / "support/deny_sources.c"
FRAME = bytes.fromhex("0200000000010200000000990800") + struct.pack(
    "!BBHHHBBH8x", 0x45, 0, 50, 0, 0, 64, 17, 0
) + bytes(30)  # fmt: skip
ALL_DROPPED = "verdict_drop_early(ctx, reason, length) : XDP_DROP"


class Speed:
    """The programs, and frames by way of one of them."""

    def __init__(self, mesh: Mesh, outside: Outside, place: Path, stack: ExitStack) -> None:
        self._mesh = mesh
        pins = BPFFS / "deny-speed"
        private.directory(pins)
        stack.callback(pins.rmdir)
        text = flatten(bpf_dir() / DENY.file)
        passed = "verdict_drop_early(ctx, reason, length) : verdict_pass(ctx)"
        assert passed in text
        source = place / DENY.file
        source.write_text(text.replace(passed, ALL_DROPPED))
        names = ("deny_sources", "deny_drop")
        build(SOURCES, [Program(name, "xdp") for name in names], pin_to=pins, pin_maps=["chosen"])
        defines = compiled.defines(Pins(mesh.name).maps, count_flows=False)
        build(source, [DENY], pin_to=pins, defines=defines)
        self.fds = {}
        for name in (*names, "chosen", DENY.name):
            self.fds[name] = stack.enter_context(bpf.obj_get(pins / name))
            (pins / name).unlink()
        self._link = stack.enter_context(bpf.obj_get(Pins(mesh.name).links / "@u0-xdp"))
        stack.enter_context(netns.entered(outside.home))
        self._out = socket.if_nametoindex("eth0")

    def dropped(self) -> int:
        """Packets of sources that are denied, so far."""
        return drops(self._mesh)["outside", Direction.FROM_UPLINK, Reason.DENIED]

    def ns(self, program: str, traffic: int) -> float:
        """Nanoseconds of CPU time a frame, dropped by this program."""
        bpf.link_update(self._link, self.fds[program])
        about = struct.pack("=QII", time.monotonic_ns(), traffic, self._out)
        bpf.map_update(self.fds["chosen"], bytes(4), about)
        context = struct.pack("=6I", 0, len(FRAME), 0, self._out, 0, 0)
        before = time.thread_time_ns()
        bpf.prog_test_run(
            self.fds["deny_sources"], FRAME, context=context, repeat=FRAMES,
            flags=bpf.TEST_XDP_LIVE_FRAMES, batch=64,
        )  # fmt: skip
        return (time.thread_time_ns() - before) / FRAMES


@pytest.fixture
def speed(tmp_path: Path) -> Iterator[Speed]:
    with ExitStack() as stack:
        outside = stack.enter_context(beyond())
        mesh = stack.enter_context(running(MESH))
        listed = [ip_network((0x14000000 + (n << 8), 24)) for n in range(PREFIXES)]
        apply.deny(mesh.name, listed)
        yield Speed(mesh, outside, tmp_path, stack)


def test_a_denied_packet_beside_a_bare_drop(speed: Speed) -> None:
    for traffic, what in enumerate(TRAFFIC):
        rounds = [
            [speed.ns(program, traffic) for program in ("deny_drop", DENY.name)]
            for _ in range(ROUNDS or 1)
        ]
        bare, denied = (statistics.median(column) for column in zip(*rounds, strict=True))
        share = statistics.median(one / other for one, other in rounds)
        if traffic == 0:
            assert speed.dropped() == FRAMES * len(rounds)
        logging.info(f"{what}: bare {bare:.0f} ns, denied {denied:.0f} ns: {share:.2f}")
