# SPDX-License-Identifier: BSD-2-Clause
"""A small scenario from end to end: every tool, a results directory and its report."""

from pathlib import Path

import pytest

from ebpfmesh.bench import scenario
from ebpfmesh.bench.kinds import KINDS
from ebpfmesh.bench.paths import PATHS
from ebpfmesh.bench.paths.bare import Routed
from ebpfmesh.bench.report import run_page
from ebpfmesh.bench.results import Results
from ebpfmesh.bench.run import run, total
from ebpfmesh.bench.scenario import Step
from ebpfmesh.bench.stats import analyse
from ebpfmesh.errors import UsageError

TEXT = """
title = "Everything once"
rounds = 1

[[measure]]
kinds = ["pps", "pps-answered", "connect"]
seconds = 0.3
paths = ["routed", "iptables", "mesh"]
services = [2]

[[measure]]
kinds = ["stream", "rr", "http", "http-short"]
seconds = 1
paths = ["routed", "iptables", "mesh"]
services = [2]

[[measure]]
kinds = ["pps-ipv6", "pps-events", "pps-capture", "pps-spoofed", "pps-denied", "add-rule-command"]
seconds = 0.01
paths = ["mesh"]
services = [2]

[[measure]]
kinds = ["add-service"]
seconds = 0.01
paths = ["iptables", "mesh"]
rules = [2]

[[measure]]
kinds = ["pps", "attach-one"]
seconds = 0.01
paths = ["routed", "mesh"]
functions = [9]

[[measure]]
kinds = ["update-rule"]
seconds = 0.2
paths = ["nftables", "mesh"]
services = [3]

[[measure]]
kinds = ["stream"]
seconds = 1
paths = ["mesh"]
flows = [2]
"""


CAME_ALONG = {
    "pps": ("pps-cpu",),
    "pps-answered": ("pps-answered-cpu",),
    "rr": ("rr-p99", "rr-p999"),
    "update-rule": ("update-lost", "update-reordered", "update-gap", "update-gap-without"),
}


@pytest.fixture
def small(tmp_path: Path) -> scenario.Scenario:
    file = tmp_path / "small.toml"
    file.write_text(TEXT)
    return scenario.load(file)


def test_directory_with_something_in_it_is_refused(
    tmp_path: Path, small: scenario.Scenario
) -> None:
    with pytest.raises(UsageError, match="not empty"):
        run(small, tmp_path, seed=5, progress=lambda *_: None)


def test_scenario_from_end_to_end(tmp_path: Path, small: scenario.Scenario) -> None:
    directory = tmp_path / "results"
    seen: list[tuple[int, int]] = []
    results = run(
        small, directory, seed=5, progress=lambda done, total, _text: seen.append((done, total))
    )
    assert results == Results.load(directory)
    assert not analyse.failures(results)
    figures = analyse.figures(results)
    found = {Step(f.kind, f.path, f.axis, f.at): f.median for f in figures}
    assert found.keys() >= set(small.steps)
    assert all(found[step] > 0 for step in small.steps)
    for kind, path, axis, at in small.steps:
        for more in CAME_ALONG.get(kind, ()):
            assert found[Step(more, path, axis, at)] >= 0
    assert {found[step] for step in found if step.kind == "update-lost"} == {0}
    assert all((directory / m.raw).read_text() for m in results.measurements)
    assert {f.at for f in figures if f.path == "routed" and f.axis == "services"} == {0}
    assert seen[-1] == (total(small), total(small))
    assert set(results.connections) == {"iptables", "mesh", "nftables"}
    for tried in results.connections.values():
        assert tried["radio"] == "open"
        assert tried["guest"] != "open"
    assert run_page.write(results, directory).is_file()


def test_traffic_that_went_another_way_does_not_count(
    tmp_path: Path, small: scenario.Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that saw no packet has no figure, however much arrived."""
    monkeypatch.setattr(Routed, "packets", lambda _self: 7)
    only = small.model_copy(update={"measure": small.measure[:1]}).over(["routed"])
    results = run(only, tmp_path / "results", seed=1, progress=lambda *_: None)
    assert not [figure for figure in analyse.figures(results) if KINDS[figure.kind].source]
    errors = [m.error for m in analyse.failures(results)]
    assert len(errors) == len(only.steps) == 3
    assert all(error.startswith("routed carried 0 packets of at least") for error in errors)


def test_what_this_machine_lacks_is_told(
    tmp_path: Path, small: scenario.Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PATHS["iptables"], "missing", classmethod(lambda _cls: "no such thing"))
    only = small.model_copy(update={"measure": small.measure[:1]}).over(["iptables", "routed"])
    results = run(only, tmp_path / "results", seed=1, progress=lambda *_: None)
    assert results.missing == {"iptables": "no such thing"}
    assert {figure.path for figure in analyse.figures(results)} == {"routed"}
    assert {figure.kind for figure in analyse.figures(results)} >= {"pps", "connect"}


def test_a_measurement_is_over_a_path_of_its_scale(small: scenario.Scenario) -> None:
    scales = {step.scale for step in small.steps}
    assert {(scale.services, scale.rules, scale.functions) for scale in scales} == {
        (1, 0, 0), (2, 0, 0), (3, 0, 0), (1, 2, 0), (1, 0, 9),
    }  # fmt: skip
