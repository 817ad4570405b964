# SPDX-License-Identifier: BSD-2-Clause
"""A small scenario from end to end: every tool, a results directory and its report."""

from pathlib import Path

import pytest

from ebpfmesh.bench import analyse, report
from ebpfmesh.bench.results import NO_SERVICES, Results, Scenario
from ebpfmesh.bench.run import run
from ebpfmesh.errors import UsageError

SCENARIO = Scenario(
    name="small",
    title="Everything once",
    paths={"routed": NO_SERVICES, "iptables": (2,), "mesh": (2,)},
    seconds={
        "pps": 0.01,
        "pps-answered": 0.01,
        "stream": 1,
        "rr": 1,
        "crr": 1,
        "connect": 0.02,
        "pps-ipv6": 0.01,
        "pps-events": 0.01,
        "pps-capture": 0.01,
        "add-service": 0.0,
        "add-rule-command": 0.0,
    },
    only={
        "pps-ipv6": {"mesh": (2,)},
        "pps-events": {"mesh": (2,)},
        "pps-capture": {"mesh": (2,)},
        "add-service": {"iptables": (2,), "mesh": (2,)},
        "add-rule-command": {"mesh": (2,)},
    },
    rounds=1,
)


def test_directory_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(UsageError, match="not empty"):
        run(SCENARIO, tmp_path, seed=5, progress=lambda *_: None)


def test_scenario_from_end_to_end(tmp_path: Path) -> None:
    directory = tmp_path / "results"
    seen: list[tuple[int, int]] = []
    results = run(
        SCENARIO, directory, seed=5, progress=lambda done, total, _text: seen.append((done, total))
    )
    assert results == Results.load(directory)
    assert not analyse.failures(results)
    assert len(analyse.figures(results)) == SCENARIO.total == 24
    assert all(figure.median > 0 for figure in analyse.figures(results))
    assert all((directory / m.raw).read_text() for m in results.measurements)
    assert seen[-1] == (SCENARIO.total, SCENARIO.total)
    assert set(results.connections) == {"iptables", "mesh"}
    assert report.write(results, directory).is_file()
