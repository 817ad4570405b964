# SPDX-License-Identifier: BSD-2-Clause
"""What a mesh shall be: files, directories and standard input; and what it is, as a file."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpfmesh.kernel import netns
from support.command import ROOT, complaint, data, ebpfmesh, lines
from support.meshes import TENANTS

INJECT = """
[[inject]]
name = "greeter"
file = "greeter.c"
at = "client/egress"
parameters = {limit = 7}
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A directory with a mesh in two files, and a C file."""
    (tmp_path / "mesh").mkdir()
    (tmp_path / "mesh/10-mesh.toml").write_text(TENANTS)
    (tmp_path / "mesh/20-inject.toml").write_text(INJECT)
    template = (ROOT / "bpf/functions/template.c").read_text()
    (tmp_path / "mesh/greeter.c").write_text(template)
    yield tmp_path
    ebpfmesh("down", "--mesh", "edge")


def test_an_export_finds_nothing_to_do_and_makes_the_same_mesh(home: Path) -> None:
    """Printed, as a file, and as a directory with what is injected beside."""
    ebpfmesh("up", home / "mesh")
    text = ebpfmesh("export").stdout
    assert (home / "mesh/greeter.c").read_text() in text
    assert data("export")["text"] == text
    assert lines("export", "-o", home / "edge.toml") == [f"+ file {home}/edge.toml"]
    assert (home / "edge.toml").read_text() == text
    (home / "out").mkdir()
    written = [f"{home}/out/greeter.c", f"{home}/out/edge.toml"]
    assert data("export", "-o", home / "out") == {"mesh": "edge", "files": written}
    for file in (home / "edge.toml", home / "out/edge.toml", home / "mesh"):
        assert lines("plan", file) == ["nothing to do"]
    assert ebpfmesh("plan", "-", stdin=text).stdout == "nothing to do\n"
    functions = lines("show", "functions", "--json")
    ebpfmesh("down")
    ebpfmesh("up", "-", stdin=text)
    assert ebpfmesh("export").stdout == text
    names = [row["name"] for row in json.loads("".join(functions))["functions"]]
    assert [row["name"] for row in data("show", "functions")["functions"]] == names


def test_what_commands_changed_is_exported(home: Path) -> None:
    """A service, a rule, a function in a namespace of others; one detached is in a comment."""
    ebpfmesh("up", home / "mesh")
    netns.create("mine")
    try:
        ebpfmesh("attach", "cache", "--netns", "mine", "--tenant", "one", "--audit")
        ebpfmesh("service", "add", "empty", "--address", "198.19.0.9", "--port", "6379")
        ebpfmesh("policy", "add", "cache", "empty", "--action", "reject")
        ebpfmesh("detach", "server-0")
        text = ebpfmesh("export").stdout
        assert "# server-0 was detached: `up` brings it back." in text
        changes = ebpfmesh("plan", "-", stdin=text).stdout.splitlines()
        assert all("server" in line or "service web" in line for line in changes)
        assert [line[0] for line in changes if "function" in line] == ["+"]
        ebpfmesh("up", "-", stdin=text)
        assert ebpfmesh("plan", "-", stdin=ebpfmesh("export").stdout).stdout == "nothing to do\n"
    finally:
        ebpfmesh("down")
        netns.remove("mine")


def test_export_says_what_it_cannot(home: Path) -> None:
    assert complaint("export", "--mesh", "edge", code=3)[0] == "there is no mesh edge"
    ebpfmesh("up", home / "mesh/10-mesh.toml")
    error, _ = complaint("export", "-o", home / "none/edge.toml", code=2)
    assert error == f"{home}/none/edge.toml: there is no directory {home}/none"


def test_what_is_wrong_is_told_by_where_it_was_read(home: Path) -> None:
    """Nothing is changed."""
    done = ebpfmesh("up", "-", stdin="[mesh]\nname = 'a_b'\n", code=2)
    assert done.stderr.splitlines()[0] == 'error: <stdin>:2: [mesh]: "name" cannot be "a_b"'
    done = ebpfmesh("up", "-", stdin="#" * (4 << 20) + "\n", code=2)
    assert "<stdin>: it is larger than 4 MiB" in done.stderr
    text = TENANTS.replace('["sleep", "1000"]', '["no-such-program"]')
    done = ebpfmesh("plan", "-", stdin=text, code=1)
    assert 'error: <stdin>:11: function "server-0": there is no program' in done.stderr
    (home / "mesh/30.toml").write_text("\n[[function]]\nname = 'client'\n")
    error, _ = complaint("up", home / "mesh", code=2)
    first = f"{home}/mesh/10-mesh.toml:5"
    assert error == (
        f'{home}/mesh/30.toml:3: there are two functions called "client", the other at {first}'
    )
    (home / "mesh/30.toml").write_text("[[function]]\nname = 'x'\ncommand = ['no-such-program']\n")
    error, _ = complaint("up", home / "mesh", code=1)
    assert error == f'{home}/mesh/30.toml:3: function "x": there is no program no-such-program'
    complaint("show", "functions", code=3)


@pytest.mark.usefixtures("home")
def test_set() -> None:
    ebpfmesh("up", "-", stdin=TENANTS)
    assert lines("set", "server", "--cpu", "0.5", "--memory", "none") == [
        "~ function server-0  cpu none → 0.5  memory 64M → none",
        "~ function server-1  cpu none → 0.5  memory 64M → none",
    ]
    assert lines("set", "server", "--cpu", "0.5") == ["nothing to do"]
    (step,) = data("set", "client", "--memory", "1G")["operations"]
    assert step["fields"] == {"memory": {"before": None, "after": 1 << 30}}
    text = ebpfmesh("export").stdout
    assert "cpu = 0.5" in text
    assert 'memory = "1G"' in text
    for words, code, what in (
        (["client"], 2, "it is not said what of client is to change"),
        (["client", "--cpu", "much"], 2, "'much' is neither a number nor none"),
        (["client", "--cpu", "nan"], 2, 'function "client": "cpu" cannot be nan'),
        (["client", "--memory", "1"], 2, 'function "client": "memory" cannot be "1"'),
        (["server-1", "--cpu", "1"], 2, '"server-1" is one of the replicas of "server"'),
        (["clint", "--cpu", "1"], 3, 'there is no function "clint"'),
    ):
        assert what in complaint("set", *words, code=code)[0]
    assert ebpfmesh("export").stdout == text


@pytest.mark.usefixtures("home")
def test_files_to_inject_of_what_is_piped_are_named_from_here() -> None:
    """The working directory is the checkout."""
    text = TENANTS + INJECT.replace("greeter.c", "bpf/functions/template.c")
    ebpfmesh("up", "-", stdin=text)
    assert data("show", "injected")["injected"][0]["name"] == "greeter"
