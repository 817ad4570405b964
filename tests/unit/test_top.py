# SPDX-License-Identifier: BSD-2-Clause
"""What top makes of two samples, and how it shows that."""

from ipaddress import IPv4Address
from typing import Any

import pytest

from ebpfmesh.cli import output
from ebpfmesh.cli import top as shown
from ebpfmesh.model import Function
from ebpfmesh.observe import usage
from ebpfmesh.observe.top import Rates, Sample, Seen, rates, sums, total
from ebpfmesh.observe.usage import Usage
from ebpfmesh.state.rows import Attachment, FunctionRow

MEANS = (100.0, 1000.0)


def seen(name: str, number: int = 1, tenant: str = "t", netns: str = "n", **used: Any) -> Seen:
    function = Function(name=name, tenant=tenant, address4=IPv4Address(f"198.18.0.{number}"))
    row = FunctionRow("m", number, function, Attachment(netns, True, f"em.{number}", True), True)
    nothing: dict[str, Any] = {
        "cpu_seconds": 0.0, "throttled_seconds": None, "memory": 0, "oom_kills": None,
        "processes": (), "kept": False, "tx_packets": 0, "tx_bytes": 0, "rx_packets": 0,
        "rx_bytes": 0, "drops": {}, "ran": (0, 0),
    }  # fmt: skip
    return Seen(row, "up", Usage(**nothing | used), None)


def sample(when: float, *functions: Seen, means: usage.Means = MEANS) -> Sample:
    return Sample(when, {one.row.function.name: one for one in functions}, means)


def test_rates_are_of_the_time_that_passed() -> None:
    before = sample(10.0, seen("a", cpu_seconds=1.0, tx_packets=5, tx_bytes=500, drops={"TTL": 2}))
    after = sample(
        12.0,
        seen("a", cpu_seconds=2.0, tx_packets=25, tx_bytes=1500, drops={"TTL": 6, "VLAN": 1}),
    )
    (row,) = rates(before, after)
    assert (row.cpu, row.throttled) == (0.5, None)
    assert (row.tx_packets_per_second, row.tx_bits_per_second) == (10, 4000)
    assert (row.rx_packets_per_second, row.rx_bits_per_second) == (0, 0)
    assert row.drops_per_second == {"TTL": 2.0, "VLAN": 0.5}


@pytest.mark.parametrize(
    "was", [None, seen("a", number=2), seen("a", netns="other"), seen("a", tx_packets=9)]
)
def test_one_that_was_not_there_has_no_rates_yet(was: Seen | None) -> None:
    """Nor one that has the name of another."""
    before = sample(1.0, seen("b", number=3), *([was] if was else []))
    (row,) = rates(before, sample(2.0, seen("a", tx_packets=8, memory=7)))
    assert (row.name, row.memory) == ("a", 7)
    assert (row.cpu, row.tx_packets_per_second, row.drops_per_second) == (None, None, None)
    assert row.kernel is None


def test_the_time_of_the_programs_is_that_of_their_runs() -> None:
    """Of what a function sends, and of what the host sends to it; unknown if none was timed."""
    before = sample(0.0, seen("a", ran=(5, 7)), seen("b", 2))
    for means, found in (
        (MEANS, [1.05e-6, 0.0]),
        ((100.0, None), [None, 0.0]),
        ((None, None), [None, 0.0]),
    ):
        after = sample(2.0, seen("a", ran=(6, 9)), seen("b", 2), means=means)
        kernel = [one.kernel for one in rates(before, after)]
        assert kernel == [value if value is None else pytest.approx(value) for value in found]


def row(name: str, tenant: str = "t", **more: Any) -> Rates:
    (found,) = rates(sample(0.0, seen(name, tenant=tenant)), sample(1.0, seen(name, tenant=tenant)))
    return found._replace(**more)


def test_sums_of_tenants() -> None:
    rows = [
        row("a", "x", cpu=0.5, oom_kills=1, drops_per_second={"TTL": 1.0}),
        row("b", "y", memory=3),
        row("c", "x", cpu=None, drops_per_second=None, memory=None),
        row("d", "x", cpu=0.25, oom_kills=2, drops_per_second={"TTL": 1.0, "VLAN": 2.0}),
    ]
    first, second = sums(rows)
    assert (first.tenant, first.functions, first.cpu, first.oom_kills) == ("x", 3, 0.75, 3)
    assert first.drops_per_second == {"TTL": 2.0, "VLAN": 2.0}
    assert (second.tenant, second.memory, second.flows) == ("y", 3, None)
    assert total(rows).functions == 4
    assert total([]).cpu == 0


@pytest.mark.parametrize(
    ("order", "names"),
    [
        ("name", "abc"), ("cpu", "bac"), ("memory", "cab"), ("packets", "cab"), ("bits", "abc"),
        ("drops", "bca"),
    ],
)  # fmt: skip
def test_order(order: str, names: str) -> None:
    rows = [
        row("a", cpu=0.1, memory=2, rx_packets_per_second=1.0, tx_bits_per_second=9.0),
        row("b", cpu=0.2, drops_per_second={"TTL": 2.0, "VLAN": 2.0}),
        row("c", cpu=None, memory=5, tx_packets_per_second=2.0, drops_per_second={"TTL": 3.0}),
    ]
    assert "".join(one.name for one in shown.ordered(rows, order)) == names


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (0.5, "0.5"), (7, "7.0"), (12.3, "12"), (999, "999"), (999.6, "1.00k"),
        (1234, "1.23k"), (9_999, "10.0k"), (45_600_000, "45.6M"), (999_600, "1.00M"),
        (123_456_789_000, "123G"), (5e15, "5000T"),
    ],
)  # fmt: skip
def test_rates_for_people(value: float, text: str) -> None:
    assert shown.short(value) == text


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 200])
def test_a_narrow_terminal_has_fewer_columns(width: int) -> None:
    """The name and what is used stay; no line is longer, and none breaks."""
    rows = [row(f"function-{n}", cpu=n / 10, drops_per_second={"POLICY": n}) for n in range(4)]
    lines = output.lines_of(shown.FUNCTIONS, rows, width).plain.rstrip("\n").split("\n")
    assert len(lines) == 5
    assert all(line.split()[0] == f"function-{n}" for n, line in enumerate(lines[1:]))
    assert all(len(line.rstrip()) <= max(width, 32) for line in lines)
    titles = lines[0].split()
    assert titles[:1] == ["name"]
    assert {"CPU", "memory"} <= set(titles)
    assert ("state" in titles) == (width == 200)
