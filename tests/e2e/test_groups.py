# SPDX-License-Identifier: BSD-2-Clause
"""Replicas by their common name on the command line, and what a file is warned of."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.command import complaint, data, ebpfmesh, lines

MESH = """
[mesh]
name = "edge"
[[function]]
name = "client"
[[function]]
name = "web"
tenant = "vendor"
replicas = 2
[[service]]
name = "www"
address = "198.19.0.1"
port = 80
functions = ["web"]
[[policy]]
from = "function:client"
to = "function:web"
"""
IDLE = """
[[policy]]
from = "outside"
to = "service:www"
[[policy]]
from = "any"
to = "service:www"
protocol = "tcp"
port = 8080
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "edge.toml"
    file.write_text(MESH)
    return file


@pytest.fixture
def up(file: Path) -> Iterator[Path]:
    ebpfmesh("up", file)
    yield file
    ebpfmesh("down")


@pytest.mark.usefixtures("up")
def test_a_group_where_many_make_sense() -> None:
    (rule,) = (row for row in data("show", "policies")["policies"] if row["id"])
    assert (rule["source"], rule["destination"]) == ("function:client", "group:web")
    assert lines("service", "set", "www", "--weight", "web=2", "--weight", "web-1=0")
    assert lines("service", "set", "www", "--weight", "web-0=2") == ["nothing to do"]
    ebpfmesh("service", "add", "own", "--address", "198.19.0.2", "--port", "80",
             "--function", "web")  # fmt: skip
    shown = {row["name"]: row["backends"] for row in data("show", "services")["services"]}
    weights = {row["function"]: row["weight"] for row in shown["www"]}
    assert weights == {"web-0": 2, "web-1": 0}
    assert {row["function"]: row["weight"] for row in shown["own"]} == {"web-0": 1, "web-1": 1}
    ebpfmesh("policy", "add", "function:web", "function:client", "--protocol", "udp")
    assert data("policy", "test", "web", "client", "--protocol", "udp", "--port", "5")["rule"] == 2
    ebpfmesh("policy", "del", "function:web", "function:client", "--protocol", "udp")
    told = ebpfmesh("events", "--function", "web", "--seconds", "0.1").stdout.splitlines()
    assert [line for line in told if "MULTICAST" not in line] == []  # which stacks say themselves
    assert data("show", "flows", "--function", "web")["flows"] == []
    gone = data("detach", "web")["functions"]
    assert gone == ["web-0", "web-1"]
    assert [row["name"] for row in data("show", "functions")["functions"]] == ["client"]


@pytest.mark.usefixtures("up")
def test_a_group_where_one_makes_sense() -> None:
    assert complaint("exec", "web", "--", "true", code=2) == (
        "web is a group of functions",
        "name one: web-0, web-1",
    )


def test_rules_that_can_never_match_are_warned_of(up: Path) -> None:
    whom = "the outside does not reach the service, which is published nowhere"
    reasons = [
        f"policy outside → service:www allow can never match: {whom}",
        "policy any → service:www tcp/8080 allow can never match: service www has port 80",
    ]
    up.write_text(MESH + IDLE)
    for command in ("plan", "up"):
        done = ebpfmesh(command, up)
        assert done.stderr.splitlines() == [f"warning: {reason}" for reason in reasons]
    assert data("plan", up) == {"mesh": "edge", "operations": [], "warnings": reasons}
    up.write_text(MESH)
    assert ebpfmesh("up", up).stderr == ""
    added = ebpfmesh("policy", "add", "any", "service:www", "--protocol", "udp")
    assert added.stderr == (
        "warning: policy any → service:www udp allow can never match: service www speaks tcp\n"
    )
    assert ebpfmesh("-q", "policy", "add", "outside", "outside").stderr == ""


@pytest.mark.usefixtures("up")
def test_a_limit_that_nothing_has_is_warned_of(file: Path) -> None:
    """It may be there, and may be left out of a mesh that is up, since it makes no difference."""
    warning = "limits.sockets has no effect any more: leave it out"
    for number in (8192, 64):
        file.write_text(MESH.replace("[mesh]", f"[mesh]\nlimits = {{sockets = {number}}}"))
        assert data("plan", file) == {"mesh": "edge", "operations": [], "warnings": [warning]}
        assert ebpfmesh("up", file).stderr.splitlines()[0] == f"warning: {warning}"
    file.write_text(MESH)
    assert ebpfmesh("up", file).stderr == ""


def test_all_that_is_wrong_with_a_file_is_told_and_nothing_changed(file: Path) -> None:
    file.write_text(MESH.replace("port = 80", "prt = 80") + '[[policy]]\nfrom = "x"\nto = "any"\n')
    done = ebpfmesh("up", file, code=2)
    said = [line.split(": ", 2) for line in done.stderr.splitlines() if line.startswith("error")]
    assert [(where.rpartition(":")[2], what) for _, where, what in said] == [
        ("13", 'service "www": unknown key "prt"'),
        ("19", 'policy number 2: "x" is no kind of identity'),
        ("10", 'service "www": "port" is missing'),
    ]
    assert complaint("show", "mesh", code=3)[0] == "no mesh is up"
    told = json.loads(ebpfmesh("--json", "up", file, code=2).stdout)
    assert told["schema"] == 1
