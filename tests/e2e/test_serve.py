# SPDX-License-Identifier: BSD-2-Clause
"""The daemon as it is run: what it starts again, and what it leaves alone."""

import itertools
import json
import os
import signal
import socket
from pathlib import Path

import pytest

from ebpfmesh import apply
from ebpfmesh.kernel import netns
from ebpfmesh.kernel.cgroup import Cgroup
from ebpfmesh.observe import functions, health
from ebpfmesh.observe.functions import Function
from ebpfmesh.observe.view import opened
from ebpfmesh.runtime import process
from support.agreeing import is_well
from support.command import complaint, ebpfmesh
from support.daemon import SECONDS as SLOW
from support.daemon import served
from support.topology import mesh_of, running, wait_until

MESH = '[mesh]\nname = "served"\n'
SLEEPER = f"""{MESH}
[[function]]
name = "sleeper"
restart = "always"
command = ["sleep", "1000"]
"""


def row(name: str = "sleeper", mesh: str = "served") -> Function:
    with opened(mesh) as view:
        return next(one for one in functions.read(view) if one.name == name)


def keeper(name: str = "sleeper") -> int:
    found = process.keeper(Cgroup(f"served.{netns.current()}", name).processes())
    assert found
    return found


def sleeping(name: str = "sleeper", *, but: object = ()) -> tuple[int, ...]:
    """The process of a sleeper, once it is another."""

    def other() -> bool:
        found = row(name).processes
        names = [Path(f"/proc/{one}/comm") for one in found]
        try:
            return found != but and [one.read_text() for one in names] == ["sleep\n"]
        except OSError:
            return False

    wait_until(other, what=f"{name} sleeps", seconds=SLOW)
    return row(name).processes


def one(script: str, *keys: str) -> str:
    lines = "\n".join(keys)
    command = json.dumps(["sh", "-c", script])
    return f'{MESH}[[function]]\nname = "one"\ncommand = {command}\n{lines}\n'


@pytest.mark.parametrize(
    ("policy", "status", "starts"),
    [("no", 1, False), ("on-failure", 0, False), ("on-failure", 3, True), ("always", 0, True)],
)
def test_policies(policy: str, status: int, starts: bool) -> None:
    """What is not to be started again stays ended while another is, several times."""
    text = one(f"exit {status}", f'restart = "{policy}"')
    more = '[[function]]\nname = "other"\nrestart = "always"\ncommand = ["false"]\n'
    with running(text + more), served():
        wait_until(lambda: row("other").restarts >= 3, what="one is started again", seconds=SLOW)
        found = row("one")
        if starts:
            wait_until(lambda: row("one").restarts >= 3, what="so is this", seconds=SLOW)
            assert row("one").last_exit == status
        else:
            assert (found.command_state, found.exit_status, found.restarts) == ("exited", status, 0)


def test_the_time_between_starts_grows(tmp_path: Path) -> None:
    """At least twice as long each time; a busy machine only adds."""
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    file = tmp_path / "starts"
    text = one(f"date +%s.%N >>{file}; exit 1", 'restart = "on-failure"', "privileged = true")
    with running(text), served():
        starts = lambda: file.read_text().split() if file.exists() else []  # noqa: E731
        wait_until(lambda: len(starts()) >= 6, what="it was started six times", seconds=SLOW)
        times = [float(line) for line in starts()[:6]]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    least = [0.1 * 2**n for n in range(5)]
    assert all(gap >= wanted for gap, wanted in zip(gaps, least, strict=True)), gaps


def test_a_killed_command_and_a_killed_keeper() -> None:
    with running(SLEEPER), served():
        first = sleeping()
        os.kill(first[0], signal.SIGKILL)
        second = sleeping(but=first)
        wait_until(lambda: row().restarts == 1, what="it is counted", seconds=SLOW)
        assert row().last_exit == 128 + signal.SIGKILL
        os.kill(keeper(), signal.SIGKILL)
        sleeping(but=second)
        wait_until(lambda: row().restarts == 2, what="it is counted", seconds=SLOW)
        assert row().last_exit is None
        assert is_well("served")


def test_kill_9_of_the_daemon_and_another() -> None:
    """Nothing that runs is started, neither by the death nor by the next; it goes on from there."""
    pair = SLEEPER + '[[function]]\nname = "ends"\nrestart = "always"\ncommand = ["false"]\n'
    with running(pair):
        with served() as daemon:
            first, before = sleeping(), keeper()
            wait_until(lambda: row("ends").restarts >= 2, what="it serves", seconds=SLOW)
            daemon.kill()
            daemon.wait()
        count = row("ends").restarts
        assert (row().processes, keeper()) == (first, before)
        with served():
            wait_until(lambda: row("ends").restarts > count, what="it goes on", seconds=SLOW)
            assert (row().processes, keeper(), row().restarts) == (first, before, 0)


def test_a_mesh_that_comes_later_goes_and_comes_again() -> None:
    with served() as daemon:
        for _ in range(2):
            with running(SLEEPER):
                first = sleeping()
                os.kill(first[0], signal.SIGKILL)
                sleeping(but=first)
        assert daemon.poll() is None


def test_by_hand_beside_it() -> None:
    """What is stopped stays so; what is started and restarted is watched."""
    pair = SLEEPER + '[[function]]\nname = "ends"\nrestart = "always"\ncommand = ["false"]\n'
    with running(pair), served():
        first = sleeping()
        apply.stop("served", "sleeper")
        count = row("ends").restarts
        wait_until(lambda: row("ends").restarts >= count + 2, what="it serves", seconds=SLOW)
        assert (row().command_state, row().restarts) == ("stopped", 0)
        apply.start("served", "sleeper")
        second = sleeping(but=first)
        apply.restart("served", "sleeper")
        third = sleeping(but=second)
        assert row().restarts == 0
        os.kill(third[0], signal.SIGKILL)
        sleeping(but=third)
        wait_until(lambda: row().restarts == 1, what="it is counted", seconds=SLOW)
        apply.up(mesh_of(pair.replace('"always"', '"no"', 1)))
        fourth = row().processes
        os.kill(fourth[0], signal.SIGKILL)
        count = row("ends").restarts
        wait_until(lambda: row("ends").restarts > count, what="it serves", seconds=SLOW)
        assert (row().command_state, row().restarts) == ("exited", 1)


def unserved() -> list[str]:
    """What doctor says of commands that nobody starts again."""
    return [check.text for check in health.check("served") if "again when" in check.text]


def test_one_at_a_time() -> None:
    with running(SLEEPER):
        sleeping()
        assert len(unserved()) == 1
        with served("--mesh", "served"):
            wait_until(lambda: not unserved(), what="doctor sees it", seconds=SLOW)
            said = complaint("--mesh", "served", "serve", code=1)
            assert "another process serves mesh served" in str(said)
        assert len(unserved()) == 1
    assert "Type=notify" in ebpfmesh("serve", "--unit").stdout


def test_what_systemd_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard, running(SLEEPER):
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(SLOW)
        with served(env={"NOTIFY_SOCKET": str(tmp_path / "notify")}):
            assert heard.recv(4096) == b"READY=1"
            for _ in range(2):
                assert heard.recv(4096) == b"WATCHDOG=1\nSTATUS=1 meshes, 1 commands"
        told = b""
        while told != b"STOPPING=1":
            told = heard.recv(4096)
