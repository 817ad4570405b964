# SPDX-License-Identifier: BSD-2-Clause
"""What a packet costs that a function takes by a port, beside one it takes by recvmmsg(2).

The kernel's way and the consumer together, in CPU time of the threads that did the work, without
the generator's part; from another function, and from the outside by an uplink, where XDP sends on
what is for a port. `make port-speed` prints it; without ROUNDS it is only seen to work.
"""

import logging
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

import pytest

from ebpfmesh.bench.cputime import of_processes
from ebpfmesh.bench.packets.frames import Frames
from ebpfmesh.bench.packets.generator import Entry, Generator
from ebpfmesh.bench.tools import one_core
from ebpfmesh.bench.workload import Target
from ebpfmesh.kernel import interface, netns
from ebpfmesh.kernel.pins import BPFFS
from ebpfmesh.model import Mesh
from ebpfmesh.observe import functions
from ebpfmesh.observe.view import opened
from support.builds import in_c
from support.meshes import function, mesh_file, table
from support.outside import Outside, beyond, mac
from support.topology import needs_ports, running, wait_until

ROUNDS = int(os.environ.get("EBPFMESH_PORT_SPEED", "0"))
ROOT = Path(__file__).parents[2]
SUPPORT, PLACE = ROOT / "tests/support", ROOT / ".cache/port-speed"
BURST, BURSTS = 256, 400 if ROUNDS else 4
SINKS = {
    "recvmmsg": ("tc", [str(PLACE / "port_sink"), "socket"]),
    "c": ("af_xdp", [str(PLACE / "port_sink")]),
    "python": ("af_xdp", [sys.executable, str(SUPPORT / "port_sink.py")]),
}
BEGIN = mesh_file("speed", function("client", "one"), table("uplink", name="up", interface="up0"))
SINK = """
[[function]]
name = "{name}"
tenant = "two"
datapath = "{datapath}"
command = {command}
volumes = ["{root}"]
[[service]]
name = "{name}-sink"
address = "198.19.0.{number}"
port = 9
protocol = "udp"
functions = ["{name}"]
publish = ["up:900{number}"]
[[policy]]
from = "function:client"
to = "service:{name}-sink"
[[policy]]
from = "outside"
to = "service:{name}-sink"
"""


class Way(NamedTuple):
    """Where packets come from, and how the generator sends them there."""

    frames: Frames
    inside: Path | None
    ifindex: int
    entry: Entry


@pytest.fixture
def outside() -> Iterator[Outside]:
    with beyond() as found:
        yield found


@pytest.fixture
def mesh(outside: Outside) -> Iterator[Mesh]:
    needs_ports()
    assert outside.interface == "up0"
    text = BEGIN + "".join(
        SINK.format(name=name, datapath=how, command=command, root=ROOT, number=number)
        for number, (name, (how, command)) in enumerate(SINKS.items(), start=1)
    )
    with in_c(PLACE.name) as compiled:
        compiled(SUPPORT / "port_sink.c")
        with running(text) as made:
            yield made


def from_function(mesh: Mesh, outside: Outside, number: int) -> Way:
    """A function whose stack sends to a service: each packet is an skb."""
    del outside
    with opened(mesh.name) as view:
        (client,) = (row for row in functions.read(view) if row.name == "client")
    frames = Frames(
        source_mac=interface.mac_of(mesh.name, "client"), target_mac=interface.GATEWAY_MAC,
        source=ip_address(client.addresses[0]), target=Target(ip_address(f"198.19.0.{number}"), 9),
        flows=1, size=64,
    )  # fmt: skip
    return Way(frames, None, client.ifindex, "stack")


def from_outside(mesh: Mesh, outside: Outside, number: int) -> Way:
    """Frames that come out of the other end of an uplink's veth, as from a NIC: no skb yet."""
    del mesh
    with netns.entered(outside.home):
        inner, own = socket.if_nametoindex("eth0"), mac("eth0")
    frames = Frames(
        source_mac=own, target_mac=mac("up0"), source=outside.near[0],
        target=Target(outside.host[0], 9000 + number), flows=1, size=64, ifindex=inner,
    )  # fmt: skip
    return Way(frames, outside.home, inner, "redirect")


@pytest.mark.parametrize("way", [from_function, from_outside])
def test_a_packet_by_a_port_is_cheaper_than_one_by_a_socket(
    mesh: Mesh, outside: Outside, way: Callable[[Mesh, Outside, int], Way]
) -> None:
    figures: dict[str, list[float]] = {name: [] for name in SINKS}
    with ExitStack() as stack:
        (pins := BPFFS / "port_speed").mkdir()
        stack.callback(pins.rmdir)
        generator = Generator(pins, stack)
        stack.enter_context(one_core())
        for _ in range(ROUNDS or 1):
            for number, name in enumerate(SINKS, start=1):
                one = cost(mesh, generator, name, way(mesh, outside, number))
                figures[name].append(one)
    base = figures["recvmmsg"]
    for name, found in figures.items():
        middle = statistics.median(found)
        ratio = statistics.median(b / one for b, one in zip(base, found, strict=True))
        report = "%s: %.0f ns a packet, %.2f M a CPU second, %.2f times recvmmsg"
        logging.getLogger(__name__).info(report, name, middle, 1e3 / middle, ratio)
    # of a few bursts the generator's part may be more than all of it, by what else was on the core
    assert not ROUNDS or all(all(one > 0 for one in found) for found in figures.values())


def cost(mesh: Mesh, generator: Generator, name: str, way: Way) -> float:
    """Nanoseconds of CPU for a packet that was taken."""
    with opened(mesh.name) as view:
        rows = {row.name: row for row in functions.read(view)}
    sink = rows[name]
    generator.load(way.frames)
    (process,) = sink.processes
    os.sched_setaffinity(process, os.sched_getaffinity(0))  # one core for all
    send(generator, way, process, 10)
    before, lost = of_processes([process]), ring_full(mesh, name)
    kernel = send(generator, way, process, BURSTS)
    used = of_processes([process]) - before
    assert used > 0 < kernel
    own = send(generator, way._replace(entry="discard"), process, BURSTS)
    assert ring_full(mesh, name) == lost
    count = BURST * BURSTS
    logging.getLogger(__name__).info("%s: %.0f + %.0f", name, (kernel - own) / count, used / count)
    return (kernel - own + used) / count


def send(generator: Generator, way: Way, process: int, bursts: int) -> int:
    """Send bursts, each once the sink has nothing to do; nanoseconds of this thread."""
    spent = 0
    for _ in range(bursts):
        with netns.entered(way.inside) if way.inside else nullcontext():
            begin = time.thread_time_ns()
            generator.send(way.ifindex, BURST, way.entry)
            spent += time.thread_time_ns() - begin
        wait_until(lambda: sleeps(process), what="the sink has taken all")
    return spent


def sleeps(process: int) -> bool:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def ring_full(mesh: Mesh, name: str) -> int:
    with opened(mesh.name) as view:
        return next(
            row.drops.get("RING_FULL", 0) for row in functions.read(view) if row.name == name
        )
