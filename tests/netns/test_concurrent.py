# SPDX-License-Identifier: BSD-2-Clause
"""Several processes change one mesh at once: one after the other, and nothing is half done."""

import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address

import pytest

from ebpfmesh import apply
from ebpfmesh.apply import batch
from ebpfmesh.errors import MeshError, NotFound, UsageError
from ebpfmesh.kernel import cgroup, netns
from ebpfmesh.model import Function, Mesh
from ebpfmesh.runtime import process
from ebpfmesh.state.files import RUN
from ebpfmesh.state.lock import locked
from support.meshes import function, mesh_file, rule, service
from support.sockets import connects, listener
from support.topology import leftovers, mesh_of, poll, running

ONE = mesh_file("both", function("a"), function("b"), service("web", 80, "a", address="198.19.0.1"))
OTHER = mesh_file(
    "both",
    function("b", "other"),
    function("c", "other"),
    service("web", 80, "c", "b", address="198.19.0.1"),
    rule("any", "function:c", action="deny"),
)


def fork(work: Callable[[], object]) -> int:
    """Do ``work`` in a child; its exit status is that of the command: 2 for a UsageError."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except MeshError as error:
            status = error.exit_code if error.message and error.hint else 1
        finally:
            os._exit(status)
    return child


def statuses(children: list[int]) -> list[int]:
    return sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    with running('[mesh]\nname = "both"\n') as mesh:
        yield mesh


def test_two_ups_of_a_mesh_that_is_not_there() -> None:
    """Whoever comes second finds a whole mesh and changes it to its own."""
    wanted = mesh_of(ONE), mesh_of(OTHER)
    before = leftovers()
    children = [fork(lambda model=model: apply.up(model)) for model in wanted]
    assert statuses(children) == [0, 0]
    left = [apply.plan(model) for model in wanted]
    assert left.count(()) == 1
    last = wanted[left.index(())]
    with apply.opened("both") as live:
        assert live.functions.broken() == []
    apply.up(wanted[0])
    with listener(last, "a", wanted[0].function("a").address4, 80):
        assert connects(last, "b", IPv4Address("198.19.0.1"), 80)
    apply.down("both")
    assert poll(lambda: leftovers() == before), leftovers() ^ before


def test_ups_of_two_files_over_and_over(mesh: Mesh) -> None:
    wanted = mesh_of(ONE), mesh_of(OTHER)

    def work(model: Mesh) -> None:
        for _ in range(5):
            apply.up(model)

    assert statuses([fork(lambda model=model: work(model)) for model in wanted]) == [0, 0]
    assert [apply.plan(model) for model in wanted].count(()) == 1
    apply.up(mesh)


def extra(number: int) -> Function:
    return Function(name=f"extra-{number}", address4=IPv4Address("198.18.200.0") + number)


def test_four_attaches_at_once(mesh: Mesh) -> None:
    """Each gets an id of its own, and all can talk."""
    children = [fork(lambda n=n: apply.add_function("both", extra(n))) for n in range(4)]
    assert statuses(children) == [0] * 4
    with apply.opened("both") as live:
        rows = live.record.functions()
        assert live.functions.broken() == []
    assert [row.function for row in rows] == [extra(n) for n in range(4)]
    assert len({row.id for row in rows}) == 4
    with ExitStack() as stack:
        for n in range(4):
            stack.enter_context(listener(mesh, f"extra-{n}", extra(n).address4, 7000))
        for n in range(4):
            assert connects(mesh, f"extra-{n}", extra((n + 1) % 4).address4, 7000)
    children = [fork(lambda n=n: apply.detach("both", f"extra-{n}")) for n in range(4)]
    assert statuses(children) == [0] * 4
    assert apply.plan(mesh) == ()


SMALL = mesh_file("small", function("a"), prefix=["198.18.9.0/29", "2001:db8:9::/125"])


def test_addresses_are_chosen_one_after_the_other() -> None:
    """Of a prefix with six addresses, five at once: all that is chosen is so under the lock."""
    names = [f"box-{number}" for number in range(5)]
    with ExitStack() as stack:
        small = stack.enter_context(running(SMALL))
        for name in names:
            netns.create(name)
            stack.callback(netns.remove, name)
        requests = [apply.Request(mesh="small", name=name, namespace=name) for name in names]
        children = [fork(lambda one=one: apply.attach(one)) for one in requests]
        assert statuses(children) == [0] * 5
        with apply.opened("small") as live:
            found = live.record.model().functions
        assert len({function.address4 for function in found}) == 6
        assert {function.tenant for function in found} == {"default"}
        other = apply.Request(mesh="small", name="more", namespace=names[0])
        with pytest.raises(UsageError, match="in that namespace already"):
            apply.attach(other)
        assert apply.detach("small", names[0]) == (names[0],)
        assert apply.detach("small", names[0], missing_ok=True) == ()
        assert apply.detach("nosuch", names[0], missing_ok=True) == ()
        with pytest.raises(NotFound):
            apply.detach("small", names[0])
        row = apply.attach(other)
        assert row.ready
        assert row.function.address4 in small.prefix4
        apply.up(small)


def at_once(*works: Callable[[], object], backwards: bool = False) -> list[int]:
    """Exit statuses of changes of "both" that all wait for its lock when it is let go of.

    Each tries again after 20 ms, so the first to try most likely comes first: the first of
    ``works``, or ``backwards`` the last. Nothing is wrong if it does not.
    """
    read, write = os.pipe()
    begins = [os.pipe() for _ in works]

    def waits(begin: int, work: Callable[[], object]) -> object:
        os.read(begin, 1)  # a child of who holds the lock would hold it too
        tried = iter((b"x",))

        def on_flock(event: str, _arguments: object) -> None:
            if event == "fcntl.flock":
                os.write(write, next(tried, b""))

        sys.addaudithook(on_flock)
        return work()

    both = zip(begins, works, strict=True)
    children = [fork(lambda begin=begin, work=work: waits(begin[0], work)) for begin, work in both]
    with locked("both"):
        for _, begin in reversed(begins) if backwards else begins:
            os.write(begin, b"x")
            assert os.read(read, 1) == b"x"
            time.sleep(0.007)
    for end in (read, write, *(end for begin in begins for end in begin)):
        os.close(end)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


@pytest.fixture
def box() -> Iterator[str]:
    netns.create("box")
    yield "box"
    netns.remove("box")


def has(name: str) -> bool:
    """Whether the mesh has this function; all of it works, and no change was cut short."""
    with apply.opened("both") as live:
        assert not live.record.cut_short
        assert live.functions.broken() == []
        assert batch.problems(live) == []
        return live.record.function(name) is not None


ROUNDS = 3


@pytest.mark.parametrize("name", ["guest", "b"])
def test_attach_and_the_first_up_at_once(box: str, name: str) -> None:
    """Attach finds no mesh, or a whole one: with that name taken, or with room for it."""
    request = apply.Request(mesh="both", name=name, namespace=box)
    before = leftovers()
    for backwards in (False, True) * ROUNDS:
        up, attach = at_once(
            lambda: apply.up(mesh_of(ONE)), lambda: apply.attach(request), backwards=backwards
        )
        assert (up, attach) in {(0, 3), (0, 0) if name == "guest" else (0, 2)}
        assert has("guest") == (attach == 0)
        assert bool(apply.up(mesh_of(ONE))) == (attach == 0)
        apply.down("both")
        assert poll(lambda: leftovers() == before), leftovers() ^ before


@pytest.mark.parametrize("name", ["guest", "b"])
def test_attach_and_an_up_at_once(mesh: Mesh, box: str, name: str) -> None:
    """Up comes second and the mesh is its file, or attach does and adds to that or is refused."""
    request = apply.Request(mesh="both", name=name, namespace=box)
    wanted = mesh_of(ONE)
    for backwards in (False, True) * ROUNDS:
        up, attach = at_once(
            lambda: apply.up(wanted), lambda: apply.attach(request), backwards=backwards
        )
        assert (up, attach) in {(0, 0), (0, 0) if name == "guest" else (0, 2)}
        more = apply.plan(wanted)
        assert has("guest") == bool(more)
        assert {(one.kind, one.name) for one in more} <= {("remove-function", "guest")}
        with listener(wanted, "a", wanted.function("a").address4, 80):
            assert connects(wanted, "b", IPv4Address("198.19.0.1"), 80)
        apply.up(mesh)


def test_attach_and_a_down_at_once(box: str) -> None:
    request = apply.Request(mesh="both", name="guest", namespace=box)
    before = leftovers()
    for backwards in (False, True) * ROUNDS:
        apply.up(mesh_of(ONE))
        down, attach = at_once(
            lambda: apply.down("both"), lambda: apply.attach(request), backwards=backwards
        )
        assert (down, attach) in {(0, 0), (0, 3)}
        assert poll(lambda: leftovers() == before), leftovers() ^ before


def test_exec_waits_for_nobody(mesh: Mesh) -> None:
    apply.up(mesh_of(ONE))
    with locked("both"):
        child = fork(lambda: process.execute(apply.home("both", "a"), ["true"]))
        assert statuses([child]) == [0]
    apply.up(mesh)


def test_four_attaches_of_one_name(mesh: Mesh) -> None:
    children = [fork(lambda: apply.add_function("both", extra(0))) for _ in range(4)]
    assert statuses(children) == [0, 2, 2, 2]
    apply.up(mesh)


def test_down_while_an_up_waits() -> None:
    """The lock's file goes with the mesh; who waits on it takes the next one."""
    before = leftovers()
    apply.up(mesh_of(ONE))
    children = [fork(lambda: apply.down("both")) for _ in range(2)]
    children += [fork(lambda: apply.up(mesh_of(ONE))) for _ in range(2)]
    assert statuses(children) == [0] * 4
    apply.down("both")
    assert poll(lambda: leftovers() == before), leftovers() ^ before


