# SPDX-License-Identifier: BSD-2-Clause
"""What functions used since they are there: CPU, memory, packets, drops, time of the programs.

The time of the mesh's programs is told by how often they ran for a function, which the counters of
its interface say (a GSO packet is one run), and by what a run takes on average over all functions,
which the kernel measures while somebody asks (BPF_ENABLE_STATS, ``Timer``).
"""

import ctypes
import struct
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

from ebpfmesh import _abi
from ebpfmesh.errors import MissingPrivilege, NotFound
from ebpfmesh.kernel import bpf, interface
from ebpfmesh.kernel.cgroup import Cgroup
from ebpfmesh.kernel.flows import living
from ebpfmesh.kernel.programs import HOOKS
from ebpfmesh.kernel.used import Files, Group, resident
from ebpfmesh.observe import ports
from ebpfmesh.observe.view import View
from ebpfmesh.runtime import process
from ebpfmesh.state.place import group_of
from ebpfmesh.state.rows import FunctionRow

FIELDS = len(_abi.Meter._fields_)
TX_PACKETS, TX_BYTES, RX_PACKETS, RX_BYTES = range(FIELDS)
OUTSIDE = 0  # of tenants: the first slot of a function
Means = tuple[float | None, ...]
"""Nanoseconds that a run takes of the program for what functions send, and for what they get."""
Drops = tuple[Counter[str], int]
"""Packets of a function by reason, and all that the host sent to it."""
DROP_KEY = "=IBBBx"
"""_abi.DropKey: function, reason, direction, audited."""
DROP_FIELDS, WORD = len(_abi.Drop._fields_), 8
REASONS = {reason.value: reason.name for reason in _abi.Reason}
RING_FULL = _abi.Reason.RING_FULL.name
NO_DROPS: Drops = (Counter(), 0)


class Usage(NamedTuple):
    """What a function used since it is there; None: nothing tells.

    CPU and OOM kills are those of its cgroup, as ``kernel.used.Used`` has them. ``memory`` is too,
    where it has a limit; else what its ``processes`` have resident, what they share more than once.
    ``kept``: there are processes that keep the log and exit status of its command, which
    ``processes`` leaves out. ``drops`` are packets at its interface, by reason. ``ran`` is how
    often the program for what it sends ran, and that for what the host sends to it.
    """

    cpu_seconds: float | None
    throttled_seconds: float | None
    memory: int | None
    oom_kills: int | None
    processes: tuple[int, ...]
    kept: bool
    tx_packets: int
    tx_bytes: int
    rx_packets: int
    rx_bytes: int
    drops: dict[str, int]
    ran: tuple[int, int]


@dataclass
class _Keepers:
    """Which of some processes are keepers; looked for anew after 1, 2, 4, … readings.

    One that has just begun may look like its parent.
    """

    found: frozenset[int]
    readings: int = 1


