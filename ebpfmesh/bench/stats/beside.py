# SPDX-License-Identifier: BSD-2-Clause
"""Ratios of two places each of its own: what comes in by an uplink, beside other ways of it.

``analyse.ratios`` has one path beside all others in the same kind of figure. Here each row says
what is divided by what: a packet function by a bare redirect, a port by a socket. Taken as those,
within rounds.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ebpfmesh.bench.kinds import BY_CPU, MANY_FLOWS, NET
from ebpfmesh.bench.results import Results
from ebpfmesh.bench.stats.analyse import Goal, Ratio, round_by_round, values
from ebpfmesh.bench.stats.intervals import of_median
from ebpfmesh.bench.words import place
from ebpfmesh.bench.workload import MAX_SERVICES

Place = tuple[str, str, int]
"""A path, an axis, and the place on it."""


@dataclass(frozen=True)
class Row:
    """What is divided by what, in words and as places; ``goal`` is for the ratio ``of``.

    That is of a kind, by CPU time with the generator (BY_CPU) or without it (NET), or as it is.
    """

    what: str
    kind: str
    above: Place
    below: Place
    of: str
    goal: Goal | None


@dataclass(frozen=True)
class Beside:
    """A row's ratios: with the generator, or of what has none, and without it."""

    what: str
    ratio: Ratio | None
    net: Ratio | None

    @property
    def judged(self) -> Ratio:
        """The one with the goal, or the first there is."""
        (*with_goal,) = (one for one in (self.ratio, self.net) if one and one.goal)
        (first, *_) = (*with_goal, *(one for one in (self.ratio, self.net) if one))
        return first


def _rows() -> Iterator[Row]:
    """All of them. A program and a flood are judged without the generator: by a wire come none."""
    for path, flows, bound in (
        ("mesh-xdp", 1, 0.75), ("mesh-xdp", MANY_FLOWS, 0.45),
        ("mesh-uplink", 1, None), ("mesh-uplink", MANY_FLOWS, None),
    ):  # fmt: skip
        ends = (path, "flows", flows), ("devmap", "flows", flows)
        what = f"{path} ÷ devmap, {place('flows', flows)}"
        yield Row(what, "wire", *ends, BY_CPU, _at_least(bound))
    for path, services, bound in (
        ("mesh-xdp", 1, 4), ("mesh-xdp", 1000, 50),
        ("mesh-uplink", 1, None), ("mesh-uplink", 1000, None),
    ):  # fmt: skip
        ends = (path, "services", services), ("iptables", "services", services)
        what = f"{path} ÷ iptables, {place('services', services)}"
        yield Row(what, "wire", *ends, BY_CPU, _at_least(bound))
    for path, other, bound in (
        ("mesh-xdp", "dpdk-af-packet", 5), ("mesh-xdp", "dpdk-af-xdp", 5),
        ("mesh-uplink", "dpdk-af-packet", None), ("mesh-uplink", "dpdk-af-xdp", None),
    ):  # fmt: skip
        ends = (path, "services", 1), (other, "services", 0)
        yield Row(f"{path} ÷ {other}", "wire", *ends, BY_CPU, _at_least(bound))
    for path in ("mesh-xdp", "mesh-uplink"):
        ends = (path, "services", MAX_SERVICES), (path, "services", 1)
        what = f"{path}, {place('services', MAX_SERVICES)} ÷ 1"
        yield Row(what, "wire", *ends, BY_CPU, _at_least(0.95))
    for path, other, bound in (
        ("mesh-af-xdp", "recvmmsg", 4), ("mesh-af-xdp-python", "recvmmsg", 3.5),
        ("mesh-af-xdp", "iptables-recvmmsg", None),
        ("mesh-af-xdp-python", "iptables-recvmmsg", None), ("mesh-af-xdp", "tpacket-v3", None),
    ):  # fmt: skip
        ends = (path, "services", 1), (other, "services", 1)
        yield Row(f"{path} ÷ {other}", "taken", *ends, NET, _at_least(bound))
    ends = ("mesh-uplink", "services", 1), ("iptables", "services", 1)
    yield Row("TCP, mesh-uplink ÷ iptables", "tcp", *ends, BY_CPU, _at_least(1.2))
    yield Row("TCP by the wall", "tcp", *ends, "", None)
    yield Row("TCP on two cores by the wall", "tcp-two-cores", *ends, "", None)
    ends = ("mesh-deny", "services", 1), ("iptables-raw", "services", 1)
    what = "denied flood, mesh-deny ÷ iptables-raw"
    yield Row(what, "flood", *ends, NET, _at_least(3))


def _at_least(bound: float | None) -> Goal | None:
    return None if bound is None else Goal(True, bound)


ROWS = tuple(_rows())


def rows(results: Results) -> list[Beside]:
    """Those of which both were measured."""
    found = values(results)

    def ratio(row: Row, way: str) -> Ratio | None:
        kind = row.kind + way
        above, below = (found.get((kind, *where), {}) for where in (row.above, row.below))
        if not (divided := round_by_round(above, below)):
            return None
        _, axis, at = row.above
        goal = row.goal if way == row.of else None
        return Ratio(kind, axis, at, row.below[0], *of_median(divided), len(divided), goal)

    made = (Beside(row.what, ratio(row, BY_CPU if row.of else ""), ratio(row, NET)) for row in ROWS)
    return [one for one in made if one.ratio or one.net]
