# SPDX-License-Identifier: BSD-2-Clause
"""The command line as far as it goes without a kernel: options, help, errors, exit codes."""

import io
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from ebpfmesh import model
from ebpfmesh.cli import output
from ebpfmesh.cli.base import Settings
from ebpfmesh.cli.main import cli
from ebpfmesh.cli.output import Column
from support.parsed import parse

ROOT = Path(__file__).parents[2]
HEAVY = ("pydantic", "pyroute2", "rich", "bcc", "matplotlib", "ebpfmesh.model", "sqlite3")


def run(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """The command, as its user starts it."""
    return subprocess.run(
        [sys.executable, "-m", "ebpfmesh", *words],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=60,
        env=os.environ | environment,
    )  # fmt: skip


def commands(group: click.Group = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The names that lead to each command."""
    yield path
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


def find(path: tuple[str, ...]) -> click.Command:
    command: click.Command = cli
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    return command


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_help_has_three_examples_that_parse(
    path: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # whatever files there are elsewhere
    command = find(path)
    help_text = command.get_help(click.Context(command, info_name=" ".join(("ebpfmesh", *path))))
    assert len(command.examples) == 3
    for example in command.examples:
        assert example in help_text
        line = example.split("&& ")[-1]
        words = shlex.split(line.partition(" |")[0].replace("$(pgrep -nx probe)", "1"))
        parse([word for word in words[1:] if not word.startswith(">")])


@pytest.mark.parametrize(
    "line",
    [
        "--mesh edge -j show maps",
        "show --mesh edge -j maps",
        "show maps --mesh edge --json",
        "-j show maps --mesh=edge",
    ],
)
def test_shared_options_stand_before_or_after_the_command(line: str) -> None:
    assert parse(line.split()) == Settings(mesh="edge", json=True)


def test_the_last_word_on_the_mesh_counts() -> None:
    assert parse(["--mesh", "one", "show", "maps", "--mesh", "two"]).mesh == "two"


def test_shared_options_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("MESH", "edge"), ("JSON", "1"), ("QUIET", "1"), ("NO_COLOR", "1")):
        monkeypatch.setenv(f"EBPFMESH_{name}", value)
    assert parse(["show", "maps"]) == Settings(mesh="edge", json=True, quiet=True, no_color=True)
    assert parse(["show", "maps", "--mesh", "other"]).mesh == "other"


def test_false_in_the_environment_is_false(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EBPFMESH_JSON", "0")
    assert not parse(["show", "maps"]).json


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from ebpfmesh.cli.main import cli\n"
        "cli.main(['--help'], standalone_mode=False)\n"
        f"sys.exit(', '.join(m for m in {HEAVY} if m in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nonsense", "no such command"),
        ("show nonsense", "no such command"),
        ("plan", "no file is given"),
        ("up --nonsense x", "no such option"),
        ("attach x --pid 0", "--pid"),
        ("service add x --address 198.19.0.1 --port 65536", "--port"),
        ("policy add any any --protocol sctp", "--protocol"),
    ],
)
def test_wrong_usage_exits_2_with_one_line_and_a_hint(line: str, said: str) -> None:
    done = run(*line.split())
    assert done.returncode == 2
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: ")
    assert said in error.lower()
    assert hint.startswith("hint: ebpfmesh")
    assert done.stdout == ""


def test_a_group_alone_tells_its_commands() -> None:
    done = run("show")
    assert done.returncode == 2
    assert "functions" in done.stderr


def test_a_wrong_file_exits_2_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text('[mesh]\nname = "x"\nprefxi = "198.18.0.0/16"\n')
    done = run("plan", str(file))
    assert done.returncode == 2
    assert f"{file}:3: " in done.stderr
    assert "hint: did you mean" in done.stderr


def test_a_file_of_another_mesh_is_refused() -> None:
    done = run("plan", "examples/edge.toml", "--mesh", "other")
    assert done.returncode == 2
    assert "is about mesh edge, not other" in done.stderr


def test_plan_of_a_mesh_that_is_not_up(tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text('[mesh]\nname = "test-cli-plan"\n[[function]]\nname = "f"\n')
    done = run("plan", str(file), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["schema"] == 1
    assert told["mesh"] == "test-cli-plan"
    assert [step["kind"] for step in told["operations"]] == ["create-mesh", "add-function"]
    assert [step["action"] for step in told["operations"]] == ["add", "add"]
    assert run("plan", str(file), "--exit-code").returncode == 8
    assert run("plan", str(file)).stdout.startswith("+ mesh test-cli-plan\n+ function f ")


def test_a_mesh_that_is_not_there_exits_3(tmp_path: Path) -> None:
    done = run("bench", "report", str(tmp_path))
    assert done.returncode == 3
    assert "hint:" in done.stderr


@pytest.mark.parametrize("path", ["examples/edge.toml", "examples/packet/echo.toml"])
def test_the_examples_are_meshes(path: str) -> None:
    done = run("plan", path, "--json")
    assert done.returncode in (0, 4), done.stderr  # 4: it is up, and we may not look


def test_version() -> None:
    assert run("--version").stdout.startswith("ebpfmesh 0.")


def test_completion_knows_the_commands() -> None:
    done = run(_EBPFMESH_COMPLETE="bash_complete", COMP_WORDS="ebpfmesh sh", COMP_CWORD="1")
    assert "show" in done.stdout


def test_what_cannot_be_written_is_told_with_a_hint() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ebpfmesh", "bench", "list"],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT, timeout=60,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == (
        "error: No space left on device\n"
        "hint: the disk is full: make room, or choose another place\n"
    )


@pytest.mark.parametrize("name", ["/etc/passwd", "", "../x", "a\x1b[31m", "Edge", "x" * 33, "a\n"])
def test_a_mesh_is_named_before_anything_is_looked_for(name: str) -> None:
    """In the environment too, where an empty name is none, as with all variables."""
    for words, environment in (
        (("--mesh", name, "down"), {}),
        (("show", "maps", "--mesh", name), {}),
        *([(("down",), {"EBPFMESH_MESH": name})] if name else []),
    ):
        done = run(*words, **environment)
        assert done.returncode == 2
        error, hint = done.stderr.splitlines()
        assert error == f"error: {model.show(name)} is not the name of a mesh"
        assert hint == ("hint: allowed: lower-case letters, digits and inner hyphens, at most 32")
    assert not Path("/etc/passwd.lock").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("plan", "\x1b]0;title\x07.toml"),
        ("show", "\x1b[31mred"),
        ("events", "--reason", "\x9b31m"),
        ("--mesh", "\x7f", "down"),
        ("bench", "run", "\x1b[2J"),
    ],
)
def test_errors_hold_no_control_characters(words: tuple[str, ...]) -> None:
    done = run(*words)
    assert done.returncode != 0
    assert all(line.isprintable() for line in done.stderr.splitlines())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("1\N{NARROW NO-BREAK SPACE}000 × µs", "1\N{NARROW NO-BREAK SPACE}000 × µs"),
        ("a\x1b[31m\tb\n", "a\\x1b[31m\\tb\\n"),
        ("a\u2028b\u202ec\x9b", "a\\u2028b\\u202ec\\x9b"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped_and_no_space(text: str, shown: str) -> None:
    assert output.printable(text) == shown


def test_a_table_in_a_file_is_whole_and_has_no_blanks_at_its_ends(
    capsys: pytest.CaptureFixture[str],
) -> None:
    columns = [Column("a", lambda row: row[0]), Column("bb", lambda row: row[1], right=True)]
    rows = [("x" * 5000, None), ("日本", 12345), ("", output.mark("7", "red"))]
    with click.Context(cli, obj=Settings()):
        output.table(columns, rows, empty="nothing")
        output.table(columns, [], empty="nothing")
    told = capsys.readouterr()
    wide = 5000 + 2 + 5
    assert told.err == "nothing\n"
    assert told.out.splitlines() == [
        "a".ljust(5000) + "bb".rjust(7), "x" * 5000 + "–".rjust(7),
        "日本".ljust(4998) + "12345".rjust(7), "7".rjust(wide),
    ]  # fmt: skip


def test_what_is_printed_holds_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    text = "\x1b[31m a\tb\nc\x9b\x7f\u202e\udc80 é"
    shown = "\\x1b[31m a\\tb\\nc\\x9b\\x7f\\u202e\\udc80 é"
    with click.Context(cli, obj=Settings()):
        output.echo(text, (text, "red"), (text, ""))
        output.done(f"+ {text}")
        output.done("nothing to do")
        output.say(text)
        output.complain("error:", "red", text, color=None)
        columns = [Column("a", str), Column("b", lambda row: output.mark(row, "red"))]
        output.table(columns, [text], empty="")
        output.show("\x1b[2J")
        with output.steps("title") as step:
            step(text)
        output.data(text=text[:-3])
    told = capsys.readouterr()
    assert told.out.count(shown) == 6
    assert told.err.count(shown) == 2
    lines, brace, found = told.out.partition("{")
    assert all(line.isprintable() for line in (lines + told.err).splitlines())
    assert not set(found) & set("\x1b\x7f\x9b")
    assert json.loads(brace + found)["text"] == text[:-3]


WORDS = st.text("ab:.", min_size=1, max_size=40)
CELLS = st.lists(WORDS, min_size=1, max_size=3).map(" ".join)


@given(st.lists(st.lists(CELLS, min_size=5, max_size=5), min_size=1, max_size=5),
       st.integers(20, 200))  # fmt: skip
@settings(deadline=None)
def test_a_table_never_breaks_inside_a_word(rows: list[list[str]], room: int) -> None:
    """An address is whole or not there: columns go, those of no consequence first."""
    columns = [Column(f"c{n}", str, drop=n) for n in range(5)]
    cells = [[Text(cell) for cell in row] for row in rows]
    chosen, widths = output.fit(columns, cells, room)
    assert chosen == list(range(len(chosen))), "those of a higher number went first"
    assert len(chosen) > 0
    total = sum(widths[index] for index in chosen) + 2 * (len(chosen) - 1)
    assert total <= room or chosen == [0]
    console = Console(file=io.StringIO(), width=max(total, 1))
    table = RichTable(box=None, pad_edge=False)
    for index in chosen:
        table.add_column(f"c{index}", width=widths[index])
        words = {word for row in rows for word in row[index].split()}
        assert widths[index] >= max(map(len, words))
    for row in cells:
        table.add_row(*(row[index] for index in chosen))
    console.print(table)
    shown = set(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert {w for row in rows for index in chosen for w in row[index].split()} <= shown


def test_there_is_a_table_where_there_is_room() -> None:
    columns = [Column("a", str), Column("b", str, drop=1)]
    cells = [[Text("x" * 10), Text("y" * 10)]]
    assert output.fit(columns, cells, 22) == ([0, 1], [10, 10])
    assert output.fit(columns, cells, 21) == ([0], [10, 10])
    assert output.fit(columns, cells, 5) == ([0], [10, 10])


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("plan", "nosuch.toml", "--json"), 2),
        (("--json", "--mesh", "/etc", "show", "maps"), 2),
        (("nonsense", "-j"), 2),
        (("up", "--nonsense", "x", "--json"), 2),
        (("bench", "report", "/", "--json"), 3),
    ],
)
def test_an_error_is_json_too(words: tuple[str, ...], code: int) -> None:
    """A line on stdout; for people it stands on stderr as ever."""
    done = run(*words)
    found = json.loads(done.stdout)
    assert (found["schema"], found["exit_code"], found["more"]) == (1, code, 0)
    assert done.returncode == code
    (error,) = found["errors"]
    assert done.stderr.splitlines() == [f"error: {error['message']}", f"hint: {error['hint']}"]


def test_errors_of_a_file_are_json_with_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text('[mesh]\nname = "x"\nprefxi = 1\n[[function]]\nname = 7\n')
    errors = json.loads(run("plan", str(file), "-j").stdout)["errors"]
    assert [(error["file"], error["line"]) for error in errors] == [(str(file), 3), (str(file), 5)]


def test_a_program_or_a_namespace_that_is_not_there_is_planned_for(tmp_path: Path) -> None:
    """With function and line; all of them."""
    file = tmp_path / "mesh.toml"
    file.write_text(
        '[mesh]\nname = "test-cli-missing"\n[[function]]\nname = "f"\ncommand = ["nosuchprogram"]\n'
        '[[function]]\nname = "g"\nreplicas = 2\ncommand = [\n  "alsonot",\n]\n'
        f'[[function]]\nname = "h"\nnetns = "nosuch"\n[[function]]\nname = "i"\nnetns = "{file}"\n'
    )
    done = run("plan", str(file))
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if line.startswith("error")] == [
        f'error: {file}:5: function "f": there is no program nosuchprogram',
        f'error: {file}:9: function "g-0": there is no program alsonot',
        f'error: {file}:9: function "g-1": there is no program alsonot',
        f'error: {file}:14: function "h": no network namespace nosuch',
        f'error: {file}:17: function "i": no network namespace {file}',
    ]
