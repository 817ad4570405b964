# SPDX-License-Identifier: BSD-2-Clause
"""What happens under a mesh: interfaces, namespaces, programs and pins go without its knowing.

Each is noticed, never a crash; ``up`` repairs it and ``gc`` removes what is left of it.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ebpfmesh import apply
from ebpfmesh.errors import MeshError, NotFound
from ebpfmesh.kernel import cgroup, interface, netns
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.model import Mesh
from ebpfmesh.state.files import RUN
from ebpfmesh.state.rows import FunctionRow
from support.meshes import function, mesh_file, rule, service
from support.sockets import connects, is_blocked, listener
from support.topology import background, collected, in_fn, leftovers, mesh_of, poll

MESH = mesh_file(
    "broken",
    function("a"),
    function("b"),
    service("web", 80, "b", address="198.19.0.1", target_port=8080),
    rule("function:a", "function:b", protocol="tcp", port=22, action="deny"),
)
B = netns.RUN / "ebpfmesh.broken.b"


@pytest.fixture
def mesh(running_mesh: Mesh) -> Iterator[Mesh]:
    """The mesh, whole before each test."""
    yield running_mesh
    apply.up(running_mesh)
    assert works(running_mesh)


def works(mesh: Mesh) -> bool:
    """Whether all of the file is true: the service answers, and the rule holds."""
    own, front = mesh.function("b").address4, mesh.service("web").address4
    with listener(mesh, "b", own, 8080), listener(mesh, "b", own, 22):
        through = connects(mesh, "a", front, 80)
        return through and connects(mesh, "a", own, 8080) and is_blocked(mesh, "a", own, 22)


def host_link(name: str) -> str:
    with apply.opened("broken") as live:
        row = live.record.function(name)
        assert row is not None
        return row.attachment.interface


def delete_host_link() -> None:
    with netns.rtnetlink() as ip:
        ip.link("del", index=interface.find(host_link("b")))


def delete_inner_link() -> None:
    with netns.rtnetlink(B) as ip:
        ip.link("del", ifname="eth0")


def delete_namespace() -> None:
    link = host_link("b")
    netns.remove(B.name)
    assert poll(lambda: interface.find(link) is None)  # the kernel takes its time to take it apart


def recreate_namespace() -> None:
    delete_namespace()
    netns.create(B.name)


def replace_host_link() -> None:
    """Another interface of the same name, not ours."""
    name = host_link("b")
    delete_host_link()
    with netns.rtnetlink() as ip:
        ip.link("add", ifname=name, kind="veth", peer={"ifname": "other"})
        ip.link("set", index=interface.find(name), ifalias="somebody's")


def unpin_link() -> None:
    """A program is detached: nothing holds its link any more, as the kernel notices in time."""
    (Pins("broken").links / "b-ingress").unlink()
    with apply.opened("broken") as live:
        assert poll(lambda: live.functions.broken() == ["b"])


def unpin_all() -> None:
    """As when the BPF file system is unmounted."""
    shutil.rmtree(Pins("broken").top)


def unpin_maps() -> None:
    shutil.rmtree(Pins("broken").maps)


def unpin_a_map() -> None:
    (Pins("broken").maps / "mesh_policy").unlink()


DAMAGES = [
    delete_host_link,
    delete_inner_link,
    delete_namespace,
    recreate_namespace,
    replace_host_link,
    unpin_link,
    unpin_all,
    unpin_maps,
    unpin_a_map,
]
OF_B = DAMAGES[:6]  # what is wrong with one function alone


@contextlib.contextmanager
def others_kept() -> Iterator[None]:
    """An interface of somebody else may stand where ours was; it stays, and goes with the test."""
    yield
    with netns.rtnetlink() as ip:
        if (index := interface.find("other")) is not None:
            peer = ip.link("get", index=index)[0].get_attr("IFLA_LINK")
            assert ip.link("get", index=peer)[0].get_attr("IFLA_IFALIAS") == "somebody's"
            ip.link("del", index=index)


@pytest.mark.parametrize("damage", OF_B)
def test_noticed(mesh: Mesh, damage: Callable[[], None]) -> None:
    with others_kept():
        damage()
        with apply.opened(mesh.name) as live:
            assert live.functions.broken() == ["b"]
        assert any("function b" in operation.describe() for operation in apply.plan(mesh))


@pytest.mark.parametrize("damage", [d for d in DAMAGES if d is not replace_host_link])
def test_up_repairs(mesh: Mesh, damage: Callable[[], None]) -> None:
    damage()
    apply.up(mesh)
    assert works(mesh)
    assert apply.plan(mesh) == ()
    apply.edit(mesh.name, lambda now: now.model_copy(update={"policies": ()}))
    with listener(mesh, "b", mesh.function("b").address4, 22):  # the maps are the programs' own
        assert connects(mesh, "a", mesh.function("b").address4, 22)


def test_up_will_not_take_anothers_interface(mesh: Mesh) -> None:
    """An interface of the right name that is not ours is an error that names it."""
    name = host_link("b")
    with others_kept():
        replace_host_link()
        with pytest.raises(MeshError, match=name):
            apply.up(mesh)


@pytest.mark.parametrize("damage", OF_B)
def test_gc_removes_what_is_left_of_a_function(mesh: Mesh, damage: Callable[[], None]) -> None:
    with others_kept():
        damage()
        assert any("function b" in line for line in collected("broken"))
        assert collected("broken") == []
        with apply.opened(mesh.name) as live:
            assert live.functions.broken() == []
            assert [f.name for f in live.record.model().functions] == ["a"]
            assert live.record.model().services[0].functions == ()


@pytest.mark.parametrize("damage", DAMAGES)
def test_down_removes_all_the_same(running_mesh: Mesh, damage: Callable[[], None]) -> None:
    with others_kept():
        damage()
        assert apply.down(running_mesh.name)
        left = {word for word in leftovers() if "broken" in word or "ebpfmesh:" in word}
        assert left == set()
    apply.up(running_mesh)


@pytest.mark.parametrize("damage", [unpin_all, unpin_maps])
def test_gc_removes_a_mesh_without_pins(running_mesh: Mesh, damage: Callable[[], None]) -> None:
    damage()
    assert collected("broken")
    assert collected("broken") == []
    assert not {word for word in leftovers() if "broken" in word}
    apply.up(running_mesh)


def test_a_namespace_that_lost_its_name_lives_while_a_process_does(mesh: Mesh) -> None:
    """The interface is still there, but nobody can enter: it counts as broken."""
    with background(mesh, "b", ["sleep", "100"]):
        netns.remove(B.name)
        with apply.opened(mesh.name) as live:
            assert live.functions.broken() == ["b"]
        with pytest.raises(NotFound):
            in_fn(mesh, "b", ["true"])
        apply.up(mesh)
        assert works(mesh)


def test_a_namespace_of_the_user_is_theirs(mesh: Mesh) -> None:
    """Deleted and made again by the user: repaired, and never removed by us."""
    text = MESH + '[[function]]\nname = "own"\nnetns = "mine"\n'
    netns.create("mine")
    try:
        wanted = mesh_of(text)
        apply.up(wanted)
        in_fn(wanted, "own", ["ping", "-c", 1, "-W", 20, wanted.function("a").address4])
        netns.remove("mine")
        with pytest.raises(NotFound, match="mine"):
            apply.up(wanted)
        netns.create("mine")
        apply.up(wanted)
        in_fn(wanted, "own", ["ping", "-c", 1, "-W", 20, wanted.function("a").address4])
        netns.remove("mine")
        netns.create("mine")
        assert any("own" in line for line in apply.gc())
        assert (netns.RUN / "mine").exists()
        apply.up(mesh)
        with netns.rtnetlink(netns.RUN / "mine") as ip:
            assert [link.get_attr("IFLA_IFNAME") for link in ip.get_links()] == ["lo"]
    finally:
        netns.remove("mine")


def test_a_dead_host_namespace_is_collected() -> None:
    """A mesh of another host namespace is left alone while that lives, and collected after."""
    netns.create("elsewhere")
    try:
        with netns.entered(netns.RUN / "elsewhere"):
            apply.up(elsewhere())
        assert collected("elsewhere") == []
        assert (RUN / "elsewhere").is_dir()
        for change in (lambda: apply.up(elsewhere()), lambda: apply.down("elsewhere")):
            with pytest.raises(NotFound, match="another network namespace"):
                change()
    finally:
        netns.remove("elsewhere")
    assert poll(lambda: "mesh elsewhere" in apply.gc())
    assert not {word for word in leftovers() if "elsewhere" in word}


@contextlib.contextmanager
def again(use: Callable[[Path], object], undo: Callable[[], object]) -> Iterator[Path]:
    """A namespace with the inode of one that was used and is gone: the kernel gives it to the next.

    That may be somebody else's on this machine, so it is tried more than once.
    """
    made: list[Path] = []

    def remove() -> None:
        while made:
            netns.remove(made.pop().name)

    def is_given_again() -> bool:
        first = netns.create("first")
        inode = netns.inode(first)
        use(first)
        netns.remove(first.name)

        def is_next() -> bool:
            made.append(netns.create(f"next-{len(made)}"))
            return netns.inode(made[-1]) == inode

        if poll(is_next, seconds=2):
            return True
        remove()
        undo()
        return False

    try:
        assert poll(is_given_again, seconds=120)
        yield made[-1]
    finally:
        remove()


@pytest.mark.parametrize("way", ["up", "gc"])
def test_a_host_namespace_is_not_a_later_one_of_its_inode(way: str) -> None:
    """Its mesh is one whose host namespace is gone, whatever has the inode now."""
    ids: list[netns.NetnsId] = []

    def use(host: Path) -> None:
        with netns.entered(host):
            apply.up(elsewhere())
            ids.append(netns.current())

    stays = background(elsewhere(), None, ["sleep", 1000])  # where other meshes are
    with stays, again(use, apply.gc) as later, netns.entered(later):
        own = ids[-1]
        assert poll(lambda: not own.lives())
        assert netns.current().inode == own.inode
        assert netns.current().lives()
        left = cgroup.Cgroup(f"elsewhere.{own}", "a")
        assert poll(lambda: is_there(left))
        assert not cgroup.groups(netns.current())
        if way == "up":
            repaired, *_ = apply.up(elsewhere())
            assert "host namespace is gone" in repaired.describe()
            in_fn(elsewhere(), "a", ["true"])
            assert apply.up(elsewhere()) == ()
            apply.down("elsewhere")
            apply.gc()
        else:
            with pytest.raises(NotFound, match="another network namespace"):
                apply.detach("elsewhere", "a")
            assert "mesh elsewhere" in apply.gc()
        assert not {word for word in leftovers() if "elsewhere" in word}
    assert not cgroup.groups(own)


def is_there(group: cgroup.Cgroup) -> bool:
    """Whether it is found; made anew where the gc of another test on this machine was before us."""
    group.create(elsewhere().function(group.function))
    return group in cgroup.groups(group.home)


def test_a_host_namespace_whose_process_is_elsewhere_lives() -> None:
    """For a moment, as each change is that enters a function; it keeps its own namespace open."""
    netns.create("elsewhere")
    netns.create("function")
    ready, told = os.pipe()
    stay, go = os.pipe()
    child = os.fork()
    if child == 0:
        with netns.entered(netns.RUN / "elsewhere"), netns.entered(netns.RUN / "function"):
            os.write(told, b".")
            os.read(stay, 1)
        os._exit(0)
    try:
        with netns.entered(netns.RUN / "elsewhere"):
            home = netns.current()
        os.read(ready, 1)
        netns.remove("elsewhere")
        assert home.lives()
    finally:
        os.write(go, b".")
        os.waitpid(child, 0)
        for end in (ready, told, stay, go):
            os.close(end)
        netns.remove("function")
    assert poll(lambda: not home.lives())


def test_a_host_namespace_that_others_have_a_name_for_lives() -> None:
    """In a mount namespace of theirs, and no process is in it."""
    netns.create("elsewhere")
    with netns.entered(netns.RUN / "elsewhere"):
        home = netns.current()
    held = "touch /tmp/held; mount --bind /run/netns/elsewhere /tmp/held; echo; exec sleep 1000"
    command = ["unshare", "-m", "sh", "-c", f"mount -t tmpfs none /tmp; {held}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"\n"
            netns.remove("elsewhere")
            assert home.lives()
        finally:
            child.kill()
    assert poll(lambda: not home.lives())


def test_attach_where_a_dead_function_was(mesh: Mesh) -> None:
    """A namespace that has the inode of one which is gone, function and all, holds none."""
    rows: list[FunctionRow] = []

    def use(box: Path) -> None:
        request = apply.Request(mesh=mesh.name, name="own", namespace=str(box))
        rows.append(apply.attach(request))

    with again(use, lambda: apply.up(mesh)) as later:
        row = apply.attach(apply.Request(mesh=mesh.name, name="next", namespace=str(later)))
        assert row.attachment.netns_inode == rows[-1].attachment.netns_inode
        assert apply.detach(mesh.name, "next") == ("next",)
    apply.up(mesh)


def elsewhere() -> Mesh:
    return mesh_of('[mesh]\nname = "elsewhere"\n[[function]]\nname = "a"\n')
