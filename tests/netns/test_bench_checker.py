# SPDX-License-Identifier: BSD-2-Clause
"""The sink that checks, against what is known to have been sent: nothing, or something, between.

generator ─▶ host-side veth of radio ─▶ routed │ mesh │ nothing ─▶ eth0 of the decoders ─▶ checker
"""

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from ebpfmesh.bench import workload
from ebpfmesh.bench._abi import FLOW_BITS, MAGIC, WINDOW, Tag
from ebpfmesh.bench.measure.pps import PINS, PacketRate, frames_for
from ebpfmesh.bench.measure.watch import Watcher
from ebpfmesh.bench.packets.frames import PORTS, least_size
from ebpfmesh.bench.packets.generator import BATCH
from ebpfmesh.bench.packets.paced import Pace, running
from ebpfmesh.bench.packets.sink import Checker, Report, at_eth0, drained
from ebpfmesh.bench.paths import PATHS, DataPath
from ebpfmesh.bench.tools import one_core
from ebpfmesh.bench.workload import Scale, Target
from ebpfmesh.errors import CommandFailed, ForeignProgram, NotFound
from ebpfmesh.kernel import bpf, netns
from support import topology

PORT = 2152
FLOWS = 1_000_000
NOWHERE = {4: IPv4Address("198.19.99.99"), 6: IPv6Address("2001:db8:99::99")}
SHOT, UNSPEC = 2, 0xFFFFFFFF  # TC_ACT_*
XDP_PASS, XDP_DROP = 2, 1


@pytest.fixture(scope="module")
def rate() -> Iterator[PacketRate]:
    with ExitStack() as stack:
        yield PacketRate(workload.load(), stack)


@pytest.fixture(scope="module")
def watcher(rate: PacketRate) -> Iterator[Watcher]:
    with ExitStack() as stack:
        yield Watcher(workload.load(), rate, stack, flows=FLOWS)


@pytest.fixture(scope="module")
def checker(watcher: Watcher) -> Checker:
    return watcher.checker


@pytest.fixture(scope="module", params=["routed", "mesh"])
def path(request: pytest.FixtureRequest) -> Iterator[DataPath]:
    with ExitStack() as stack:
        path = PATHS[request.param](workload.load(), Scale(services=2))
        path.build(stack)
        yield path


ROUTED = pytest.mark.parametrize("path", ["routed"], indirect=True, scope="module")


def all_came(report: Report, packets: int, flows: int) -> bool:
    return report.in_order and (report.arrived, report.flows, report.foreign) == (packets, flows, 0)


@pytest.mark.parametrize(
    ("flows", "shape"),
    [
        (1, {}),
        (1000, {}),
        (7, {"size": 1514}),
        (100, {"protocol": "syn"}),
        (100, {"version": 6, "size": 70}),
        (100, {"version": 6, "size": 1514}),
        (100, {"version": 6, "protocol": "syn", "size": 74}),
    ],
)
def test_what_is_sent_arrives_once_and_in_order(
    watcher: Watcher, path: DataPath, flows: int, shape: dict[str, Any]
) -> None:
    packets = 3 * 1000 + 1
    report = watcher.send(path, packets, flows=flows, **shape)
    assert watcher.generator.sent() == packets
    assert all_came(report, packets, flows)
    size = shape.get("size", least_size(4, "udp"))
    assert report.bytes == packets * size
    even, more = divmod(packets, flows)
    each = [even + (flow < more) for flow in range(flows)]
    assert watcher.checker.by_flow(flows + 1) == [*each, 0]
    assert report.first_ns < report.last_ns <= time.monotonic_ns()
    assert 0 < report.longest_gap_ns <= report.last_ns - report.first_ns


def test_a_million_flows(watcher: Watcher, path: DataPath) -> None:
    """One frame of each: every flow arrives as one of its own, over all destination ports."""
    assert all_came(watcher.send(path, FLOWS, flows=FLOWS), FLOWS, FLOWS)


