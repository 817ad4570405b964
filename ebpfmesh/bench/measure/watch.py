# SPDX-License-Identifier: BSD-2-Clause
"""Numbered frames through a path, and what becomes of each: at once, or while something changes.

with watcher.running(path, Pace(burst=16, interval=0.001), flows=100) as seen:
    …                             # change services, rules, programs
seen.report.lost, seen.longest_gap_ns, seen.sent.longest_pause_ns
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from ebpfmesh.bench import workload
from ebpfmesh.bench.measure.pps import PINS, PacketRate, entry_of, frames_for, hook_of
from ebpfmesh.bench.packets.paced import Pace, Sent, Traffic, running
from ebpfmesh.bench.packets.sink import Checker, Report, at_eth0, drained
from ebpfmesh.bench.paths import DataPath
from ebpfmesh.bench.tools import one_core
from ebpfmesh.kernel import netns
from ebpfmesh.model import Mesh


@dataclass
class Seen:
    """Traffic under way and, once the block has ended, what was sent and what came."""

    traffic: Traffic
    sent: Sent = field(default_factory=Sent)
    report: Report | None = None

    @property
    def longest_gap_ns(self) -> int:
        """Longest time without an arrival, that after the last one included.

        The sender's own longest pause is part of it.
        """
        if self.report is None or not self.report.arrived:
            return self.sent.last_ns - self.sent.first_ns
        return max(self.report.longest_gap_ns, self.sent.last_ns - self.report.last_ns)


class Watcher:
    """A checker beside ``rate``'s generator, for any path of ``mesh`` and up to ``flows`` flows."""

    def __init__(self, mesh: Mesh, rate: PacketRate, stack: ExitStack, *, flows: int) -> None:
        port = workload.backend_target(mesh, "pps").port
        self.generator = rate.generator
        self.checker = Checker(port, workload.TARGETS, flows, PINS, stack)

    def send(self, path: DataPath, packets: int, **shape: Any) -> Report:
        """Send ``packets`` as fast as they go; ``shape`` is that of ``frames_for``."""
        entry, _ = entry_of(path)
        with one_core(), self._watching(path, shape):
            self.generator.send(path.client.ifindex, packets, entry)
            drained(self.checker.packets, packets)
        return self.checker.report(packets)

    @contextmanager
    def running(self, path: DataPath, pace: Pace, **shape: Any) -> Iterator[Seen]:
        """Send at a pace while the block runs, in the path's host namespace; then see to it."""
        entry, _ = entry_of(path)
        with self._watching(path, shape):
            with running(self.generator, path.client.ifindex, pace, entry=entry) as traffic:
                seen = Seen(traffic)
                yield seen
            seen.sent = traffic.sent
            drained(self.checker.packets, seen.sent.frames)
            seen.report = self.checker.report(seen.sent.frames)

    @contextmanager
    def _watching(self, path: DataPath, shape: dict[str, Any]) -> Iterator[None]:
        """The checker at the receivers, everything from the beginning, and the host's namespace."""
        self.generator.load(frames_for(path, **shape))
        self.checker.reset()
        places = at_eth0(path.receivers("pps"))
        with self.checker.on(places, hook_of(path)), netns.entered(path.host.netns):
            yield
