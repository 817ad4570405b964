# SPDX-License-Identifier: BSD-2-Clause
"""Where the generator's packets end: a sink that counts, and one that checks.

Both are put on the receivers' interfaces, at tc ingress or as XDP programs, and take UDP and SYNs
to the ports they were made for. ``Sink`` costs least and is for rates (bpf/bench/sink.c);
``Checker`` knows each flow and tells what was lost, came twice or out of order (bpf/bench/check.c).
"""

import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from ctypes import sizeof
from dataclasses import dataclass
from pathlib import Path

from ebpfmesh.bench import cputime
from ebpfmesh.bench._abi import STRIDE, Check, Count, Flow
from ebpfmesh.bench.packets.frames import MAX_FLOWS
from ebpfmesh.bench.packets.generator import ZERO, Entry, Generator
from ebpfmesh.bench.packets.hooks import Hook, Place, build_pinned, put_on
from ebpfmesh.bench.topology import Member
from ebpfmesh.kernel import bpf

DRAIN_SECONDS = 0.2
KSOFTIRQD = cputime.ksoftirqd()


@dataclass(frozen=True)
class Burst:
    """What one run of the generator sent and what the sink saw of it.

    ``nanoseconds`` is the time per packet delivered, from the first arrival to the last one the
    sink took the time of; nan if too few arrived to tell. ``cpu_nanoseconds`` is the CPU time per
    packet sent, of the thread in which it goes all its way, and of what its core's ksoftirqd had
    to do: another's work on that core makes the first longer, and this not.
    """

    offered: int
    delivered: int
    nanoseconds: float
    cpu_nanoseconds: float


@dataclass(frozen=True)
class Report:
    """What became of ``sent`` frames.

    ``reordered`` came after one of a higher number in its flow; ``old`` so late that it may as
    well have been a duplicate (WINDOW) and is not taken for one; ``foreign`` came to the sink's
    ports without a number of ours, and is not among the others. ``longest_gap_ns`` is the longest
    time between two arrivals, of whatever flows, ``longest_flow_gap_ns`` that between two of one
    flow, and ``first_ns`` and ``last_ns`` are the times of the first and the last, by
    CLOCK_MONOTONIC; 0 if there was none.
    """

    sent: int
    arrived: int
    bytes: int
    lost: int
    duplicated: int
    reordered: int
    old: int
    foreign: int
    flows: int
    longest_gap_ns: int
    longest_flow_gap_ns: int
    first_ns: int
    last_ns: int

    @property
    def in_order(self) -> bool:
        """Whether every frame came once, and none before its turn."""
        return not (self.lost or self.duplicated or self.reordered or self.old)


def at_eth0(receivers: Iterable[Member]) -> list[Place]:
    """Where a sink goes on functions of a topology."""
    return [(receiver.netns, "eth0") for receiver in receivers]


class Sink:
    """Counts and drops frames to ``port`` and the ``ports`` - 1 after it where it is put on."""

    def __init__(self, port: int, ports: int, pins: Path, stack: ExitStack) -> None:
        tables, defines = ("bench_count",), _defines(port, ports)
        self._fds = _build("sink.c", "bench_sink", tables, defines, pins, stack)
        self._pin = pins / "bench_sink_link"

    def on(self, places: Iterable[Place], hook: Hook = "tc") -> AbstractContextManager[None]:
        """Put the sink on interfaces while the block runs."""
        program = self._fds["bench_sink" if hook == "tc" else "bench_sink_xdp"]
        return put_on(places, program, hook, self._pin)

    def reset(self) -> None:
        """Start counting from zero."""
        bpf.map_update(self._fds["bench_count"], ZERO, bytes(sizeof(Count) * bpf.possible_cpus()))

    def packets(self) -> int:
        """Packets since the last reset."""
        return sum(slot.packets for slot in self._slots())

    def nanoseconds(self) -> float:
        """Time per packet since the last reset; everything must have arrived on one core."""
        seen = max(self._slots(), key=lambda slot: slot.packets)
        strides = (seen.packets - 1) // STRIDE
        return (seen.last_ns - seen.first_ns) / (strides * STRIDE) if strides > 0 else math.nan

    def _slots(self) -> Sequence[Count]:
        """What each CPU counted."""
        slots = Count * bpf.possible_cpus()
        raw = bpf.map_lookup(self._fds["bench_count"], ZERO, sizeof(slots)) or b""
        return list(slots.from_buffer_copy(raw))


