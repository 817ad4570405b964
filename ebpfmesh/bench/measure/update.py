# SPDX-License-Identifier: BSD-2-Clause
"""A change under traffic: how long it takes, and what becomes of the packets meanwhile.

Numbered frames of FLOWS flows run through the path at a rate, sent by a process on one core; on
another, where there is one, a service or rule is added, and taken out again, or one program takes
another's place, for as long as asked.
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
from typing import TypeVar

from ebpfmesh.bench.measure import changes
from ebpfmesh.bench.measure.pps import PacketRate
from ebpfmesh.bench.measure.watch import Seen, Watcher
from ebpfmesh.bench.packets.paced import Pace
from ebpfmesh.bench.packets.sink import Report
from ebpfmesh.bench.paths import DataPath
from ebpfmesh.bench.sample import Sample
from ebpfmesh.bench.tools import one_core
from ebpfmesh.errors import CommandFailed
from ebpfmesh.model import Mesh

RATE = 4000
FLOWS = 16
MAX_SECONDS = 60.0

_Done = TypeVar("_Done")


class Updates:
    """What becomes of the traffic of ``rate``'s generator, for as long as ``stack`` lives."""

    def __init__(self, mesh: Mesh, rate: PacketRate, stack: ExitStack) -> None:
        self._watcher = Watcher(mesh, rate, stack, flows=FLOWS)

    def measure(self, path: DataPath, seconds: float, *, kind: str, rate: float = RATE) -> Sample:
        """Milliseconds of a change; CommandFailed if traffic without a change had losses.

        ``more`` says what came of the traffic during the changes: packets lost and reordered, and
        the longest time in µs without an arrival, beside the same without a change. ``rate`` is in
        frames per second; fewer go where the core takes longer for them.
        """
        change = changes.find(kind, path)
        quiet, _ = self._under_traffic(path, rate, lambda: time.sleep(seconds))
        busy, taken = self._under_traffic(path, rate, lambda: changes.times(change, seconds))
        before, during = _report(quiet), _report(busy)
        if not before.in_order:
            raise CommandFailed("packets were lost without any change", hint=str(before))
        raw = {"ms": [t * 1e3 for t in taken], "without": _raw(quiet), "with": _raw(busy)}
        return Sample(
            statistics.median(taken) * 1e3,
            json.dumps(raw) + "\n",
            packets=before.arrived + during.arrived,
            more={
                "update-lost": during.lost,
                "update-reordered": during.reordered,
                "update-gap": busy.longest_gap_ns / 1e3,
                "update-gap-without": quiet.longest_gap_ns / 1e3,
            },
        )

    def _under_traffic(
        self, path: DataPath, rate: float, do: Callable[[], _Done]
    ) -> tuple[Seen, _Done]:
        """What became of traffic while ``do`` ran on another core, and what that gave."""
        pace = Pace.at_rate(rate, seconds=MAX_SECONDS, frames=round(rate * MAX_SECONDS))
        with self._watcher.running(path, pace, flows=FLOWS) as seen, one_core(min):
            done = do()
        return seen, done


def _report(seen: Seen) -> Report:
    if seen.report is None or not seen.sent.frames:
        raise CommandFailed("no frame was sent")
    return seen.report


def _raw(seen: Seen) -> dict[str, object]:
    return {"received": asdict(_report(seen)), "sent": asdict(seen.sent)}
