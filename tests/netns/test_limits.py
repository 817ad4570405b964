# SPDX-License-Identifier: BSD-2-Clause
"""Changes of a mesh whose limits are all used: for old and new there is room, and for the undo."""

from collections.abc import Iterator

import pytest

from ebpfmesh import apply
from ebpfmesh.model import Mesh
from support.killing import interrupted_at, killed_at
from support.sockets import carries, connection, connects, is_blocked, listener
from support.topology import Meter, mesh_of, meters

MESH = """
[mesh]
name = "limits"
limits = { functions = 3, tenants = 3 }
[[function]]
name = "a"
tenant = "x"
[[function]]
name = "b"
tenant = "y"
[[function]]
name = "c"
tenant = "z"
[[policy]]
from = "tenant:x"
to = "function:b"
[[policy]]
from = "function:c"
to = "tenant:y"
action = "deny"
"""
OTHERS = str.maketrans("xyz", "uvw")
FULL = mesh_of(MESH)
CHANGES = {
    "tenants": mesh_of(MESH.replace('"x"', '"u"').replace('"y"', '"v"').replace('"z"', '"w"')
                       .replace(":x", ":u").replace(":y", ":v")),
    "functions": mesh_of(MESH.replace('"a"', '"d"').replace('"b"', '"e"').replace('"c"', '"f"')
                         .replace(":b", ":e").replace(":c", ":f")),
    "one of each": mesh_of(MESH.replace('"c"', '"d"').replace('"z"', '"w"').replace(":c", ":d")),
    "all": mesh_of(MESH.replace("x", "u").replace('"c"', '"d"').replace('"z"', '"w"')
                   .replace(":c", ":d").replace("max", "mux")),
}  # fmt: skip


@pytest.fixture(scope="module")
def full() -> Iterator[Mesh]:
    apply.up(FULL)
    yield FULL
    apply.down("limits")


def rules_hold(mesh: Mesh) -> bool:
    first, second, third = (function.name for function in mesh.functions)
    address = mesh.function(second).address4
    with listener(mesh, second, address, 7000):
        return connects(mesh, first, address, 7000) and is_blocked(mesh, third, address, 7000)


def counted(mesh: Mesh) -> dict[tuple[str, str], Meter]:
    """What was counted of a connection by now."""
    with connection(mesh, "a", "b", mesh.function("b").address4, 7001) as (here, there):
        assert carries(here, there)
    return {key: value for key, value in meters(mesh).items() if key[0] in "ab"}


@pytest.mark.parametrize("change", CHANGES)
def test_within_the_limits(full: Mesh, change: str) -> None:
    apply.up(full)
    wanted = CHANGES[change]
    apply.up(wanted)
    assert apply.plan(wanted) == ()
    assert rules_hold(wanted)
    apply.up(full)
    assert rules_hold(full)


@pytest.mark.parametrize("change", CHANGES)
def test_undone_at_each_step(full: Mesh, change: str) -> None:
    """By Ctrl-C, and after a kill; who stays has what was counted."""
    step = 0
    while True:
        apply.up(full)
        before = counted(full) if change == "tenants" else {}
        if not interrupted_at(step, lambda on_step: apply.up(CHANGES[change], on_step)):
            break
        assert apply.plan(full) == ()
        after = {key: value for key, value in meters(full).items() if key[0] in "ab"}
        assert before.items() <= after.items()
        if step % 3 == 0:
            assert killed_at(step, lambda on_step: apply.up(CHANGES[change], on_step))
            apply.gc()
            assert apply.plan(full) == ()
        step += 1
    assert step > 6
    apply.up(full)
    assert rules_hold(full)
