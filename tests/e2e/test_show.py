# SPDX-License-Identifier: BSD-2-Clause
"""What show shows of a mesh: tables for people, and the same as JSON."""

import json
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Iterator
from datetime import datetime, timedelta
from fcntl import ioctl
from pathlib import Path

import pytest

from support.command import COMMAND, ROOT, complaint, data, ebpfmesh, lines
from support.meshes import TENANTS
from support.topology import wait_until

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
    assert set(found) == {"mesh", "time", noun}
    assert datetime.fromisoformat(found["time"]).utcoffset() == timedelta(0)
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
    function = f'name = "f"\ncommand = {command}\nprivileged = true\n'
    file.write_text(f'[mesh]\nname = "noisy"\n[[function]]\n{function}')
    ebpfmesh("up", file)
    try:
        done = ebpfmesh("--mesh", "noisy", "show", "functions")
    finally:
        ebpfmesh("--mesh", "noisy", "down")
    assert "\\x1b[31m\\x1b]0;mine\\x07" in done.stdout
    assert all(line.isprintable() for line in done.stdout.splitlines())


def on_a_terminal(columns: int, *words: str) -> str:
    """What a command prints on a terminal so wide, without colours."""
    own, other = pty.openpty()
    ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    process = subprocess.Popen(
        [*COMMAND, "--no-color", *words], stdin=other, stdout=other, stderr=other, cwd=ROOT,
        env=environment,
    )  # fmt: skip
    os.close(other)
    said = b""
    try:
        while part := os.read(own, 65536):
            said += part
    except OSError:  # the other side is closed: EIO
        pass
    os.close(own)
    assert process.wait(20) == 0, said
    return said.decode()


@pytest.mark.parametrize("noun", [*NOUNS, "doctor"])
def test_nothing_breaks_at_80_columns(noun: str) -> None:
    """Words of the table are those of the table that has all the room there is."""
    ebpfmesh("exec", "server-0", "--", "ping", "-6", "-c", 1, "-W", 20, "server-1")
    words = ("doctor",) if noun == "doctor" else ("show", noun)
    wide = set(ebpfmesh(*words).stdout.split())
    table, told, _ = on_a_terminal(80, *words).partition("no room for ")
    assert all(len(line) <= 80 for line in table.splitlines())
    numbers = {word for word in table.split() if word.strip("0123456789.") == ""}
    assert set(table.split()) - numbers <= wide
    assert told or noun != "flows", "the ends alone are wider"


def test_a_terminal_too_narrow_for_an_address_has_it_all_the_same() -> None:
    row = data("show", "functions")["functions"][0]
    shown = on_a_terminal(20, "show", "functions")
    for address in row["addresses"]:
        assert address in shown


def test_programs_have_a_type_and_a_place() -> None:
    rows = {row["name"]: row for row in data("show", "programs")["programs"]}
    assert {row["type"] for row in rows.values()} <= {"tc", "cgroup"}
    nowhere = [name for name, row in rows.items() if not row["attached"] and not row["calls"]]
    assert nowhere == ["mesh_uplink_fn"]  # this mesh has none
    assert rows["mesh_slow_fn"]["calls"] == ["mesh_tc_calls[0]"]
    table = ebpfmesh("show", "programs").stdout
    assert "tail call mesh_tc_calls[0]" in table
    assert "3 interfaces, ingress by" in table
    if "mesh_connect4" in rows:
        assert rows["mesh_connect4"]["type"] == "cgroup"
        assert "connect4 by cgroup link" in table


def test_maps_have_the_kernels_types_and_a_count() -> None:
    rows = {row["name"]: row for row in data("show", "maps")["maps"]}
    assert rows["mesh_tc_calls"]["type"] == "prog_array"
    assert rows["mesh_prefix"]["used"] == 0
    assert " 0 B" not in ebpfmesh("show", "maps").stdout


def test_flows_that_are_wanted(edge: Path) -> None:
    """By who has a part in them, and what they are."""
    ebpfmesh("policy", "add", "function:client", "function:server-1")
    try:
        for six in ("-4", "-6"):
            ebpfmesh("exec", "client", "--", "ping", six, "-c", 1, "-W", 20, "server-1")
        for words in (
            ("--function", "client", "--protocol", "icmp"),
            ("--function", "client", "--peer", "server"),
            ("--function", "server-1", "--peer", "client"),
        ):
            rows = data("show", "flows", *words)["flows"]
            assert len(rows) == 4, words
            assert {(row["protocol"], row["state"]) for row in rows} == {("icmp", "")}
            assert all(row["idle"] < 60 for row in rows)
        for words in (
            ("--function", "server-0", "--peer", "client"),
            ("--function", "outside"),
            ("--protocol", "udp"),
            ("--port", 80),
            ("--service", "web"),
        ):
            assert data("show", "flows", *words)["flows"] == [], words
    finally:
        ebpfmesh("up", edge)
    complaint("show", "flows", "--function", "nobody", code=3)
    complaint("show", "flows", "--service", "nothing", code=3)


