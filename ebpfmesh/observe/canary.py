# SPDX-License-Identifier: BSD-2-Clause
"""A canary beside what it is to replace: what each dropped of the packets that it met.

One whose circuit breaker has opened is too slow, whatever it dropped.

The packets of a flow all meet the same version, so both see a sample of the same traffic; which
part is chosen by a hash. Shares are given with intervals of 95 % (Wilson 1927; their difference
Newcombe 1998, method 10), as if packets were independent: those of one flow are not, so that a
difference is more than noise only where many flows were seen.
"""

import math
from dataclasses import dataclass
from typing import Literal

from ebpfmesh.errors import NotFound
from ebpfmesh.observe.cost import Live, read_live
from ebpfmesh.observe.injected import counters_of, figures_of, refusals_of
from ebpfmesh.observe.view import View

Z = 1.959964  # of a normal distribution, two sides of 2.5 %
ENOUGH = 100  # packets of each; with fewer nothing is concluded
Interval = tuple[float, float]
Judgement = Literal["worse", "better", "no difference seen", "too few packets", "too slow"]


@dataclass(frozen=True)
class Version:
    """One of the two. ``packets`` met it, GSO ones once; ``dropped`` is by its own reasons."""

    file: str
    packets: int
    dropped: dict[str, int]
    share: float
    interval: Interval
    counters: dict[str, int]
    instructions: int
    ns_median: float
    ns_worst: float
    live: Live

    @property
    def drops(self) -> int:
        """All that it dropped."""
        return sum(self.dropped.values())


@dataclass(frozen=True)
class Comparison:
    """``difference``: the canary's share of drops minus the other's, with its interval."""

    name: str
    percent: int
    stable: Version
    canary: Version
    difference: float
    interval: Interval
    judgement: Judgement


def read_canary(view: View, name: str) -> Comparison:
    """Both versions side by side; NotFound if nothing has a canary under that name."""
    row = view.record.injection(name)
    if row is None or row.injection.canary is None:
        what = f'"{name}" has no canary'
        raise NotFound(what, hint="begin one: ebpfmesh swap NAME FILE.c --canary 10%")
    met = counters_of(view, view.record.program(row.split))
    files = row.injection.file, row.injection.canary.file
    stable = _version(view, row.program, files[0], met["stable"])
    canary = _version(view, row.canary, files[1], met["canary"])
    difference, interval = canary.share - stable.share, newcombe(stable, canary)
    judgement = _judgement(stable, canary, interval)
    percent = row.injection.canary.share
    return Comparison(name, percent, stable, canary, difference, interval, judgement)


def _version(view: View, number: int, file: str, packets: int) -> Version:
    program = view.record.program(number)
    dropped = refusals_of(view, program)
    drops = min(sum(dropped.values()), packets)  # read a moment later
    figures = figures_of(program)
    return Version(
        file=file,
        packets=packets,
        dropped=dropped,
        share=drops / packets if packets else 0.0,
        interval=wilson(drops, packets),
        counters=counters_of(view, program),
        instructions=figures["instructions"],
        ns_median=figures["ns_median"],
        ns_worst=figures["ns_worst"],
        live=read_live(view, number),
    )


def wilson(hits: int, total: int) -> Interval:
    """Where a share is, of which ``hits`` of ``total`` were seen, with 95 %."""
    if not total:
        return 0.0, 1.0
    share, square = hits / total, Z * Z / total
    middle = (share + square / 2) / (1 + square)
    half = Z / (1 + square) * math.sqrt(share * (1 - share) / total + square / (4 * total))
    return max(0.0, middle - half), min(1.0, middle + half)


def newcombe(before: Version, after: Version) -> Interval:
    """Where the difference of two shares is, with 95 %."""
    difference = after.share - before.share
    lower = math.hypot(after.share - after.interval[0], before.interval[1] - before.share)
    upper = math.hypot(after.interval[1] - after.share, before.share - before.interval[0])
    return difference - lower, difference + upper


def _judgement(stable: Version, canary: Version, interval: Interval) -> Judgement:
    if canary.live.open:
        return "too slow"
    if min(stable.packets, canary.packets) < ENOUGH:
        return "too few packets"
    if interval[0] > 0:
        return "worse"
    return "better" if interval[1] < 0 else "no difference seen"
