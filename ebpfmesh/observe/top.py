# SPDX-License-Identifier: BSD-2-Clause
"""All functions of a mesh, looked at again and again: what each uses now, a second.

A look at a thousand functions takes 30 ms of CPU: files stay open, what runs at an interface is
asked of a few functions each time, by turns, and the record is read again only once somebody has
written it.
"""

import socket
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, Self

from ebpfmesh.errors import MeshError
from ebpfmesh.kernel import interface
from ebpfmesh.observe import commands, usage
from ebpfmesh.observe.commands import CommandState, Life
from ebpfmesh.observe.functions import State
from ebpfmesh.observe.usage import Means, Usage
from ebpfmesh.observe.view import View, opened
from ebpfmesh.state.place import Problem, problem
from ebpfmesh.state.rows import CommandRow, FunctionRow

CHECKED = 8
"""Functions whose programs and namespace are looked at with each sample."""


class Seen(NamedTuple):
    """A function in a sample, and its command's life. ``flows``: None if not asked for."""

    row: FunctionRow
    state: State
    usage: Usage
    flows: int | None
    life: Life = Life("", None)
    restarts: int = 0
    ready: bool = True


@dataclass(frozen=True)
class Sample:
    """All functions at a moment; ``when`` is in seconds of the monotonic clock.

    ``means`` is what a run of the programs takes now, in nanoseconds.
    """

    when: float
    functions: Mapping[str, Seen]
    means: Means


class Rates(NamedTuple):
    """What a function does, between two samples; None: it was not in both, or nothing tells.

    ``cpu`` and ``kernel`` (the mesh's programs for its packets) are in CPUs, ``throttled`` in
    seconds a second over all CPUs. Packets, bits and drops are a second's. ``memory`` and its
    limit are in bytes, ``rate_limit`` has the keys of ``rate`` in a mesh file, ``oom_kills`` are
    all there were, ``processes`` and ``flows`` as many as there are.
    ``command_state`` and what follows are as ``show functions`` has them.
    """

    id: int
    name: str
    tenant: str
    state: State
    cpu: float | None
    cpu_limit: float | None
    throttled: float | None
    kernel: float | None
    memory: int | None
    memory_limit: int | None
    rate_limit: dict[str, int] | None
    oom_kills: int | None
    processes: int
    tx_packets_per_second: float | None
    rx_packets_per_second: float | None
    tx_bits_per_second: float | None
    rx_bits_per_second: float | None
    drops_per_second: dict[str, float] | None
    flows: int | None
    command_state: CommandState
    exit_status: int | None
    restarts: int
    ready: bool


class Sum(NamedTuple):
    """What the functions of a tenant do together; of what is not known nothing is added."""

    tenant: str
    functions: int
    cpu: float
    throttled: float
    kernel: float
    memory: int
    oom_kills: int
    processes: int
    tx_packets_per_second: float
    rx_packets_per_second: float
    tx_bits_per_second: float
    rx_bits_per_second: float
    drops_per_second: dict[str, float]
    flows: int | None


class Sampler:
    """Samples of one mesh; use it in a ``with``."""

    def __init__(self, mesh: str, *, flows: bool = False) -> None:
        self._mesh = mesh
        self._flows = flows
        self._stack = ExitStack()
        self._opened = ExitStack()
        self._problems: dict[str, Problem] = {}
        self._turn = 0

    def __enter__(self) -> Self:
        self._stack.callback(self._close)
        self._any = self._stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._timer = self._stack.enter_context(usage.Timer())
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _open(self) -> None:
        self._view = self._opened.enter_context(opened(self._mesh))
        self._reader = self._opened.enter_context(usage.Reader(self._view))
        self._version = self._view.record.version()
        self._rows = self._view.functions
        self._commands = self._view.record.commands()

    def _close(self) -> None:
        self._opened.close()
        self._opened = ExitStack()

    @property
    def view(self) -> View:
        """The mesh as it was at the last sample."""
        return self._view

    def sample(self) -> Sample:
        """All functions there are now. NotFound once the mesh is down."""
        if self._is_old():
            before = self._rows
            self._close()
            self._open()
            now = {row.function.name: row for row in self._rows}
            for row in before:
                if now.get(row.function.name) != row:
                    self._problems.pop(row.function.name, None)
        self._timer.start(self._view)
        when = time.monotonic()
        used = self._reader.read(self._rows)
        flows = usage.flows(self._view) if self._flows else None
        self._look()
        functions = {
            row.function.name: self._seen(row, used[row.function.name], flows) for row in self._rows
        }
        return Sample(when, functions, self._timer.stop(self._view))

    def _is_old(self) -> bool:
        """Whether the record has been written since, or is gone, be it while it is asked."""
        record = self._view.record
        try:
            return not record.is_current or record.version() != self._version
        except MeshError:
            if record.is_current:
                raise
            return True

    def _seen(self, row: FunctionRow, used: Usage, flows: Mapping[int, int] | None) -> Seen:
        name = row.function.name
        ran = self._commands.get(name, CommandRow())
        life = Life("running", None) if used.kept else Life("", None)
        if row.function.command and not used.kept:  # else there is no need to open a file
            life = commands.life(self._view.record, row.function, ran, kept=False)
        number = None if flows is None else flows[row.attachment.ifindex]
        ready = name not in self._view.unready
        return Seen(row, self._state(row), used, number, life, ran.restarts, ready)

    def _look(self) -> None:
        """What is wrong with functions that are new, and with the next few of the others."""
        new = [row for row in self._rows if row.function.name not in self._problems]
        for row in (*new, *_from(self._rows, self._turn, CHECKED)):
            self._problems[row.function.name] = problem(self._view.ip, row)
        self._turn += CHECKED

    def _state(self, row: FunctionRow) -> State:
        if not row.ready:
            return "unfinished"
        runs = interface.runs(self._any, row.attachment.interface)
        if runs is None:
            return "interface gone"
        return self._problems[row.function.name] or ("up" if runs else "down")


