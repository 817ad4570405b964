# SPDX-License-Identifier: BSD-2-Clause
"""A record that is lost, damaged or cannot be written: nothing opens, and all can be mended.

At no step of up, down and gc is there an interface of a function that is up and has no program.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ebpfmesh import apply
from ebpfmesh.errors import MeshError, UnreadableRecord
from ebpfmesh.kernel import interface, links, netns
from ebpfmesh.kernel.cgroup import Hierarchies
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.model import Mesh
from ebpfmesh.state.files import RUN
from support.command import COMMAND, ROOT, ebpfmesh
from support.filling import full_run
from support.killing import killed_at, steps_of
from support.sockets import connects, is_blocked, listener
from support.topology import collected, leftovers, mesh_of, poll, running, unavailable

MESH = """
[mesh]
name = "lost"
[[function]]
name = "a"
tenant = "one"
[[function]]
name = "b"
tenant = "two"
command = ["sleep", "1000"]
ready = { file = "/etc/hosts" }
[[service]]
name = "web"
address = "198.19.0.1"
port = 80
target_port = 8080
functions = ["b"]
[[policy]]
from = "function:a"
to = "service:web"
"""
LOST, OTHER = (
    mesh_of(MESH),
    mesh_of(MESH.replace('"lost"', '"other"').replace("command", "#").replace("ready", "#")),
)
RECORD = RUN / "lost/record.db"


@pytest.fixture(scope="module")
def other() -> Iterator[Mesh]:
    """A mesh that has nothing to do with it."""
    with running(OTHER) as mesh:
        yield mesh


@pytest.fixture
def nothing(other: Mesh) -> Iterator[set[str]]:
    del other
    before = leftovers()
    yield before
    (RUN / "lost.unreadable").unlink(missing_ok=True)
    apply.down("lost")


@pytest.fixture
def mesh(nothing: set[str]) -> Mesh:
    """The mesh, whole before each test, on a host that forwards whatever comes to it."""
    del nothing
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    apply.up(LOST)
    return LOST


def works(mesh: Mesh) -> bool:
    own, front = mesh.function("b").address4, mesh.service("web").address4
    with listener(mesh, "b", own, 8080), listener(mesh, "b", own, 22):
        return connects(mesh, "a", front, 80) and is_blocked(mesh, "a", own, 22, seconds=0.1)


def gone(nothing: set[str]) -> bool:
    kept = f"file {RUN}/lost.unreadable"
    return poll(lambda: leftovers() - {kept} <= nothing)


def open_doors(mesh: str = "lost") -> list[str]:
    """Interfaces of a mesh's functions that are up, and from which packets pass it by."""
    found = []
    with netns.rtnetlink() as ip:
        for name, owner in interface.ours(ip).items():
            index = interface.find(name)
            if index is None or not owner.startswith(f"{mesh}/"):
                continue
            is_up = ip.link("get", index=index)[0]["flags"] & 1
            names = [one.name for one in links.attached(ip, index, "ingress")]
            if is_up and "mesh_from_fn" not in names:
                found.append(owner)
    return found


def lose_record() -> None:
    shutil.rmtree(RUN / "lost")


def lose_file() -> None:
    RECORD.unlink()


def lose_maps() -> None:
    shutil.rmtree(Pins("lost").maps)


def lose_map() -> None:
    (Pins("lost").maps / "mesh_policy").unlink()


def garbage() -> None:
    RECORD.write_bytes(random.randbytes(8192))


