# SPDX-License-Identifier: BSD-2-Clause
"""Packets that come in by a wire: from the other end of the veth that plays the uplink.

    generator ─▶ eth0 of the client ═▶ uplink ─ path ─▶ function: a sink, or a program

The generator sends out of the wire's other end, as an XDP program there would. The veth hands the
frames over in its NAPI poll, which a veth has with XDP or else with GRO: that is switched on while
frames are measured, and off again, since TCP is another matter.

Each figure is told by the time that went by, by the CPU time of all that works for it (generator,
softirqs, programs, ksoftirqd), and by that CPU time without what making the frames takes. All of it
is on one core but testpmd, which has a core of its own that polls: of it only that core's time
counts, and neither the generator's nor that of the softirq which hands it the frames.
"""

import json
import socket
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from ebpfmesh.bench import cputime, tools, workload
from ebpfmesh.bench.kinds import NET
from ebpfmesh.bench.measure import traffic
from ebpfmesh.bench.measure.pps import BURSTS, LEAST_DELIVERED, WARM_UP, PacketRate
from ebpfmesh.bench.packets.frames import Frames, from_member
from ebpfmesh.bench.packets.generator import BATCH, MAX_RUN
from ebpfmesh.bench.packets.sink import KSOFTIRQD, at_eth0, drained, send_burst
from ebpfmesh.bench.paths import DataPath
from ebpfmesh.bench.paths.consumers import Consumed
from ebpfmesh.bench.paths.dpdk import Dpdk, DpdkNull
from ebpfmesh.bench.paths.iptables import DENIED
from ebpfmesh.bench.sample import Sample
from ebpfmesh.bench.topology import INSIDE, set_offload
from ebpfmesh.errors import CommandFailed
from ebpfmesh.kernel import netns

IDLE_SECONDS = 0.2
TAKEN_AT_ONCE = 1024
"""Frames of a burst for a program: what rings and buffers hold."""
TAKEN_SECONDS = 10.0
POLL_SECONDS = 50e-6
FLOOD = 32
"""Frames that are denied for each of another flow: of a flood of ten million a second, twice what a
core drops here, beside 0.3 million, half of what iptables carries without."""
FLOOD_BURST, WARM_BURSTS = 20 * BATCH, 2
WINDOW_NS, OVERLOAD = 50_000_000, 1.2
"""Of what a program on another core forwards those windows count in which more came than it could
take: in others the generator may have been kept from its core, and the program had only to poll."""
OFFERED = 64 * BATCH
"""Frames of a burst for a program on another core: it gets more than it can take."""


def frames_for(path: DataPath, flows: int = 1) -> Frames:
    """Frames as they come in by the wire."""
    with netns.entered(path.client.netns):
        ifindex = socket.if_nametoindex(INSIDE)
    return from_member(path.client, path.target("pps"), flows=flows, ifindex=ifindex)


@contextmanager
def _connected(rate: PacketRate, path: DataPath, flows: int = 1) -> Iterator[Frames]:
    """Where the generator sends from, with its frames loaded and the uplink ready for them."""
    frames, (host, name) = frames_for(path, flows), path.wire
    set_offload(host, name, "rx-gro", on=True)
    try:
        rate.generator.prepare("discard")
        rate.generator.prepare("redirect")
        rate.generator.load(frames)
        with netns.entered(path.client.netns):
            yield frames
    finally:
        set_offload(host, name, "rx-gro", on=False)


def limit(rate: PacketRate, path: DataPath) -> int:
    """Nanoseconds for a frame that is made for ``path`` and thrown away."""
    with _connected(rate, path) as frames, tools.one_core():
        return rate.generator.send(frames.ifindex, MAX_RUN, "discard")


def _made(rate: PacketRate, ifindex: int, packets: int) -> float:
    """Nanoseconds of CPU that making a frame takes now."""
    begun = time.thread_time_ns()
    rate.generator.send(ifindex, packets, "discard")
    return (time.thread_time_ns() - begun) / packets


def idle(path: DataPath) -> float:
    """What the path's processes use while nothing comes, in % of a core.

    Of the time in which a core was theirs: that they wait for while others have it does not count.
    """
    before, begun = _scheduled(path.processes()), time.monotonic_ns()
    time.sleep(IDLE_SECONDS)
    after, took = _scheduled(path.processes()), time.monotonic_ns() - begun
    shares = (
        (ran - before[thread][0]) / max(took - (waited - before[thread][1]), 1)
        for thread, (ran, waited) in after.items()
        if thread in before
    )
    return 100 * sum(shares)


def _scheduled(processes: Iterable[int]) -> dict[Path, tuple[int, int]]:
    """Nanoseconds that each thread of processes has run, and that it has waited for a core."""
    found = {}
    for process in processes:
        for thread in Path(f"/proc/{process}/task").iterdir():
            ran, waited, _ = (thread / "schedstat").read_text().split()
            found[thread] = int(ran), int(waited)
    return found


