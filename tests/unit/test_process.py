# SPDX-License-Identifier: BSD-2-Clause
"""Processes of functions, as far as it goes without a namespace: what is kept, and who is asked."""

import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from ebpfmesh.errors import MeshError, NotFound
from ebpfmesh.kernel.cgroup import Cgroup
from ebpfmesh.runtime import process
from support.topology import wait_until

LOGS = ("log.0", "log.1")


class Kept:
    """What is left of a command that a keeper ran: how it ended, and what it said."""

    def __init__(self, directory: Path, *command: str) -> None:
        keeper = begin(directory, *command)
        assert keeper.wait(60) == 0
        self.status = (directory / "exit").read_text()
        self.files = [(directory / name).read_bytes() for name in LOGS]
        self.log = b"".join(said(text) for text in sorted(self.files))


def begin(directory: Path, *command: str) -> "subprocess.Popen[bytes]":
    with ExitStack() as stack:
        names = ("exit", *LOGS)
        files = [stack.enter_context((directory / name).open("wb")).fileno() for name in names]
        (directory / "size").touch()
        files.append(stack.enter_context((directory / "size").open("rb")).fileno())
        return subprocess.Popen(
            [sys.executable, *process.KEEPER, "0", *map(str, files), "0", *command], pass_fds=files,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip


def said(text: bytes) -> bytes:
    """A log without its times."""
    return re.sub(rb"^[0-9]+\.[0-9]{6} ", b"", text, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("script", "status"),
    [("true", "0"), ("exit 3", "3"), ("kill -TERM $$", "143"), ("nosuchprogram", "127")],
)
def test_the_exit_status_is_kept(tmp_path: Path, script: str, status: str) -> None:
    assert Kept(tmp_path, "sh", "-c", script).status == status


def test_words_are_passed_as_they_are(tmp_path: Path) -> None:
    words = ["a b", "$HOME", '"', "'", "*", "", "-n", "\\"]
    assert Kept(tmp_path, "printf", "%s|", *words).log.decode() == "|".join(words) + "|"


def test_both_outputs_are_kept(tmp_path: Path) -> None:
    assert Kept(tmp_path, "sh", "-c", "echo out; echo err >&2").log == b"out\nerr\n"


def test_a_command_has_no_way_to_its_exit_status(tmp_path: Path) -> None:
    """It inherits its input and its outputs, and no more."""
    kept = Kept(tmp_path, "sh", "-c", "ls -l /proc/self/fd | grep -c -e /exit -e /log; exit 7")
    assert (kept.log, kept.status) == (b"0\n", "7")


def test_stdin_is_empty(tmp_path: Path) -> None:
    assert Kept(tmp_path, "cat").log == b""


SIZE, TAIL = 512 << 10, 16 << 10
LINES = "import sys; [print(n, end=sys.argv[2]) for n in range(int(sys.argv[1]))]; sys.exit(9)"


@pytest.mark.parametrize(("count", "end"), [(0, "\n"), (70_000, "\n"), (900_000, "\n"),
                                            (900_000, " "), (70_000, "\n" * 30)])  # fmt: skip
def test_the_last_output_is_kept(tmp_path: Path, count: int, end: str) -> None:
    """Half a mebibyte of it at least with its times, not much more than one, and whole lines."""
    kept = Kept(tmp_path, sys.executable, "-c", LINES, str(count), end)
    wanted = "".join(f"{n}{end}" for n in range(count)).encode()
    assert kept.status == "9"
    assert all(len(text) <= SIZE + TAIL for text in kept.files)
    if end == " ":  # no line ends: parts of one are kept
        assert wanted.endswith(kept.log.replace(b"\n", b""))
        return
    assert wanted.endswith(kept.log)
    assert kept.log == wanted or sum(map(len, kept.files)) > SIZE
    assert wanted[: len(wanted) - len(kept.log)][-1:] in (b"", b"\n")


def test_times_of_lines_do_not_run_back(tmp_path: Path) -> None:
    kept = Kept(tmp_path, sys.executable, "-c", LINES, "90000", "\n")
    stamps = [line.split()[0] for text in sorted(kept.files) for line in text.splitlines()]
    assert stamps == sorted(stamps)
    assert len(stamps) > 10_000


@pytest.mark.parametrize("size", [20_000, 100_000])
def test_a_log_is_as_large_as_a_file_says(tmp_path: Path, size: int) -> None:
    """From its next line on, and the last of what is said is in it."""
    (tmp_path / "size").write_text(str(size))
    kept = Kept(tmp_path, sys.executable, "-c", LINES, "90000", "\n")
    assert all(len(text) <= size + (16 << 10) for text in kept.files)
    assert sum(map(len, kept.files)) > size / 2
    (tmp_path / "other").mkdir()
    whole = Kept(tmp_path / "other", sys.executable, "-c", LINES, "90000", "\n")
    assert whole.log.endswith(kept.log)


def test_what_cannot_be_written_is_counted_and_holds_nobody_up(tmp_path: Path) -> None:
    """A limit of the size of files stands for a full disk: nothing goes in from there on."""
    script = "head -c 3000000 /dev/zero; exit 4"
    limited = 'ulimit -f 100; exec "$@"'
    with ExitStack() as stack:
        names = ("exit", *LOGS)
        files = [stack.enter_context((tmp_path / one).open("wb")).fileno() for one in names]
        files.append(stack.enter_context(Path(os.devnull).open("rb")).fileno())
        words = [sys.executable, *process.KEEPER, "0", *map(str, files), "0", "sh", "-c", script]
        done = subprocess.run(["sh", "-c", limited, "sh", *words], pass_fds=files, check=False,
                              stdin=subprocess.DEVNULL, timeout=60)  # fmt: skip
    assert done.returncode == 0
    assert (tmp_path / "exit").read_text() == "4"
    assert all((tmp_path / name).stat().st_size <= 100 * 1024 for name in LOGS)


def test_the_log_is_written_at_once(tmp_path: Path) -> None:
    """Not when the command ends, nor when a buffer is full."""
    log = tmp_path / LOGS[0]
    kept = Kept(tmp_path, "sh", "-c", f"echo now; until [ -s {log} ]; do sleep 0.01; done")
    assert kept.log == b"now\n"


def test_a_command_may_close_its_outputs(tmp_path: Path) -> None:
    assert Kept(tmp_path, "sh", "-c", "exec >&- 2>&-; sleep 0.1; exit 6").status == "6"


def test_what_a_command_leaves_behind_may_go_on(tmp_path: Path) -> None:
    """How the command ended is known while others still speak; the keeper stays for them."""
    go, exit_file = tmp_path / "go", tmp_path / "exit"
    script = f"(until [ -e {go} ]; do sleep 0.01; done; echo late) & echo soon; exit 2"
    keeper = begin(tmp_path, "sh", "-c", script)
    wait_until(lambda: exit_file.exists() and exit_file.read_text() == "2", what="it ended")
    assert said((tmp_path / LOGS[0]).read_bytes()) == b"soon\n"
    assert keeper.poll() is None
    go.touch()
    assert keeper.wait(60) == 0
    assert said((tmp_path / LOGS[0]).read_bytes()) == b"soon\nlate\n"


def test_keepers_are_told_from_the_command(tmp_path: Path) -> None:
    """Of all its processes, the command alone is no keeper."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    keeper = begin(tmp_path, "cat", str(pipe))
    try:
        with pipe.open("w"):  # the command reads by now
            group = {
                int(path.parent.name)
                for path in Path("/proc").glob("[0-9]*/stat")
                if session_of(path) == keeper.pid
            }
            assert process.keeper(group) == keeper.pid
            workers = group - process.keepers(group)
            assert [Path(f"/proc/{pid}/cmdline").read_text() for pid in workers] == [
                f"cat\0{pipe}\0"
            ]
        assert keeper.wait(60) == 0
    finally:
        if keeper.poll() is None:
            os.killpg(keeper.pid, signal.SIGKILL)
            keeper.wait()


def session_of(path: Path) -> int:
    try:
        return int(path.read_text(errors="replace").rpartition(")")[2].split()[3])
    except OSError:  # it ended meanwhile
        return 0


def test_a_process_that_ended_keeps_nothing() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert process.keepers({child.pid}) == set()


# ---- names


def test_hosts(tmp_path: Path) -> None:
    """Written in place: who has the file bound sees the new text."""
    hosts = tmp_path / "hosts"
    process.write_hosts(hosts, [("198.18.0.1", "a"), ("2001:db8::1", "a")])
    inode = hosts.stat().st_ino
    lines = hosts.read_text().splitlines()
    assert lines[:2] == ["127.0.0.1 localhost", "::1 localhost"]
    assert lines[-2:] == ["198.18.0.1 a", "2001:db8::1 a"]
    process.write_hosts(hosts, [])
    assert "198.18.0.1" not in hosts.read_text()
    assert hosts.stat().st_ino == inode


def test_hosts_that_come_and_go(tmp_path: Path) -> None:
    """Other lines stay, and so does the file."""
    hosts, other = tmp_path / "hosts", tmp_path / "other"
    old = [("198.18.0.1", "a"), ("198.18.0.11", "a-1"), ("2001:db8::1", "a")]
    process.write_hosts(hosts, old)
    inode = hosts.stat().st_ino
    process.change_hosts(hosts, [], [("198.18.0.2", "b")])
    process.write_hosts(other, [*old, ("198.18.0.2", "b")])
    assert hosts.read_text() == other.read_text()
    process.change_hosts(hosts, [old[0], old[2]], [("198.18.0.3", "c")])
    process.write_hosts(other, [old[1], ("198.18.0.2", "b"), ("198.18.0.3", "c")])
    assert hosts.read_text() == other.read_text()
    assert hosts.stat().st_ino == inode


# ---- programs and containers that are not there


def home(tmp_path: Path) -> process.Home:
    return process.Home(tmp_path, Cgroup("mesh.1", "f"), tmp_path, tmp_path)


def test_no_such_program(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nosuchprogram"):
        process.execute(home(tmp_path), ["nosuchprogram"])
    with pytest.raises(MeshError, match="nosuchprogram") as caught:
        process.start(
            home(tmp_path),
            ["nosuchprogram"],
            logs=[tmp_path] * 4,
            size=(tmp_path, 0),
            exit_file=tmp_path,
        )
    assert caught.value.exit_code == 1


def engine(directory: Path, name: str, script: str) -> None:
    """A program of this name that answers in the place of a container engine."""
    file = directory / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_a_container_of_podman(engines: Path) -> None:
    engine(engines, "podman", '[ "$1 $6" = "inspect web" ] && echo 4711')
    assert process.in_container("web") == 4711


def test_a_container_of_docker_where_podman_knows_none(engines: Path) -> None:
    engine(engines, "podman", "echo no such container >&2; exit 125")
    engine(engines, "docker", "echo 4712")
    assert process.in_container("web") == 4712


def test_a_container_that_does_not_run(engines: Path) -> None:
    engine(engines, "docker", "echo 0")
    with pytest.raises(NotFound, match="web does not run") as caught:
        process.in_container("web")
    assert caught.value.hint == "docker start web"


@pytest.mark.usefixtures("engines")
def test_no_engine() -> None:
    with pytest.raises(NotFound, match="there is no container web"):
        process.in_container("web")
