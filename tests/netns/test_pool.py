# SPDX-License-Identifier: BSD-2-Clause
"""Pools of a mesh: who is handed which, whose memory it is, and what is left when commands end."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from ebpfmesh import apply
from ebpfmesh.config import write
from ebpfmesh.kernel import cgroup, netns
from ebpfmesh.kernel.cgroup import Cgroup, Hierarchies
from ebpfmesh.model import Mesh, Ready
from ebpfmesh.observe import health, logs, pools
from ebpfmesh.observe.view import opened
from ebpfmesh.plan import told
from ebpfmesh.runtime.logs import read
from ebpfmesh.runtime.process import keeper
from ebpfmesh.state.place import cgroup_of, pool_cgroup
from ebpfmesh.state.record import Record
from support import builds
from support.command import COMMAND
from support.processes import command_line, workers
from support.topology import mesh_of, running, unavailable, wait_until

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/port/pool.py"
MESH = """
[mesh]
name = "pools"
[[function]]
name = "near"
tenant = "one"
command = {near}
volumes = ["{root}"]
[[function]]
name = "far"
tenant = "one"
command = {far}
volumes = ["{root}"]
memory = "64M"
[[function]]
name = "stranger"
tenant = "two"
command = ["sh", "-c", "env; ls -l /proc/self/fd; exec sleep 1000"]
"""
POOL = """
[[pool]]
name = "numbers"
tenant = "one"
slots = {slots}
bytes = {bytes}
functions = ["near", "far"]
"""
RECEIVE = (sys.executable, str(EXAMPLE), "receive")
SLEEP = ("sleep", "1000")


@pytest.fixture(scope="module")
def empty() -> Iterator[Mesh]:
    with running('[mesh]\nname = "pools"\n') as mesh:
        yield mesh


@pytest.fixture(autouse=True)
def _put_back(empty: Mesh) -> Iterator[None]:
    yield
    apply.up(empty)
    assert left() == set()


def left() -> set[str]:
    """Cgroups of pools that are there."""
    own = (one for one in cgroup.groups(netns.current()) if one.mesh == "pools")
    return {one.function for one in own if one.function.startswith("pool:")}


@pytest.fixture(scope="module")
def in_c() -> Iterator[tuple[str, ...]]:
    with builds.in_c("pool") as compiled:
        yield (str(compiled(EXAMPLE.with_suffix(".c"))),)


def mesh(
    near: tuple[str, ...], far: tuple[str, ...], slots: int = 64, size: int = 64, pool: str = POOL
) -> Mesh:
    text = MESH.format(near=list(near), far=list(far), root=ROOT)
    return mesh_of(text + pool.format(slots=slots, bytes=size))


def said(function: str) -> list[str]:
    with opened("pools") as view:
        return [line.text for line in read([logs.log(view, function)])]


def worker(function: str) -> int:
    wait_until(lambda: workers("pools", function), what="the command runs")
    return max(workers("pools", function))


def inodes(function: str) -> set[int]:
    """Of memory of pools that a function's command has."""
    found = set()
    with suppress(OSError):  # it becomes another program, or ends
        for one in Path(f"/proc/{worker(function)}/fd").iterdir():
            if "ebpfmesh-pool" in str(one.readlink()):
                found.add(one.stat().st_ino)
    return found


def memory(function: str) -> set[int]:
    """The same, once it is one: then the command runs, and has it."""
    found: set[int] = set()

    def has_one() -> bool:
        found.clear()
        found.update(inodes(function))
        return len(found) == 1

    wait_until(has_one, what=f"{function} has its memory")
    return found


def send(language: tuple[str, ...], to: str, count: int) -> tuple[str, ...]:
    return (*language, "send", to, str(count))


