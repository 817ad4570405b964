# SPDX-License-Identifier: BSD-2-Clause
"""Packets per second of one path on one core, by the kernel's generator.

    python -m ebpfmesh.bench.measure.pps --path redirect_peer --flows 1

prints a line of JSON per burst and one with the median, for tuning the data path.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ebpfmesh.bench import workload
from ebpfmesh.bench.measure.listen import listening
from ebpfmesh.bench.packets.frames import PORTS, SMALLEST, Frames, Protocol, from_member
from ebpfmesh.bench.packets.generator import BATCH, MAX_RUN, Entry, Generator
from ebpfmesh.bench.packets.hooks import Hook
from ebpfmesh.bench.packets.sink import Burst, Sink, at_eth0, send_burst
from ebpfmesh.bench.paths import PATHS, DataPath
from ebpfmesh.bench.sample import Sample
from ebpfmesh.bench.tools import one_core
from ebpfmesh.bench.workload import Scale, Target
from ebpfmesh.errors import CommandFailed
from ebpfmesh.kernel import netns
from ebpfmesh.model import Mesh

WARM_UP = 50 * BATCH
BURSTS = 5
ANSWERED_PORT = 9000
"""Source port of the flow that is answered; the others stay as they are."""
LEAST_DELIVERED = 0.999
PINS = Path("/sys/fs/bpf/bench_pps")


def entry_of(path: DataPath) -> tuple[Entry, int]:
    """How frames come into a path, and the interface they are redirected out of, or 0."""
    return path.entry, path.redirect_ifindex if path.entry == "redirect" else 0


def hook_of(path: DataPath) -> Hook:
    """Where a path's sinks go: frames that are redirected meet nothing but XDP."""
    return "xdp" if entry_of(path)[0] == "redirect" else "tc"


def frames_for(
    path: DataPath,
    *,
    flows: int = 1,
    size: int = SMALLEST,
    version: workload.Version = 4,
    protocol: Protocol = "udp",
    port: int = PORTS.start,
) -> Frames:
    """Frames as the client of a path sends them to what takes packets per second."""
    return from_member(
        path.client, path.target("pps", version), flows=flows, size=size, protocol=protocol,
        port=port, ifindex=entry_of(path)[1],
    )  # fmt: skip


