# SPDX-License-Identifier: BSD-2-Clause
"""A mesh from its file, by commands: up, plan, up again, up with changes, show, down."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ebpfmesh.compile import compiled
from ebpfmesh.kernel import bpf, cgroup, netns
from ebpfmesh.kernel.pins import Pins
from support.command import COMMAND, ROOT, data, ebpfmesh, lines
from support.meshes import TENANTS
from support.processes import SANDBOXED, command_line
from support.topology import leftovers, poll, wait_until

CHANGED = (
    TENANTS.replace('tenant = "one"', 'tenant = "three"').replace("replicas = 2", "replicas = 3")
    + '[[policy]]\nfrom = "tenant:three"\nto = "outside"\naction = "deny"\n'
)
NOUNS = [
    "functions",
    "services",
    "policies",
    "flows",
    "programs",
    "maps",
    "meters",
    "rooms",
    "drops",
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "edge.toml"
    file.write_text(TENANTS)
    return file


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A file of the same mesh, whose ``up`` has not ended before it is killed: it waits."""
    file = tmp_path / "endless.toml"
    file.write_text(TENANTS.replace("/etc/hosts", "/nowhere"))
    return file


@pytest.fixture
def up(file: Path) -> Iterator[Path]:
    ebpfmesh("up", file)
    yield file
    ebpfmesh("down")


def fingerprint() -> dict[str, Any]:
    """What would be another if anything was made again, or changed."""
    found: dict[str, Any] = {name: index for index, name in map(tuple, links())}
    for path in (*Pins("edge").progs.iterdir(), *Pins("edge").maps.iterdir()):
        with bpf.obj_get(path) as fd:
            info = bpf.prog_info(fd) if path.parent.name == "progs" else bpf.map_info(fd)
            found[path.name] = info.id
    for path in netns.RUN.iterdir():
        found[f"namespace {path.name}"] = path.stat().st_ino
    for group in cgroup.groups(netns.current()):
        found[f"cgroup {group.function}"] = sorted(group.processes())
    return found | {"epoch": data("show", "mesh")["epoch"]}


def links() -> Iterator[tuple[int, str]]:
    for link in Path("/sys/class/net").glob("em*"):
        yield int((link / "ifindex").read_text()), link.name


def settled() -> None:
    """Commands are started, and no process is about to become another."""

    def sleeps(name: str) -> bool:
        groups = [g for g in cgroup.groups(netns.current()) if g.function == name]
        pids = [pid for group in groups for pid in group.processes()]
        words = [command_line(pid).partition(b"\0")[0] for pid in pids]
        return len(words) == SANDBOXED and any(word.endswith(b"sleep") for word in words)

    for name in ("server-0", "server-1"):
        wait_until(lambda name=name: sleeps(name), what=f"{name} runs")


def test_up_twice(file: Path) -> None:
    """The second time there is nothing to do, and nothing is done."""
    before = leftovers()
    try:
        assert lines("up", file)[0] == "+ mesh edge"
        settled()
        made = fingerprint()
        assert lines("up", file) == ["nothing to do"]
        assert data("up", file) == {"mesh": "edge", "operations": [], "warnings": []}
        assert fingerprint() == made
    finally:
        assert lines("down") == ["- mesh edge"]
    assert poll(lambda: leftovers() == before), leftovers() ^ before


def test_plan_is_what_up_does_and_does_nothing(file: Path) -> None:
    before = leftovers()
    planned = lines("plan", file)
    assert planned[0] == "+ mesh edge"
    assert [line.split()[:3] for line in planned[1:4]] == [
        ["+", "function", name] for name in ("client", "server-0", "server-1")
    ]
    assert poll(lambda: leftovers() == before), leftovers() ^ before
    try:
        assert lines("up", file) == planned
        file.write_text(CHANGED)
        settled()
        made = fingerprint()
        changes = lines("plan", file)
        assert fingerprint() == made
        assert lines("up", file) == changes
    finally:
        ebpfmesh("down")


