# SPDX-License-Identifier: BSD-2-Clause
"""A change under traffic: how long it takes, and what becomes of the packets meanwhile.

Numbered frames of FLOWS flows run through the path at RATE, sent by a process on one core; on
another, where there is one, a service or rule is added, and taken out again, for as long as asked.
What the receivers saw is then compared with what was sent: lost, reordered, and the longest time
without an arrival. The same traffic runs as long without a change before, since a machine has
pauses of its own.
"""

import json
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from ebpfmesh.bench import changes, workload
from ebpfmesh.bench.paced import Pace, Sent, running
from ebpfmesh.bench.paths import DataPath
from ebpfmesh.bench.pps import PacketRate, entry_of, frames_for
from ebpfmesh.bench.process import one_core
from ebpfmesh.bench.programs import Hook
from ebpfmesh.bench.sample import Sample
from ebpfmesh.bench.sink import Checker, Report, at_eth0, drained
from ebpfmesh.errors import CommandFailed
from ebpfmesh.kernel import netns
from ebpfmesh.model import Mesh

RATE = 4000
FLOWS = 16
MAX_SECONDS = 60.0
PINS = Path("/sys/fs/bpf/bench_update")

_Done = TypeVar("_Done")


class Updates:
    """The checking sink, loaded for as long as ``stack`` lives, and a generator that is shared."""

    def __init__(self, mesh: Mesh, rate: PacketRate, stack: ExitStack) -> None:
        PINS.mkdir()
        stack.callback(PINS.rmdir)
        self._generator = rate.generator
        port = workload.backend_target(mesh, "pps").port
        self._checker = Checker(port, workload.TARGETS, FLOWS, PINS, stack)

    def measure(self, path: DataPath, seconds: float, *, kind: str) -> Sample:
        """Milliseconds of a change; CommandFailed if traffic without a change had losses.

        ``more`` says what came of the traffic during the changes: packets lost and reordered, and
        the longest time in µs without an arrival, beside the same without a change.
        """
        change = changes.find(kind, path)
        quiet, _, sent_quietly = self._under_traffic(path, lambda: time.sleep(seconds))
        if not quiet.in_order:
            raise CommandFailed("packets were lost without any change", hint=str(quiet))
        busy, times, sent = self._under_traffic(path, lambda: changes.times(change, seconds))
        raw = {
            "ms": [t * 1e3 for t in times or ()],
            "without": {**asdict(quiet), "sender": asdict(sent_quietly)},
            "with": {**asdict(busy), "sender": asdict(sent)},
        }
        return Sample(
            statistics.median(times or ()) * 1e3,
            json.dumps(raw) + "\n",
            packets=quiet.arrived + busy.arrived,
            more={
                "update-lost": busy.lost,
                "update-reordered": busy.reordered,
                "update-gap": busy.longest_gap_ns / 1e3,
                "update-gap-without": quiet.longest_gap_ns / 1e3,
            },
        )

    def _under_traffic(self, path: DataPath, do: Callable[[], _Done]) -> tuple[Report, _Done, Sent]:
        """What became of traffic while ``do`` ran on another core, and what that gave."""
        entry, _ = entry_of(path)
        pace = Pace.at_rate(RATE, seconds=MAX_SECONDS, frames=round(RATE * MAX_SECONDS))
        self._checker.reset()
        self._generator.load(frames_for(path, flows=FLOWS))
        hook: Hook = "xdp" if entry == "redirect" else "tc"
        with self._checker.on(at_eth0(path.receivers("pps")), hook):
            with (
                netns.entered(path.host.netns),
                running(self._generator, path.client.ifindex, pace, entry=entry) as traffic,
                one_core(min),
            ):
                done = do()
            sent = traffic.sent
            drained(self._checker.packets, sent.frames)
        if not sent.frames:
            raise CommandFailed("no frame was sent")
        return self._checker.report(sent.frames), done, sent
