# SPDX-License-Identifier: BSD-2-Clause
"""top as a user types it: on a terminal, into a pipe, as lines of JSON."""

import contextlib
import json
import os
import pty
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from fcntl import ioctl
from pathlib import Path

import pytest

from support.command import COMMAND, ROOT, complaint, ebpfmesh, lines
from support.meshes import TENANTS
from support.topology import SLOWER, wait_until

FAST = ("--interval", "200ms")
ENTER, LEAVE = b"\x1b[?1049h", b"\x1b[?1049l"
"""What takes a terminal to its other screen and back."""


@pytest.fixture(scope="module", autouse=True)
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    file = tmp_path_factory.mktemp("edge") / "edge.toml"
    file.write_text(TENANTS)
    ebpfmesh("up", file)
    yield file
    ebpfmesh("down")


def test_json_is_a_line_a_sample() -> None:
    found = [json.loads(line) for line in lines("top", "--json", *FAST, "--count", 3, "--flows")]
    assert len(found) == 3
    for one in found:
        assert (one["schema"], one["mesh"]) == (1, "edge")
        assert one["interval"] > 0
        assert {row["name"] for row in one["functions"]} == {"client", "server-0", "server-1"}
        row = one["functions"][0]
        assert row["state"] == "up"
        assert row["cpu"] >= 0
        assert row["drops_per_second"] == {} or isinstance(row["drops_per_second"], dict)
        assert row["flows"] >= 0
    limits = {row["name"]: row["memory_limit"] for row in found[0]["functions"]}
    assert limits == {"client": None, "server-0": 64 << 20, "server-1": 64 << 20}


def test_sums_of_tenants() -> None:
    (line,) = lines("top", "--json", "--sums", *FAST, "--count", 1)
    rows = {row["tenant"]: row for row in json.loads(line)["tenants"]}
    assert {name: row["functions"] for name, row in rows.items()} == {"one": 1, "two": 2}
    assert rows["two"]["processes"] == 2
    assert rows["two"]["memory"] > 0


def test_a_pipe_gets_a_table_a_sample() -> None:
    said = ebpfmesh("top", *FAST, "--count", 2, "--sort", "name").stdout
    first, second = said.rstrip("\n").split("\n\n")
    for page in (first, second):
        title, head, *rows = page.splitlines()
        assert title.split()[:1] == ["edge"]
        assert head.split()[:4] == ["name", "tenant", "state", "CPU"]
        assert [row.split()[0] for row in rows] == ["client", "server-0", "server-1"]
    assert "\x1b" not in said


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("--tenant", "two"), ["server-0", "server-1"]),
        (("--filter", "er-1"), ["server-1"]),
        (("--tenant", "two", "--filter", "one"), []),
        (("--filter", "up", "--sort", "name"), ["client", "server-0", "server-1"]),
        (("--sort", "memory", "--tenant", "one"), ["client"]),
    ],
)
def test_those_that_are_wanted(words: tuple[str, ...], names: list[str]) -> None:
    (line,) = lines("top", "--json", *FAST, "--count", 1, *words)
    assert sorted(row["name"] for row in json.loads(line)["functions"]) == names


def test_what_is_wrong_is_said_at_once() -> None:
    _, hint = complaint("top", "--tenant", "tow", code=3)
    assert "two" in hint
    complaint("top", "--interval", "1ms", code=2)
    complaint("top", "--interval", "soon", code=2)
    complaint("top", "--mesh", "nothing", code=3)


@dataclass
class Terminal:
    """A terminal with a command on it, and what that has said."""

    process: "subprocess.Popen[bytes]"
    own: int
    said: bytearray = field(default_factory=bytearray)

    def listen(self) -> None:
        with contextlib.suppress(OSError):  # EIO: nobody is at the other end
            while part := os.read(self.own, 65536):
                self.said += part

    def type(self, text: bytes) -> None:
        os.write(self.own, text)


@contextlib.contextmanager
def terminal(*words: str, columns: int = 120, height: int = 24) -> Iterator[Terminal]:
    """``top`` on a terminal, which is as it was once that has ended."""
    own, other = pty.openpty()
    ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", height, columns, 0, 0))
    before = termios.tcgetattr(other)
    environment = {
        key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")
    }
    process = subprocess.Popen(
        [*COMMAND, "top", *FAST, *words], stdin=other, stdout=other, stderr=other, cwd=ROOT,
        env=environment | {"TERM": "xterm"}, start_new_session=True,
        preexec_fn=lambda: ioctl(other, termios.TIOCSCTTY, 0),  # noqa: PLW1509
    )  # fmt: skip
    found = Terminal(process, own)
    listener = threading.Thread(target=found.listen)
    listener.start()
    try:
        yield found
        assert process.wait(60 * SLOWER) is not None
        assert termios.tcgetattr(other) == before
    finally:
        process.kill()
        process.wait()
        os.close(other)
        listener.join()
        os.close(own)


def shows(found: Terminal) -> bool:
    return b"server-1" in found.said


@pytest.mark.parametrize("end", ["q", "Ctrl-C", "SIGINT"])
def test_it_ends_and_leaves_the_terminal_as_it_was(end: str) -> None:
    with terminal() as found:
        wait_until(lambda: shows(found), what="it shows functions")
        if end == "SIGINT":
            found.process.send_signal(signal.SIGINT)
        else:
            found.type(b"q" if end == "q" else b"\x03")
    assert found.process.returncode == 0, bytes(found.said)
    assert found.said.index(ENTER) < found.said.index(LEAVE)
    assert found.said.count(ENTER) == found.said.count(LEAVE) == 1


def test_sigterm_leaves_the_terminal_as_it_was() -> None:
    with terminal() as found:
        wait_until(lambda: shows(found), what="it shows functions")
        found.process.terminate()
    assert found.process.returncode == 128 + signal.SIGTERM
    assert LEAVE in found.said


def test_other_keys_do_nothing_and_it_ends_by_itself() -> None:
    with terminal("--count", "3") as found:
        found.type(b"xyz\n")
    assert found.process.returncode == 0
    assert shows(found)


def test_no_line_is_longer_than_the_terminal() -> None:
    """What there is no room for is left out, rows below the last line are told as a number."""
    with terminal("--no-color", "--count", "2", columns=40, height=5) as found:
        pass
    said = found.said.decode()
    assert "more" in said
    assert "throttled" not in said


def test_it_ends_when_the_mesh_does(tmp_path: Path) -> None:
    file = tmp_path / "other.toml"
    file.write_text('[mesh]\nname = "other"\n[[function]]\nname = "server-1"\n')
    ebpfmesh("up", file)
    try:
        with terminal("--mesh", "other") as found:
            wait_until(lambda: shows(found), what="it shows functions")
            ebpfmesh("down", "--mesh", "other")
        assert found.process.returncode == 3
        assert found.said.rindex(LEAVE) < found.said.rindex(b"error:")
    finally:
        ebpfmesh("down", "--mesh", "other")