def test_a_changed_file_changes_the_difference_alone(up: Path) -> None:
    settled()
    before = fingerprint()
    up.write_text(CHANGED)
    done = lines("up", up)
    assert sorted(line[:22] for line in done) == [
        "+ function server-2  t",
        "+ policy tenant:three ",
        "~ function client  ten",
        "~ service web  198.19.",
    ]
    after = fingerprint()
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {"epoch"}
    assert {key for key in after if key not in before and key.startswith("namespace")} == {
        "namespace ebpfmesh.edge.server-2"
    }
    up.write_text(TENANTS)
    assert len(lines("up", up)) == 4
    again = fingerprint()
    assert {key for key in before if before[key] != again[key]} == {"epoch"}


def test_a_comment_changes_nothing(up: Path) -> None:
    up.write_text("# a comment\n" + TENANTS.replace("80", "0x50", 1))
    assert lines("up", up) == ["nothing to do"]


def test_down_twice(file: Path) -> None:
    before = leftovers()
    ebpfmesh("up", file)
    assert lines("down", "--mesh", "edge") == ["- mesh edge"]
    assert poll(lambda: leftovers() == before), leftovers() ^ before
    again = ebpfmesh("down", "--mesh", "edge")
    assert (again.stdout, again.stderr) == ("", "there is no mesh edge\n")
    assert data("--mesh", "edge", "down") == {"mesh": "edge", "removed": False, "notes": []}
    assert ebpfmesh("down").stderr == "no mesh is up\n"
    assert not [line for line in lines("gc") if "edge" in line]


def test_show_functions_says_how_it_stands(up: Path) -> None:
    del up
    settled()
    rows = {row["name"]: row for row in data("show", "functions")["functions"]}
    assert [row["state"] for row in rows.values()] == ["up"] * 3
    assert rows["server-0"]["command_state"] == "running"
    assert rows["server-0"]["memory_limit"] == 64 << 20
    (pid,) = rows["server-0"]["processes"]
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: command_state() == ("exited", 143), what="the command is seen to end")
    assert "sleep exited 143" in ebpfmesh("show", "functions").stdout
    netns.remove("ebpfmesh.edge.client")
    assert poll(lambda: "gone" in ebpfmesh("show", "functions").stdout)
    assert any("client" in line for line in lines("gc"))


def command_state() -> tuple[str, int]:
    rows = {row["name"]: row for row in data("show", "functions")["functions"]}
    return rows["server-0"]["command_state"], rows["server-0"]["exit_status"]


# ---- killed and interrupted


def started(file: Path, until: str) -> subprocess.Popen[str]:
    """An ``up`` that has told the step ``until``."""
    up = subprocess.Popen(
        [*COMMAND, "-v", "up", str(file)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
        text=True, cwd=ROOT,
    )  # fmt: skip
    assert up.stderr
    for line in up.stderr:
        if until in line:
            return up
    pytest.fail(f"no step {until}")


@pytest.mark.parametrize("step", ["programs", "function server-0: interface", "start server-0"])
@pytest.mark.parametrize("way", ["gc", "down", "up"])
def test_killed(
    file: Path, endless: Path, step: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(compiled.VARIABLE, "")
    before = leftovers()
    up = started(endless, step)
    with up:
        up.kill()
    assert up.returncode == -signal.SIGKILL
    if way == "gc":
        ebpfmesh("gc")
    if way == "up":
        ebpfmesh("up", file)
        assert lines("up", file) == ["nothing to do"]
    ebpfmesh("down")
    assert poll(lambda: leftovers() == before), leftovers() - before


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_interrupted(endless: Path, number: int, code: int) -> None:
    """The machine is as it was found."""
    before = leftovers()
    up = started(endless, "function server-0: interface")
    with up:
        up.send_signal(number)
        said = up.stderr.read() if up.stderr else ""
    assert up.returncode == code, said
    assert "Traceback" not in said
    assert poll(lambda: leftovers() == before), leftovers() - before


def test_interrupted_while_it_compiles(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C reaches the compiler too, as a terminal sends it to the whole group."""
    monkeypatch.setenv(compiled.VARIABLE, "")
    before = leftovers()
    up = subprocess.Popen(
        [*COMMAND, "-v", "up", str(file)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
        text=True, cwd=ROOT, start_new_session=True,
    )  # fmt: skip
    with up:
        assert up.stderr
        for line in up.stderr:
            if "programs" in line:
                break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(up.pid, signal.SIGINT)
        said = up.stderr.read()
    assert up.returncode == 130
    assert said.endswith("\nerror: interrupted\n")
    assert "Traceback" not in said
    assert poll(lambda: leftovers() == before), leftovers() - before
