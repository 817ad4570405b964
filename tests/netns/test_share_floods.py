# SPDX-License-Identifier: BSD-2-Clause
"""One tenant floods each kind in turn, ten times its share; another's connections lose nothing.

flooder ──▶ sink (tenant a)      caller ══ connections ══▶ called (tenant b)

How much longer a round trip of these takes meanwhile is printed (`pytest -s`) and asserted nowhere.
The flood has a core of its own, if there are two. More connections, and rounds that tell something,
if EBPFMESH_FLOODS says how many: ``make floods``.
"""

import itertools
import os
import random
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.packet import Packet

from ebpfmesh import apply
from ebpfmesh._abi import Event, EventKind
from ebpfmesh.kernel.ring import Ring
from ebpfmesh.model import Mesh
from ebpfmesh.observe import logs, rooms
from ebpfmesh.observe.view import opened
from ebpfmesh.runtime import process
from ebpfmesh.runtime.logs import read
from ebpfmesh.state.place import log_files
from support.meshes import function
from support.mute import SOURCE_PORT, frame, layer4, mute, renumbered
from support.serving import own_many
from support.sockets import accepted, carries, frames, listener
from support.tenants import remembered, shared
from support.topology import mesh_of, wait_until

CONNECTIONS, ROUNDS, TRIPS = map(int, os.environ.get("EBPFMESH_FLOODS", "100 2 200").split())
SHARE = 1024
FLOOD = 10 * SHARE
AT_ONCE = 250
WAITED = 60.0
MESH = f"""{shared("floods")}
[[tenant]]
name = "a"
flows = {{maximum = {SHARE}}}
half_open = {{maximum = {SHARE}}}
fragments = {{guarantee = {SHARE}}}
events = {{maximum = "{SHARE * 104 >> 10}K"}}
log = "128K"
"""
TALKERS = function("talker", "a", cpu=0.5, command=["yes", "no"]) + function(
    "quiet", "b", command=["sh", "-c", "echo kept; exec sleep 1000"]
)
Pairs = list[tuple[socket.socket, socket.socket]]
Work = Callable[[], None]


@contextmanager
def connections(mesh: Mesh) -> Iterator[Pairs]:
    """Of tenant b, each of which has spoken once."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    address, pairs = mesh.function("called").address4, []
    assert address
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        server = stack.enter_context(listener(mesh, "called", address, 7001))
        for part in (
            range(CONNECTIONS)[at : at + AT_ONCE] for at in range(0, CONNECTIONS, AT_ONCE)
        ):
            for here in own_many(mesh, "caller", socket.AF_INET, socket.SOCK_STREAM, len(part)):
                stack.enter_context(here).connect((str(address), 7001))
                pairs.append((here, stack.enter_context(accepted(server))))
        assert all(carries(*pair) for pair in pairs)
        yield pairs


def round_trip(here: socket.socket, there: socket.socket) -> float:
    """Seconds; one thread is both sides, so that nobody has to be woken."""
    begun = time.perf_counter()
    for source, sink in ((here, there), (there, here)):
        source.send(b"x")
        assert sink.recv(1) == b"x"
    return time.perf_counter() - begun


def slowest(pairs: Pairs) -> float:
    """The 99th percentile of some round trips, in microseconds."""
    found = sorted(round_trip(*random.choice(pairs)) for _ in range(TRIPS))
    return found[len(found) * 99 // 100] * 1e6


@contextmanager
def on(cores: list[int]) -> Iterator[None]:
    """This process runs on these."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def repeated(work: Work) -> Iterator[tuple[list[int], Callable[[], bool]]]:
    """Another process does it over and over, on the last core; whether once is over."""
    cores = sorted(os.sched_getaffinity(0))
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    child = os.fork()
    if not child:
        try:
            os.sched_setaffinity(0, cores[-1:])
            while True:
                work()
                os.write(writer, b"x")
        finally:
            os._exit(1)

    def is_over() -> bool:
        try:
            return bool(os.read(reader, 1))
        except BlockingIOError:
            return False

    try:
        with on(cores[: max(1, len(cores) - 1)]):
            yield [child], is_over
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)


def measure(what: str, pairs: Pairs, flooding: list[int]) -> None:
    """Round trips with the flood and without, by turns."""
    with_it, without = [], []
    for _ in range(ROUNDS):
        with_it.append(slowest(pairs))
        for one in flooding:
            os.kill(one, signal.SIGSTOP)
        without.append(slowest(pairs))
        for one in flooding:
            os.kill(one, signal.SIGCONT)
    ratio = median(one / other for one, other in zip(with_it, without, strict=True))
    sys.stdout.write(
        f"\n{what}: p99 of {CONNECTIONS} connections {median(without):.0f} µs, with the flood "
        f"{median(with_it):.0f} µs: {ratio:.2f} times, {min(with_it) / min(without):.2f} at best\n"
    )


def send_all(mouth: socket.socket, packet: bytearray, field: int) -> None:
    """A flow, or whatever it is, by each packet: two bytes are the number."""
    for number in range(FLOOD):
        struct.pack_into(">H", packet, field, number)
        mouth.send(packet)


@contextmanager
def of_packets(mesh: Mesh, layer: Packet, to: str = "sink", field: int = 0) -> Iterator[Work]:
    packet = frame(mesh, 4, "flooder", to, layer)
    at = field or layer4(4) + SOURCE_PORT
    if field:  # a first fragment: more follow
        packet[20:22] = struct.pack(">H", 0x2000)
    with frames(mesh, "flooder") as mouth:
        yield lambda: send_all(mouth, packet, at)