class Reader:
    """Reads the usage of a mesh's functions, again and again; use it in a ``with``."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._files = Files()
        self._stride = view.config.tenants
        self._group = group_of(view.record)
        self._groups: dict[str, Group] = {}
        tenants = max(view.record.names("tenant"), default=OUTSIDE) + 1
        self._meters = view.maps["mesh_meter"].slots(tenants)
        self._keepers: dict[str, tuple[tuple[int, ...], _Keepers]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def read(self, rows: Iterable[FunctionRow]) -> dict[str, Usage]:
        """What each of these functions used, by name."""
        drops, frames = _drops(self._view), interface.frames()
        return {row.function.name: self._usage(row, drops, frames) for row in rows}

    def _usage(
        self, row: FunctionRow, drops: Mapping[int, Drops], frames: Mapping[str, tuple[int, int]]
    ) -> Usage:
        name = row.function.name
        if name not in self._groups:
            self._groups[name] = self._files.of(Cgroup(self._group, name))
        used = self._groups[name].used()
        keepers = self._keepers_of(name, used.processes)
        own = tuple(sorted(one for one in used.processes if one not in keepers))
        meter = self._meters.read(row.id * self._stride).cast("Q")
        by_reason, lost_to = drops.get(row.id, NO_DROPS)
        from_function, to_function = frames.get(row.attachment.interface, (0, 0))
        return Usage(
            cpu_seconds=used.cpu,
            throttled_seconds=used.throttled,
            memory=sum(map(resident, own)) if used.memory is None else used.memory,
            oom_kills=used.oom_kills,
            processes=own,
            kept=len(own) < len(used.processes),
            tx_packets=sum(meter[TX_PACKETS::FIELDS]),
            tx_bytes=sum(meter[TX_BYTES::FIELDS]),
            rx_packets=sum(meter[RX_PACKETS::FIELDS]),
            rx_bytes=sum(meter[RX_BYTES::FIELDS]),
            drops=dict(by_reason) | ({RING_FULL: full} if (full := ports.lost(row)) else {}),
            ran=(from_function, to_function + lost_to),
        )

    def _keepers_of(self, function: str, processes: tuple[int, ...]) -> frozenset[int]:
        before, known = self._keepers.get(function, ((), None))
        if known is None or before != processes or known.readings.bit_count() == 1:
            readings = known.readings if known and before == processes else 0
            known = _Keepers(frozenset(process.keepers(processes)), readings)
            self._keepers[function] = processes, known
        known.readings += 1
        return known.found


def _drops(view: View) -> dict[int, Drops]:
    """What was dropped, by function, without what an audit let pass."""
    by_reason: defaultdict[int, Counter[str]] = defaultdict(Counter)
    lost_to: Counter[int] = Counter()
    width = bpf.possible_cpus() * ctypes.sizeof(_abi.Drop) // WORD
    for keys, values in view.maps["mesh_drops"].batches():
        words = memoryview(values).cast("Q")
        for at, key in enumerate(struct.iter_unpack(DROP_KEY, keys)):
            function, reason, direction, audited = key
            if not audited:
                packets = sum(words[at * width : (at + 1) * width : DROP_FIELDS])
                by_reason[function][REASONS[reason]] += packets
                lost_to[function] += packets if direction == _abi.Direction.TO_FN else 0
    return {function: (reasons, lost_to[function]) for function, reasons in by_reason.items()}


def runs(view: View) -> list[tuple[int, int]]:
    """(Nanoseconds, runs) of the programs that ``Usage.ran`` speaks of, while they were timed.

    NotFound once they are gone: ``down`` removes them before it removes the record.
    """
    found = []
    for path in (view.pins.progs / name for name in HOOKS.values()):
        try:
            program = bpf.obj_get(path)
        except FileNotFoundError:
            raise NotFound(
                f"mesh {view.name} is not up: no {path}", hint="start it: ebpfmesh up FILE"
            ) from None
        with program:
            found.append(bpf.prog_runs(program))
    return found


def means(view: View) -> Means:
    """Nanoseconds of a run, of all that the kernel ever timed."""
    return tuple(ns / times if times else None for ns, times in runs(view))


class Timer:
    """Has the kernel time the programs; use it in a ``with``, and ``start`` and ``stop`` in turn.

    It costs a run more than the run itself takes, so it goes on from one ``stop`` to the next
    ``start`` only where there are few. What was timed long ago counts less and less.
    """

    WINDOW = 0.02
    """Seconds that it goes on for at least."""
    ENOUGH = 200
    """Runs in a window; with fewer it goes on."""

    def __init__(self) -> None:
        self._stats: bpf.Fd | None = None
        self._before: list[tuple[int, int]] = []
        self._sums = [[0.0, 0.0] for _ in HOOKS]
        self._may = True
        self._started = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._stats:
            self._stats.close()
            self._stats = None

    @property
    def is_on(self) -> bool:
        """Whether the kernel times programs for this now."""
        return self._stats is not None

    def start(self, view: View) -> None:
        """Begin, if it does not go on. Without CAP_SYS_ADMIN nothing is ever timed."""
        if self._stats or not self._may:
            return
        try:
            self._stats = bpf.enable_stats()
        except MissingPrivilege:
            self._may = False
            return
        self._started, self._before = time.monotonic(), runs(view)

    def stop(self, view: View) -> Means:
        """Nanoseconds of a run, None if none was timed; a window's time has passed by then."""
        if self._stats:
            time.sleep(max(0.0, self._started + self.WINDOW - time.monotonic()))
            now = runs(view)
            timed = 0
            for sums, old, new in zip(self._sums, self._before, now, strict=True):
                ns, times = new[0] - old[0], new[1] - old[1]
                if ns >= 0 and times > 0:  # else the program is another now
                    sums[:] = [sums[0] / 2 + ns, sums[1] / 2 + times]
                    timed += times
            self._before = now
            if timed >= self.ENOUGH:
                self.__exit__()
        return tuple(ns / times if times else None for ns, times in self._sums)


def kernel_seconds(ran: Iterable[int], means: Means) -> float | None:
    """What so many runs of the programs took; None if such ones were never timed."""
    total = 0.0
    for times, mean in zip(ran, means, strict=True):
        if times and mean is None:
            return None
        total += times * (mean or 0.0)
    return total / 1e9


def flows(view: View) -> Counter[int]:
    """Flows that live, by the interfaces of the functions at their ends; 0: the outside."""
    found: Counter[int] = Counter()
    for one in living(view.maps):
        for end in {one.sender, one.receiver}:
            found[end] += one.entries
    return found
