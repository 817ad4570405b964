# SPDX-License-Identifier: BSD-2-Clause
"""What functions used since they are there: CPU, memory, packets, drops, time of the programs.

The time of the mesh's programs is as the kernel measured it (BPF_ENABLE_STATS), which it does while
``top`` runs: exact for all functions together. Which part is whose is told by packets: what a
function sends is its own, what the host sends to a function is the receiver's. A GSO packet, which
is one run of a program, counts as the segments it leaves in.
"""

import ctypes
import functools
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

from ebpfmesh import _abi
from ebpfmesh.kernel import bpf, clock
from ebpfmesh.kernel.cgroup import Cgroup
from ebpfmesh.kernel.maps import FLOWS
from ebpfmesh.kernel.programs import HOOKS
from ebpfmesh.kernel.used import Files, resident
from ebpfmesh.observe.flows import timeout_of
from ebpfmesh.observe.view import View
from ebpfmesh.runtime import process
from ebpfmesh.state.place import group_of
from ebpfmesh.state.record import FunctionRow

FIELDS = len(_abi.Meter._fields_)
TX_PACKETS, TX_BYTES, RX_PACKETS, RX_BYTES = range(FIELDS)
OUTSIDE = 0  # of tenants: the first slot of a function
Drops = tuple[Counter[str], Counter[int]]
"""Packets of a function by reason, and by direction."""
DROP_KEY = "=IBBBx"
"""_abi.DropKey: function, reason, direction, audited."""
DROP_FIELDS, WORD = len(_abi.Drop._fields_), 8
REASONS = {reason.value: reason.name for reason in _abi.Reason}
NO_DROPS: Drops = (Counter(), Counter())
FROM_FN, TO_FN = _abi.Direction.FROM_FN, _abi.Direction.TO_FN


class Usage(NamedTuple):
    """What a function used since it is there; None: nothing tells.

    CPU and OOM kills are those of its cgroup, as ``kernel.used.Used`` has them. ``memory`` is too,
    where it has a limit; else what its ``processes`` have resident, what they share more than once.
    ``kept``: there are processes that keep the log and exit status of its command, which
    ``processes`` leaves out. ``drops`` are packets at its interface, by reason. ``met`` are packets
    that met the program for what it sends, and that for what the host sends to it.
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
    met: tuple[int, int]


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
        tenants = max(view.record.names("tenant"), default=OUTSIDE) + 1
        self._meters = view.maps["mesh_meter"].slots(tenants)
        self._keepers: dict[str, tuple[tuple[int, ...], _Keepers]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def read(self, rows: Iterable[FunctionRow]) -> dict[str, Usage]:
        """What each of these functions used, by name."""
        drops = _drops(self._view)
        return {row.function.name: self._usage(row, drops) for row in rows}

    def _usage(self, row: FunctionRow, drops: Mapping[int, Drops]) -> Usage:
        used = self._files.used(Cgroup(self._group, row.function.name))
        keepers = self._keepers_of(row.function.name, used.processes)
        own = tuple(sorted(one for one in used.processes if one not in keepers))
        meter = self._meters.read(row.id * self._stride).cast("Q")
        sent, got = sum(meter[TX_PACKETS::FIELDS]), sum(meter[RX_PACKETS::FIELDS])
        by_reason, lost = drops.get(row.id, NO_DROPS)
        return Usage(
            cpu_seconds=used.cpu,
            throttled_seconds=used.throttled,
            memory=sum(map(resident, own)) if used.memory is None else used.memory,
            oom_kills=used.oom_kills,
            processes=own,
            kept=len(own) < len(used.processes),
            tx_packets=sent,
            tx_bytes=sum(meter[TX_BYTES::FIELDS]),
            rx_packets=got,
            rx_bytes=sum(meter[RX_BYTES::FIELDS]),
            drops=dict(by_reason),
            met=(sent + lost[FROM_FN], self._from_outside(meter) + lost[TO_FN]),
        )

    @staticmethod
    def _from_outside(meter: memoryview) -> int:
        """Packets that the outside sent, whose slot is the first."""
        return sum(meter[RX_PACKETS : FIELDS * bpf.possible_cpus() : FIELDS])

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
    found: dict[int, Drops] = defaultdict(lambda: (Counter(), Counter()))
    width = bpf.possible_cpus() * ctypes.sizeof(_abi.Drop) // WORD
    for keys, values in view.maps["mesh_drops"].batches():
        words = memoryview(values).cast("Q")
        for at, key in enumerate(struct.iter_unpack(DROP_KEY, keys)):
            function, reason, direction, audited = key
            if not audited:
                packets = sum(words[at * width : (at + 1) * width : DROP_FIELDS])
                by_reason, by_direction = found[function]
                by_reason[REASONS[reason]] += packets
                by_direction[direction] += packets
    return found


def runs(view: View) -> tuple[tuple[int, int], ...]:
    """(Nanoseconds, runs) of the programs that ``Usage.met`` speaks of, while they were timed."""
    found = []
    for name in HOOKS.values():
        with bpf.obj_get(view.pins.progs / name) as program:
            found.append(bpf.prog_runs(program))
    return tuple(found)


def kernel_seconds(usage: Usage, ran: Iterable[tuple[int, int]]) -> float | None:
    """What the programs took for a function's packets, by their mean; None if none was timed."""
    total = 0.0
    for packets, (ns, times) in zip(usage.met, ran, strict=True):
        if packets and not times:
            return None
        total += packets * ns / max(times, 1)
    return total / 1e9


def flows(view: View) -> Counter[int]:
    """Flows that live, by the interfaces of the functions at their ends; 0: the outside."""
    now, timeouts = clock.now(), tuple(view.config.timeouts)
    found: Counter[int] = Counter()
    for (origin, output, flags, seen), count in _alike(view).items():
        passed = (now - seen) & 0xFFFFFFFF
        lives = passed >= 1 << 31 or passed <= timeouts[_timeout(origin & 0xFF, flags)]
        if lives and not flags & _abi.FlowFlag.REPLY:
            for end in {origin >> 8, output & (1 << _abi.IFINDEX_BITS) - 1}:
                found[end] += count
    return found


def _alike(view: View) -> Counter[tuple[int, int, int, int]]:
    """How many entries have the same origin, output, flags and tick of their last packet.

    Sorted out without a step of Python for each: there may be millions.
    """
    found: Counter[tuple[int, int, int, int]] = Counter()
    for name in FLOWS:
        table = view.maps[name]
        key, value = table.spec.key, table.spec.value
        for keys, values in table.batches():
            found.update(
                zip(
                    _column(keys, key, "origin", "I"),
                    _column(values, value, "output", "I"),
                    _column(values, value, "flags", "H"),
                    _column(values, value, "seen", "I"),
                    strict=True,
                )
            )
    return found


def _column(raw: bytes, shape: type[ctypes.Structure], field: str, kind: Literal["H", "I"]) -> Any:
    """A field of all structures that stand one after the other; CountedFlow begins with a Flow."""
    at = getattr(_abi.Flow if shape is _abi.CountedFlow else shape, field).offset
    width = struct.calcsize(kind)
    return memoryview(raw).cast(kind)[at // width :: ctypes.sizeof(shape) // width]


@functools.cache
def _timeout(protocol: int, flags: int) -> int:
    return timeout_of(protocol, _abi.Flow(flags=flags))
