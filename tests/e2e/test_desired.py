# SPDX-License-Identifier: BSD-2-Clause
"""What a mesh shall be: files, directories and standard input; and what it is, as a file."""

import json
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpfmesh.kernel import cgroup, netns
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.state.files import RUN
from support.command import ROOT, complaint, data, ebpfmesh, lines
from support.meshes import TENANTS
from support.topology import needs, poll

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


@pytest.mark.parametrize("umask", ["000", "022", "077"])
def test_nobody_else_may_write_an_export(home: Path, umask: str) -> None:
    """It says what root runs."""
    ebpfmesh("up", home / "mesh")
    (home / "out").mkdir()
    narrow = ("sh", "-c", f'umask {umask}; exec "$@"', "sh")
    ebpfmesh("export", "-o", home / "out", prefix=narrow)
    modes = {path.stat().st_mode & 0o777 for path in (home / "out").iterdir()}
    assert modes == {0o600 if umask == "077" else 0o644}


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


def test_no_prune(home: Path) -> None:
    """What the file does not name stays, also in a plan; without it all of that goes."""
    ebpfmesh("up", home / "mesh")
    more = home / "more.toml"
    more.write_text(
        '[mesh]\nname = "edge"\n[[function]]\nname = "client"\ntenant = "two"\n'
        '[[function]]\nname = "new"\ntenant = "one"\n'
    )
    wanted = ["~ function client  tenant one → two"]
    told = lines("plan", more, "--no-prune")
    assert told == lines("up", more, "--no-prune")
    assert told[0] == wanted[0]
    assert told[1].startswith("+ function new  tenant one")
    assert len(told) == 2
    assert lines("plan", "--no-prune", more) == ["nothing to do"]
    assert [row["name"] for row in data("show", "injected")["injected"]] == ["greeter"]
    signs = [line[0] for line in lines("plan", more)]
    assert signs.count("-") == 5  # a service, its rule, two functions, what is injected
    error, _ = complaint("up", "--rollback", "--no-prune", code=2)
    assert "--no-prune has no say" in error


UNIT = ("systemd-analyze", "verify", "--man=no", "--recursive-errors=no")


def test_the_unit_is_one(tmp_path: Path) -> None:
    """With the path of a program that there is."""
    needs("systemd-analyze")
    unit = tmp_path / "ebpfmesh.service"
    unit.write_text(ebpfmesh("example", "--unit").stdout)
    program = re.findall("(?m)^ExecStart=(.*) up$", unit.read_text())
    assert program == re.findall("(?m)^ExecStop=(.*) down --all$", unit.read_text())
    assert subprocess.run([*shlex.split(program[0]), "--version"], check=True, cwd=ROOT)
    done = subprocess.run([*UNIT, unit], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert data("example", "--unit")["name"] == unit.name


def boot(etc: Path, *words: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
    return ebpfmesh("up", *words, code=code, EBPFMESH_ETC=str(etc))


@pytest.fixture
def etc(home: Path) -> Iterator[Path]:
    """Two meshes: one is a directory and injects, one is a file."""
    etc = home / "etc"
    etc.mkdir()
    (home / "mesh").rename(etc / "edge")
    (etc / "other.toml").write_text('[mesh]\nname = "other"\n[[function]]\nname = "alone"\n')
    yield etc
    ebpfmesh("down", "--all")


def test_all_that_is_described_is_made(etc: Path) -> None:
    """One that cannot be keeps no other; --mesh says which."""
    assert "+ mesh other" in boot(etc, "--mesh", "other").stdout
    assert data("show", "functions")["mesh"] == "other"
    (etc / "bad.toml").write_text("[mesh]\nname = 'bad'\nhook = 1\n")
    (etc / "called.toml").write_text("[mesh]\nname = 'otherwise'\n")
    done = boot(etc, code=2)
    assert "+ mesh edge" in done.stdout
    assert f"error: {etc}/bad.toml:3: " in done.stderr
    assert f"error: {etc}/called.toml is about mesh otherwise, not called" in done.stderr
    for name in ("bad", "called"):
        (etc / f"{name}.toml").unlink()
    assert boot(etc).stdout.splitlines() == ["nothing to do"] * 2
    assert boot(etc, "--mesh", "none", code=3).stderr.startswith(f"error: {etc} describes no mesh")
    assert lines("down", "--all") == ["- mesh edge", "- mesh other"]
    assert boot(etc / "edge/none", code=2).stderr.startswith("error: no FILE is given")
    ebpfmesh("down", "--all", "--mesh", "edge", code=2)


@pytest.mark.parametrize("kept", [True, False], ids=["record kept", "record gone"])
def test_boot(etc: Path, kept: bool) -> None:
    """A machine that was switched off has files, and nothing of the kernel's; up makes all again.

    /run is gone with the rest, unless somebody keeps it.
    """
    boot(etc)
    before = {name: ebpfmesh("export", "--mesh", name).stdout for name in ("edge", "other")}
    switch_off(kept=kept)
    assert boot(etc).returncode == 0
    assert {name: ebpfmesh("export", "--mesh", name).stdout for name in before} == before
    for name in before:
        rows = data("show", "functions", "--mesh", name)["functions"]
        assert {row["state"] for row in rows} == {"up"}
    assert poll(lambda: all(group.processes() for group in groups_of("server-0", "server-1")))
    assert boot(etc).stdout.splitlines() == ["nothing to do"] * 2


def groups_of(*functions: str) -> list[cgroup.Cgroup]:
    found = [one for one in cgroup.groups(netns.current()) if one.function in functions]
    assert len(found) == len(functions)
    return found


def switch_off(*, kept: bool) -> None:
    """Processes, namespaces, interfaces, cgroups and pins go, and nobody takes anything down."""
    groups = cgroup.groups(netns.current())
    assert groups
    kill = [cgroup.Stop(group, signal.SIGKILL, 0) for group in groups]
    cgroup.stop(kill, lambda _: set())
    for group in groups:
        group.remove()
    for path in (one for one in netns.RUN.iterdir() if one.name.startswith("ebpfmesh.")):
        netns.remove(path.name)
    assert poll(lambda: not [*Path("/sys/class/net").glob("em*")])
    for name in ("edge", "other"):
        shutil.rmtree(Pins(name).top)
        if not kept:
            shutil.rmtree(RUN / name)


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
