# SPDX-License-Identifier: BSD-2-Clause
"""Another command of functions, as a user is told of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.command import data, ebpfmesh, lines

MESH = """
[mesh]
name = "rolled"
[[function]]
name = "web"
replicas = 2
command = ["sleep", "1000"]
[[function]]
name = "single"
command = ["sleep", "1000"]
ready = {command = ["true"]}
[[service]]
name = "portal"
address = "198.19.0.1"
port = 80
functions = ["single"]
"""


@pytest.fixture(autouse=True)
def _down() -> Iterator[None]:
    yield
    ebpfmesh("down", "--mesh", "rolled")


def test_what_is_planned_done_and_restarted_is_told(tmp_path: Path) -> None:
    file = tmp_path / "rolled.toml"
    file.write_text(MESH)
    ebpfmesh("up", file)
    file.write_text(MESH.replace("1000", "2000").replace("replicas", 'env = {A = "b"}\nreplicas'))
    change, alone = "command sleep 1000 → sleep 2000", "(alone behind portal, which waits for it)"
    told = [f"~ function web-{n}  {change}  env changed" for n in range(2)]
    told.append(f"~ function single  {change}  {alone}")
    assert sorted(lines("plan", file)) == sorted(told)
    (one,) = (row for row in data("plan", file)["operations"] if row["name"] == "single")
    assert (one["kind"], one["action"]) == ("roll-function", "change")
    words = {"before": ["sleep", "1000"], "after": ["sleep", "2000"]}
    assert one["fields"] == {"command": words}
    done = ebpfmesh("-v", "up", file)
    assert sorted(done.stdout.splitlines()) == sorted(told)
    assert "… web-1: draining" in done.stderr
    assert lines("plan", file) == ["nothing to do"]
    assert lines("restart", "web") == [f"~ function web-{n}  restarted" for n in range(2)]
