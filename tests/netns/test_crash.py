# SPDX-License-Identifier: BSD-2-Clause
"""Killed and interrupted at each step: what is left can be brought up, taken down or collected.

A change is run in a child that kills itself when ``on_step`` names the step. Most changes start
from a mesh whose programs are there, since compiling them is what takes time. For each kind of
operation ``test_killed.py`` does this; here are the commands around them, Ctrl-C, and what a kill
meets beside operations.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ebpfmesh import apply
from ebpfmesh.apply import OnStep
from ebpfmesh.compile import compiled
from ebpfmesh.errors import NotFound, UsageError
from ebpfmesh.kernel import programs, sockets
from ebpfmesh.kernel.cgroup import directory_above
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.model import Function, Mesh
from support.killing import Change, interrupted_at, killed_at, shape, steps_of
from support.meshes import mesh_file
from support.processes import command_line, workers
from support.sockets import carries, connect, connects, is_blocked, listener
from support.topology import collected, leftovers, mesh_of, poll, wait_until

EMPTY = mesh_file("crash")
OLD = (
    EMPTY
    + """
[[function]]
name = "a"
tenant = "one"
[[function]]
name = "b"
tenant = "two"
command = ["sleep", "1000"]
ready = { file = "/etc/hosts" }
cpu = 0.5
[[service]]
name = "web"
address = ["198.19.0.1", "2001:db8:1::1"]
port = 80
target_port = 8080
functions = ["b"]
[[policy]]
from = "function:a"
to = "service:web"
[[policy]]
from = "function:a"
to = "function:b"
protocol = "tcp"
port = 22
action = "deny"
"""
)
NEW = (
    EMPTY
    + """
[[function]]
name = "a"
tenant = "one"
[[function]]
name = "b"
tenant = "three"
command = ["sleep", "1000"]
ready = { file = "/etc/hosts" }
cpu = 0.5
[[function]]
name = "c"
tenant = "three"
[[service]]
name = "web"
address = ["198.19.0.1", "2001:db8:1::1"]
port = 80
target_port = 8080
functions = ["b", "c"]
[[service]]
name = "other"
address = "198.19.0.2"
port = 81
functions = ["c"]
[[policy]]
from = "tenant:one"
to = "service:web"
"""
)


EMPTY_MESH, OLD_MESH, NEW_MESH = mesh_of(EMPTY), mesh_of(OLD), mesh_of(NEW)


def up(mesh: Mesh) -> Change:
    return lambda on_step: apply.up(mesh, on_step)


def is_old(mesh: Mesh) -> bool:
    own, front = mesh.function("b").address4, mesh.service("web").address6
    with (
        listener(mesh, "b", own, 8080),
        listener(mesh, "b", own, 22),
        listener(mesh, "b", mesh.function("b").address6, 8080),
    ):
        return (
            connects(mesh, "a", front, 80)
            and is_blocked(mesh, "a", own, 22, seconds=0.05)
            and is_blocked(mesh, "a", own, 8080, seconds=0.05)
        )


def command_runs(function: str = "b") -> bool:
    return any(command_line(pid) == b"sleep\0001000\0" for pid in workers("crash", function))


def whole(mesh: Mesh, works: Callable[[Mesh], bool]) -> None:
    """The mesh is just what the model says, and carries traffic."""
    assert apply.plan(mesh) == ()
    assert apply.up(mesh) == ()
    assert works(mesh)
    wait_until(command_runs, what="the command of b runs")
    with apply.opened(mesh.name) as live:
        assert live.functions.broken() == []
        assert not live.record.cut_short
        maps = live.control.maps
        assert maps["mesh_iface"].count() == len(mesh.functions)
        known = {a for item in (*mesh.functions, *mesh.services) for a in item.addresses}
        assert maps["mesh_address"].count() == len(known)
        assert maps["mesh_service"].count() == sum(len(s.frontends) for s in mesh.services)
        assert maps["mesh_policy"].count() == len(mesh.policies)


@pytest.fixture(scope="module")
def nothing() -> set[str]:
    return leftovers()


@pytest.fixture
def empty() -> Iterator[set[str]]:
    """A mesh without functions, with all programs, and all that is there then."""
    apply.up(OLD_MESH)
    apply.up(EMPTY_MESH)
    yield leftovers()
    apply.down("crash")


def gone(nothing: set[str]) -> bool:
    return poll(lambda: leftovers() <= nothing)


# ---- up, from nothing


@pytest.mark.parametrize("step", [0, 1, 2, 3, 9])
def test_creation_interrupted(nothing: set[str], step: int) -> None:
    assert interrupted_at(step, up(OLD_MESH))
    assert gone(nothing), leftovers() - nothing


def test_creation_killed_while_it_compiles(
    nothing: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler does not outlive who waits for it, to pin what nobody wants any more.

    Killed itself, it leaves no headers behind.
    """
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv(compiled.VARIABLE, "")
    child = os.fork()
    if child == 0:
        os.setsid()
        apply.up(OLD_MESH)
        os._exit(0)

    def compilers() -> list[str]:
        listing = ["pgrep", "-f", "ebpfmesh.compile.loader", "-s", str(child)]
        return subprocess.run(listing, capture_output=True, text=True, check=False).stdout.split()

    wait_until(compilers, what="the compiler runs")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    wait_until(lambda: not compilers(), what="the compiler is killed too")
    assert list(tmp_path.iterdir()) == []
    apply.up(OLD_MESH)
    whole(OLD_MESH, is_old)
    apply.down("crash")
    assert gone(nothing), leftovers() - nothing


