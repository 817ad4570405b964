# SPDX-License-Identifier: BSD-2-Clause
"""Scenarios: what comes along, what a user may write, and the order of a round."""

import random
from itertools import groupby
from pathlib import Path

import pytest

from ebpfmesh import config
from ebpfmesh._abi import RoomKind
from ebpfmesh.bench import scenario, workload
from ebpfmesh.bench.kinds import AXES, KINDS, MANY_FLOWS
from ebpfmesh.bench.paths import PATHS
from ebpfmesh.bench.paths.other_build import mesh_file
from ebpfmesh.bench.run import round_steps
from ebpfmesh.bench.scenario import Step
from ebpfmesh.bench.stats.intervals import LEAST_ROUNDS
from ebpfmesh.bench.workload import Scale
from ebpfmesh.errors import ConfigError, UsageError
from ebpfmesh.kernel import rooms

TEXT = """title = "Mine"
rounds = 4

[[measure]]
kinds = ["pps", "rr"]
seconds = 0.5
paths = ["routed", "iptables", "mesh"]
services = [1, 100]

[[measure]]
kinds = ["stream"]
seconds = 1
paths = ["mesh"]
flows = [1, 8]
"""


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("name", scenario.names())
def test_what_comes_along_is_whole(name: str) -> None:
    found = scenario.find(name)
    assert found.title
    assert found.name == name
    for each in (found, found.quick()):
        assert len(set(each.steps)) == len(each.steps) > 0
        assert all(each.seconds_of(step) > 0 for step in each.steps)
        assert {step.path for step in each.steps} == set(found.paths)
    assert found.quick().seconds < found.seconds


def test_a_path_without_services_is_measured_once(tmp_path: Path) -> None:
    found = scenario.load(written(tmp_path, TEXT))
    steps = [step for step in found.steps if step.kind == "pps"]
    assert steps == [
        Step("pps", "routed", "services", 0),
        Step("pps", "iptables", "services", 1),
        Step("pps", "iptables", "services", 100),
        Step("pps", "mesh", "services", 1),
        Step("pps", "mesh", "services", 100),
    ]
    assert [step.scale.services for step in steps] == [1, 1, 100, 1, 100]
    assert {step.scale for step in found.steps if step.kind == "stream"} == {Scale()}
    assert found.seconds == 4 * (10 * 0.5 + 2 * 1)


def test_quick_keeps_the_ends(tmp_path: Path) -> None:
    quick = scenario.load(written(tmp_path, TEXT.replace("[1, 100]", "[1, 10, 100]"))).quick()
    assert quick.measure[0].services == (1, 100)
    assert (quick.rounds, quick.measure[0].seconds) == (3, 0.25)


def test_only_some_paths(tmp_path: Path) -> None:
    found = scenario.load(written(tmp_path, TEXT))
    some = found.over(["iptables"])
    assert {step.path for step in some.steps} == {"iptables"}
    assert len(some.measure) == 1
    with pytest.raises(UsageError, match="no path redirect_peer"):
        found.over(["redirect_peer"])


def test_another_build_is_measured_where_the_mesh_carries_packets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = Path(__file__).parents[2]
    other = f"mesh@{checkout.name}"
    monkeypatch.setitem(PATHS, other, PATHS["mesh"])  # taken out after the test
    more = '[[measure]]\nkinds = ["pps-events", "add-rule"]\nseconds = 1\npaths = ["mesh"]\n'
    found = scenario.load(written(tmp_path, TEXT + more)).beside(checkout)
    assert PATHS[other].name == other
    of_mesh = [step for step in found.steps if step.path == "mesh"]
    of_other = [step._replace(path="mesh") for step in found.steps if step.path == other]
    assert of_other == [s for s in of_mesh if s.kind not in ("pps-events", "add-rule")]
    assert found.seconds_of(Step("stream", other, "flows", 8)) == 1
    with pytest.raises(UsageError, match="no packets over mesh"):
        scenario.load(written(tmp_path, TEXT)).over(["iptables"]).beside(checkout)


