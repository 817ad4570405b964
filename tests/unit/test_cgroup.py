# SPDX-License-Identifier: BSD-2-Clause
"""Cgroups of functions on hosts that are v2, v1 or both, over directories that stand for them."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from ebpfmesh.errors import MeshError, Unsupported
from ebpfmesh.kernel import cgroup, private
from ebpfmesh.kernel.cgroup import Cgroup, Hierarchies
from ebpfmesh.kernel.netns import NetnsId
from ebpfmesh.model import Function

V2 = "cgroup2 {top} cgroup2 rw,nosuid 0 0\n"
V1 = (
    "cgroup {top}/cpu cgroup rw,cpu,cpuacct 0 0\n"
    "cgroup {top}/memory cgroup rw,memory 0 0\n"
    "cgroup {top}/pids cgroup rw,pids 0 0\n"
)
HYBRID = "tmpfs {top} tmpfs rw 0 0\ncgroup2 {top}/unified cgroup2 rw 0 0\n" + V1
OWN = Cgroup("edge.4026531840-1", "web")
PLACE = "ebpfmesh/edge.4026531840-1/web"


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """Have /proc/mounts say something else, with ``{top}`` for a directory; gives that."""
    read_text = Path.read_text

    def set_mounts(text: str) -> Path:
        for line in text.format(top=tmp_path).splitlines():
            Path(line.split()[1]).mkdir(exist_ok=True)

        def patched(path: Path, *arguments: str, **options: str) -> str:
            if path == Path("/proc/mounts"):
                return text.format(top=tmp_path)
            return read_text(path, *arguments, **options)

        monkeypatch.setattr(Path, "read_text", patched)
        Hierarchies.mounted.cache_clear()
        return tmp_path

    yield set_mounts
    Hierarchies.mounted.cache_clear()


def function(**settings: object) -> Function:
    return Function.model_validate(
        {"name": "web", "address4": IPv4Address("198.18.0.1")} | settings
    )


def test_v2_only(mounts: Callable[[str], Path]) -> None:
    top = mounts(V2)
    (top / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    found = Hierarchies.mounted()
    assert found == Hierarchies(top, {})
    assert found.hierarchy_of("cpu") == found.hierarchy_of("memory") == found.tracking() == top
    assert found.all() == {top}


def test_v1_only(mounts: Callable[[str], Path]) -> None:
    top = mounts(V1)
    found = Hierarchies.mounted()
    assert found.unified is None
    assert (found.hierarchy_of("cpu"), found.tracking()) == (top / "cpu", top / "pids")
    assert found.hierarchy_of("io") is None
    assert found.all() == {top / "cpu", top / "memory", top / "pids"}


def test_hybrid(mounts: Callable[[str], Path]) -> None:
    """Controllers are where v1 has them; processes are tracked in v2."""
    top = mounts(HYBRID)
    (top / "unified" / "cgroup.controllers").write_text("\n")
    found = Hierarchies.mounted()
    assert (found.tracking(), found.hierarchy_of("memory")) == (top / "unified", top / "memory")
    assert found.all() == {top / name for name in ("unified", "cpu", "memory", "pids")}


def test_none(mounts: Callable[[str], Path]) -> None:
    mounts("tmpfs {top} tmpfs rw 0 0\n")
    with pytest.raises(Unsupported, match="no cgroup hierarchy") as caught:
        OWN.create(function())
    assert caught.value.exit_code == 5


def test_limits_of_v2(mounts: Callable[[str], Path]) -> None:
    top = mounts(V2)
    (top / "cgroup.controllers").write_text("cpu memory\n")
    OWN.create(function(cpu=0.5, memory=64 << 20))
    directory = top / PLACE
    assert (directory / "cpu.max").read_text() == "50000 100000"
    assert (directory / "memory.max").read_text() == str(64 << 20)
    for parent in (top, directory.parents[1], directory.parent):
        assert (parent / "cgroup.subtree_control").read_text() in ("+cpu", "+memory")
    assert not (directory / "cgroup.subtree_control").exists()


def test_limits_of_v1(mounts: Callable[[str], Path]) -> None:
    top = mounts(V1)
    OWN.create(function(cpu=2.25, memory=4096))
    assert (top / "cpu" / PLACE / "cpu.cfs_quota_us").read_text() == "225000"
    assert (top / "memory" / PLACE / "memory.limit_in_bytes").read_text() == "4096"
    assert not list(top.rglob("cgroup.subtree_control"))


@pytest.mark.parametrize("layout", [V1, V2, HYBRID])
def test_limits_come_change_and_go(mounts: Callable[[str], Path], layout: str) -> None:
    """What a hierarchy does not have is not written: in v2 until the controller is enabled."""
    top = mounts(layout)
    for directory in (top, top / "unified"):
        if directory.is_dir():
            enabled = "cpu memory\n" if layout == V2 else "\n"
            (directory / "cgroup.controllers").write_text(enabled)
    none, some, more = function(), function(cpu=0.5, memory=5000), function(cpu=1, memory=8192)
    OWN.create(none)
    OWN.limit(none)
    assert not [*top.rglob("*.max"), *top.rglob("*quota*"), *top.rglob("*limit*")]
    if layout == V2:
        (top / PLACE / "memory.current").write_text("0")
    OWN.tighten(none, some)
    assert [OWN.is_limited(one) for one in (none, some, more)] == [False, True, False]
    OWN.tighten(some, more)  # not lower
    assert OWN.is_limited(some)
    OWN.limit(more)
    assert OWN.is_limited(more)
    OWN.limit(none)
    assert OWN.is_limited(none)


def test_v2_is_not_told_to_kill(mounts: Callable[[str], Path]) -> None:
    """What memory.high does not get back is in use; memory.max stays, and no other limit does."""
    top = mounts(V2)
    (top / "cgroup.controllers").write_text("cpu memory\n")
    OWN.create(function(memory=1 << 20))
    (top / PLACE / "memory.current").write_text(str(1 << 19))
    with pytest.raises(MeshError, match="512 KiB of memory are in use, which is more than 4 KiB"):
        OWN.tighten(function(memory=1 << 20), function(memory=4096))
    assert OWN.is_limited(function(memory=1 << 20))
    assert (top / PLACE / "memory.high").read_text() == "max"


def test_no_directory_without_need(mounts: Callable[[str], Path]) -> None:
    top = mounts(HYBRID)
    (top / "unified" / "cgroup.controllers").write_text("\n")
    OWN.create(function(memory=4096))
    assert (top / "unified" / PLACE).is_dir()
    assert (top / "memory" / PLACE).is_dir()
    assert not (top / "cpu" / "ebpfmesh").exists()


def test_a_controller_that_is_missing(mounts: Callable[[str], Path]) -> None:
    top = mounts(V2)
    (top / "cgroup.controllers").write_text("memory\n")
    with pytest.raises(Unsupported, match="no cpu cgroup controller"):
        OWN.create(function(cpu=1))


def test_a_limit_the_kernel_refuses(mounts: Callable[[str], Path]) -> None:
    top = mounts(V1)
    (top / "cpu" / PLACE / "cpu.cfs_quota_us").mkdir(parents=True)  # writing to it fails
    with pytest.raises(MeshError, match=r"cpu\.cfs_quota_us") as caught:
        OWN.create(function(cpu=1))
    assert caught.value.hint


def test_remove_takes_what_is_empty(mounts: Callable[[str], Path]) -> None:
    """Of others' cgroups beside it nothing goes."""
    top = mounts(HYBRID)
    (top / "unified" / "cgroup.controllers").write_text("\n")
    OWN.create(function())
    other = Cgroup("edge.4026531840-1", "other")
    other.create(function())
    OWN.remove()
    OWN.remove()
    assert not (top / "unified" / PLACE).exists()
    assert (top / "unified" / PLACE).parent.is_dir()
    other.remove()
    assert not (top / "unified" / "ebpfmesh").exists()


