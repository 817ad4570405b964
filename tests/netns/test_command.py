# SPDX-License-Identifier: BSD-2-Clause
"""Commands of functions: where they run, within which limits, and what is kept of them."""

import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ebpfmesh import apply
from ebpfmesh.errors import MeshError, NotFound
from ebpfmesh.kernel import netns
from ebpfmesh.kernel.cgroup import Cgroup, Hierarchies
from ebpfmesh.model import Mesh
from ebpfmesh.observe import logs
from ebpfmesh.observe.view import opened
from ebpfmesh.runtime.logs import read
from ebpfmesh.state.place import exit_file, log_files
from support.meshes import function, mesh_file
from support.processes import workers
from support.topology import in_fn, mesh_of, running, wait_until

Up = Callable[[str], Mesh]
SLEEPER = mesh_file(
    "command", function("sleeper", command=["sleep", "1000"], cpu=0.5, memory="64M")
)
ONE = '[mesh]\nname = "command"\n[[function]]\nname = "one"\ncommand = {command}\n'


@pytest.fixture(scope="module")
def empty() -> Iterator[Mesh]:
    """A mesh whose programs are there, so that a test need not compile them."""
    with running('[mesh]\nname = "command"\n') as mesh:
        yield mesh


@pytest.fixture
def mesh_up(empty: Mesh) -> Iterator[Up]:
    def up(text: str) -> Mesh:
        wanted = mesh_of(text)
        apply.up(wanted)
        return wanted

    yield up
    apply.up(empty)


def one(script: str) -> str:
    return ONE.format(command=["sh", "-c", script])


def cgroup(function: str) -> Cgroup:
    return Cgroup(f"command.{netns.current()}", function)


def sleeper() -> int:
    """The sleeper's process, once it is the command and no shell that is about to become it."""

    def found() -> list[int]:
        return [pid for pid in workers("command", "sleeper") if name_of(pid) == "sleep"]

    wait_until(lambda: len(found()) == 1, what="the command runs")
    return found()[0]


def name_of(pid: int) -> str:
    """What a process is called; empty once it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def ended(function: str = "one") -> str:
    """How a command ended, once it has."""
    with apply.opened("command") as live:
        file = exit_file(live.record, function)
    wait_until(file.read_text, what="the command ends")
    return file.read_text()


def said(function: str = "one") -> str:
    with opened("command") as view:
        return "".join(f"{line.text}\n" for line in read([logs.log(view, function)]))


def test_a_command_runs_in_its_namespace_and_cgroup(mesh_up: Up) -> None:
    mesh_up(SLEEPER)
    pid = sleeper()
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\0001000\0"
    inside = (netns.RUN / "ebpfmesh.command.sleeper").stat().st_ino
    assert Path(f"/proc/{pid}/ns/net").stat().st_ino == inside != netns.current().inode
    own = f"/ebpfmesh/command.{netns.current()}/sleeper"
    found = dict(
        line.split(":", 2)[1:] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    )
    hierarchies = Hierarchies.mounted()
    tracked = [controller for controller, path in found.items() if path.endswith(own)]
    if hierarchies.unified:
        assert "" in tracked
    for controller in ("cpu", "memory"):
        if controller in hierarchies.v1:
            assert any(controller in names.split(",") for names in tracked)


def test_a_command_outlives_who_started_it(mesh_up: Up) -> None:
    """It is nobody's child, has a session of its own and no terminal."""
    mesh_up(SLEEPER)
    pid = sleeper()
    assert os.getsid(pid) != os.getsid(0)
    assert Path(f"/proc/{pid}/fd/0").readlink() == Path("/dev/null")


def test_a_command_does_not_inherit_what_we_ignore(mesh_up: Up) -> None:
    """An undo ignores signals, and may start a command again."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        mesh_up(SLEEPER)
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    pid = sleeper()
    status = Path(f"/proc/{pid}/status").read_text()
    ignored = int(next(line for line in status.splitlines() if "SigIgn" in line).split()[1], 16)
    assert not [number for number in numbers if ignored >> (number - 1) & 1]


def test_down_ends_a_command_that_will_not_end(mesh_up: Up) -> None:
    mesh_up(one("trap '' TERM; echo on; while :; do sleep 1; done"))
    wait_until(lambda: said() == "on\n", what="the trap is set")
    before = workers("command", "one")
    apply.detach("command", "one")
    assert not [pid for pid in before if runs(pid)]


def runs(pid: int) -> bool:
    """Whether a process has not ended; one that nobody waits for is still listed."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    return re.search(r"^State:\t[ZX]", status, re.MULTILINE) is None