@dataclass(frozen=True)
class _Costs:
    """Nanoseconds a packet: by the wall, by CPU, and of that for making it, or 0 if it is not."""

    wall: float
    cpu: float
    made: float = 0


def _sample(
    kind: str, packets: int, costs: _Costs, raw: Mapping[str, object], more: Mapping[str, float]
) -> Sample:
    """A figure in all the ways it is told."""
    own = {f"{kind}{NET}": 1e3 / max(costs.cpu - costs.made, 1.0)} if costs.made else {}
    text = json.dumps({"ns": asdict(costs), **raw})
    return Sample(1e3 / costs.wall, text + "\n", packets, {**own, **more}, 1e3 / costs.cpu)


def measure(rate: PacketRate, path: DataPath, seconds: float, *, flows: int = 1) -> Sample:
    """Millions of frames per second from the wire into functions.

    Raises CommandFailed if packets were lost: but for testpmd, of which the figure is what it
    forwards while it gets more than that.
    """
    sink = rate.sink.on(at_eth0(path.receivers("pps")), path.wire_ends)
    with sink, _connected(rate, path, flows) as frames:
        if not isinstance(path, Dpdk):
            return _bursts(rate, path, frames, seconds)
        with path.testpmd.forwarding():
            return _forwarded(rate, path, frames, seconds)