COUNTING = """
[mesh]
name = "counting"
count_flows = true
[[function]]
name = "one"
[[function]]
name = "two"
"""
COUNTED = {"packets", "bytes", "age"}


def test_flows_with_what_passed(tmp_path: Path) -> None:
    """Columns of their own where the mesh counts it, else a note."""
    plain = ebpfmesh("show", "flows")
    assert not COUNTED & set(plain.stdout.partition("\n")[0].split())
    assert "count_flows = true" in plain.stderr
    assert not ebpfmesh("-q", "show", "flows").stderr
    _, hint = complaint("show", "flows", "--sort", "bytes", code=2)
    assert "count_flows = true" in hint
    file = tmp_path / "counting.toml"
    file.write_text(COUNTING)
    ebpfmesh("up", file)
    try:
        mesh = ("--mesh", "counting")
        for size, count in ((10, 1), (1000, 3)):
            ping = ("ping", "-4", "-c", count, "-i", 0.2, "-s", size, "-W", 20, "two")
            ebpfmesh(*mesh, "exec", "one", "--", *ping)
        rows = data(*mesh, "show", "flows", "--sort", "bytes")["flows"]
        found = [(row["packets"], row["bytes"]) for row in rows]
        assert found == [(3, 3126), (3, 3126), (1, 52), (1, 52)]
        shown = ebpfmesh(*mesh, "show", "flows")
        assert set(shown.stdout.partition("\n")[0].split()) > COUNTED
        assert "3.1 KiB" in shown.stdout
        assert not shown.stderr
        file.write_text(COUNTING.replace("count_flows = true\n", ""))
        error, hint = complaint("plan", file, code=2)
        assert "the count_flows cannot change while it is" in error
        assert "down first" in hint
    finally:
        ebpfmesh("down", *mesh)


def test_all_meshes_without_a_name(tmp_path: Path) -> None:
    file = tmp_path / "other.toml"
    file.write_text('[mesh]\nname = "other"\n')
    assert data("show", "mesh")["mesh"] == "edge"
    ebpfmesh("up", file)
    try:
        rows = data("show", "mesh")["meshes"]
        assert [(row["mesh"], row["functions"]) for row in rows] == [("edge", 3), ("other", 0)]
        assert [line.split()[0] for line in lines("show", "mesh")] == ["mesh", "edge", "other"]
        assert data("show", "mesh", "--mesh", "other")["functions"] == 0
    finally:
        ebpfmesh("down", "--mesh", "other")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("exec s", {"server-0", "server-1"}),
        ("detach client", {"client"}),
        ("detach s", {"server", "server-0", "server-1"}),
        ("restart server", {"server", "server-0", "server-1"}),
        ("--mesh ", {"edge"}),
        ("show flows --service ", {"web"}),
        ("show flows --peer o", {"outside"}),
        ("service set ", {"web"}),
        ("service set web --function c", {"client"}),
        ("policy add client w", {"web"}),
        ("events --reason PO", {"POLICY"}),
        ("bench run cr", {"crr"}),
        ("--mesh nothing exec ", set()),
    ],
)
def test_completion_offers_what_there_is(line: str, offered: set[str]) -> None:
    assert completions(line) == offered


def completions(line: str) -> set[str]:
    """What the shell is told when Tab is pressed behind a line."""
    words = f"ebpfmesh {line}"
    number = len(words.split()) - (not words.endswith(" "))
    environment = {"COMP_WORDS": words, "COMP_CWORD": str(number)}
    said = ebpfmesh(_EBPFMESH_COMPLETE="bash_complete", **environment).stdout
    return {one.partition(",")[2] for one in said.split()}


def test_completion_offers_uplinks() -> None:
    subprocess.run(["ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1"], check=True)
    try:
        ebpfmesh("attach", "uplink0", "--uplink", "up0")
        assert completions("detach --uplink ") == {"uplink0"}
        assert completions("policy test outside web --uplink ") == {"uplink0"}
    finally:
        subprocess.run(["ip", "link", "del", "up0"], check=True)
        ebpfmesh("detach", "uplink0", "--uplink", "--if-exists")