def entered(path: DataPath) -> list[tuple[Path, str]]:
    """Where frames enter: the host's side of the client's interface."""
    with netns.entered(path.host.netns), netns.rtnetlink() as ip:
        link = ip.link("get", index=path.client.ifindex)[0]
        return [(path.host.netns, link.get_attr("IFLA_IFNAME"))]


@ROUTED
@pytest.mark.parametrize("flows", [1, 100, FLOWS])
def test_with_nothing_between_all_arrive(
    rate: PacketRate, checker: Checker, path: DataPath, flows: int
) -> None:
    packets = max(flows, 20_000)
    rate.generator.load(frames_for(path, flows=flows))
    checker.reset()
    with checker.on(entered(path)), netns.entered(path.host.netns):
        rate.generator.send(path.client.ifindex, packets)
    assert all_came(checker.report(rate.generator.sent()), packets, flows)


@ROUTED
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("flows", [1, 100, FLOWS])
def test_redirected_frames_all_arrive(
    rate: PacketRate, checker: Checker, path: DataPath, flows: int, version: Any
) -> None:
    """Out of the first receiver's veth, to the XDP program on its other end."""
    packets, receivers = max(flows, 20_000), path.receivers("pps")[:1]
    nowhere = Target(NOWHERE[version], PORT)  # the stack would not find the way
    checker.reset()
    with (
        one_core(),  # or else the veth's queue is filled by one and emptied by another
        redirected(path),
        checker.on(at_eth0(receivers), "xdp"),
        netns.entered(path.host.netns),
    ):
        frames = frames_for(path, flows=flows, version=version, size=70)
        rate.generator.load(replace(frames, target=nowhere))
        rate.generator.send(path.client.ifindex, packets, "redirect")
        drained(checker.packets, packets)
    assert all_came(checker.report(rate.generator.sent()), packets, flows)


@contextmanager
def redirected(path: DataPath) -> Iterator[None]:
    """Have the frames of a path redirected to its first receiver while the block runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(path, "entry", "redirect")
        yield


@ROUTED
def test_rate_of_a_path_that_is_redirected(rate: PacketRate, path: DataPath) -> None:
    with redirected(path):
        (burst,) = rate.measure(path, flows=100, bursts=1, seconds=0.001)
    assert burst.delivered == burst.offered
    assert burst.nanoseconds > 0


@ROUTED
def test_each_frame_dropped_between_is_lost(watcher: Watcher, path: DataPath) -> None:
    rule = ["FORWARD", "-p", "udp", "--dport", str(PORT), "-m", "statistic", "--mode", "nth"]
    with forwarding(path, [*rule, "--every", "10", "--packet", "3", "-j", "DROP"]):
        report = watcher.send(path, 5000, flows=7)
    assert (report.lost, report.arrived) == (500, 4500)
    assert (report.duplicated, report.reordered, report.old, report.foreign) == (0, 0, 0, 0)


@contextmanager
def forwarding(path: DataPath, rule: list[str]) -> Iterator[None]:
    """A rule of the host's while the block runs."""
    topology.needs("iptables-nft")
    with netns.entered(path.host.netns):
        subprocess.run(["iptables-nft", "-A", *rule], check=True, capture_output=True)
    try:
        yield
    finally:
        with netns.entered(path.host.netns):
            subprocess.run(["iptables-nft", "-D", *rule], check=True, capture_output=True)


@ROUTED
def test_each_frame_that_is_sent_again_is_a_duplicate(
    rate: PacketRate, checker: Checker, path: DataPath
) -> None:
    frames = frames_for(path, flows=100)
    checker.reset()
    with checker.on(at_eth0(path.receivers("pps"))), netns.entered(path.host.netns):
        for packets in (1000, 300):
            rate.generator.load(frames)  # numbers begin anew
            rate.generator.send(path.client.ifindex, packets)
        drained(checker.packets, 1300)
    report = checker.report(1000)
    assert (report.arrived, report.duplicated, report.lost) == (1300, 300, 0)
    assert (report.reordered, report.old) == (0, 0)