class Checker:
    """Follows up to ``flows`` flows by their sequence numbers, wherever it is put on.

    Takes frames to ``port`` and the ``ports`` - 1 after it. Of all receivers together: a flow that
    is sent to another backend goes on where it was. 32 bytes of the kernel's memory for each flow.
    """

    def __init__(self, port: int, ports: int, flows: int, pins: Path, stack: ExitStack) -> None:
        if not 1 <= flows <= MAX_FLOWS:
            raise ValueError(f"flows: {flows} is not in 1..{MAX_FLOWS}")
        tables = ("bench_check", "bench_flow")
        defines = {**_defines(port, ports), "BENCH_FLOWS": str(flows)}
        self._fds = _build("check.c", "bench_check_tc", tables, defines, pins, stack)
        self._pin = pins / "bench_check_link"
        self._run = 0
        self.reset()

    def on(self, places: Iterable[Place], hook: Hook = "tc") -> AbstractContextManager[None]:
        """Put the sink on interfaces while the block runs."""
        program = self._fds["bench_check_tc" if hook == "tc" else "bench_check_xdp"]
        return put_on(places, program, hook, self._pin)

    def reset(self) -> None:
        """Forget all flows and counts; the generator's numbers begin anew with ``load``."""
        self._run += 1
        bpf.map_update(self._fds["bench_check"], ZERO, bytes(Check(run=self._run)))

    def packets(self) -> int:
        """Frames of ours since the last reset."""
        return self._counts().packets

    def _counts(self) -> Check:
        raw = bpf.map_lookup(self._fds["bench_check"], ZERO, sizeof(Check)) or b""
        return Check.from_buffer_copy(raw)

    def report(self, sent: int) -> Report:
        """What became of ``sent`` frames since the last reset; see ``drained``."""
        seen = self._counts()
        return Report(
            sent=sent,
            arrived=seen.packets,
            bytes=seen.bytes,
            lost=sent - (seen.packets - seen.duplicated),
            duplicated=seen.duplicated,
            reordered=seen.reordered,
            old=seen.old,
            foreign=seen.foreign,
            flows=seen.flows,
            longest_gap_ns=seen.gap_ns,
            longest_flow_gap_ns=seen.flow_gap_ns,
            first_ns=seen.first_ns,
            last_ns=seen.last_ns,
        )

    def by_flow(self, flows: int) -> list[int]:
        """Frames that came of each of the first ``flows`` flows, duplicates too."""
        keys = (flow.to_bytes(4, sys.byteorder) for flow in range(flows))
        fd = self._fds["bench_flow"]
        rows = (Flow.from_buffer_copy(bpf.map_lookup(fd, key, sizeof(Flow)) or b"") for key in keys)
        return [row.packets if row.run == self._run else 0 for row in rows]


def _defines(port: int, ports: int) -> dict[str, str]:
    return {"BENCH_SINK_PORT": str(port), "BENCH_SINK_PORTS": str(ports)}


def _build(
    source: str,
    program: str,
    tables: tuple[str, ...],
    defines: dict[str, str],
    pins: Path,
    stack: ExitStack,
) -> dict[str, bpf.Fd]:
    """Both programs of a sink; the one for XDP is called so."""
    programs: dict[str, Hook] = {program: "tc", f"{program.removesuffix('_tc')}_xdp": "xdp"}
    return build_pinned(source, programs, tables, pins, stack, defines)


def drained(packets: Callable[[], int], wanted: int) -> int:
    """What a sink has once ``wanted`` are there, or nothing has come for DRAIN_SECONDS."""
    delivered, deadline = packets(), time.monotonic() + DRAIN_SECONDS
    while delivered < wanted and time.monotonic() < deadline:
        time.sleep(0.001)
        if (now := packets()) != delivered:
            delivered, deadline = now, time.monotonic() + DRAIN_SECONDS
    return delivered


def send_burst(
    generator: Generator, sink: Sink, ifindex: int, packets: int, entry: Entry = "stack"
) -> Burst:
    """Send ``packets`` into ``ifindex`` of the current namespace and wait until all are through.

    On one core (``tools.one_core``), or the CPU time is not known.
    """
    sink.reset()
    cores = os.sched_getaffinity(0)
    helpers = [pid for core, pid in KSOFTIRQD.items() if core in cores]
    helped, begun = cputime.of_processes(helpers), time.thread_time_ns()
    generator.send(ifindex, packets, entry)
    used = time.thread_time_ns() - begun
    delivered = drained(sink.packets, packets)
    used += cputime.of_processes(helpers) - helped
    by_cpu = used / packets if len(cores) == 1 else math.nan
    return Burst(packets, delivered, sink.nanoseconds(), by_cpu)