class PacketRate:
    """The generator and the sink for the workload ``mesh``, ready for any of its paths."""

    def __init__(self, mesh: Mesh, stack: ExitStack) -> None:
        PINS.mkdir()
        stack.callback(PINS.rmdir)
        self.generator = Generator(PINS, stack)
        port = workload.backend_target(mesh, "pps").port
        self.sink = Sink(port, workload.TARGETS, PINS, stack)

    def measure(  # noqa: PLR0913  (each is a setting of a scenario)
        self,
        path: DataPath,
        *,
        flows: int = 1,
        size: int = SMALLEST,
        version: workload.Version = 4,
        protocol: Protocol = "udp",
        answered: bool = False,
        listener: str = "",
        bursts: int = BURSTS,
        seconds: float = 0.04,
    ) -> tuple[Burst, ...]:
        """Send ``bursts`` bursts of about ``seconds`` each through ``path``, after a warm-up.

        Nobody answers, as in one-way media or tunnel traffic, unless ``answered``: then every
        backend sends packets back to the first flow before the bursts, which makes that flow an
        established connection where connections are tracked (UDP only). ``listener`` is a name of
        ``listen.COMMANDS``, for a mesh. Raises ValueError if there cannot be such frames.
        """
        if answered and protocol != "udp":
            raise ValueError("only UDP is answered")
        port = ANSWERED_PORT if answered else PORTS.start
        frames = frames_for(
            path, flows=flows, size=size, version=version, protocol=protocol, port=port
        )
        self.generator.load(frames)
        with listening(path, listener) if listener else nullcontext(), self._ready(path):
            warm_up = -(-max(WARM_UP, flows) // BATCH) * BATCH
            self._burst(path, warm_up)
            trial = self._burst(path, WARM_UP)
            if math.isnan(trial.nanoseconds):
                came = f"{trial.delivered} of {trial.offered} packets came"
                raise CommandFailed(f"{came} through {path.name}: too few to tell a rate")
            if answered:
                self._answer(path)
                self.generator.load(frames)
            packets = round(seconds / (trial.nanoseconds * 1e-9 * BATCH)) * BATCH
            packets = min(max(packets, WARM_UP), MAX_RUN)
            return tuple(self._burst(path, packets) for _ in range(bursts))

    @contextmanager
    def _ready(self, path: DataPath) -> Iterator[None]:
        """On one core, where the frames come in, with the sink where they go."""
        receivers = at_eth0(path.receivers("pps"))
        with one_core(), self.sink.on(receivers, hook_of(path)), netns.entered(path.host.netns):
            yield

    def _burst(self, path: DataPath, packets: int) -> Burst:
        ifindex, (entry, _) = path.client.ifindex, entry_of(path)
        return send_burst(self.generator, self.sink, ifindex, packets, entry)

    def _answer(self, path: DataPath) -> None:
        """Send packets from every backend back to the first flow of the client."""
        client = Target(path.client.address, ANSWERED_PORT)
        port = workload.backend_target(path.mesh, "pps").port
        for receiver in path.receivers("pps"):
            self.generator.load(from_member(receiver, client, port=port))
            self.generator.send(receiver.ifindex, BATCH)

    def warm_up(self, path: DataPath) -> None:
        """Send a little, whether it arrives or not."""
        self.generator.load(frames_for(path))
        with self._ready(path):
            self._burst(path, WARM_UP)

    def limit(self, path: DataPath) -> int:
        """Nanoseconds for a frame made for ``path`` and thrown away: every figure contains them."""
        self.generator.load(frames_for(path))
        with one_core(), netns.entered(path.host.netns):
            return self.generator.send(path.client.ifindex, MAX_RUN, "discard")


def summary(bursts: Sequence[Burst]) -> dict[str, float]:
    """Medians of ns per packet and millions of packets per second, and the share delivered."""
    nanoseconds = statistics.median(burst.nanoseconds for burst in bursts)
    of_cpu = statistics.median(burst.cpu_nanoseconds for burst in bursts)
    return {
        "ns": nanoseconds,
        "mpps": 1e3 / nanoseconds,
        "cpu_ns": of_cpu,
        "mpps_by_cpu": 1e3 / of_cpu,
        "delivered": sum(b.delivered for b in bursts) / sum(b.offered for b in bursts),
    }


def measure_pps(rate: PacketRate, path: DataPath, seconds: float, **settings: Any) -> Sample:
    """Packets per second in millions; ``settings`` are those of ``PacketRate.measure``.

    Raises CommandFailed if packets were lost: the rate would not be that of the path.
    """
    bursts = rate.measure(path, bursts=BURSTS, seconds=seconds / BURSTS, **settings)
    figures = summary(bursts)
    if figures["delivered"] < LEAST_DELIVERED:
        raise CommandFailed(f"only {figures['delivered']:.1%} of the packets arrived")
    raw = json.dumps([asdict(burst) for burst in bursts]) + "\n"
    packets = sum(burst.delivered for burst in bursts)
    return Sample(figures["mpps"], raw, packets, by_cpu=figures["mpps_by_cpu"])


def main() -> None:
    """Build the paths asked for in a sandbox and measure them in turns."""
    parser = argparse.ArgumentParser(
        prog="python -m ebpfmesh.bench.measure.pps", description=__doc__
    )
    parser.add_argument("--path", choices=PATHS, nargs="+", default=["redirect_peer"])
    parser.add_argument("--flows", type=int, default=1)
    parser.add_argument("--ip", type=int, choices=(4, 6), default=4)
    parser.add_argument("--size", type=int, default=SMALLEST)
    parser.add_argument("--protocol", choices=("udp", "syn"), default="udp")
    parser.add_argument("--answered", action="store_true")
    parser.add_argument("--services", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    netns.enter_sandbox()
    mesh = workload.load()
    with ExitStack() as stack:
        rate = PacketRate(mesh, stack)
        paths = [PATHS[name](mesh, Scale(services=options.services)) for name in options.path]
        for path in paths:
            path.build(stack)
        _emit(path="discard", ns=rate.limit(paths[0]))
        totals: dict[str, list[Burst]] = {path.name: [] for path in paths}
        for _ in range(options.rounds):
            for path in paths:
                bursts = rate.measure(
                    path,
                    flows=options.flows,
                    size=options.size,
                    protocol=options.protocol,
                    version=options.ip,
                    answered=options.answered,
                )
                totals[path.name] += bursts
                _emit(path=path.name, **summary(bursts))
        for name, bursts_ in totals.items():
            _emit(path=name, median=summary(bursts_))


def _emit(**fields: object) -> None:
    json.dump(fields, sys.stdout)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
