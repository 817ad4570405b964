# SPDX-License-Identifier: BSD-2-Clause
"""What show shows of a mesh: tables for people, and the same as JSON."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.command import data, ebpfmesh
from support.meshes import TENANTS
from support.topology import wait_until

NOUNS = ["functions", "services", "policies", "flows", "programs", "maps", "meters", "drops"]


def runs() -> bool:
    rows = data("show", "functions")["functions"]
    return [row["command_state"] for row in rows] == ["", "running", "running"]


@pytest.fixture(scope="module", autouse=True)
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    file = tmp_path_factory.mktemp("edge") / "edge.toml"
    file.write_text(TENANTS)
    ebpfmesh("up", file)
    wait_until(runs, what="the commands run")
    yield file
    ebpfmesh("down")


@pytest.mark.parametrize("noun", NOUNS)
def test_show_is_a_table_and_json(noun: str) -> None:
    ebpfmesh("exec", "client", "--", "ping", "-c", 1, "-W", 0.1, "server-0", code=1)
    found = data("show", noun)
    assert set(found) == {"mesh", noun}
    assert found["mesh"] == "edge"
    assert isinstance(found[noun], list)
    table = ebpfmesh("show", noun).stdout.splitlines()
    assert len(table) == len(found[noun]) + bool(found[noun])


def test_show_mesh(edge: Path) -> None:
    found = data("show", "mesh")
    assert (found["mesh"], found["functions"], found["services"]) == ("edge", 3, 1)
    text = ebpfmesh("show", "mesh").stdout
    assert "edge" in text
    assert str(edge) not in text


def test_show_drops_after_a_blocked_packet() -> None:
    address = data("show", "functions")["functions"][0]["addresses"][0]
    ping = ["ping", "-c", 1, "-W", 0.1, address]
    for count in (1, 2):
        ebpfmesh("exec", "server-0", "--", *ping, code=1)
        rows = data("show", "drops")["drops"]
        found = {(row["function"], row["reason"]): row["packets"] for row in rows}
        assert found["server-0", "POLICY"] == count
    lines = [line.split() for line in ebpfmesh("show", "drops").stdout.splitlines()]
    (line,) = (line for line in lines if line[0] == "server-0" and "POLICY" in line)
    assert "the policy forbids it" in " ".join(line)


def test_a_terminal_has_nothing_to_obey(tmp_path: Path) -> None:
    """A name that would set the colour and the title of the window."""
    program = tmp_path / "\x1b[31m\x1b]0;mine\x07"
    program.symlink_to("/bin/sleep")
    command = json.dumps([str(program), "1000"])
    file = tmp_path / "noisy.toml"
    file.write_text(f'[mesh]\nname = "noisy"\n[[function]]\nname = "f"\ncommand = {command}\n')
    ebpfmesh("up", file)
    try:
        done = ebpfmesh("--mesh", "noisy", "show", "functions")
    finally:
        ebpfmesh("--mesh", "noisy", "down")
    assert "\\x1b[31m\\x1b]0;mine\\x07" in done.stdout
    assert all(line.isprintable() for line in done.stdout.splitlines())
