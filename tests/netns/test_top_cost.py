# SPDX-License-Identifier: BSD-2-Clause
"""What top costs, and how far what it says of the programs' time is from the truth.

What is printed (`pytest -s`) is what docs/top.md tells; what is asserted holds on any machine.
`FUNCTIONS=1000 FLOWS=60000` looks at as many as the figures there are of.
"""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address
from statistics import median

import pytest

from ebpfmesh import _abi
from ebpfmesh.kernel import bpf, clock, netns
from ebpfmesh.kernel.maps import FLOWS as FLOW_MAPS
from ebpfmesh.kernel.maps import Map
from ebpfmesh.model import Function, Limits, Mesh
from ebpfmesh.observe import functions, usage, view
from ebpfmesh.observe.top import Sampler, rates
from support.meshes import function, mesh_file
from support.topology import in_network, running

MANY = int(os.environ.get("FUNCTIONS", "24"))
FLOWS = int(os.environ.get("FLOWS", "600"))
ROUNDS = 5
PACKETS = 4000
PORT = 7000
FIRST = IPv4Address("198.18.0.0")
SIZE = 64


def said(text: str) -> None:
    sys.stdout.write(f"\n{text}\n")


def cpu(work: Callable[[], object]) -> float:
    """Milliseconds of CPU; caches are as cold as after a second of other work."""
    found = []
    for _ in range(ROUNDS):
        time.sleep(0.2)
        begun = time.process_time()
        work()
        found.append((time.process_time() - begun) * 1e3)
    return median(found)


@pytest.fixture(scope="module")
def many() -> Iterator[Mesh]:
    """Every fourth has limits, eight tenants."""
    limits = {"cpu": 0.5, "memory": 64 << 20}
    with running(
        Mesh(
            name="many",
            limits=Limits(functions=max(MANY, 64), flows=max(2 * FLOWS, 1024)),
            functions=tuple(
                Function(
                    name=f"f{number}",
                    tenant=f"t{number % 8}",
                    address4=FIRST + number,
                    **limits if number % 4 == 0 else {},
                )
                for number in range(1, MANY + 1)
            ),
        )
    ) as mesh:
        yield mesh


@pytest.mark.timeout(600)
def test_a_sample_of_many_functions(many: Mesh) -> None:
    with Sampler(many.name) as sampler:
        before, now = sampler.sample(), sampler.sample()
        assert {*now.functions} == {function.name for function in many.functions}
        assert {row.state for row in rates(before, now)} == {"up"}
        sample, made = cpu(sampler.sample), cpu(lambda: rates(before, now))
    with view.opened(many.name) as seen:
        _ = seen.functions
        shown = cpu(lambda: functions.read(seen))
        with usage.Reader(seen) as reader:
            reader.read(seen.functions)
            read = cpu(lambda: reader.read(seen.functions))
    said(
        f"{MANY} functions: sample {sample:.1f} ms (usage {read:.1f}), rates {made:.1f} ms of CPU; "
        f"show functions {shown:.0f} ms"
    )


def put(table: "Map[_abi.Flow4Key, _abi.Flow]", number: int, ends: tuple[int, int]) -> None:
    """Both entries of a flow."""
    key = _abi.Flow4Key(
        source=number, destination=1, source_port=number & 0xFFFF, destination_port=80,
        origin=ends[0] << 8 | socket.IPPROTO_TCP,
    )  # fmt: skip
    table.set(key, _abi.Flow(output=ends[1], seen=clock.now()))
    key.source, key.destination, key.origin = 1, number, ends[1] << 8 | socket.IPPROTO_TCP
    table.set(key, _abi.Flow(output=ends[0], seen=clock.now(), flags=_abi.FlowFlag.REPLY))


def test_many_flows(many: Mesh) -> None:
    """Each is one of both ends, by its two entries; one whose time is over is none."""
    with view.opened(many.name) as seen:
        table, (first, second, *_) = seen.maps[FLOW_MAPS[0]], seen.functions
        ends = first.attachment.ifindex, second.attachment.ifindex
        before = usage.flows(seen)
        for number in range(FLOWS):
            put(table, number, ends)
        key = _abi.Flow4Key(source=FLOWS, origin=ends[0] << 8 | socket.IPPROTO_UDP)
        old = (clock.now() - (1 << 30)) & 0xFFFFFFFF
        table.set(key, _abi.Flow(output=ends[1], seen=old))
        found = usage.flows(seen)
        assert [found[end] - before[end] for end in ends] == [FLOWS, FLOWS]
        said(f"{FLOWS} flows: {cpu(lambda: usage.flows(seen)):.1f} ms of CPU")