@contextmanager
def of_connects(mesh: Mesh) -> Iterator[Work]:
    """Real sockets, in the function's namespace and cgroup."""
    with apply.opened(mesh.name) as live:
        home = live.home("flooder")
    address, entered = mesh.function("sink").address4, itertools.count()

    def work() -> None:
        if not next(entered):
            home.enter()
        for number in range(FLOOD):
            with socket.socket() as sock:
                sock.setblocking(False)
                sock.connect_ex((str(address), 1 + number))

    yield work


FLOODS = {
    "flows": lambda mesh: of_packets(mesh, UDP(chksum=0)),
    "half_open": lambda mesh: of_packets(mesh, TCP(flags="S")),
    "fragments": lambda mesh: of_packets(mesh, UDP(chksum=0), field=18),
    "connects": of_connects,
}


@pytest.mark.parametrize("what", FLOODS)
def test_connections_live_through_a_flood(mesh_up: Callable[[str], Mesh], what: str) -> None:
    """Ten times what the tenant may have of it, at least; each connection keeps its entries."""
    mesh = mesh_up(MESH)
    mute(mesh, "sink", *(() if what == "connects" else ("flooder",)))
    with connections(mesh) as pairs, FLOODS[what](mesh) as work:
        before = remembered(mesh, port=7001)
        assert len(before) == 2 * CONNECTIONS
        with repeated(work) as (flooding, is_over):
            measure(what, pairs, flooding)
            wait_until(is_over, what="the flood has made all it can", seconds=WAITED)
            assert all(carries(*pair) and carries(*pair[::-1]) for pair in pairs)
        assert remembered(mesh, port=7001) == before
        with opened(mesh.name) as view:
            rows = {(row.tenant, row.limit): row for row in rooms.read_rooms(view)}
        assert not any(row.evicted for (tenant, _), row in rows.items() if tenant == "b")
        assert rows["a", "half_open" if what == "connects" else what].evicted > FLOOD / 2


def test_events_of_others_are_told_in_a_flood(mesh_up: Callable[[str], Mesh]) -> None:
    """What one tenant's packets are dropped for has no end; each drop of the other's is told."""
    mesh = mesh_up(MESH)
    mute(mesh, "flooder", "sink")
    caller = int(mesh.function("caller").address4 or 0)
    packet = frame(mesh, 4, "caller", "sink", UDP(chksum=0))
    with (
        connections(mesh) as pairs,
        frames(mesh, "caller") as mouth,
        opened(mesh.name) as view,
        Ring(view.maps["mesh_events"].fd) as ring,
        apply.traced(mesh.name, events=EventKind.DROP),
        of_packets(mesh, UDP(chksum=0), to="called") as work,
        repeated(work) as (flooding, is_over),
    ):
        measure("events", pairs, flooding)
        wait_until(is_over, what="the flood has made all it can", seconds=WAITED)
        told = 0

        def all_told(wanted: int) -> bool:
            nonlocal told
            events = map(Event.from_buffer_copy, ring.read())
            told += sum(event.tuple.source.word[3] == caller for event in events)
            return told >= wanted

        for number in range(20):
            for port in range(100):
                mouth.send(renumbered(4, packet, SOURCE_PORT, 100 * number + port))
            sent = 100 * (number + 1)
            wait_until(lambda sent=sent: all_told(sent), what="all are told")
        assert told == 2000
        assert all(carries(*pair) and carries(*pair[::-1]) for pair in pairs)
        assert {*rooms.lost_events(view)} == {"a"}


def test_output_without_end_is_its_functions_own_business(mesh_up: Callable[[str], Mesh]) -> None:
    """It is bounded, costs the function itself, and what another has said stays."""
    mesh = mesh_up(MESH + TALKERS)
    with apply.opened(mesh.name) as live:
        cgroup, files = live.cgroup("talker"), log_files(live.record, "talker")
    keeper = process.keeper(cgroup.processes())
    assert keeper
    lines = Path(f"/proc/{keeper}/cgroup").read_text().splitlines()
    groups = [line for line in lines if cgroup.path in line]
    assert any("cpu" in line.split(":")[1].split(",") or line.startswith("0:") for line in groups)
    talking = sorted(cgroup.processes())
    cores = sorted(os.sched_getaffinity(0))
    for one in talking:
        os.sched_setaffinity(one, cores[-1:])
    with connections(mesh) as pairs, on(cores[: max(1, len(cores) - 1)]):
        measure("log", pairs, talking)
        for most, least in ((128 << 10, 0), (512 << 10, 128 << 10)):
            apply.up(mesh_of((MESH + TALKERS).replace("128K", f"{most >> 10}K")))
            sizes = [0]

            def wrote(least: int = least, sizes: list[int] = sizes) -> bool:
                sizes.append(sum(one.stat().st_size for one in files))
                return sizes[-1] > least

            wait_until(wrote, what="its log has become as large as it may", seconds=WAITED)
            assert max(sizes) <= most
        assert process.keeper(cgroup.processes()) == keeper
        assert all(carries(*pair) and carries(*pair[::-1]) for pair in pairs)
    with opened(mesh.name) as view:
        assert [line.text for line in read([logs.log(view, "quiet")])] == ["kept"]