# ---- up, of all there can be in a mesh


def test_filling_killed_then_down(nothing: set[str]) -> None:
    """Down knows all that an up can have begun: each kind of step once."""
    apply.up(OLD_MESH)
    apply.up(EMPTY_MESH)
    steps = steps_of(up(OLD_MESH))
    apply.up(EMPTY_MESH)
    kinds = {shape(step): number for number, step in enumerate(steps) if number > 3}
    for number in sorted(kinds.values()):
        apply.up(EMPTY_MESH)
        assert killed_at(number, up(OLD_MESH)), steps[number]
        apply.down("crash")
        assert gone(nothing), (steps[number], leftovers() - nothing)


def test_filling_interrupted_at_each_step(empty: set[str]) -> None:
    steps = steps_of(up(OLD_MESH))
    apply.up(EMPTY_MESH)
    for step in range(len(steps)):
        assert interrupted_at(step, up(OLD_MESH)), steps[step]
        assert gone(empty), (steps[step], leftovers() - empty)
        assert apply.plan(EMPTY_MESH) == ()


# ---- the first service, which brings programs of its own


SERVED = OLD_MESH.model_copy(update={"policies": OLD_MESH.policies[:1]})
BARE = OLD_MESH.model_copy(update={"services": (), "policies": ()})


def serve(on_step: OnStep) -> None:
    apply.edit("crash", lambda _: SERVED, on_step)


def forget_sockets() -> None:
    """The mesh as it is before its first service, without compiling all of it again."""
    apply.up(BARE)
    for program in programs.AT_SOCKETS:
        (Pins("crash").progs / program.name).unlink(missing_ok=True)
    apply.edit("crash", lambda mesh: mesh.model_copy(update={"policies": OLD_MESH.policies[1:]}))
    apply.up(BARE)
    assert list(Pins("crash").links.glob("mesh_*")) == []


def at_sockets() -> bool:
    """Whether a service is met by the sockets of commands."""
    with apply.opened("crash") as live:
        above = directory_above(live.home("a").cgroup.group)
    return sockets.loaded(Pins("crash")) and sockets.attached(Pins("crash"), above)


@pytest.fixture
def bare(nothing: set[str]) -> Iterator[None]:
    """Functions, but no service yet."""
    apply.up(BARE)
    wait_until(command_runs, what="the command of b runs")
    yield
    apply.down("crash")
    assert gone(nothing), leftovers() - nothing


@pytest.mark.usefixtures("bare")
def test_first_service_killed_at_each_step() -> None:
    """Each k, then the same again, or gc, or down: nothing is in the way of what comes next."""
    steps = steps_of(serve)
    assert {"programs at sockets", "service web", "sockets", "commit"} <= set(steps)
    for number, step in enumerate(steps):
        forget_sockets()
        assert killed_at(number, serve), step
        serve(lambda _: None)
        whole(SERVED, reaches_service)
        assert at_sockets(), step
    forget_sockets()
    assert killed_at(steps.index("sockets"), serve)
    apply.gc()
    assert collected("crash") == []
    assert at_sockets()


@pytest.mark.usefixtures("bare")
def test_first_service_interrupted_at_each_step() -> None:
    steps = steps_of(serve)
    for number, step in enumerate(steps):
        forget_sockets()
        assert interrupted_at(number, serve), step
        assert apply.plan(BARE) == ()
    serve(lambda _: None)
    whole(SERVED, reaches_service)
    assert at_sockets()


