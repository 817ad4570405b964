# SPDX-License-Identifier: BSD-2-Clause
"""What XDP at an uplink costs for a packet to a function, beside a bare redirect by a devmap.

64-byte frames come in by the uplink, for a published service with a rule, and end at XDP of the
function's own interface; CPU time of the thread that sends them and of its core's ksoftirqd. "Way"
is what a frame dropped at the uplink costs, which is in all. `make early-speed` prints it; without
ROUNDS it is only seen that all frames arrive.
"""

import logging
import os
import socket
import statistics
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ebpfmesh.bench.cputime import ksoftirqd, of_processes
from ebpfmesh.bench.packets.frames import Frames
from ebpfmesh.bench.packets.generator import Generator
from ebpfmesh.bench.packets.sink import drained
from ebpfmesh.bench.tools import one_core
from ebpfmesh.bench.workload import Target
from ebpfmesh.compile.build import build
from ebpfmesh.kernel import bpf, netns, private
from ebpfmesh.kernel.pins import BPFFS, Pins
from ebpfmesh.kernel.programs import CARRY, Program
from ebpfmesh.model import Mesh
from ebpfmesh.observe import functions
from ebpfmesh.observe.view import opened
from support.meshes import function, mesh_file, rule, service, uplink
from support.outside import Outside, beyond, mac
from support.topology import running

ROUNDS = int(os.environ.get("EBPFMESH_EARLY_SPEED", "0"))
FLOWS = (1, 100_000) if ROUNDS else (1, 100)
FRAMES = 1 << 18 if ROUNDS else 1 << 10
SOURCE = Path(__file__).parents[1] / "support/early_speed.c"
PROGRAMS, MAPS = ("speed_redirect", "speed_sink", "speed_drop"), ("receiver", "arrived")
MESH = mesh_file(
    "speed",
    function("far", datapath="af_xdp", command=["sleep", "1000000"]),
    uplink(),
    service("sink", "9-12", "far", address="198.19.0.1", protocol="udp", publish=["u0:9-12"]),
    rule("outside", "service:sink", protocol="udp", port="9-12"),
    limits={"flows": 524288},
)


class Speed:
    """The programs, and frames by way of one of them."""

    def __init__(self, mesh: Mesh, outside: Outside, stack: ExitStack) -> None:
        self._outside, pins = outside, BPFFS / "early-speed"
        private.directory(pins)
        stack.callback(pins.rmdir)
        build(SOURCE, [Program(one, "xdp") for one in PROGRAMS], pin_to=pins, pin_maps=MAPS)
        self.fds = {}
        for name in (*PROGRAMS, *MAPS):
            self.fds[name] = stack.enter_context(bpf.obj_get(pins / name))
            (pins / name).unlink()
        own = Pins(mesh.name)
        self.fds[CARRY.name] = stack.enter_context(bpf.obj_get(own.progs / CARRY.name))
        self._link = stack.enter_context(bpf.obj_get(own.links / "@u0-xdp"))
        with bpf.obj_get(own.ports / "far" / "link") as inner:
            bpf.link_update(inner, self.fds["speed_sink"])
        self.generator = Generator(pins, stack)
        with opened(mesh.name) as view:
            (far,) = functions.read(view)
        bpf.map_update(self.fds["receiver"], bytes(4), struct.pack("=I", far.ifindex))
        self._mac = mac(outside.interface)
        stack.enter_context(one_core())
        self._daemon = ksoftirqd()[next(iter(os.sched_getaffinity(0)))]
        stack.enter_context(netns.entered(outside.home))
        self._out = socket.if_nametoindex("eth0")

    def load(self, flows: int) -> None:
        """Have frames of so many flows sent."""
        self.generator.load(
            Frames(
                source_mac=mac("eth0"),
                target_mac=self._mac,
                source=self._outside.near[0],
                target=Target(self._outside.host[0], 9),
                flows=flows,
                ifindex=self._out,
            )
        )

    def arrived(self) -> int:
        """Frames that came to the function so far."""
        return int.from_bytes(bpf.map_lookup(self.fds["arrived"], bytes(4), 8) or b"", "little")

    def ns(self, program: str, frames: int = FRAMES) -> float:
        """Nanoseconds of CPU time a frame, by this program."""
        bpf.link_update(self._link, self.fds[program])
        self.generator.prepare("redirect")
        before = self._used()
        self.generator.send(self._out, frames, "redirect")
        return (self._used() - before) / frames

    def establish(self, flows: int) -> None:
        """Have the first packet of each flow judged, and its entry in use."""
        for _ in range(2):
            self.ns(CARRY.name, flows)

    def _used(self) -> int:
        """CPU time of this thread, and of what takes softirqs over from it: nanoseconds."""
        return time.thread_time_ns() + of_processes([self._daemon])


@pytest.fixture
def speed() -> Iterator[Speed]:
    with ExitStack() as stack:
        outside = stack.enter_context(beyond())
        mesh = stack.enter_context(running(MESH))
        yield Speed(mesh, outside, stack)


def test_a_carried_packet_beside_a_bare_redirect(speed: Speed) -> None:
    for flows in FLOWS:
        speed.load(flows)
        speed.establish(flows)
        before, rounds = speed.arrived(), []
        for _ in range(ROUNDS or 1):
            rounds.append([speed.ns(one) for one in ("speed_drop", "speed_redirect", CARRY.name)])
        sent = 2 * FRAMES * len(rounds)
        assert drained(speed.arrived, before + sent) - before == sent
        way, bare, carried = (statistics.median(column) for column in zip(*rounds, strict=True))
        share = statistics.median(bare / carried for _, bare, carried in rounds)
        logging.info(
            f"{flows} flows: way {way:.0f} ns, bare {bare:.0f}, carried {carried:.0f}: {share:.2f}"
        )
