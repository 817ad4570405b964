# SPDX-License-Identifier: BSD-2-Clause
"""Ratios of two places each of its own: what comes in by an uplink, beside other ways of it.

``analyse.ratios`` has one path beside all others in the same kind of figure. Here each row says
what is divided by what: a packet function by a bare redirect, a port by a socket. Taken as those,
within rounds.
"""

from dataclasses import dataclass

from ebpfmesh.bench.kinds import BY_CPU, MANY_FLOWS, NET
from ebpfmesh.bench.results import Results
from ebpfmesh.bench.stats.analyse import Goal, Ratio, Where, round_by_round, values
from ebpfmesh.bench.stats.intervals import of_median
from ebpfmesh.bench.words import short
from ebpfmesh.bench.workload import MAX_SERVICES

LIMITS = ("dpdk-af-packet", "dpdk-af-xdp")


@dataclass(frozen=True)
class Row:
    """What is divided by what, with a goal for it; ``what`` in words."""

    what: str
    above: Where
    below: Where
    goal: Goal | None = None


def _wire(path: str, at: int, axis: str = "services") -> Where:
    return "wire" + BY_CPU, path, axis, at


def _taken(path: str) -> Where:
    return "taken" + NET, path, "services", 1


def _at_least(bound: float | None) -> Goal | None:
    return None if bound is None else Goal(True, bound)


ROWS = (
    *(
        Row(
            f"{path}, {short(flows)} flow{'s' if flows > 1 else ''} ÷ devmap",
            _wire(path, flows, "flows"), _wire("devmap", flows, "flows"), _at_least(bound),
        )
        for path, one, many in (("mesh-uplink", None, None),)
        for flows, bound in ((1, one), (MANY_FLOWS, many))
    ),
    *(
        Row(
            f"{path} ÷ iptables, {short(services)} service{'s' if services > 1 else ''}",
            _wire(path, services), _wire("iptables", services), _at_least(bound),
        )
        for path, one, many in (("mesh-uplink", None, None),)
        for services, bound in ((1, one), (1000, many))
    ),
    *(
        Row(f"{path} ÷ testpmd, {other}", _wire(path, 1), _wire(other, 0), _at_least(bound))
        for path, bound in (("mesh-uplink", None),)
        for other in LIMITS
    ),
    *(
        Row(
            f"{path}, {short(MAX_SERVICES)} services ÷ 1",
            _wire(path, MAX_SERVICES), _wire(path, 1), Goal(True, 0.95),
        )
        for path in ("mesh-uplink",)
    ),
    *(
        Row(f"{path} ÷ {other}", _taken(path), _taken(other), _at_least(bound))
        for path, other, bound in (
            ("mesh-af-xdp", "recvmmsg", 4),
            ("mesh-af-xdp-python", "recvmmsg", 3.5),
            ("mesh-af-xdp", "iptables-recvmmsg", None),
            ("mesh-af-xdp-python", "iptables-recvmmsg", None),
            ("mesh-af-xdp", "tpacket-v3", None),
        )
    ),
    Row(
        "TCP, mesh-uplink ÷ iptables", ("stream", "mesh-uplink", "services", 1),
        ("stream", "iptables", "services", 1), Goal(True, 1.2),
    ),
    *(
        Row(
            f"beside a denied flood, mesh-deny ÷ iptables-raw{more}",
            (f"flood{kind}", "mesh-deny", "services", 1),
            (f"flood{kind}", "iptables-raw", "services", 1), _at_least(bound),
        )
        for kind, more, bound in ((NET, "", 3), (BY_CPU, ", with generator", None))
    ),
)  # fmt: skip
"""By CPU time, the generator included; that is left out where a program or a flood is concerned,
since there is none where packets come by a wire."""


def rows(results: Results) -> list[tuple[str, Ratio]]:
    """Those of which both were measured, in words and as a ratio."""
    found = values(results)
    made = []
    for row in ROWS:
        divided = round_by_round(found.get(row.above, {}), found.get(row.below, {}))
        if divided:
            kind, _, axis, at = row.above
            ratio = Ratio(kind, axis, at, row.below[1], *of_median(divided), len(divided), row.goal)
            made.append((row.what, ratio))
    return made
