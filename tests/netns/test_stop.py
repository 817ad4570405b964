# SPDX-License-Identifier: BSD-2-Clause
"""Commands that are stopped, started and restarted by hand, and how they are asked to end."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ebpfmesh import apply
from ebpfmesh.errors import NotFound, UsageError
from ebpfmesh.kernel import netns
from ebpfmesh.kernel.cgroup import Cgroup
from ebpfmesh.model import Mesh
from ebpfmesh.observe import functions
from ebpfmesh.observe.functions import Function
from ebpfmesh.observe.view import opened
from ebpfmesh.operation import Operation
from support.agreeing import disagreements, is_well
from support.meshes import function, mesh_file
from support.topology import in_fn, mesh_of, running, wait_until

Up = Callable[[str], Mesh]
EMPTY = mesh_file("stops")
SLEEPER = """
[mesh]
name = "stops"
[[function]]
name = "sleeper"
command = ["sleep", "1000"]
{more}
[[function]]
name = "other"
"""
PAIR = mesh_file("stops", function("w", replicas=2, command=["sleep", "1000"]))


@pytest.fixture(scope="module")
def empty() -> Iterator[Mesh]:
    with running(EMPTY) as mesh:
        yield mesh


@pytest.fixture
def mesh_up(empty: Mesh) -> Iterator[Up]:
    def up(text: str) -> Mesh:
        wanted = mesh_of(text)
        apply.up(wanted)
        return wanted

    yield up
    apply.up(empty)


def row(name: str = "sleeper") -> Function:
    with opened("stops") as view:
        return next(one for one in functions.read(view) if one.name == name)


def is_sleeping(name: str = "sleeper") -> bool:
    """Whether its command is what runs in it."""
    words = [Path(f"/proc/{one}/comm") for one in row(name).processes]
    try:
        return [word.read_text() for word in words] == ["sleep\n"]
    except OSError:
        return False


def slept(name: str = "sleeper") -> tuple[int, ...]:
    wait_until(lambda: is_sleeping(name), what="the command runs")
    return row(name).processes


def kinds(done: tuple[Operation, ...]) -> list[tuple[str, str]]:
    return [(one.kind, one.name) for one in done]


def failing() -> apply.OnStep:
    """A change with it fails when all is done but for the end, and is undone."""
    seen: list[str] = []

    def fail(step: str) -> None:
        seen.append(step)
        if seen.count("commit") == 1 == (step == "commit"):
            raise RuntimeError

    return fail


def test_stop_and_start(mesh_up: Up) -> None:
    """Only the processes go: the function answers for what its namespace does by itself."""
    mesh = mesh_up(SLEEPER.format(more=""))
    before = slept()
    assert kinds(apply.stop("stops", "sleeper")) == [("stop-function", "sleeper")]
    assert not Cgroup(f"stops.{netns.current()}", "sleeper").processes()
    found = row()
    assert (found.state, found.command_state, found.exit_status) == ("up", "stopped", 143)
    assert found.unready == "stopped"
    in_fn(mesh, "other", ["ping", "-c", 1, "-W", 20, "sleeper"])
    assert apply.stop("stops", "sleeper") == ()
    assert kinds(apply.start("stops", "sleeper")) == [("start-function", "sleeper")]
    assert slept() != before
    found = row()
    assert (found.command_state, found.exit_status, found.last_exit) == ("running", None, 143)
    assert found.unready == ""
    assert apply.start("stops", "sleeper") == ()
    assert disagreements(mesh) == []


def test_up_leaves_a_stopped_command_stopped(mesh_up: Up) -> None:
    """With another tenant or user too: it changes in place. What is made anew is started."""
    mesh_up(SLEEPER.format(more=""))
    slept()
    apply.stop("stops", "sleeper")
    assert apply.up(mesh_of(SLEEPER.format(more=""))) == ()
    assert apply.stay_stopped("stops", ()) == ["sleeper"]
    changed = apply.up(mesh_of(SLEEPER.format(more='tenant = "b"\nstop_seconds = 5')))
    assert kinds(changed) == [("change-function", "sleeper")]
    assert row().command_state == "stopped"
    rolled = apply.up(mesh_of(SLEEPER.format(more='user = "root"')))
    assert kinds(rolled) == [("change-function", "sleeper"), ("roll-function", "sleeper")]
    assert row().command_state == "stopped"
    anew = apply.up(mesh_of(SLEEPER.format(more="privileged = true")))
    assert apply.stay_stopped("stops", anew) == []
    slept()


def test_a_detach_that_is_undone_leaves_it_stopped(mesh_up: Up) -> None:
    mesh_up(SLEEPER.format(more=""))
    slept()
    apply.stop("stops", "sleeper")

    with pytest.raises(RuntimeError):
        apply.detach("stops", "sleeper", failing())
    assert (row().state, row().command_state, row().processes) == ("up", "stopped", ())
    assert is_well("stops")


def test_restart(mesh_up: Up) -> None:
    mesh_up(PAIR)
    before = slept("w-0"), slept("w-1")
    done = kinds(apply.restart("stops", "w"))
    assert done == [("roll-function", "w-0"), ("roll-function", "w-1")]
    assert {slept("w-0"), slept("w-1")}.isdisjoint(before)
    before = slept("w-0"), slept("w-1")
    apply.restart("stops", "w-1")
    assert slept("w-0") == before[0]
    assert slept("w-1") != before[1]
    os.kill(slept("w-0")[0], signal.SIGKILL)
    wait_until(lambda: row("w-0").command_state == "exited", what="it is seen to end")
    assert kinds(apply.start("stops", "w")) == [("start-function", "w-0")]
    slept("w-0")
    assert row("w-0").last_exit == 128 + signal.SIGKILL


def test_a_restart_that_fails_is_undone(mesh_up: Up) -> None:
    """What ran runs again, and what was stopped is."""
    mesh_up(PAIR)
    slept("w-0"), slept("w-1")
    apply.stop("stops", "w-1")

    with pytest.raises(RuntimeError):
        apply.restart("stops", "w", failing())
    slept("w-0")
    assert (row("w-1").command_state, row("w-1").processes) == ("stopped", ())
    assert is_well("stops")


def test_the_signal_and_the_time_are_the_functions(mesh_up: Up) -> None:
    """One that takes its signal alone ends by it; one that takes none is killed."""
    # no shell: dash loses a signal that comes while it begins a command; nor pause(2), which sleeps
    # on if one comes just before
    script = (
        "import signal as s, sys, time; s.signal(s.SIGQUIT, lambda *_: sys.exit(7)); "
        "s.signal(s.SIGTERM, s.SIG_IGN); [time.sleep(0.1) for _ in iter(int, 1)]"
    )
    text = f"""
    [mesh]
    name = "stops"
    [[function]]
    name = "quits"
    command = ["python3", "-c", "{script}"]
    stop_signal = "SIGQUIT"
    stop_seconds = 30
    [[function]]
    name = "stays"
    command = ["python3", "-c", "{script}"]
    stop_seconds = 0
    """
    mesh_up(text)
    for name in ("quits", "stays"):
        wait_until(lambda name=name: is_ready(name), what="the traps are set")
    apply.stop("stops", "quits")
    assert row("quits").exit_status == 7
    apply.stop("stops", "stays")
    assert row("stays").exit_status == 128 + signal.SIGKILL


def is_ready(name: str) -> bool:
    """Whether a command ignores SIGTERM by now."""
    for process in row(name).processes:
        try:
            lines = Path(f"/proc/{process}/status").read_text().splitlines()
        except OSError:
            continue
        (ignored,) = (int(line.split()[1], 16) for line in lines if line.startswith("SigIgn"))
        if ignored >> (signal.SIGTERM - 1) & 1:
            return True
    return False


def test_down_asks_by_the_functions_signal(mesh_up: Up, tmp_path: Path) -> None:
    """Removal of one does too; what it did last is seen in a file."""
    tmp_path.chmod(0o777)
    tmp_path.parent.chmod(0o755)
    script = (  # no shell, as above
        "import pathlib, signal as s, sys, time; said = pathlib.Path('/out/said'); "
        "s.signal(s.SIGUSR1, lambda *_: sys.exit(bool(said.write_text('bye')))); "
        "s.signal(s.SIGTERM, s.SIG_IGN); [time.sleep(0.1) for _ in iter(int, 1)]"
    )
    mesh_up(
        f"""
    [mesh]
    name = "stops"
    [[function]]
    name = "one"
    command = ["python3", "-c", "{script}"]
    privileged = true
    stop_signal = "SIGUSR1"
    stop_seconds = 30
    """.replace("/out", str(tmp_path))
    )
    wait_until(lambda: is_ready("one"), what="the traps are set")
    apply.detach("stops", "one")
    assert (tmp_path / "said").read_text() == "bye"


def test_what_cannot_be_stopped_is_told(mesh_up: Up) -> None:
    mesh_up(SLEEPER.format(more=""))
    with pytest.raises(UsageError, match="function other has no command"):
        apply.stop("stops", "other")
    with pytest.raises(NotFound, match="there is no function nobody"):
        apply.restart("stops", "nobody")
