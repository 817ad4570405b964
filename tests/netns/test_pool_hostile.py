# SPDX-License-Identifier: BSD-2-Clause
"""A member of a pool that wants it to be another size, or writes all over it.

near (hostile) ── pool "numbers" ── far (the examples, in Python and in C)
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpfmesh import apply
from ebpfmesh.model import Mesh
from ebpfmesh.observe import logs, pools
from ebpfmesh.observe.view import opened
from ebpfmesh.runtime.logs import read
from support.processes import workers
from support.topology import mesh_of, running, unavailable, wait_until

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/port/pool"
MESH = """
[mesh]
name = "rubbish"
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
[[pool]]
name = "numbers"
tenant = "one"
slots = 64
bytes = 64
functions = ["near", "far"]
"""
SLEEP = ("sleep", "1000")
RESIZE = """
import fcntl, json, os, time
fd = int(os.environ["EBPFMESH_POOLS"].split(":")[1])
size = os.fstat(fd).st_size
tries = {
    "shorter": lambda: os.ftruncate(fd, 0),
    "longer": lambda: os.ftruncate(fd, 1 << 30),
    "behind": lambda: os.posix_fallocate(fd, size, 1 << 20),
    "sealed": lambda: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
}
done = {}
for name, one in tries.items():
    try:
        one()
        done[name] = ""
    except OSError as error:
        done[name] = error.strerror
print(json.dumps(done | {"size": os.fstat(fd).st_size == size}), flush=True)
time.sleep(1000)
"""
WRITE = """
import mmap, os, random
fd = int(os.environ["EBPFMESH_POOLS"].split(":")[1])
size = os.fstat(fd).st_size
shared = mmap.mmap(fd, size)
kinds = (bytes(size), b"\\xff" * size, random.Random(1).randbytes(size))
for kind in kinds:
    shared[:] = kind
print("written", flush=True)
while True:
    for kind in kinds:
        shared[:] = kind
"""


@pytest.fixture(scope="module")
def empty() -> Iterator[Mesh]:
    with running('[mesh]\nname = "rubbish"\n') as mesh:
        yield mesh


@pytest.fixture(autouse=True)
def _put_back(empty: Mesh) -> Iterator[None]:
    yield
    apply.up(empty)


@pytest.fixture(params=["Python", "C"])
def receiver(request: pytest.FixtureRequest) -> Iterator[tuple[str, ...]]:
    """The example that receives."""
    if request.param == "Python":
        yield (sys.executable, f"{EXAMPLE}.py", "receive")
        return
    if shutil.which("cc") is None:
        unavailable("there is no C compiler")
    place = ROOT / ".cache/rubbish"
    place.mkdir(parents=True, exist_ok=True)
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined"]
    flags += ["-fno-sanitize-recover", f"-I{ROOT}/ebpfmesh/port/include"]
    subprocess.run(["cc", *flags, f"{EXAMPLE}.c", "-o", place / "pool"], check=True)
    yield (str(place / "pool"), "receive")
    shutil.rmtree(place)


def mesh(near: tuple[str, ...], far: tuple[str, ...]) -> Mesh:
    return mesh_of(MESH.format(near=json.dumps(near), far=json.dumps(far), root=ROOT))


def said(function: str) -> list[str]:
    with opened("rubbish") as view:
        return [line.text for line in read([logs.log(view, function)])]


def test_its_size_and_seals_stay() -> None:
    apply.up(mesh((sys.executable, "-c", RESIZE), SLEEP))
    wait_until(lambda: said("near"), what="it has tried", seconds=20)
    (line,) = said("near")
    refused = dict.fromkeys(("shorter", "longer", "behind", "sealed"), "Operation not permitted")
    assert json.loads(line) == {**refused, "size": True}


def test_rubbish_everywhere_ends_nobody_else(receiver: tuple[str, ...]) -> None:
    """Neither who waits, nor who begins meanwhile, nor the mesh, which tells of its own names."""
    apply.up(mesh(SLEEP, receiver))
    wait_until(lambda: workers("rubbish", "far"), what="it runs")
    apply.up(mesh((sys.executable, "-c", WRITE), receiver))
    wait_until(lambda: "written" in said("near"), what="it is written", seconds=20)
    before = workers("rubbish", "far")
    assert before
    for _ in range(20):
        with opened("rubbish") as view:
            (row,) = pools.read(view)
        assert [one.name for one in row.members] == ["far", "near"]
        assert 0 <= row.used <= 2 * row.slots
    assert workers("rubbish", "far") == before
    apply.restart("rubbish", "far")
    wait_until(
        lambda: set(workers("rubbish", "far")) - set(before), what="it runs again", seconds=20
    )
    assert [one.state for one in row.members] == ["running", "running"]
