# SPDX-License-Identifier: BSD-2-Clause
"""How a path's CPU follows the load: a pure function of the results, the same on every call.

Read from the kinds of ``measure.load``, at the median over the rounds; what has an interval is made
of each round on its own, and is the median of those (``intervals``). A load is carried if CARRIED
of it arrived; the full load is the greatest that was. One below it that was not is left out: the
machine was at something else.

- idle: CPU while nothing is sent, in % of one core: of the receiver that waits and of the path's
  own processes. A path in the kernel has none; what its timers cost is not seen. Of a round it is
  the mean over all loads, since a daemon that wakes up once a second is missed by most windows.
- whole machine: what the machine took more at the full load than before it, of whatever. Where it
  is far from the CPU of the processes, the machine was not quiet, or the figure lacks something.
- saturated: the least load above the full one. From there on the CPU is that of a path at its
  limit, and nothing is fitted.
- fixed, cost: CPU = fixed + cost · load, by least squares of the relative errors, since the loads
  span decades; neither is below 0. What is fixed comes with the first packet, what is idle is there
  without any.
- slope: of the logarithm of CPU over the logarithm of load, where the CPU is above the noise; R²
  says how well a line describes it. 1 is in proportion, 0 the same at any load; below 1, a packet
  costs less the more there are.
- at a tenth: CPU at a tenth of the full load by the CPU at the full load. In proportion: 0.1.
- dynamic range: 1 - idle / CPU at the full load (Barroso and Hölzle, "The Case for
  Energy-Proportional Computing", IEEE Computer 40(12), 2007). 1: nothing is used when idle.
- proportionality: 2 - 2A, with A the area below CPU over load, both relative to the full load, from
  idle on (Ryckbosch, Polfliet and Eeckhout, "Trends in Server Energy Proportionality", IEEE
  Computer 44(9), 2011). 1 in proportion, 0 if the CPU is the same at any load, above 1 if it stays
  below the line. Loads far below the full one hardly count in it: that is what the slope is for.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ebpfmesh.bench.results import Results
from ebpfmesh.bench.stats.intervals import Interval, of_median

CARRIED = 0.95
"""Part of a load that must arrive for it to be carried."""
NOISE = 0.01
"""CPU in % of one core below which a figure says nothing: 100 µs in a second."""
LEAST_POINTS = 3
KINDS_READ = ("load", "load-idle", "load-received", "load-machine")
TENTH = 0.1
THOUSAND = 1000

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Fit:
    """What is said of one path, as the module's text defines it; None where too little was carried.

    ``full`` and ``saturated`` in bits per second, CPU in % of one core, ``cost`` in % of one core
    per Gb/s.
    """

    path: str
    idle: Interval
    full: int | None
    saturated: int | None
    peak: float | None
    machine: float | None
    fixed: float | None
    cost: float | None
    slope: Interval | None
    r_squared: float | None
    tenth: Interval | None
    dynamic_range: float | None
    proportionality: float | None


class Table(NamedTuple):
    """A table of the report."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str


@dataclass(frozen=True)
class _Rounds:
    """The figures of a path: a row for each round, a column for each load.

    One that failed is the median of those that did not.
    """

    loads: Floats
    cpu: Floats
    idle: Floats
    received: Floats
    machine: Floats

    @property
    def carried(self) -> NDArray[np.bool_]:
        """Which of the loads it carried."""
        return np.median(self.received, axis=0) >= CARRIED * self.loads


def fits(results: Results) -> tuple[Fit, ...]:
    """A fit for every path whose CPU was measured over the load, in the order of the results."""
    found = ((path, _rounds(results, path)) for path in results.paths)
    return tuple(_fit(path, rounds) for path, rounds in found if rounds is not None)


def _rounds(results: Results, path: str) -> _Rounds | None:
    """The figures of a path; None without any."""
    by_kind: dict[str, dict[tuple[int, int], float]] = {}
    for m in results.measurements:
        if m.path == path and m.axis == "load" and m.value is not None:
            by_kind.setdefault(m.kind, {})[m.round, m.at] = m.value
    if not (cpu := by_kind.get("load", {})):
        return None
    numbers = sorted({number for number, _ in cpu})
    loads = sorted({load for _, load in cpu})

    def matrix(values: Mapping[tuple[int, int], float]) -> Floats:
        found = np.array([[values.get((n, load), np.nan) for load in loads] for n in numbers])
        return np.where(np.isnan(found), np.nanmedian(found, axis=0), found)

    return _Rounds(np.array(loads, dtype=float), *(matrix(by_kind[kind]) for kind in KINDS_READ))