def test_another_mesh_takes_the_directory_above_away(
    mounts: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between our look at it and the one below: its last function went."""
    top, make, times = mounts(V2), private.directory, iter(range(3))
    (top / "cgroup.controllers").write_text("pids\n")

    def taken(path: Path) -> None:
        if path.name == OWN.group and next(times, None) is not None:
            path.parent.rmdir()
        make(path)

    monkeypatch.setattr(private, "directory", taken)
    OWN.create(function())
    assert (top / PLACE).is_dir()


def test_groups_are_of_one_host_namespace(mounts: Callable[[str], Path]) -> None:
    top = mounts(HYBRID)
    (top / "unified" / "cgroup.controllers").write_text("\n")
    OWN.create(function())
    later = Cgroup("edge.4026531840-2", "web")  # of one that was given the same inode
    later.create(function())
    (top / "unified" / "ebpfmesh" / "edge.4026531840-1" / "cgroup.procs").write_text("")
    assert cgroup.groups(NetnsId(4026531840, 1)) == {OWN}
    assert cgroup.groups(NetnsId(4026531840, 2)) == {later}
    assert cgroup.groups(NetnsId(8, 1)) == set()
    assert cgroup.groups() == {OWN, later}


def test_stop_ends_what_will_not_end(
    mounts: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM first, once; SIGKILL for what is still there after a while."""
    top = mounts(V1)
    OWN.create(function())
    procs = top / "pids" / PLACE / "cgroup.procs"
    stubborn = subprocess.Popen(
        ["sh", "-c", "trap '' TERM; echo; while :; do sleep 0.1; done"], stdout=subprocess.PIPE
    )
    willing = subprocess.Popen(["sleep", "1000"])
    assert stubborn.stdout
    stubborn.stdout.readline()  # the trap is set
    children = {child.pid: child for child in (stubborn, willing)}
    sent: list[tuple[int, int]] = []
    kill = os.kill

    def record(pid: int, number: int) -> None:
        sent.append((pid, number))
        kill(pid, number)

    def processes(_self: Cgroup) -> set[int]:
        """What the kernel would list: those that run."""
        return {pid for pid, child in children.items() if child.poll() is None}

    monkeypatch.setattr(cgroup.os, "kill", record)
    monkeypatch.setattr(Cgroup, "processes", processes)
    procs.write_text("")
    cgroup.stop([cgroup.Stop(OWN, seconds=3)], lambda _: set())  # the willing one ends meanwhile
    assert (willing.wait(60), stubborn.wait(60)) == (-signal.SIGTERM, -signal.SIGKILL)
    stubborn.stdout.close()
    asked = sorted(pair for pair in sent if pair[1] == signal.SIGTERM)
    assert asked == sorted((pid, signal.SIGTERM) for pid in children)
    assert {pair for pair in sent if pair not in asked} == {(stubborn.pid, signal.SIGKILL)}


def test_processes_of_all_hierarchies(mounts: Callable[[str], Path]) -> None:
    top = mounts(HYBRID)
    (top / "unified" / "cgroup.controllers").write_text("\n")
    OWN.create(function(memory=4096))
    (top / "unified" / PLACE / "cgroup.procs").write_text("1\n2\n")
    (top / "memory" / PLACE / "cgroup.procs").write_text("2\n3\n")
    assert OWN.processes() == {1, 2, 3}
    assert {file.parent for file in OWN.files()} == {
        top / "unified" / PLACE,
        top / "memory" / PLACE,
    }