TWO = mesh_file("two", function("sender"), function("receiver"))


def in_namespace(mesh: Mesh, function: str) -> socket.socket:
    with netns.entered(netns.RUN / netns.name_of(mesh.name, function)):
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


class Traffic:
    """Datagrams from one function to another, by one thread, which receives them too."""

    def __init__(self, mesh: Mesh, stack: ExitStack) -> None:
        address = mesh.function("receiver").address4
        self.sink = stack.enter_context(in_namespace(mesh, "receiver"))
        self.source = stack.enter_context(in_namespace(mesh, "sender"))
        self.sink.bind((str(address), PORT))
        self.source.connect((str(address), PORT))
        self.source.send(b"flow")
        data, peer = self.sink.recvfrom(SIZE)
        assert data == b"flow"
        self.sink.sendto(b"back", peer)
        assert self.source.recv(SIZE) == b"back"

    def send(self, count: int, to: socket.socket | None = None) -> float:
        """Nanoseconds of CPU that sending one takes, with the packet's whole way.

        The softirq that it raises runs in the sender's context.
        """
        send, used, packet = (to or self.source).send, 0, bytes(SIZE)
        for _ in range(count // 100):
            begun = time.thread_time_ns()
            for _ in range(100):
                send(packet)
            used += time.thread_time_ns() - begun
            with contextlib.suppress(BlockingIOError):
                while True:
                    self.sink.recv(SIZE, socket.MSG_DONTWAIT)
        return used / count


@pytest.fixture
def two() -> Iterator[Mesh]:
    with running(TWO) as mesh:
        yield mesh


def to_nowhere(mesh: Mesh, stack: ExitStack) -> socket.socket:
    """A socket whose packets get as far as a device, and are dropped there."""
    for line in (
        "ip link add nowhere type veth peer name down",
        "ip addr add 192.0.2.1/24 dev nowhere",
        "ip link set nowhere up",
        "ip neigh replace 192.0.2.2 lladdr 02:00:00:00:00:01 dev nowhere",
    ):
        words = [str(word) for word in in_network(mesh, "sender", line.split())]
        subprocess.run(words, check=True)
    made = stack.enter_context(in_namespace(mesh, "sender"))
    made.connect(("192.0.2.2", PORT))
    return made


def test_how_much_of_a_packets_way_is_told(two: Mesh) -> None:
    """The programs' time in short windows, beside all of it, and beside that of the whole way."""
    windows, all_, plain, timed, nowhere = [], [], [], [], []
    with ExitStack() as stack:
        traffic, away = Traffic(two, stack), to_nowhere(two, stack)
        seen = stack.enter_context(view.opened(two.name))
        for _ in range(ROUNDS):
            nowhere.append(traffic.send(PACKETS, away))
            plain.append(traffic.send(PACKETS))
            with bpf.enable_stats():
                (before, *_), cost = usage.runs(seen), traffic.send(PACKETS)
                (after, *_) = usage.runs(seen)
            timed.append(cost)
            assert after[1] - before[1] >= PACKETS
            all_.append((after[0] - before[0]) / (after[1] - before[1]))
            windows.append(window(seen, traffic))
    assert 0 < median(all_) < median(timed), "a program runs inside of its packet's way"
    way = median(plain) - median(nowhere)
    said(
        f"a run: {median(windows):.0f} ns by windows, {median(all_):.0f} by all; "
        f"a packet's way behind the sender's stack {way:.0f} ns, "
        f"timing adds {median(timed) - median(plain):.0f} ns"
    )


def window(seen: view.View, traffic: Traffic) -> float:
    """The mean of a run in one window, while there is traffic."""
    with usage.Timer() as timer:
        timer.start(seen)
        sender = threading.Thread(target=traffic.send, args=(PACKETS,))
        sender.start()
        sender.join()
        mean, _ = timer.stop(seen)
    assert mean
    return mean