def _fit(path: str, rounds: _Rounds) -> Fit:
    carried = rounds.carried
    loads, cpus = rounds.loads[carried], rounds.cpu[:, carried]
    cpu, idle = np.median(cpus, axis=0), of_median(rounds.idle.mean(axis=1).tolist())
    full, peak = (float(loads[-1]), float(cpu[-1])) if len(loads) else (0.0, 0.0)
    fixed, cost = line(loads, cpu)
    return Fit(
        path=path,
        idle=idle,
        full=int(full) or None,
        saturated=next((int(load) for load in rounds.loads if load > full), None),
        peak=peak or None,
        machine=float(np.median(rounds.machine[:, carried][:, -1])) if len(loads) else None,
        fixed=fixed,
        cost=cost,
        slope=_over_rounds(log_slope(loads, of_round)[0] for of_round in cpus),
        r_squared=log_slope(loads, cpu)[1],
        tenth=_over_rounds(at_a_tenth(loads, of_round) for of_round in cpus),
        dynamic_range=1 - idle.value / peak if peak else None,
        proportionality=proportionality(loads, cpu, idle.value) if peak else None,
    )


def _over_rounds(values: Iterable[float | None]) -> Interval | None:
    """The median of the rounds that have a value."""
    found = [value for value in values if value is not None]
    return of_median(found) if found else None


def line(loads: Floats, cpu: Floats) -> tuple[float | None, float | None]:
    """What is fixed, in the unit of ``cpu``, and the cost of 1 Gb/s; None with too few points."""
    if len(loads) < LEAST_POINTS or not np.all(cpu > 0):
        return None, None
    by_part = np.stack([1 / cpu, loads / 1e9 / cpu], axis=1)
    fixed, cost = np.linalg.lstsq(by_part, np.ones(len(cpu)), rcond=None)[0]
    if fixed < 0:
        fixed, cost = 0.0, by_part[:, 1].sum() / (by_part[:, 1] ** 2).sum()
    elif cost < 0:
        fixed, cost = by_part[:, 0].sum() / (by_part[:, 0] ** 2).sum(), 0.0
    return float(fixed), float(cost)


def log_slope(loads: Floats, cpu: Floats) -> tuple[float | None, float | None]:
    """Slope of log CPU over log load above the noise, and R²; None with too few points."""
    above = cpu > NOISE
    if above.sum() < LEAST_POINTS:
        return None, None
    x, y = (np.log(values[above]) - np.log(values[above]).mean() for values in (loads, cpu))
    slope, around = float((x * y).sum() / (x**2).sum()), float((y**2).sum())
    return slope, 1 - float(((y - slope * x) ** 2).sum()) / around if around else None


def at_a_tenth(loads: Floats, cpu: Floats) -> float | None:
    """CPU at a tenth of the last load by that at the last; None if no load is as low."""
    if not len(loads) or loads[0] > TENTH * loads[-1] or not np.all(cpu > 0):
        return None
    at = np.interp(np.log(TENTH * loads[-1]), np.log(loads), np.log(cpu))
    return float(np.exp(at) / cpu[-1])


def proportionality(loads: Floats, cpu: Floats, idle: float) -> float:
    """2 - 2A, with A the area below the CPU by parts of the last load, from ``idle`` on."""
    x = np.concatenate([[0.0], loads / loads[-1]])
    y = np.concatenate([[idle], cpu]) / cpu[-1]
    area = ((y[1:] + y[:-1]) / 2 * np.diff(x)).sum()
    return float(2 - 2 * area)


COLUMNS = (
    "path", "idle, % of a core", "CPU at the full load", "whole machine", "full load, b/s",
    "not carried, b/s",
    "fixed, % of a core", "% of a core per Gb/s", "slope", "R²", "at a tenth ÷ full",
    "dynamic range", "proportionality",
)  # fmt: skip
NOTE = (
    "The full load is the greatest of which 95 % arrived. Slope of log CPU over log load: 1 is in "
    "proportion, 0 the same at any load. CPU at a tenth of the full load by that at the full load: "
    "0.1 in proportion. Dynamic range: 1 - idle ÷ CPU at the full load (Barroso and Hölzle 2007). "
    "Proportionality: 1 in proportion, 0 the same at any load (Ryckbosch et al. 2011). Sender and "
    "receiver are part of the CPU, the same over all paths."
)


def table(results: Results) -> Table | None:
    """The fits of all paths for the report; None if no load was measured."""
    rows = tuple(_row(fit) for fit in fits(results))
    return Table("CPU in proportion to the load", COLUMNS, rows, NOTE) if rows else None


def _row(fit: Fit) -> tuple[str, ...]:
    return (
        fit.path, _say_interval(fit.idle), _say(fit.peak), _say(fit.machine), _say_load(fit.full),
        _say_load(fit.saturated), _say(fit.fixed), _say(fit.cost), _say_interval(fit.slope),
        _say(fit.r_squared), _say_interval(fit.tenth), _say(fit.dynamic_range),
        _say(fit.proportionality),
    )  # fmt: skip


def _say(value: float | None) -> str:
    """Three digits at least, and nothing finer than a thousandth."""
    if value is None:
        return "–"
    return f"{value:.0f}" if abs(value) >= THOUSAND else f"{round(value, 3):.3g}"


def _say_interval(value: Interval | None) -> str:
    return "–" if value is None else "{} ({}–{})".format(*map(_say, value[:3]))


def _say_load(load: int | None) -> str:
    for unit, size in (("G", THOUSAND**3), ("M", THOUSAND**2), ("k", THOUSAND)):
        if load is not None and load >= size:
            return f"{load / size:g} {unit}"
    return "–" if load is None else str(load)
