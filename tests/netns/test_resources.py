# SPDX-License-Identifier: BSD-2-Clause
"""Limits of CPU and memory change in place: by `up` and by `set`, under processes that run on."""

import contextlib
from collections.abc import Callable, Iterator

import pytest

from ebpfmesh import apply
from ebpfmesh.config import edit
from ebpfmesh.errors import MeshError, NotFound, UsageError
from ebpfmesh.kernel import cgroup, netns
from ebpfmesh.kernel.cgroup import Cgroup, Hierarchies
from ebpfmesh.model import Mesh, Scope
from ebpfmesh.observe.view import opened
from ebpfmesh.state import audit
from support.agreeing import disagreements
from support.killing import interrupted_at, steps_of
from support.processes import command_line
from support.topology import mesh_of, wait_until

USES = "import time; held = bytearray(48 << 20); print('held', flush=True); time.sleep(1000)"
MESH = f"""
[mesh]
name = "limits"
[[function]]
name = "web"
replicas = 2
command = ["sleep", "1000"]
[[function]]
name = "large"
cpu = 0.5
memory = "128M"
command = ["/usr/bin/python3", "-c", "{USES}"]
"""
LARGE = 48 << 20


def own(function: str) -> Cgroup:
    (found,) = (one for one in cgroup.groups(netns.current()) if one.function == function)
    return found


def running(function: str) -> set[int]:
    return own(function).processes()


def started(function: str, program: str) -> bool:
    """Whether the command is there; what keeps it is before."""
    words = [command_line(pid).partition(b"\0")[0] for pid in running(function)]
    return any(word.decode().endswith(program) for word in words)


def uses(function: str) -> int:
    """Bytes of memory."""
    hierarchy = Hierarchies.mounted().hierarchy_of("memory")
    assert hierarchy
    directory = hierarchy / cgroup.TOP / own(function).group / function
    for name in ("memory.current", "memory.usage_in_bytes"):
        if (directory / name).exists():
            return int((directory / name).read_text())
    return 0


@pytest.fixture
def mesh(mesh_up: Callable[[str], Mesh]) -> Mesh:
    wanted = mesh_up(MESH)
    wait_until(lambda: uses("large") > LARGE, what="memory is in use")
    wait_until(lambda: all(started(f"web-{n}", "sleep") for n in (0, 1)), what="both run")
    wait_until(lambda: started("large", "python3"), what="its log is kept")
    return wanted


@contextlib.contextmanager
def the_same_processes() -> Iterator[None]:
    names = ("web-0", "web-1", "large")
    before = {name: running(name) for name in names}
    assert all(before.values())
    yield
    assert {name: running(name) for name in names} == before


def set_limits(name: str, **limits: object) -> list[str]:
    steps = apply.edit(
        "limits", lambda mesh: edit.set_limits(mesh, name, **limits), scope=Scope(functions=(name,))
    )
    return [step.describe() for step in steps]


def holds(mesh: Mesh) -> bool:
    """Whether the kernel's limits are those of the mesh, and the record's, and all else too."""
    return disagreements(mesh) == [] and all(own(f.name).is_limited(f) for f in mesh.functions)


def test_by_up(mesh: Mesh) -> None:
    """Lower, higher, new and gone."""
    new = mesh_of(
        MESH.replace("replicas = 2", 'replicas = 2\ncpu = 0.25\nmemory = "32M"')
        .replace("cpu = 0.5", "cpu = 1")
        .replace('"128M"', '"96M"')
    )
    with the_same_processes():
        assert [step.describe() for step in apply.up(new)] == [
            "~ function large  cpu 0.5 → 1  memory 128M → 96M",
            "~ function web-0  cpu none → 0.25  memory none → 32M",
            "~ function web-1  cpu none → 0.25  memory none → 32M",
        ]
        assert holds(new)
        apply.up(mesh)
        assert holds(mesh)


