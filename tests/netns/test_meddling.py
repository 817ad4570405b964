# SPDX-License-Identifier: BSD-2-Clause
"""What others do to a mesh that is up: doctor tells, up or gc mends it, and theirs is not touched.

Programs detached by bpftool and tc, pins deleted one by one, interfaces and namespaces that go in
the middle of a change, the BPF file system unmounted, a reboot, clocks that jump.
"""

import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ebpfmesh import apply
from ebpfmesh.errors import MeshError
from ebpfmesh.inject.instructions import EXIT, Instruction, encode
from ebpfmesh.kernel import bpf, interface, libc, links, netns, pins
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.model import Mesh
from ebpfmesh.observe import health
from ebpfmesh.observe.view import left
from ebpfmesh.state import listener as listener_of
from ebpfmesh.state.files import RUN
from ebpfmesh.state.place import problem
from ebpfmesh.state.record import Record
from support.agreeing import disagreements
from support.command import ebpfmesh
from support.meshes import function, mesh_file, rule, service
from support.sockets import accepted, carries, connect, listener
from support.topology import collected, mesh_of, needs, poll, unavailable

MESH = mesh_file(
    "meddled",
    function("a", "one"),
    function("b", "two"),
    service("web", 80, "b", address="198.19.0.1", target_port=8080),
    rule("function:a", "service:web"),
)
C = '[[function]]\nname = "c"\ntenant = "two"\n'
WITH_C = MESH.replace('["b"]', '["b", "c"]') + C
PASSES_ON = encode([Instruction(0xB7, imm=-1), Instruction(EXIT)])  # r0 = TCX_NEXT
THEIRS = pins.BPFFS / "theirs"


@contextlib.contextmanager
def theirs() -> Iterator[Callable[[], set[object]]]:
    """An interface, a program at it, pins and a namespace of somebody else's; what there is."""
    netns.create("theirs")
    THEIRS.mkdir()
    with netns.rtnetlink() as ip:
        ip.link("add", ifname="theirs0", kind="veth", peer={"ifname": "theirs1"})
        index = interface.find("theirs0")
    assert index
    with bpf.prog_load(bpf.PROG_TYPE_SCHED_CLS, "theirs", PASSES_ON) as program:
        bpf.obj_pin(program, THEIRS / "program")
        number = bpf.prog_info(program).id
        with bpf.link_create(program, index, bpf.TCX_INGRESS) as link:
            bpf.obj_pin(link, THEIRS / "link")

    def there() -> set[object]:
        with bpf.obj_get(THEIRS / "program") as fd, bpf.obj_get(THEIRS / "link") as link:
            held = {bpf.prog_info(fd).id, bpf.link_interface(link)}
        inode = netns.inode(netns.RUN / "theirs")
        return held | {interface.find("theirs0"), inode, *bpf.attached(index, bpf.TCX_INGRESS)}

    assert number in there()
    try:
        yield there
    finally:
        shutil.rmtree(THEIRS)
        netns.remove("theirs")
        with netns.rtnetlink() as ip:
            ip.link("del", index=index)


@pytest.fixture(scope="module", autouse=True)
def others() -> Iterator[Callable[[], set[object]]]:
    with theirs() as there:
        yield there


@pytest.fixture(autouse=True)
def _untouched(others: Callable[[], set[object]]) -> Iterator[None]:
    before = others()
    yield
    assert others() == before


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    wanted = mesh_of(MESH)
    apply.up(wanted)
    yield wanted
    apply.down("meddled")


def device(function: str) -> str:
    """By its alias, since the record may be locked; empty if it is gone."""
    with netns.rtnetlink() as ip:
        found = interface.ours(ip)
    return next((name for name, owner in found.items() if owner == f"meddled/{function}"), "")


def said() -> list[str]:
    """What doctor says is missing."""
    checks = health.check("meddled") if "meddled" in left() else ()
    return [check.text for check in checks if check.status == "missing"]


