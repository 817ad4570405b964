# SPDX-License-Identifier: BSD-2-Clause
"""What a packet costs that a function takes by a port, beside one it takes by recvmmsg(2).

The kernel's way and the consumer together, in CPU time of the threads that did the work, without
the generator's part. `make port-speed` prints it; without ROUNDS it is only seen to work.
"""

import logging
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

import pytest

from ebpfmesh.bench.cputime import of_processes
from ebpfmesh.bench.packets.frames import Frames
from ebpfmesh.bench.packets.generator import Generator
from ebpfmesh.bench.tools import one_core
from ebpfmesh.bench.workload import Target
from ebpfmesh.kernel import interface
from ebpfmesh.kernel.pins import BPFFS
from ebpfmesh.model import Mesh
from ebpfmesh.observe import functions
from ebpfmesh.observe.view import opened
from support.topology import running, unavailable, wait_until

ROUNDS = int(os.environ.get("EBPFMESH_PORT_SPEED", "0"))
ROOT = Path(__file__).parents[2]
SUPPORT, PLACE = ROOT / "tests/support", ROOT / ".cache/port-speed"
BURST, BURSTS = 256, 400 if ROUNDS else 4
SINKS = {
    "recvmmsg": ("tc", [str(PLACE / "sink"), "socket"]),
    "c": ("af_xdp", [str(PLACE / "sink")]),
    "python": ("af_xdp", [sys.executable, str(SUPPORT / "port_sink.py")]),
}
BEGIN = '[mesh]\nname = "speed"\n[[function]]\nname = "client"\ntenant = "one"\n'
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
[[policy]]
from = "function:client"
to = "service:{name}-sink"
"""


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    if shutil.which("cc") is None:
        unavailable("there is no C compiler")
    PLACE.mkdir(parents=True, exist_ok=True)
    words = ["-std=gnu11", "-O2", "-Wall", "-Werror", f"-I{ROOT}/ebpfmesh/port/include"]
    subprocess.run(["cc", *words, SUPPORT / "port_sink.c", "-o", PLACE / "sink"], check=True)
    text = BEGIN + "".join(
        SINK.format(name=name, datapath=how, command=command, root=ROOT, number=number)
        for number, (name, (how, command)) in enumerate(SINKS.items(), start=1)
    )
    with running(text) as made:
        yield made
    shutil.rmtree(PLACE)


def test_a_packet_by_a_port_is_cheaper_than_one_by_a_socket(mesh: Mesh) -> None:
    figures: dict[str, list[float]] = {name: [] for name in SINKS}
    with ExitStack() as stack:
        (pins := BPFFS / "port_speed").mkdir()
        stack.callback(pins.rmdir)
        generator = Generator(pins, stack)
        stack.enter_context(one_core())
        for _ in range(ROUNDS or 1):
            for number, name in enumerate(SINKS, start=1):
                figures[name].append(cost(mesh, generator, name, number))
    base = figures["recvmmsg"]
    for name, found in figures.items():
        middle = statistics.median(found)
        ratio = statistics.median(b / one for b, one in zip(base, found, strict=True))
        report = "%s: %.0f ns a packet, %.2f M a CPU second, %.2f times recvmmsg"
        logging.getLogger(__name__).info(report, name, middle, 1e3 / middle, ratio)
    assert all(all(one > 0 for one in found) for found in figures.values())


def cost(mesh: Mesh, generator: Generator, name: str, number: int) -> float:
    """Nanoseconds of CPU for a packet that was taken."""
    with opened(mesh.name) as view:
        rows = {row.name: row for row in functions.read(view)}
    client, sink = rows["client"], rows[name]
    frames = Frames(
        source_mac=interface.mac_of(mesh.name, "client"), target_mac=interface.GATEWAY_MAC,
        source=ip_address(client.addresses[0]), target=Target(ip_address(f"198.19.0.{number}"), 9),
        flows=1, size=64,
    )  # fmt: skip
    generator.load(frames)
    (process,) = sink.processes
    os.sched_setaffinity(process, os.sched_getaffinity(0))  # one core for all
    send(generator, client.ifindex, process, 10)
    before, lost = of_processes([process]), ring_full(mesh, name)
    kernel = send(generator, client.ifindex, process, BURSTS)
    used = of_processes([process]) - before
    own = send(generator, client.ifindex, process, BURSTS, discard=True)
    assert ring_full(mesh, name) == lost
    count = BURST * BURSTS
    logging.getLogger(__name__).debug("%s: %.0f + %.0f", name, (kernel - own) / count, used / count)
    return (kernel - own + used) / count


def send(
    generator: Generator, ifindex: int, process: int, bursts: int, *, discard: bool = False
) -> int:
    """Send bursts, each once the sink has nothing to do; nanoseconds of this thread."""
    spent = 0
    for _ in range(bursts):
        begin = time.thread_time_ns()
        generator.send(ifindex, BURST, "discard" if discard else "stack")
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
