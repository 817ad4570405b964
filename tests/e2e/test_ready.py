# SPDX-License-Identifier: BSD-2-Clause
"""``up`` waits for functions, and tells of those that do not get ready."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.command import complaint, data, ebpfmesh, lines

MESH = """
[mesh]
name = "late"
{settings}
[[function]]
name = "web"
command = ["sh", "-c", "echo no such licence; exit 3"]
[[function]]
name = "other"
command = ["python3", "-m", "http.server", "8080"]
[[service]]
name = "portal"
address = "198.19.0.1"
port = 80
target_port = 8080
functions = ["web", "other"]
"""
DIED = 'function "web": its command exited 3 before it was ready; it said: no such licence'


@pytest.fixture(autouse=True)
def _down() -> Iterator[None]:
    yield
    ebpfmesh("down", "--mesh", "late")


def mesh_file(place: Path, settings: str = "") -> Path:
    file = place / "late.toml"
    file.write_text(MESH.format(settings=settings))
    return file


def test_what_dies_is_told_with_its_line_and_undone(tmp_path: Path) -> None:
    file = mesh_file(tmp_path)
    error, hint = complaint("up", file, code=1)
    assert error == f"{file}:7: {DIED}"
    assert "on_failure" in hint
    complaint("show", "functions", code=3)


def test_what_is_kept_is_told_too(tmp_path: Path) -> None:
    done = ebpfmesh("up", mesh_file(tmp_path, 'on_failure = "keep"'), code=1)
    assert "+ function web" in done.stdout
    assert DIED in done.stderr
    assert "hint: what was done stays: ebpfmesh start tries again" in done.stderr
    rows = {row["name"]: row for row in data("show", "functions")["functions"]}
    assert (rows["web"]["ready"], rows["web"]["exit_status"]) == (False, 3)
    assert rows["web"]["unready"] == DIED
    assert (rows["other"]["ready"], rows["other"]["unready"]) == (True, "")
    (service,) = data("show", "services")["services"]
    assert [(one["function"], one["ready"]) for one in service["backends"]] == [
        ("web", False), ("other", True),
    ]  # fmt: skip
    assert any("exited 3" in line for line in lines("show", "services"))
    assert "function web: its command exited 3" in ebpfmesh("doctor", code=1).stdout
    file = mesh_file(tmp_path, 'on_failure = "keep"')
    file.write_text(file.read_text().replace("exit 3", "exec python3 -m http.server 8080"))
    ebpfmesh("detach", "web")
    assert "+ function web" in ebpfmesh("up", file).stdout
    assert all(row["ready"] for row in data("show", "functions")["functions"])


def test_progress_deadline_and_no_wait(tmp_path: Path) -> None:
    file = mesh_file(tmp_path)
    server = '"python3", "-m", "http.server", "8080"'
    text = file.read_text().replace("echo no such licence; exit 3", "exec sleep 1000")
    file.write_text(text.replace(server, '"sleep", "1000"'))
    done = ebpfmesh("-v", "up", file, "--wait", 1, code=1)
    assert "… waiting for web, other: port 8080" in done.stderr
    for name in ("web", "other"):
        assert f'function "{name}": not ready after 1 s: port 8080' in done.stderr
    assert ebpfmesh("up", file, "--no-wait").stdout
    assert lines("plan", file) == ["nothing to do"]