# ---- programs detached


def bpftool_detach() -> None:
    with bpf.obj_get(Pins("meddled").links / "b-ingress") as link:
        number = bpf.fdinfo(link)["link_id"]
    subprocess.run(["bpftool", "link", "detach", "id", number], check=True)


def tc_filter_del() -> None:
    subprocess.run(["tc", "filter", "del", "dev", device("b"), "egress"], check=True)


def tc_qdisc_del() -> None:
    subprocess.run(["tc", "qdisc", "del", "dev", device("b"), "clsact"], check=True)


@pytest.mark.parametrize("way", ["up", "gc"])
@pytest.mark.parametrize("meddle", [bpftool_detach, tc_filter_del, tc_qdisc_del])
def test_a_program_is_detached(mesh: Mesh, meddle: Callable[[], None], way: str) -> None:
    needs("bpftool", "tc")
    meddle()
    assert said() == [
        "function b: programs missing",
        "service web: none of its 1 functions is ready",
    ]
    if way == "gc":
        assert collected("meddled") == ["function b of mesh meddled"]
        assert said() == []
    apply.up(mesh)
    assert said() == []
    assert disagreements(mesh) == []


@contextlib.contextmanager
def beside(how: str, index: int) -> Iterator[None]:
    """A program of theirs at an interface of ours."""
    if how == "TCX link":
        with (
            bpf.obj_get(THEIRS / "program") as program,
            bpf.link_create(program, index, bpf.TCX_EGRESS),
        ):
            yield
        return
    place = ["dev", device("b"), "egress", "prio", "50"]
    program = ["bpf", "da", "object-pinned", str(THEIRS / "program")]
    subprocess.run(["tc", "filter", "add", *place, *program], check=True)
    yield


@pytest.mark.parametrize("how", ["TCX link", "clsact filter"])
def test_a_program_of_theirs_at_our_interface(mesh: Mesh, how: str) -> None:
    """Doctor names it; it stays where it is, and goes only with the interface."""
    needs("tc")
    index = interface.find(device("b"))
    assert index

    def there() -> bool:
        with netns.rtnetlink() as ip:
            found = [(one.name, one.how) for one in links.programs(ip, index)]
        return (name, how) in found

    name = "theirs" if how == "TCX link" else "program:[*fsobj]"  # as tc calls what is pinned
    with beside(how, index):
        noted = [check.text for check in health.check("meddled") if check.status == "note"]
        assert any("function b" in text and f"has {name}" in text for text in noted), noted
        assert apply.up(mesh) == ()
        assert collected("meddled") == []
        assert there()
        assert said() == []
    apply.detach("meddled", "b")


# ---- pins deleted


def test_pins_deleted_one_by_one(mesh: Mesh) -> None:
    """Doctor knows whichever it is; up mends it, every second time after gc.

    Of maps some: without any of them a mesh is made anew.
    """
    root = Pins("meddled").root
    files = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
    maps = [pin for pin in files if pin.parts[0] == "maps"]
    files = maps[::6] + [pin for pin in files if pin not in maps]
    assert len(files) > 15
    for number, pin in enumerate(files):
        (root / pin).unlink()
        assert poll(said), pin
        if number % 2:
            assert collected("meddled"), pin
            assert said() == [], pin
        apply.up(mesh)
        assert said() == [], pin
        assert (root / pin).exists(), pin
        assert disagreements(mesh) == [], pin


# ---- gone in the middle of a change


def delete_interface(function: str) -> None:
    with netns.rtnetlink() as ip:
        if index := interface.find(device(function)):
            ip.link("del", index=index)


def delete_namespace(function: str) -> None:
    netns.remove(netns.name_of("meddled", function))