def test_by_set(mesh: Mesh) -> None:
    with the_same_processes():
        assert set_limits("web", cpu=0.5, memory="64M") == [
            "~ function web-0  cpu none → 0.5  memory none → 64M",
            "~ function web-1  cpu none → 0.5  memory none → 64M",
        ]
        assert set_limits("web", cpu=0.5) == []
        assert set_limits("large", cpu=None, memory=None) == [
            "~ function large  cpu 0.5 → none  memory 128M → none"
        ]
        text = MESH.replace('cpu = 0.5\nmemory = "128M"', "")
        assert holds(mesh_of(text.replace("replicas", 'cpu = 0.5\nmemory = "64M"\nreplicas')))
        apply.up(mesh)


def test_processes_of_a_function_that_had_no_limit_are_limited(mesh: Mesh) -> None:
    """All of them, and those they fork."""
    del mesh
    set_limits("web", cpu=0.5, memory="64M")
    found = Hierarchies.mounted()
    for controller in cgroup.LIMITED:
        hierarchy = found.hierarchy_of(controller)
        assert hierarchy
        inside = hierarchy / cgroup.TOP / own("web-0").group / "web-0/cgroup.procs"
        assert {int(line) for line in inside.read_text().split()} == running("web-0")


def test_less_memory_than_is_in_use_is_refused(mesh: Mesh) -> None:
    """The kernel is asked, no process dies, and nothing of the change is left."""
    lower = mesh_of(
        MESH.replace('"128M"', '"16M"').replace("replicas = 2", "replicas = 2\ncpu = 0.5")
        + '[[function]]\nname = "new"\n'
    )
    with the_same_processes():
        with pytest.raises(
            MeshError, match=r"function large: \d+ KiB of memory are in use"
        ) as told:
            apply.up(lower)
        assert told.value.hint
        assert holds(mesh)
        with pytest.raises(MeshError, match="which is more than 4 KiB"):
            set_limits("large", cpu=0.25, memory=4096)
        assert holds(mesh)


def test_what_was_given_is_not_used_until_a_change_is_done(mesh: Mesh) -> None:
    """So it can be taken back: interrupted at each step, the limit was never higher."""
    new = mesh_of(MESH.replace("cpu = 0.5", "cpu = 0.75").replace('"128M"', '"256M"') +
                  '[[function]]\nname = "new"\n')  # fmt: skip
    steps = steps_of(lambda on_step: apply.up(new, on_step))
    last = steps.index("limits of function large")
    assert last > steps.index("commit") > steps.index("function new")
    apply.up(mesh)
    with the_same_processes():
        for number in range(len(steps)):
            assert interrupted_at(number, lambda on_step: apply.up(new, on_step))
            assert holds(mesh)


def test_limits_that_others_changed_are_told_and_mended(mesh: Mesh) -> None:
    hierarchy = Hierarchies.mounted().hierarchy_of("cpu")
    assert hierarchy
    directory = hierarchy / cgroup.TOP / own("large").group / "large"
    for name, text in (("cpu.cfs_quota_us", "70000"), ("cpu.max", "70000 100000")):
        if (directory / name).exists():
            (directory / name).write_text(text)
    with opened("limits") as view:
        assert audit.problems(view.pins, view.maps, view.record) == ["limits of function large"]
    with the_same_processes():
        assert [step.describe() for step in apply.up(mesh)] == [
            "~ repaired limits of function large"
        ]
    assert holds(mesh)


@pytest.mark.parametrize(
    ("name", "limits", "kind", "what"),
    [
        ("nobody", {"cpu": 1.0}, NotFound, 'there is no function "nobody"'),
        ("web-0", {"cpu": 1.0}, UsageError, 'one of the replicas of "web"'),
        ("large", {"cpu": 0.0}, UsageError, '"cpu" cannot be 0'),
        ("large", {"memory": "64m"}, UsageError, '"memory" cannot be "64m"'),
    ],
)
def test_what_cannot_be_meant(
    mesh: Mesh, name: str, limits: dict[str, object], kind: type[MeshError], what: str
) -> None:
    with pytest.raises(kind, match=what) as told:
        set_limits(name, **limits)
    assert told.value.hint
    assert holds(mesh)


def test_directories_of_limits_go_with_the_function(mesh: Mesh) -> None:
    set_limits("web", cpu=0.5, memory="64M")
    apply.down(mesh.name)
    tops = [one / cgroup.TOP for one in Hierarchies.mounted().all()]
    assert not [path for top in tops for path in top.glob("limits.*") if path.exists()]
