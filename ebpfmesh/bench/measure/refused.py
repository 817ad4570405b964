# SPDX-License-Identifier: BSD-2-Clause
"""Packets that a mesh refuses: how many per second, and so what it takes to find that out.

One that claims another's address is refused when it is parsed and its sender known; one that no
policy allows, when its service and the policy are looked up as well. Nothing is kept of either, so
that each packet goes all that way.
"""

import json
import time
from dataclasses import replace
from statistics import median
from typing import Literal

from ebpfmesh.bench import workload
from ebpfmesh.bench.measure.pps import BURSTS, WARM_UP, PacketRate
from ebpfmesh.bench.packets.frames import from_member
from ebpfmesh.bench.packets.generator import BATCH, MAX_RUN
from ebpfmesh.bench.paths import DataPath
from ebpfmesh.bench.sample import Sample
from ebpfmesh.bench.tools import one_core
from ebpfmesh.errors import CommandFailed
from ebpfmesh.kernel import netns

REASONS = {"spoofed": "SPOOF_IP", "denied": "POLICY"}


def measure(
    rate: PacketRate, path: DataPath, seconds: float, *, why: Literal["spoofed", "denied"]
) -> Sample:
    """Millions of packets refused per second; CommandFailed if not each was, for that reason."""
    blocked = path.host.members[workload.BLOCKED]
    sender = blocked if why == "denied" else path.client
    rate.generator.load(replace(from_member(sender, path.target("pps")), source=blocked.address))
    before, sent, taken = path.dropped(REASONS[why]), WARM_UP, []
    with one_core(), netns.entered(path.host.netns):
        trial = rate.generator.send(sender.ifindex, WARM_UP)
        packets = round(seconds / BURSTS * 1e9 / max(trial, 1) / BATCH) * BATCH
        packets = min(max(packets, WARM_UP), MAX_RUN)
        for _ in range(BURSTS):
            wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
            rate.generator.send(sender.ifindex, packets)
            ends = time.perf_counter_ns() - wall, time.thread_time_ns() - cpu
            taken.append([end / packets for end in ends])
            sent += packets
    refused = path.dropped(REASONS[why]) - before
    if refused < sent:
        raise CommandFailed(f"{path.name} refused {refused} of {sent} packets as {REASONS[why]}")
    by_wall, by_cpu = (1e3 / median(one) for one in zip(*taken, strict=True))
    raw = json.dumps({"packets": packets, "ns by wall and by CPU": taken})
    return Sample(by_wall, raw + "\n", packets=0, by_cpu=by_cpu)