def test_limits_are_in_the_cgroup_files(mesh_up: Up) -> None:
    mesh_up(SLEEPER)
    assert limit("cpu", "cpu.max", "cpu.cfs_quota_us") == "50000"
    assert limit("memory", "memory.max", "memory.limit_in_bytes") == str(64 << 20)


def limit(controller: str, unified: str, v1: str) -> str:
    found = Hierarchies.mounted()
    place = found.hierarchy_of(controller)
    assert place is not None
    directory = place / "ebpfmesh" / f"command.{netns.current()}" / "sleeper"
    return (directory / (unified if place == found.unified else v1)).read_text().split()[0]


def test_the_memory_limit_is_kept(mesh_up: Up) -> None:
    """More than the limit is not to be had: the kernel ends the process."""
    eater = "import sys; x = bytearray(200 << 20); x[::4096] = b'x' * len(x[::4096])"
    mesh_up(
        ONE.format(command=["/usr/bin/python3", "-c", eater]) + 'memory = "32M"\n',
    )
    assert ended() == str(128 + signal.SIGKILL)


def test_the_cpu_limit_is_kept(mesh_up: Up) -> None:
    """The kernel says that it held the command back."""
    mesh_up(one("while :; do :; done") + "cpu = 0.1\n")
    found = Hierarchies.mounted()
    place = found.hierarchy_of("cpu")
    assert place is not None
    directory = place / "ebpfmesh" / f"command.{netns.current()}" / "one"

    def throttled() -> int:
        lines = (directory / "cpu.stat").read_text().splitlines()
        return int(dict(line.split() for line in lines)["nr_throttled"])

    wait_until(lambda: throttled() >= 3, what="the command is throttled")


def test_without_limits_there_are_none(mesh_up: Up) -> None:
    mesh_up(one("sleep 1000"))
    v1 = Hierarchies.mounted().v1
    for controller in ("cpu", "memory"):
        if controller in v1:
            assert not list((v1[controller] / "ebpfmesh").glob("command.*"))


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", "0"), ("exit 7", "7"), ("kill -KILL $$", "137"), ("nosuchprogram", "127")],
)
def test_the_exit_status_is_kept(mesh_up: Up, script: str, status: str) -> None:
    mesh_up(one(script))
    assert ended() == status


def test_a_command_that_ended_is_started_by_an_up_alone(mesh_up: Up) -> None:
    mesh = mesh_up(one("echo run; exit 3"))
    assert ended() == "3"
    assert said() == "run\n"
    assert workers("command", "one") == []
    assert [step.kind for step in apply.up(mesh)] == ["start-function"]
    wait_until(lambda: said() == "run\nrun\n", what="it ran again")


def test_a_change_of_something_else_leaves_a_command_alone(mesh_up: Up) -> None:
    mesh = mesh_up(SLEEPER)
    before = [sleeper()]
    more = mesh_of(SLEEPER + '[[function]]\nname = "other"\n')
    apply.up(more)
    changed = mesh_of(SLEEPER.replace("cpu", 'tenant = "elsewhere"\naudit = true\ncpu'))
    apply.up(changed)
    assert workers("command", "sleeper") == before
    apply.up(mesh)
    assert workers("command", "sleeper") == before


def test_another_command_takes_its_place(mesh_up: Up) -> None:
    mesh_up(one("echo first; sleep 1000"))
    wait_until(lambda: said() == "first\n", what="the first command runs")
    apply.up(mesh_of(one("echo second; sleep 1000")))
    wait_until(lambda: said().endswith("second\n"), what="the second command runs")
    assert said().startswith("first\n")  # the run before
    wait_until(lambda: len(workers("command", "one")) == 2, what="sh and sleep are all there is")


def test_the_log_keeps_both_outputs(mesh_up: Up) -> None:
    mesh_up(one("echo out; echo err >&2; exit 1"))
    ended()
    wait_until(lambda: said() == "out\nerr\n", what="the log is written")


def test_the_log_is_bounded_and_the_command_does_not_notice(mesh_up: Up) -> None:
    """The last is kept, of whatever comes how fast."""
    mesh_up(one("seq 1000000 && exit 5"))
    assert ended() == "5"
    lines = said().split()
    assert lines == [str(n) for n in range(1_000_001 - len(lines), 1_000_001)]
    assert len(lines) > 10_000
    with apply.opened("command") as live:
        assert sum(path.stat().st_size for path in log_files(live.record, "one")[:2]) < 1.1 * 2**20