def test_a_lock_ends_with_its_holder(mesh: Mesh) -> None:
    """A process that is killed while it holds the lock holds nobody up."""
    read, write = os.pipe()

    def hold() -> None:
        with locked("both"):
            os.write(write, b"x")
            signal.pause()

    child = fork(hold)
    assert os.read(read, 1) == b"x"
    waiting = fork(lambda: apply.add_function("both", extra(0)))
    assert not poll(lambda: os.waitpid(waiting, os.WNOHANG)[0], seconds=0.2)
    os.kill(child, signal.SIGKILL)
    assert statuses([child, waiting]) == [-signal.SIGKILL, 0]
    for end in (read, write):
        os.close(end)
    assert (RUN / "both.lock").exists()
    apply.up(mesh)


def test_a_lock_whose_file_went_is_no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between open and flock the one before us may remove the file; a third makes another."""
    flock, file = fcntl.flock, RUN / "gone.lock"
    seen = 0

    def late(lock: int, operation: int) -> None:
        nonlocal seen
        seen += 1
        if seen == 1:
            file.unlink()
        flock(lock, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with locked("gone"):
        assert seen == 2
        assert file.exists()
    assert not file.exists()


def test_cgroups_of_another_mesh_come_and_go() -> None:
    """They are in one place with ours: who looks for ours does not fail if they are gone."""
    above = cgroup.Hierarchies.mounted().tracking() / cgroup.TOP / "passing.1-1"

    def come_and_go() -> None:
        for _ in range(6000):
            with contextlib.suppress(OSError):  # meshes of other tests come and go too
                (above / "one").mkdir(parents=True, exist_ok=True)
                (above / "one").rmdir()
                above.rmdir()
                above.parent.rmdir()

    other = fork(come_and_go)
    while os.waitpid(other, os.WNOHANG) == (0, 0):
        assert "two" not in {one.function for one in cgroup.groups() if one.mesh == "passing"}
    for path in (above / "one", above, above.parent):
        with contextlib.suppress(OSError):
            path.rmdir()