def truncated() -> None:
    os.truncate(RECORD, RECORD.stat().st_size // 2 & ~4095)


def nothing_in_it() -> None:
    os.truncate(RECORD, 0)


def foreign() -> None:
    RECORD.unlink()
    with contextlib.closing(sqlite3.connect(RECORD)) as db:
        db.execute("CREATE TABLE setting (key TEXT, value TEXT)")


def without_a_table() -> None:
    with contextlib.closing(sqlite3.connect(RECORD)) as db:
        db.execute("DROP TABLE policy")


def garbage_in_a_row() -> None:
    with contextlib.closing(sqlite3.connect(RECORD)) as db, db:
        db.execute("UPDATE function SET model = '{\"name\": 7}' WHERE name = 'a'")


LOSSES = [lose_record, lose_file, lose_maps, lose_map]
DAMAGES = [garbage, truncated, nothing_in_it, foreign, without_a_table, garbage_in_a_row]
WAYS: dict[str, Callable[[apply.OnStep], object]] = {
    "up": lambda step: apply.up(LOST, step),
    "down": lambda step: apply.down("lost", step),
    "gc": apply.gc,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("loss", [*LOSSES, *DAMAGES])
def test_never_open(mesh: Mesh, nothing: set[str], loss: Callable[[], None], way: str) -> None:
    """Whatever is lost: up makes it anew, down and gc remove all, and nothing opens meanwhile."""
    loss()
    seen: list[tuple[str, list[str]]] = []
    WAYS[way](lambda step: seen.append((step, open_doors())))
    assert [one for one in seen if one[1]] == []
    assert open_doors() == []
    if way == "up":
        assert works(mesh)
        assert apply.up(mesh) == ()
    else:
        assert gone(nothing), leftovers() - nothing
    assert works(OTHER)


@pytest.mark.parametrize("way", WAYS)
def test_never_open_after_a_kill(nothing: set[str], way: str) -> None:
    """Killed at each step while it mends a loss; the next one mends what that left."""
    apply.up(LOST)
    lose_record()
    steps = steps_of(WAYS[way])
    for step in range(len(steps)):
        apply.up(LOST)
        lose_record()
        assert killed_at(step, WAYS[way]), steps[step]
        assert open_doors() == [], steps[step]
        apply.gc()
        assert gone(nothing), (steps[step], leftovers() - nothing)


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_unreadable_record_is_kept_aside(mesh: Mesh, damage: Callable[[], None]) -> None:
    """Told by show and doctor with what to do; up names where the old one went."""
    damage()
    before = RECORD.read_bytes()
    done = ebpfmesh("--mesh", "lost", "show", "functions", code=7)
    assert "hint: ebpfmesh up" in done.stderr
    ebpfmesh("doctor", code=1)
    [check] = [c for c in checks() if c["topic"] == "mesh lost"]
    assert check["status"] == "missing"
    assert "cannot be read" in check["text"]
    assert "gc" in check["hint"]
    said = [o.name for o in apply.up(mesh) if o.kind == "repair"]
    assert any(str(RUN / "lost.unreadable") in line for line in said)
    assert (RUN / "lost.unreadable").read_bytes() == before


def checks() -> list[dict[str, str]]:
    done = subprocess.run(
        [*COMMAND, "--json", "doctor"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    found: list[dict[str, str]] = json.loads(done.stdout)["checks"]
    return found


def test_another_version_is_told(mesh: Mesh, nothing: set[str]) -> None:
    """Not damaged, only not ours to read: down removes it all the same."""
    with contextlib.closing(sqlite3.connect(RECORD)) as db:
        db.execute("PRAGMA user_version = 999")
    with pytest.raises(MeshError) as caught:
        apply.up(mesh)
    assert (caught.value.exit_code, type(caught.value) is UnreadableRecord) == (7, False)
    assert "999" in caught.value.message
    apply.down("lost")
    assert gone(nothing)


# ---- no room, and no descriptors


def test_down_needs_no_room(mesh: Mesh, nothing: set[str]) -> None:
    with full_run():
        apply.down(mesh.name)
        assert gone(nothing | {f"file {RUN}/filler"}), leftovers() - nothing


def limited(limit: str, *words: object, code: int) -> str:
    """What a command says on stderr that runs under a limit of the shell's."""
    prefix = ("sh", "-c", f'ulimit {limit}; exec "$@"', "sh")
    return ebpfmesh(*words, code=code, prefix=prefix).stderr


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "lost.toml"
    file.write_text(MESH)
    return file


def test_up_without_room_leaves_nothing(nothing: set[str], file: Path) -> None:
    assert "ulimit" in limited("-f 0", "up", file, code=1)
    assert gone(nothing), leftovers() - nothing


@pytest.mark.parametrize("blocks", [4, 64, 136, 144])
def test_a_change_without_room_changes_nothing(mesh: Mesh, file: Path, blocks: int) -> None:
    more = "".join(f'[[function]]\nname = "more-{number}"\n' for number in range(40))
    file.write_text(MESH + more)
    assert "ulimit" in limited(f"-f {blocks}", "up", file, code=1)
    assert apply.plan(mesh) == ()
    assert works(mesh)


@pytest.fixture
def group() -> Iterator[Path]:
    """A cgroup whose processes, and what the kernel keeps for them, have little memory."""
    known = Hierarchies.mounted()
    hierarchy = known.hierarchy_of("memory")
    if hierarchy is None:
        unavailable("no memory cgroup controller is mounted")
        return
    made = hierarchy / f"ebpfmesh-test-memory-{os.getpid()}"
    made.mkdir()
    if hierarchy == known.unified:
        (hierarchy / "cgroup.subtree_control").write_text("+memory")
    name = "memory.max" if hierarchy == known.unified else "memory.limit_in_bytes"
    (made / name).write_text("160M")
    yield made
    assert poll(lambda: (made / "cgroup.procs").read_text() == "")
    made.rmdir()


def test_without_memory_for_maps_nothing_is_begun(
    nothing: set[str], file: Path, group: Path
) -> None:
    """The kernel charges maps to who makes them: one of a million flows is too much."""
    file.write_text(MESH.replace("[[function]]", "limits = {flows = 1048576}\n[[function]]", 1))
    prefix = ("sh", "-c", f'echo $$ >{group}/cgroup.procs; exec "$@"', "sh")
    said = ebpfmesh("up", file, code=1, prefix=prefix).stderr
    assert "mesh_flow" in said
    assert "lower limits" in said
    assert gone(nothing), leftovers() - nothing
    ebpfmesh("up", file)
    apply.down("lost")


@pytest.mark.parametrize("files", [12, 24, 40, 100])
def test_without_descriptors_nothing_is_begun(nothing: set[str], file: Path, files: int) -> None:
    assert "ulimit -n" in limited(f"-n {files}", "up", file, code=1)
    assert gone(nothing), leftovers() - nothing


def test_enough_descriptors_are_enough(nothing: set[str], file: Path) -> None:
    limited("-n 128", "up", file, code=0)
    limited("-n 128", "down", "--mesh", "lost", code=0)
    assert gone(nothing), leftovers() - nothing


# ---- killed at any moment


def test_killed_at_random(nothing: set[str], file: Path) -> None:
    """All or nothing: doctor says which, gc undoes it, up goes through."""
    generator = random.Random(14)
    took = time.monotonic()
    ebpfmesh("up", file)
    took = time.monotonic() - took
    ebpfmesh("--mesh", "lost", "down")
    for number in range(12):
        child = subprocess.Popen([*COMMAND, "up", file], cwd=ROOT, start_new_session=True)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(generator.uniform(0.3, 1) * took)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        assert open_doors() == []
        told = [check["status"] for check in checks() if check["topic"] == "mesh lost"]
        is_up = "ok" in told  # be it killed once all was done
        assert is_up or child.returncode != 0
        assert ("missing" in told) != is_up or told == []
        if number % 2:
            collected("lost")
            assert apply.plan(LOST) == () if is_up else gone(nothing), leftovers() - nothing
        apply.up(LOST)
        assert works(LOST)
        apply.down("lost")
        assert gone(nothing), leftovers() - nothing


def test_a_first_up_that_was_cut_short_is_told(nothing: set[str]) -> None:
    """By every command that would look at the mesh or change it: no error of ours, or SQLite's."""
    steps = steps_of(WAYS["up"])
    apply.down("lost")
    for step in ("bpffs", "maps", "programs"):
        assert killed_at(steps.index(step), WAYS["up"])
        for words in (["show", "mesh"], ["detach", "a"], ["exec", "a", "--", "true"]):
            said = ebpfmesh("--mesh", "lost", *words, code=3).stderr
            assert "was cut short" in said
            assert "ebpfmesh up" in said
        [check] = [c for c in checks() if c["topic"] == "mesh lost"]
        assert (check["status"], "cut short" in check["text"]) == ("missing", True)
        apply.gc()
        assert gone(nothing), (step, leftovers() - nothing)