def numbered(frame: bytes, number: int, flow: int, magic: int = MAGIC) -> bytes:
    """A frame that carries this number of this flow."""
    packet = Ether(frame)
    tag = bytes(Tag(number, magic << FLOW_BITS | flow))
    packet[UDP].remove_payload()
    del packet[UDP].chksum
    return bytes(packet / Raw(tag + bytes(14)))


W = WINDOW
NUMBERS: dict[str, tuple[list[int], tuple[int, int, int, int]]] = {
    # numbers in the order they come: lost of those up to the highest, duplicated, reordered, old
    "all, in order": ([0, 1, 2, 3], (0, 0, 0, 0)),
    "the first is lost": ([1, 2, 3], (1, 0, 0, 0)),
    "some between are lost": ([0, 3, 4, 9], (6, 0, 0, 0)),
    "one comes twice": ([0, 1, 1, 2], (0, 1, 0, 0)),
    "one comes three times": ([0, 1, 2, 1, 1], (0, 2, 0, 0)),
    "two change places": ([0, 2, 1, 3], (0, 0, 1, 0)),
    "the first comes late": ([1, 2, 0], (0, 0, 1, 0)),
    "late, and again": ([0, 2, 1, 1], (0, 1, 1, 0)),
    "late at the end of the window": ([0, W, 1], (W - 2, 0, 1, 0)),
    "the highest again after a jump": ([0, W, W], (W - 1, 1, 0, 0)),
    "the first again at the window's end": ([0, W - 1, 0], (W - 2, 1, 0, 0)),
    "too late to tell": ([0, W, 0], (W - 2, 0, 0, 1)),  # taken for one that was not there yet
    "far ahead": ([0, 1000, 1001, 1000], (999, 1, 0, 0)),
}


@ROUTED
@pytest.mark.parametrize("hook", ["tc", "xdp"])
@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_followed(checker: Checker, path: DataPath, name: str, hook: str) -> None:
    """Numbers made by hand, in each of two flows: exactly these are counted."""
    numbers, expected = NUMBERS[name]
    frame = frames_for(path).first()
    checker.reset()
    drop = SHOT if hook == "tc" else XDP_DROP
    with bpf.obj_get(PINS / f"bench_check_{hook}") as program:
        for number in numbers:
            for flow in (0, FLOWS - 1):
                run = bpf.prog_test_run(program, numbered(frame, number, flow))
                assert run.verdict == drop
    report = checker.report(2 * (max(numbers) + 1))
    found = (report.lost, report.duplicated, report.reordered, report.old)
    assert found == tuple(2 * count for count in expected)
    assert (report.arrived, report.flows) == (2 * len(numbers), 2)


@ROUTED
@pytest.mark.parametrize("hook", ["tc", "xdp"])
def test_what_is_not_ours_goes_on(checker: Checker, path: DataPath, hook: str) -> None:
    frame = frames_for(path).first()
    beside = Ether(frame)
    beside[UDP].dport = PORT + workload.TARGETS
    checker.reset()
    rows = {
        "another magic": (numbered(frame, 0, 0, MAGIC ^ 1), 1),
        "no such flow": (numbered(frame, 0, FLOWS), 1),
        "a number no flow reaches": (numbered(frame, 1 << 28, 0), 1),
        "cut before its number": (frame[:49], 1),
        "cut before its ports": (frame[:41], 0),
        "the port beside ours": (bytes(beside), 0),
    }
    passed = UNSPEC if hook == "tc" else XDP_PASS
    foreign = 0
    with bpf.obj_get(PINS / f"bench_check_{hook}") as program:
        for name, (data, counted) in rows.items():
            foreign += counted
            assert bpf.prog_test_run(program, data).verdict == passed, name
            assert checker.report(0).foreign == foreign, name
    assert checker.report(0).arrived == 0