def _bursts(rate: PacketRate, path: DataPath, frames: Frames, seconds: float) -> Sample:
    more = {"wire-idle": idle(path)}
    send = partial(send_burst, rate.generator, rate.sink, frames.ifindex, entry="redirect")
    with tools.one_core():
        send(-(-max(WARM_UP, frames.flows) // BATCH) * BATCH)
        trial = send(WARM_UP)
        if trial.delivered < LEAST_DELIVERED * trial.offered:
            came = f"{trial.delivered} of {trial.offered} packets came"
            raise CommandFailed(f"{came} through {path.name}: too few to tell a rate")
        packets = round(seconds / BURSTS / (trial.nanoseconds * 1e-9 * BATCH)) * BATCH
        packets = min(max(packets, WARM_UP), MAX_RUN)
        found = [send(packets) for _ in range(BURSTS)]
        made = _made(rate, frames.ifindex, packets)
    delivered, offered = sum(b.delivered for b in found), sum(b.offered for b in found)
    if delivered < LEAST_DELIVERED * offered:
        raise CommandFailed(f"only {delivered / offered:.1%} of the packets arrived")
    wall = statistics.median(one.nanoseconds for one in found)
    cpu = statistics.median(one.cpu_nanoseconds for one in found)
    raw = {"bursts": [asdict(one) for one in found]}
    return _sample("wire", delivered, _Costs(wall, cpu, made), raw, more)


def _forwarded(rate: PacketRate, path: Dpdk, frames: Frames, seconds: float) -> Sample:
    """What testpmd forwards of more than it can, by the time of its core."""
    more = {"wire-idle": idle(path)}
    workers = [
        path.testpmd.process,
        *(KSOFTIRQD[core] for core in {tools.core(max)} & set(KSOFTIRQD)),
    ]
    found: list[_Window] = []
    with tools.one_core(min):
        rate.generator.send(frames.ifindex, OFFERED, "redirect")
        ends = time.monotonic_ns() + round(seconds * 1e9)
        while not found or time.monotonic_ns() < ends:
            found.append(_window(rate, frames, workers))
    full = [one for one in found if one.offered > OVERLOAD * one.delivered > 0]
    if not full:
        what = f"{path.name} forwarded {sum(one.delivered for one in found)}"
        raise CommandFailed(f"{what} of {sum(one.offered for one in found)} packets: none or all")
    delivered = sum(one.delivered for one in full)
    wall, cpu = (
        sum(part) / delivered for part in zip(*((w.took, w.used) for w in full), strict=True)
    )
    raw = {"windows": [asdict(one) for one in found]}
    return _sample("wire", delivered, _Costs(wall, cpu), raw, more)


@dataclass(frozen=True)
class _Window:
    """What was offered to another core, what came through, and nanoseconds: of it, and of all."""

    offered: int
    delivered: int
    used: int
    took: int


def _window(rate: PacketRate, frames: Frames, workers: Sequence[int]) -> _Window:
    rate.sink.reset()
    before, begun, sent = cputime.of_processes(workers), time.monotonic_ns(), 0
    while time.monotonic_ns() - begun < WINDOW_NS:
        rate.generator.send(frames.ifindex, OFFERED, "redirect")
        sent += OFFERED
    delivered, took = rate.sink.packets(), time.monotonic_ns() - begun
    return _Window(sent, delivered, cputime.of_processes(workers) - before, took)


def itself(path: DataPath, seconds: float) -> Sample:
    """Millions of packets that testpmd moves without any network."""
    if not isinstance(path, DpdkNull):
        raise CommandFailed(f"{path.name} is not DPDK")
    before, processes = path.packets(), path.processes()
    with path.testpmd.forwarding():
        used, begun = cputime.of_processes(processes), time.monotonic_ns()
        time.sleep(seconds)
        used, took = cputime.of_processes(processes) - used, time.monotonic_ns() - begun
    packets = path.packets() - before
    return _sample("itself", packets, _Costs(took / packets, used / packets), {}, {})


def taken(rate: PacketRate, path: DataPath, seconds: float, *, flows: int = 1) -> Sample:
    """Millions of frames per second from the wire that a program takes, a burst after the other."""
    if not isinstance(path, Consumed):
        raise CommandFailed(f"nobody takes packets of {path.name}")
    more = {"taken-idle": idle(path)}
    with ExitStack() as stack:
        if path.how == "tpacket":  # it has copies: what they are of ends here
            stack.enter_context(rate.sink.on(at_eth0([path.consumer])))
        frames = stack.enter_context(_connected(rate, path, flows))
        stack.enter_context(tools.one_core())
        for _ in range(-(-max(WARM_UP, flows) // TAKEN_AT_ONCE)):
            _one_burst(rate, path, frames)
        helpers = [*path.processes(), KSOFTIRQD[tools.core(max)]]
        before, own, begun, bursts = cputime.of_processes(helpers), 0, time.monotonic_ns(), 0
        while time.monotonic_ns() - begun < seconds * 1e9:
            own += _one_burst(rate, path, frames)
            bursts += 1
        took, used = time.monotonic_ns() - begun, cputime.of_processes(helpers) - before
        made = _made(rate, frames.ifindex, WARM_UP)
    packets = bursts * TAKEN_AT_ONCE
    raw = {"bursts": bursts, "ns of CPU of the program": used / packets}
    costs = _Costs(took / packets, (own + used) / packets, made)
    return _sample("taken", packets, costs, raw, more)


def _one_burst(rate: PacketRate, path: Consumed, frames: Frames) -> int:
    """Send a burst and wait until all is taken; nanoseconds of this thread's CPU in sending it."""
    wanted = path.taken() + TAKEN_AT_ONCE
    begun = time.thread_time_ns()
    rate.generator.send(frames.ifindex, TAKEN_AT_ONCE, "redirect")
    used = time.thread_time_ns() - begun
    deadline = time.monotonic() + TAKEN_SECONDS
    while (now := path.taken()) < wanted:
        if time.monotonic() > deadline:
            got = TAKEN_AT_ONCE - (wanted - now)
            raise CommandFailed(f"the program of {path.name} got {got} of {TAKEN_AT_ONCE} packets")
        time.sleep(POLL_SECONDS)
    return used


def tcp(path: DataPath, seconds: float, *, two_cores: bool = False) -> Sample:
    """TCP bulk in Gb/s, and in Gb for a CPU second of both iperf3 with the softirqs they raise."""
    sample = traffic.stream(path, seconds, two_cores=two_cores)
    used = json.loads(sample.raw)["end"]["cpu_utilization_percent"]
    return replace(sample, by_cpu=100 * sample.value / (used["host_total"] + used["remote_total"]))


def flood(rate: PacketRate, path: DataPath, seconds: float) -> Sample:
    """Millions of a flow's frames per second while FLOOD times as many are denied.

    The core has nothing left, so that what it gives to the others is what it saves in dropping.
    """
    sink = rate.sink.on(at_eth0(path.receivers("pps")), path.wire_ends)
    before, came = path.dropped(DENIED), 0
    taken_ns: list[tuple[int, int]] = []
    with sink, _connected(rate, path) as wanted, tools.one_core():
        begun = time.monotonic_ns()
        while len(taken_ns) < WARM_BURSTS or time.monotonic_ns() - begun < seconds * 1e9:
            rate.sink.reset()
            taken_ns.append(_mixed(rate, wanted))
            came += drained(rate.sink.packets, FLOOD_BURST)
        made = (1 + FLOOD) * _made(rate, wanted.ifindex, FLOOD * FLOOD_BURST)
    sent = len(taken_ns) * FLOOD_BURST
    denied = path.dropped(DENIED) - before
    if (came, denied) != (sent, FLOOD * sent):
        what = f"{came} packets came of {sent} that {path.name} lets in"
        raise CommandFailed(f"{what}, and it denied {denied} of {FLOOD * sent}")
    wall, cpu = (statistics.median(part) / FLOOD_BURST for part in zip(*taken_ns[1:], strict=True))
    return _sample("flood", sent, _Costs(wall, cpu, made), {"denied": denied}, {})


def _mixed(rate: PacketRate, wanted: Frames) -> tuple[int, int]:
    """Send a burst of a flow and as much of a flood as goes with it; ns by the wall and by CPU."""
    begun = time.monotonic_ns(), time.thread_time_ns()
    for frames, times in ((wanted, 1), (replace(wanted, source=workload.FLOOD_ADDRESS), FLOOD)):
        rate.generator.load(frames)
        rate.generator.send(wanted.ifindex, times * FLOOD_BURST, "redirect")
    return time.monotonic_ns() - begun[0], time.thread_time_ns() - begun[1]