def test_names_resolve_inside_and_the_hosts_file_is_untouched(mesh_up: Up) -> None:
    before = Path("/etc/hosts").read_bytes()
    mesh = mesh_up("""
    [mesh]
    name = "command"
    [[function]]
    name = "client"
    [[function]]
    name = "server"
    replicas = 2
    [[service]]
    name = "web"
    address = ["198.19.0.1", "2001:db8:1::1"]
    port = 80
    functions = ["server"]
    """)

    def addresses(name: str) -> set[str]:
        done = in_fn(mesh, "client", ["getent", "-s", "files", "ahosts", name], check=False)
        return {line.split()[0] for line in done.stdout.splitlines()}

    for name in ("server-0", "server-1", "client"):
        assert addresses(name) == {str(a) for a in mesh.function(name).addresses}
    assert addresses("web") == {"198.19.0.1", "2001:db8:1::1"}
    assert in_fn(mesh, "client", ["getent", "-s", "files", "hosts", "localhost"]).returncode == 0
    assert addresses("server") == set()
    assert Path("/etc/hosts").read_bytes() == before
    in_fn(mesh, "client", ["ping", "-4", "-c", 1, "-W", 20, "server-1"])
    in_fn(mesh, "client", ["ping", "-6", "-c", 1, "-W", 20, "server-1"])


def test_a_running_command_sees_new_names(mesh_up: Up) -> None:
    """The file is written in place: what runs since before has this very file."""
    mesh_up(one("until getent -s files hosts later; do sleep 0.05; done"))
    with apply.opened("command") as live:
        file = exit_file(live.record, "one")
    assert file.read_text() == ""
    both = (
        one("until getent -s files hosts later; do sleep 0.05; done")
        + '[[function]]\nname = "later"\n'
    )
    apply.up(mesh_of(both))
    assert ended() == "0"


def test_replicas_are_functions_of_their_own(mesh_up: Up) -> None:
    mesh = mesh_up(
        '[mesh]\nname = "command"\n[[function]]\nname = "w"\nreplicas = 3\n'
        'command = ["sh", "-c", "hostname -I; sleep 1000"]\n'
    )
    assert [f.name for f in mesh.functions] == ["w-0", "w-1", "w-2"]
    for one in mesh.functions:
        wait_until(lambda name=one.name: said(name).strip(), what="the command speaks")
        assert set(said(one.name).split()) == {str(a) for a in one.addresses}
    fewer = mesh_of(
        '[mesh]\nname = "command"\n[[function]]\nname = "w"\nreplicas = 2\n'
        'command = ["sh", "-c", "hostname -I; sleep 1000"]\n'
    )
    both = lambda: sorted(map(name_of, workers("command", "w-0"))) == ["sh", "sleep"]  # noqa: E731
    wait_until(both, what="it has spoken and sleeps")
    before = workers("command", "w-0")
    apply.up(fewer)
    assert workers("command", "w-0") == before
    assert not (netns.RUN / "ebpfmesh.command.w-2").exists()


def test_a_program_that_is_not_there_undoes_everything() -> None:
    text = '[mesh]\nname = "new"\n[[function]]\nname = "one"\ncommand = ["/nowhere/prog"]\n'
    with pytest.raises(MeshError, match="/nowhere/prog") as caught:
        apply.up(mesh_of(text))
    assert (caught.value.exit_code, bool(caught.value.hint)) == (1, True)
    with pytest.raises(NotFound, match="there is no mesh"), apply.opened("new"):
        pass


def test_a_program_that_is_not_there_leaves_the_mesh_as_it_was(mesh_up: Up) -> None:
    zero = '[mesh]\nname = "command"\n[[function]]\nname = "zero"\n'
    mesh = mesh_up(zero)
    with pytest.raises(MeshError, match="/nowhere/prog"):
        mesh_up(zero + '[[function]]\nname = "one"\ncommand = ["/nowhere/prog"]\n')
    assert apply.plan(mesh) == ()


def test_interfaces_inside_are_the_functions_own(mesh_up: Up) -> None:
    """/sys shows the namespace, not the host."""
    mesh = mesh_up('[mesh]\nname = "command"\n[[function]]\nname = "one"\n')
    assert in_fn(mesh, "one", ["ls", "/sys/class/net"]).stdout.split() == ["eth0", "lo"]
    assert "eth0" not in [name for _, name in socket.if_nameindex()]