@ROUTED
def test_a_pause_is_the_longest_gap(rate: PacketRate, checker: Checker, path: DataPath) -> None:
    """Of what was sent at a pace, and stopped by hand for a while."""
    rate.generator.load(frames_for(path, flows=3))
    checker.reset()
    with checker.on(at_eth0(path.receivers("pps"))), netns.entered(path.host.netns):
        rate.generator.send(path.client.ifindex, 10)
        drained(checker.packets, 10)
        before = checker.report(10).last_ns
        time.sleep(0.1)
        rate.generator.send(path.client.ifindex, 1)
        drained(checker.packets, 11)
    report = checker.report(11)
    assert report.longest_gap_ns == report.last_ns - before >= 100_000_000
    assert report.longest_gap_ns < report.longest_flow_gap_ns <= report.last_ns - report.first_ns


def test_traffic_at_a_pace(watcher: Watcher, path: DataPath) -> None:
    """It goes on while the block works, ends with it, and all of it arrives."""
    pace = Pace(burst=2, interval=0.01, seconds=60)
    with watcher.running(path, pace, flows=5) as seen:
        assert topology.poll(lambda: watcher.checker.packets() >= 20)
        assert not seen.traffic.ended
    report, sent = seen.report, seen.sent
    assert report is not None
    assert sent.frames == watcher.generator.sent() >= 20
    assert sent.frames < 6000, "half of what there would be without an end to the block"
    assert all_came(report, sent.frames, 5)
    assert sent.first_ns < report.first_ns <= report.last_ns
    assert seen.longest_gap_ns >= report.longest_gap_ns > 0


@ROUTED
def test_a_path_that_stands_still_is_seen(watcher: Watcher, path: DataPath) -> None:
    """Nothing passes for a while, and again from some moment to the end."""
    closed = ["FORWARD", "-p", "udp", "-j", "DROP"]
    with watcher.running(path, Pace(burst=1, interval=0.001, seconds=60)) as seen:
        for _ in range(2):
            before = watcher.checker.packets()
            assert topology.poll(lambda start=before: watcher.checker.packets() > start)
            with forwarding(path, closed):
                time.sleep(0.1)
        with forwarding(path, closed):
            time.sleep(1)
            seen.traffic.stop()
    assert seen.report is not None
    assert seen.report.longest_gap_ns >= 100_000_000
    assert seen.longest_gap_ns >= 500_000_000  # the sender may have paused before
    assert seen.report.lost > 0
    assert seen.report.duplicated == 0


@ROUTED
def test_traffic_ends_by_itself(rate: PacketRate, checker: Checker, path: DataPath) -> None:
    rate.generator.load(frames_for(path))
    checker.reset()
    pace = Pace(burst=BATCH, interval=0.0001, frames=130)
    with netns.entered(path.host.netns), checker.on(entered(path)):
        with running(rate.generator, path.client.ifindex, pace) as traffic:
            assert traffic.wait(60)
        assert traffic.sent.frames == 130
        assert all_came(checker.report(130), 130, 1)


@ROUTED
def test_a_sender_that_fails_is_told_at_once(
    rate: PacketRate, path: DataPath, capfd: pytest.CaptureFixture[str]
) -> None:
    rate.generator.load(frames_for(path))
    with (
        netns.entered(path.host.netns),
        pytest.raises(CommandFailed, match="generator"),
        running(rate.generator, 99999, Pace()),
    ):
        pytest.fail("there is no such interface")
    assert "generator: " in capfd.readouterr().err


@ROUTED
def test_a_sink_goes_nowhere_else(checker: Checker, path: DataPath) -> None:
    (receiver, *_) = path.receivers("pps")
    with pytest.raises(NotFound, match="eth9"), checker.on([(receiver.netns, "eth9")]):
        pass
    with (
        checker.on(at_eth0([receiver]), "xdp"),
        pytest.raises(ForeignProgram, match="eth0"),
        checker.on(at_eth0([receiver]), "xdp"),
    ):
        pass


def test_ports_are_those_of_the_workload(path: DataPath) -> None:
    assert workload.backend_target(path.mesh, "pps").port == PORT
    assert len(PORTS) * workload.TARGETS == FLOWS
