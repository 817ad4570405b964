# SPDX-License-Identifier: BSD-2-Clause
"""The packet generator and its sink, verified against themselves and against real sockets.

generator ─▶ host-side veth of radio ─▶ path under test ─▶ eth0 of a decoder ─▶ sink or socket
"""

import contextlib
import json
import math
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from ebpfmesh.bench import workload
from ebpfmesh.bench.measure.connect import IN_FLIGHT, Connector
from ebpfmesh.bench.measure.pps import PacketRate, frames_for
from ebpfmesh.bench.packets.frames import PORTS, least_size
from ebpfmesh.bench.packets.generator import BATCH
from ebpfmesh.bench.packets.sink import at_eth0, send_burst
from ebpfmesh.bench.paths import PATHS, DataPath
from ebpfmesh.bench.tools import one_core
from ebpfmesh.bench.topology import Member
from ebpfmesh.bench.workload import Scale
from ebpfmesh.kernel import links, netns
from support import topology

SERVICES = 3
SENT = 32  # each takes a page of the socket's buffer
TIMEOUT = 20.0


@pytest.fixture(scope="module")
def rate() -> Iterator[PacketRate]:
    with ExitStack() as stack:
        yield PacketRate(workload.load(), stack)


@pytest.fixture(scope="module")
def connector() -> Iterator[Connector]:
    with ExitStack() as stack:
        yield Connector(stack)


LOSSLESS = [
    name
    for name, path in PATHS.items()
    if "frames" in path.carries and path.entry == "stack" and not name.startswith("ovs")
]
"""Paths that frames enter by a host-side veth, and that lose none however fast they come."""


@pytest.fixture(scope="module", params=LOSSLESS)
def path(request: pytest.FixtureRequest) -> Iterator[DataPath]:
    if reason := PATHS[request.param].missing():
        topology.unavailable(f"{request.param}: {reason}")
    with ExitStack() as stack:
        path = PATHS[request.param](workload.load(), Scale(services=SERVICES))
        path.build(stack)
        yield path


def udp_socket(member: Member, port: int) -> socket.socket:
    with netns.entered(member.netns):
        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind((str(member.address), port))
    listener.setblocking(False)
    return listener


def receive(listeners: list[socket.socket]) -> list[tuple[bytes, tuple[str, int]]]:
    """Datagrams that wait at the sockets."""
    found = []
    for listener in listeners:
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(listener.recvfrom(2048))
    return found


@pytest.mark.parametrize("flows", [1, 1000, 2 * len(PORTS)])
def test_every_packet_arrives(rate: PacketRate, path: DataPath, flows: int) -> None:
    packets = 100 * BATCH
    rate.generator.load(frames_for(path, flows=flows))
    with rate.sink.on(at_eth0(path.receivers("pps"))), netns.entered(path.host.netns):
        burst = send_burst(rate.generator, rate.sink, path.client.ifindex, packets)
    assert (burst.offered, burst.delivered) == (packets, packets)
    assert burst.nanoseconds > 0


def test_cpu_time_of_a_burst_is_of_one_core(rate: PacketRate, path: DataPath) -> None:
    """No more than went by; on several cores it is not known."""
    packets = 1000 * BATCH
    rate.generator.load(frames_for(path))
    with rate.sink.on(at_eth0(path.receivers("pps"))), netns.entered(path.host.netns):
        with one_core():
            begun = time.perf_counter_ns()
            burst = send_burst(rate.generator, rate.sink, path.client.ifindex, packets)
            passed = time.perf_counter_ns() - begun
        assert 0 < burst.cpu_nanoseconds * packets <= passed
        if len(os.sched_getaffinity(0)) > 1:
            burst = send_burst(rate.generator, rate.sink, path.client.ifindex, BATCH)
            assert math.isnan(burst.cpu_nanoseconds)


WITH_IPV6 = ("redirect_peer", "routed", "mesh")


@pytest.mark.parametrize("protocol", ["udp", "syn"])
@pytest.mark.parametrize("path", WITH_IPV6, indirect=True, scope="module")
def test_every_ipv6_packet_arrives(rate: PacketRate, path: DataPath, protocol: Any) -> None:
    size = least_size(6, protocol)
    (burst,) = rate.measure(
        path, version=6, protocol=protocol, size=size, flows=100, bursts=1, seconds=0.001
    )
    assert burst.delivered == burst.offered


@pytest.mark.parametrize("size", [64, 1514])
@pytest.mark.parametrize("protocol", ["udp", "syn"])
def test_every_size_arrives(rate: PacketRate, path: DataPath, protocol: Any, size: int) -> None:
    (burst,) = rate.measure(path, protocol=protocol, size=size, flows=100, bursts=1, seconds=0.001)
    assert burst.delivered == burst.offered


def test_sockets_accept_the_packets(rate: PacketRate, path: DataPath) -> None:
    """Checksums are right, after the path's rewriting too, and so are the addresses."""
    port = workload.backend_target(path.mesh, "pps").port
    rate.generator.load(frames_for(path, flows=SENT))
    with ExitStack() as stack:
        listeners = [
            stack.enter_context(closing(udp_socket(member, port)))
            for member in path.receivers("pps")
        ]
        found: dict[tuple[str, int], bytes] = {}

        def all_came() -> bool:
            """Send once more: on a busy machine another's traffic may push ours out."""
            with netns.entered(path.host.netns):
                rate.generator.send(path.client.ifindex, SENT)
            found.update({sender: data for data, sender in receive(listeners)})
            return len(found) >= SENT

        topology.poll(all_came, seconds=TIMEOUT)
    ports = range(PORTS.start, PORTS.start + SENT)
    assert sorted(found) == [(str(path.client.address), source) for source in ports]
    assert all(data[8:] == b"ebpfmeshebpfme" for data in found.values())  # after the tag


def test_sink_leaves_everything_else_alone(rate: PacketRate, path: DataPath) -> None:
    with rate.sink.on(at_eth0(path.receivers("pps"))):
        listener = udp_socket(path.receivers("pps")[0], 9999)
        with closing(listener), closing(udp_socket(path.receivers("pps")[0], 9998)) as sender:
            sender.sendto(b"hello", listener.getsockname())
            assert topology.poll(lambda: [d for d, _ in receive([listener])] == [b"hello"])


@pytest.mark.parametrize("hook", ["auto", "clsact"])
def test_connections_are_in_order(
    connector: Connector, path: DataPath, hook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if hook == "clsact":
        monkeypatch.setattr(links, "has_tcx", lambda: False)
    for _ in range(2):
        sample = connector.measure(path, 0.3 * topology.SLOWER)
        assert sample.value > 0
        counted = json.loads(sample.raw)
        assert counted["opened"] == counted["closed"] == counted["accepted"]
        assert counted["chains_ended"] == IN_FLIGHT