@pytest.mark.usefixtures("bare")
def test_programs_at_sockets_cut_short() -> None:
    """Some are pinned, others not: nothing is attached, and the next service begins anew."""
    serve(lambda _: None)
    (Pins("crash").progs / programs.AT_SOCKETS[-1].name).unlink()
    apply.edit("crash", lambda mesh: mesh.model_copy(update={"policies": OLD_MESH.policies}))
    assert list(Pins("crash").links.glob("mesh_*")) == []
    assert reaches_service(SERVED)
    apply.up(SERVED)
    assert at_sockets()
    whole(SERVED, reaches_service)


def reaches_service(mesh: Mesh) -> bool:
    with listener(mesh, "b", mesh.function("b").address4, 8080):
        return connects(mesh, "a", mesh.service("web").address4, 80)


# ---- up, from one mesh to another


@pytest.fixture
def old() -> Iterator[set[str]]:
    apply.up(OLD_MESH)

    def settled() -> bool:
        words = " ".join(leftovers())
        return all(word in words for word in ("b.log", " sleep"))

    wait_until(settled, what="the command runs")
    yield leftovers()
    apply.down("crash")


def test_change_interrupted_at_each_step(old: set[str]) -> None:
    """Undone: the mesh is the old one, and its connections never noticed."""
    address = OLD_MESH.service("web").address4
    with listener(OLD_MESH, "b", OLD_MESH.function("b").address4, 8080) as server:
        steps = 1000
        for step in range(steps):
            with connect(OLD_MESH, "a", address, 80) as here:
                there, _ = server.accept()
                with there:
                    if not interrupted_at(step, up(NEW_MESH)):
                        break
                    assert carries(here, there)
                    assert carries(there, here)
            assert apply.plan(OLD_MESH) == ()
            assert gone(old), (step, leftovers() - old)
    assert step > 15
    apply.up(OLD_MESH)
    whole(OLD_MESH, is_old)


# ---- down


def test_down_killed_at_each_step(nothing: set[str]) -> None:
    """Down again, and up again, from wherever it stopped."""
    apply.up(OLD_MESH)
    steps = steps_of(lambda on_step: apply.down("crash", on_step))
    assert gone(nothing)
    last_of_kind = {shape(step): number for number, step in enumerate(steps)}.values()
    for step in range(len(steps)):
        apply.up(OLD_MESH)
        assert killed_at(step, lambda on_step: apply.down("crash", on_step)), steps[step]
        apply.up(OLD_MESH)
        whole(OLD_MESH, is_old)
        if step in last_of_kind:
            assert killed_at(step, lambda on_step: apply.down("crash", on_step)), steps[step]
            apply.gc()
            if steps[step] != "record":  # until then nothing of it is gone
                assert gone(nothing), (steps[step], leftovers() - nothing)
    apply.down("crash")


# ---- attach and detach


def attach(on_step: OnStep) -> None:
    apply.add_function("crash", EXTRA, on_step=on_step)


def detach(on_step: OnStep) -> None:
    apply.detach("crash", "extra", on_step=on_step)


EXTRA = Function(
    name="extra",
    tenant="one",
    address4=OLD_MESH.prefix4.network_address + 9,
    command=("sleep", "1000"),
)


def reaches_extra() -> bool:
    with listener(OLD_MESH, "extra", EXTRA.address4, 8080):
        return connects(OLD_MESH, "a", EXTRA.address4, 8080)


def test_attach_and_detach_killed_at_each_step(old: set[str]) -> None:
    """The command that was killed can be given again, or its contrary."""
    steps = {attach: steps_of(attach), detach: steps_of(detach)}
    for step in range(len(steps[attach])):
        assert killed_at(step, attach), steps[attach][step]
        retry(attach)
        assert reaches_extra()
        detach(lambda _: None)
        assert gone(old), (steps[attach][step], leftovers() - old)
    for step in range(len(steps[detach])):
        attach(lambda _: None)
        assert killed_at(step, detach), steps[detach][step]
        retry(detach)
        assert gone(old), (steps[detach][step], leftovers() - old)
    whole(OLD_MESH, is_old)


def retry(change: Callable[[OnStep], None]) -> None:
    """Give a command again; one that was killed late may have done it all."""
    with contextlib.suppress(UsageError, NotFound):  # "there is one already", "there is none"
        change(lambda _: None)


def test_attach_and_detach_interrupted_at_each_step(old: set[str]) -> None:
    step = 0
    while interrupted_at(step, attach):
        assert gone(old), (step, leftovers() - old)
        step += 1
    assert step > 8
    step = 0
    while interrupted_at(step, detach):
        assert reaches_extra()
        wait_until(lambda: command_runs("extra"), what="the command of extra runs")
        step += 1
    assert step >= 4
    assert gone(old)