def test_a_mesh_file_for_another_build_means_the_same_mesh(tmp_path: Path) -> None:
    mesh = workload.fill(workload.load(), Scale(services=3, rules=2, functions=6))
    file = tmp_path / "mesh.toml"
    file.write_text("".join(mesh_file(mesh)))
    assert config.load(file) == mesh


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ('title = "Mine"\n', "", 1, '"title" is missing'),
        ("rounds = 4", "rounds = 0", 2, '"rounds" cannot be 0'),
        ("rounds = 4", "rounds = 4\nturns = 1", 3, 'unknown key "turns"'),
        ('"pps", "rr"', '"pps", "rtt"', 5, "there is no rtt"),
        ('"pps", "rr"', '"pps", "rr-p99"', 5, "there is no rr-p99"),
        ('"iptables", "mesh"', '"iptables", "mush"', 7, "there is no mush"),
        ("[1, 100]", "[1, 10001]", 8, "services cannot be 10001"),
        ("services = [1, 100]", "functions = [3, 10]", 8, "functions cannot be 3"),
        ("[1, 100]", "[1, 100]\nrules = [1]", 9, "services and rules cannot both be varied"),
        ("seconds = 0.5", "seconds = 61", 6, '"seconds" cannot be 61'),
        ("[1, 8]", '["1"]', 14, "must be an integer"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, line: int, message: str
) -> None:
    assert old in TEXT
    file = written(tmp_path, TEXT.replace(old, new, 1))
    with pytest.raises(ConfigError, match=message) as caught:
        scenario.load(file)
    assert (caught.value.file, caught.value.line) == (file, line)
    assert caught.value.hint


def test_a_path_must_carry_what_is_asked_of_it(tmp_path: Path) -> None:
    file = written(tmp_path, TEXT.replace('"routed"', '"loopback"'))
    with pytest.raises(ConfigError, match="loopback cannot carry pps"):
        scenario.load(file)


def test_names_that_do_not_exist() -> None:
    with pytest.raises(UsageError, match="no scenario") as caught:
        scenario.find("qick")
    assert caught.value.hint == 'did you mean "quick"?'
    with pytest.raises(ConfigError, match="cannot read"):
        scenario.find("/nowhere/mine.toml")


def test_rounds_have_everything_once_in_an_order_of_their_own() -> None:
    steps = scenario.find("quick").steps
    rounds = [list(round_steps(steps, random.Random(seed))) for seed in (1, 1, 2)]
    assert rounds[0] == rounds[1] != rounds[2]
    for found in rounds:
        assert sorted(found) == sorted(steps)
        families = [key for key, _ in groupby(found, key=lambda step: step.kind.split("-")[0])]
        assert len(families) == len(set(families)), "what is compared does not stand together"


def test_every_kind_and_axis_can_be_spoken_of() -> None:
    for kind in KINDS.values():
        assert kind.title
        assert kind.unit
        assert bool(kind.take) == bool(kind.source)
    for axis in AXES.values():
        assert axis.title
        assert axis.least < axis.most


def test_whole_scenarios_have_enough_rounds_to_conclude_something() -> None:
    assert all(scenario.find(name).rounds >= LEAST_ROUNDS for name in scenario.names())


@pytest.mark.parametrize("flows", [0, 100_000, 1_000_000])
def test_the_client_has_room_for_all_its_flows(flows: int) -> None:
    """Whatever other tenants there are: else each packet would be the first of its flow."""
    mesh = workload.fill(workload.load(flows=flows), Scale(functions=6))
    numbers = {tenant: number for number, tenant in enumerate(mesh.tenants, 1)}
    tenant = numbers[mesh.function(workload.CLIENT).tenant]
    room = rooms.draw(mesh.limits, numbers.values())[RoomKind.FLOW, tenant]
    assert room.own.count + room.common.count >= max(flows, MANY_FLOWS)
