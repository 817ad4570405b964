# SPDX-License-Identifier: BSD-2-Clause
"""Processes of functions, as far as it goes without a namespace: what is kept, and who is asked."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from ebpfmesh.errors import MeshError, NotFound
from ebpfmesh.kernel.cgroup import Cgroup
from ebpfmesh.runtime import process

MEBIBYTE = 1 << 20


class Kept:
    """What is left of a command that ran under KEEP: how it ended, and what it said."""

    def __init__(self, directory: Path, *command: str) -> None:
        exit_file, log = directory / "exit", directory / "log"
        with log.open("wb") as said, exit_file.open("wb") as status:
            subprocess.run(
                ["/bin/sh", "-c", process.KEEP, "ebpfmesh", *command],
                stdin=subprocess.DEVNULL, stdout=said, stderr=status, check=False, timeout=30,
            )  # fmt: skip
        self.status, self.log = exit_file.read_text(), log.read_bytes()


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
    kept = Kept(tmp_path, "sh", "-c", "ls -l /proc/self/fd | grep -c -e exit -e log; exit 7")
    assert (kept.log, kept.status) == (b"0\n", "7")


def test_stdin_is_empty(tmp_path: Path) -> None:
    assert Kept(tmp_path, "cat").log == b""


@pytest.mark.parametrize("size", [0, 1, MEBIBYTE - 1, MEBIBYTE, MEBIBYTE + 1, 5 * MEBIBYTE])
def test_the_log_is_bounded(tmp_path: Path, size: int) -> None:
    """What is said after that goes nowhere, and the command never notices."""
    kept = Kept(tmp_path, "sh", "-c", f"head -c {size} /dev/zero && echo done >&2 && exit 9")
    wanted = b"\0" * size + b"done\n"
    assert kept.log == wanted[:MEBIBYTE]
    assert kept.status == "9"


def test_the_log_is_written_at_once(tmp_path: Path) -> None:
    """Not when the command ends, nor when a buffer is full."""
    log = tmp_path / "log"
    kept = Kept(tmp_path, "sh", "-c", f"echo now; until [ -s {log} ]; do sleep 0.01; done")
    assert kept.log == b"now\n"


def test_keepers_are_told_from_the_command(tmp_path: Path) -> None:
    """Of all processes of a command that is cat itself, cat alone is the command's own."""
    pipe, log = tmp_path / "pipe", tmp_path / "log"
    os.mkfifo(pipe)
    with log.open("wb") as said:
        shell = subprocess.Popen(
            ["/bin/sh", "-c", process.KEEP, "ebpfmesh", "cat", str(pipe)],
            stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
    try:
        with pipe.open("w") as writer:  # the command reads by now
            writer.write("something")
            writer.flush()
            while not log.stat().st_size:
                pass
            group = {
                int(path.parent.name)
                for path in Path("/proc").glob("[0-9]*/stat")
                if session_of(path) == shell.pid
            }
            workers = group - process.keepers(group)
            assert [Path(f"/proc/{pid}/cmdline").read_text() for pid in workers] == [
                f"cat\0{pipe}\0"
            ]
        assert shell.wait(10) == 0
    finally:
        if shell.poll() is None:
            os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()


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
        process.start(home(tmp_path), ["nosuchprogram"], log=tmp_path, exit_file=tmp_path)
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