@pytest.mark.parametrize("sender", ["Python", "C"])
def test_all_that_is_sent_comes_once(in_c: tuple[str, ...], sender: str) -> None:
    """From one language to the other, with far fewer places than messages."""
    python = (sys.executable, str(EXAMPLE))
    there, here = (python, in_c) if sender == "Python" else (in_c, python)
    count = 20_000
    apply.up(mesh(send(there, "far", count), (*here, "receive"), slots=16))
    wait_until(lambda: said("far"), what="the sum is said", seconds=60)
    assert said("far") == [str(count * (count + 1) // 2)]
    assert said("near") == []
    wait_until(lambda: the_pool().used == 0, what="all is given back")
    row = the_pool()
    assert (row.name, row.tenant, row.slots, row.bytes) == ("numbers", "one", 16, 64)
    far, near = row.members
    assert (near.name, far.name, far.state, far.received) == ("near", "far", "running", count + 1)
    assert (near.sent, near.malformed + far.malformed, row.used) == (count + 1, 0, 0)


def test_nobody_else_has_it() -> None:
    apply.up(mesh(SLEEP, SLEEP))
    wait_until(lambda: any("/dev/null" in one for one in said("stranger")), what="it said all")
    assert not any("pool" in line.lower() for line in said("stranger"))
    assert memory("near") == memory("far")


def test_its_memory_is_charged_to_it_alone() -> None:
    """All of it, before anybody wrote to it, and to no member."""
    wanted = mesh(SLEEP, SLEEP, slots=1 << 16, size=1024)
    (pool,) = wanted.function("near").pools
    apply.up(wanted)
    with closing(Record("pools")) as record:
        groups = [pool_cgroup(record, "numbers"), *(cgroup_of(record, n) for n in ("near", "far"))]
    own, near, far = map(charged, groups)
    assert pool.size <= own < 2 * pool.size
    assert near < pool.size > far


def charged(group: Cgroup) -> int:
    found = Hierarchies.mounted()
    hierarchy = found.hierarchy_of("memory")
    if hierarchy is None:
        unavailable("no cgroup controller counts memory")
        raise AssertionError
    place = group.directory(hierarchy)
    if not place.exists():
        return 0
    unified = hierarchy == found.unified
    return int((place / ("memory.current" if unified else "memory.usage_in_bytes")).read_text())


def test_who_is_killed_goes_on_and_the_last_leaves_nothing() -> None:
    """What was sent to it waits for it, however its command ended; zeros when nobody was left."""
    near = ("sh", "-c", f"{sys.executable} {EXAMPLE} send far 5 && exec sleep 1000")
    apply.up(mesh(near, SLEEP))
    wait_until(lambda: waiting("far") == 6, what="it is sent")
    wait_until(lambda: is_sleep("near"), what="who has sent it is gone")
    (before,) = memory("near")
    os.kill(keeper_of("far"), signal.SIGKILL)
    wait_until(lambda: state("far") != "running", what="it ended")
    notes = [one.text for one in health.check("pools") if one.text.startswith("pool ")]
    assert notes == ["pool numbers: 6 of 64 places are far's, which does not run"]
    shown = subprocess.run(
        [*COMMAND, "--mesh", "pools", "show", "pools"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.splitlines()[1].split()[:2] == ["numbers", "one"]
    assert "far 0+6 exited" in shown.stdout or "far 0+6 lost" in shown.stdout
    apply.up(mesh(near, RECEIVE))
    wait_until(lambda: said("far") == ["15"], what="it has got them")
    assert memory("far") == memory("near") == {before}
    for name in ("near", "far"):
        apply.stop("pools", name)
    assert not the_pool().in_use
    apply.start("pools", "far")
    assert the_pool().in_use
    assert [(one.waiting, one.sent, one.received) for one in the_pool().members] == [(0, 0, 0)] * 2


def test_who_goes_on_without_its_keeper_has_it_still() -> None:
    """A privileged command, which no sandbox ends: who begins next has the same memory."""
    wanted = mesh(SLEEP, SLEEP)
    far = wanted.function("far").model_copy(update={"privileged": True, "volumes": ()})
    apply.up(wanted.model_copy(update={"functions": (wanted.function("near"), far)}))
    (before,) = memory("far")
    apply.stop("pools", "near")
    os.kill(keeper_of("far"), signal.SIGKILL)
    wait_until(lambda: state("far") != "running", what="nobody keeps it")
    assert the_pool().in_use
    apply.start("pools", "near")
    assert memory("near") == memory("far") == {before}


def the_pool() -> pools.PoolRow:
    with opened("pools") as view:
        (row,) = pools.read(view)
    return row


def waiting(function: str) -> int:
    return next((one.waiting for one in the_pool().members if one.name == function), 0)


def state(function: str) -> str:
    return next(one.state for one in the_pool().members if one.name == function)


def is_sleep(function: str) -> bool:
    (process, *more) = workers("pools", function) or [0]
    return not more and command_line(process).startswith(b"sleep\0")


def keeper_of(function: str) -> int:
    with closing(Record("pools")) as record:
        found = keeper(cgroup_of(record, function).processes())
    assert found
    return found


def test_another_pool_is_another_memory() -> None:
    """Commands are started anew for it; who is no member any more has none of it."""
    apply.up(mesh(SLEEP, SLEEP))
    before = memory("near")
    wanted = mesh(SLEEP, SLEEP, slots=128)
    what = "pools numbers:64x64 → numbers:128x64"
    lines = [one.text for one in told(apply.plan(wanted))]
    assert lines == [f"~ function {n}  {what}" for n in ("far", "near")]
    apply.up(wanted)
    assert memory("near") == memory("far")
    assert memory("near").isdisjoint(before)
    apply.up(mesh(SLEEP, SLEEP, slots=128, pool=POOL.replace('"near", ', "")))
    assert inodes("near") == set()
    assert [one.name for one in the_pool().members] == ["far"]


def test_who_is_rolled_back_is_where_it_was() -> None:
    """The memory of before, which the others have never left."""
    apply.up(mesh(SLEEP, SLEEP))
    before = memory("near")
    wanted = mesh(SLEEP, SLEEP, slots=128)
    never = Ready(file="/run/never", seconds=1)
    functions = [
        one.model_copy(update={"ready": never}) if one.name == "far" else one
        for one in wanted.functions
    ]
    with pytest.raises(apply.Unready):
        apply.up(wanted.model_copy(update={"functions": tuple(functions)}))
    assert memory("near") == memory("far") == before


def test_a_function_that_becomes_anothers_is_made_anew() -> None:
    """Never has a command memory of one tenant while its packets are another's."""
    apply.up(mesh(SLEEP, SLEEP))
    text = MESH.format(near=list(SLEEP), far=list(SLEEP), root=ROOT)
    text = text.replace('name = "near"\ntenant = "one"', 'name = "near"\ntenant = "two"')
    wanted = mesh_of(text + POOL.format(slots=64, bytes=64).replace('"near", ', ""))
    actions = [(one.action, one.operation.name) for one in told(apply.plan(wanted))]
    assert {("remove", "near"), ("add", "near")} <= set(actions)
    apply.up(wanted)
    assert inodes("near") == set()
    assert memory("far")


def test_a_file_of_it_is_the_same_mesh() -> None:
    apply.up(mesh(SLEEP, SLEEP))
    running_now, _ = apply.snapshot("pools")
    text = write.text(running_now)
    assert '[[pool]]\nname = "numbers"\ntenant = "one"' in text
    assert apply.plan(mesh_of(text)) == ()


def test_what_a_kill_leaves_of_a_pool_is_collected() -> None:
    wanted = mesh(SLEEP, SLEEP)
    apply.up(wanted)
    with closing(Record("pools")) as record:
        stray = pool_cgroup(record, "old")
    assert stray.charged()
    removed = apply.gc()
    assert any("pool:old" in line for line in removed)
    assert left() == {"pool:numbers"}