def _from(rows: tuple[FunctionRow, ...], first: int, count: int) -> Iterator[FunctionRow]:
    """As many rows, from one on, and then from the beginning; each once at most."""
    at = first % max(1, len(rows))
    yield from islice((*rows[at:], *rows[:at]), count)


def rates(before: Sample, after: Sample) -> list[Rates]:
    """What the functions of the later sample did since the one before."""
    seconds = after.when - before.when
    pairs = {
        name: seen
        for name, seen in before.functions.items()
        if name in after.functions and not _is_another(seen, after.functions[name])
    }
    return [
        _rates(pairs.get(name), seen, seconds, after.means)
        for name, seen in after.functions.items()
    ]


def _is_another(one: Seen, other: Seen) -> bool:
    """Whether a name has become another function's meanwhile: its counters begin anew."""
    return (
        one.row.id != other.row.id
        or one.row.attachment != other.row.attachment
        or one.usage.tx_packets > other.usage.tx_packets
        or one.usage.rx_packets > other.usage.rx_packets
    )


def _rates(before: Seen | None, now: Seen, seconds: float, means: Means) -> Rates:
    function, used = now.row.function, now.usage
    then = before.usage if before else None
    return Rates(
        id=now.row.id,
        name=function.name,
        tenant=function.tenant,
        state=now.state,
        cpu=_rate(then and then.cpu_seconds, used.cpu_seconds, seconds),
        cpu_limit=function.cpu,
        throttled=_rate(then and then.throttled_seconds, used.throttled_seconds, seconds),
        kernel=then and _kernel(then.ran, used.ran, means, seconds),
        memory=used.memory,
        memory_limit=function.memory,
        rate_limit=function.rate.numbers if function.rate else None,
        oom_kills=used.oom_kills,
        processes=len(used.processes),
        tx_packets_per_second=then and (used.tx_packets - then.tx_packets) / seconds,
        rx_packets_per_second=then and (used.rx_packets - then.rx_packets) / seconds,
        tx_bits_per_second=then and (used.tx_bytes - then.tx_bytes) * 8 / seconds,
        rx_bits_per_second=then and (used.rx_bytes - then.rx_bytes) * 8 / seconds,
        drops_per_second=then and _drops(then.drops, used.drops, seconds),
        flows=now.flows,
        command_state=now.life.state,
        exit_status=now.life.status,
        restarts=now.restarts,
        ready=now.ready,
    )


def _rate(then: float | None, now: float | None, seconds: float) -> float | None:
    return None if then is None or now is None else max(0.0, now - then) / seconds


def _drops(then: Mapping[str, int], now: Mapping[str, int], seconds: float) -> dict[str, float]:
    more = {reason: count - then.get(reason, 0) for reason, count in now.items()}
    return {reason: count / seconds for reason, count in more.items() if count > 0}


def _kernel(
    then: tuple[int, int], now: tuple[int, int], means: Means, seconds: float
) -> float | None:
    more = (max(0, new - old) for old, new in zip(then, now, strict=True))
    took = usage.kernel_seconds(more, means)
    return None if took is None else took / seconds


def sums(rows: Iterable[Rates]) -> list[Sum]:
    """The functions of each tenant together, by tenant."""
    tenants: dict[str, list[Rates]] = {}
    for row in rows:
        tenants.setdefault(row.tenant, []).append(row)
    return [total(tenants[tenant], tenant) for tenant in sorted(tenants)]


def total(rows: Sequence[Rates], tenant: str = "") -> Sum:
    """Functions together."""
    drops: Counter[str] = Counter()
    for row in rows:
        drops.update(row.drops_per_second or {})

    def added(name: str) -> float:
        return sum(getattr(row, name) or 0 for row in rows)

    flows = [row.flows for row in rows if row.flows is not None]
    return Sum(
        tenant=tenant,
        functions=len(rows),
        cpu=added("cpu"),
        throttled=added("throttled"),
        kernel=added("kernel"),
        memory=int(added("memory")),
        oom_kills=int(added("oom_kills")),
        processes=int(added("processes")),
        tx_packets_per_second=added("tx_packets_per_second"),
        rx_packets_per_second=added("rx_packets_per_second"),
        tx_bits_per_second=added("tx_bits_per_second"),
        rx_bits_per_second=added("rx_bits_per_second"),
        drops_per_second=dict(drops),
        flows=sum(flows) if flows else None,
    )