@pytest.mark.parametrize("function", ["b", "c"])
@pytest.mark.parametrize("meddle", [delete_interface, delete_namespace])
def test_gone_in_the_middle_of_a_change(
    mesh: Mesh, meddle: Callable[[str], None], function: str
) -> None:
    """Of one that was there, and of the one that is being made: at each step of the change."""
    wanted = mesh_of(WITH_C)
    steps: list[str] = []
    apply.up(wanted, steps.append)
    for number, step in enumerate(steps):
        apply.up(mesh)
        seen = 0

        def on_step(_name: str, at: int = number) -> None:
            nonlocal seen
            if seen == at:
                meddle(function)
            seen += 1

        with contextlib.suppress(MeshError):
            apply.up(wanted, on_step)
        with contextlib.closing(Record("meddled")) as record, netns.rtnetlink() as ip:
            broken = record.cut_short or any(problem(ip, row) for row in record.functions())
        assert bool(said()) == broken, (step, said())
        apply.up(wanted)
        assert disagreements(wanted) == [], step
    apply.up(mesh)


# ---- all of it at once


def test_the_bpf_file_system_is_unmounted(mesh: Mesh) -> None:
    """Programs and maps go with it."""
    apply.down("meddled")
    libc.mount(b"bpf", pins.BPFFS, b"bpf", b"mode=0700")
    try:
        apply.up(mesh)
    finally:
        libc.umount(pins.BPFFS)
    assert said() == ["not up: map mesh_config is lost"]
    apply.up(mesh)
    assert said() == []
    assert disagreements(mesh) == []


@pytest.mark.parametrize("way", ["up", "gc"])
def test_a_reboot_leaves_the_record_alone(mesh: Mesh, tmp_path: Path, way: str) -> None:
    """Where /run is kept on a disk. Of a record that is lost alone, see ``test_lost.py``."""
    shutil.copytree(RUN / "meddled", tmp_path / "kept")
    apply.down("meddled")
    shutil.copytree(tmp_path / "kept", RUN / "meddled")
    assert len(said()) == 1
    if way == "gc":
        assert collected("meddled") == ["mesh meddled"]
        assert left() == []
    apply.up(mesh)
    assert said() == []
    assert disagreements(mesh) == []


def test_clocks_that_jump(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flows have the kernel's ticks, and a change asks no clock of the wall."""
    address, real = mesh.service("web").address4, time.time()
    with (
        listener(mesh, "b", mesh.function("b").address4, 8080) as server,
        connect(mesh, "a", address, 80) as here,
        accepted(server) as there,
    ):
        for years in (-20, 20):
            now = real + years * 366 * 86400
            monkeypatch.setattr(time, "time", lambda now=now: now)
            monkeypatch.setattr(time, "time_ns", lambda now=now: round(now * 1e9))
            apply.up(mesh_of(WITH_C))
            assert carries(here, there)
            assert said() == []
            apply.up(mesh)
            assert carries(there, here)
            assert disagreements(mesh) == []


def test_a_time_namespace(mesh: Mesh) -> None:
    """Seen from one whose clocks are ahead, flows are as old as they are and listeners live."""
    needs("unshare")
    if not Path("/proc/self/timens_offsets").exists():
        unavailable("the kernel has no time namespaces")
    days = ("--monotonic", "864000", "--boottime", "864000")
    ahead = ("unshare", "--time", "--fork", *days)
    here = listener_of.this_process()
    with apply.opened("meddled") as live:
        live.record.set_listener((here.pid, here.started))
    with (
        listener(mesh, "b", mesh.function("b").address4, 8080) as server,
        connect(mesh, "a", mesh.service("web").address4, 80) as near,
        accepted(server) as far,
    ):
        assert carries(near, far)
        found = json.loads(ebpfmesh("--json", "show", "flows", prefix=ahead).stdout)
        ages = [row["idle"] for row in found["flows"]]
        assert ages
        assert max(ages) < 3600
        ebpfmesh("gc", prefix=ahead)
        with contextlib.closing(Record("meddled")) as record:
            assert listener_of.find(record) == here
