# SPDX-License-Identifier: BSD-2-Clause
"""What was changed under a mesh, with nothing of it broken: up finds it, says so and mends it."""

import ctypes
from collections.abc import Callable

import pytest

from ebpfmesh import _abi, apply
from ebpfmesh.kernel import programs, sockets
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.model import Mesh
from ebpfmesh.state.files import RUN
from support.meshes import function, mesh_file, rule, service
from support.sockets import connects, is_blocked, listener
from support.topology import collected, in_fn, mesh_of, running

MESH = mesh_file(
    "repair",
    function("a", "one"),
    function("b", "two"),
    service("web", 80, "b", target_port=8080),
    rule("function:a", "service:web"),
    rule("outside:192.0.2.0/24", "function:b"),
)


def empty(name: str) -> Callable[[], None]:
    """Delete all that a map has, or make it zeros."""

    def damage() -> None:
        table = Maps(Pins("repair"))[name]
        for key, value in list(table.items()):
            if table.spec.kind == "array":
                table.set(key, type(value)())
            else:
                table.delete(key)

    damage.__name__ = f"empty {name}"
    return damage


def remove_hosts() -> None:
    (RUN / "repair/hosts").unlink()


def rewrite_hosts() -> None:
    (RUN / "repair/hosts").write_text("127.0.0.1 localhost\n")


def detach_sockets() -> None:
    sockets.detach(Pins("repair"))


def unpin_socket_programs() -> None:
    for program in programs.AT_SOCKETS:
        (Pins("repair").progs / program.name).unlink()


def close_service() -> None:
    """An entry more than there should be."""
    table = Maps(Pins("repair"))["mesh_policy"]
    key, _ = next(iter(table.items()))
    key.port = 81
    table.set(key, _abi.Policy(action=_abi.Action.ALLOW))


CONTROL = (
    "mesh_function", "mesh_iface", "mesh_address", "mesh_service", "mesh_maglev", "mesh_policy",
    "mesh_prefix", "mesh_netns", "mesh_config", "mesh_room",
    "mesh_event_room",
)  # fmt: skip
DAMAGES = [
    *map(empty, CONTROL), remove_hosts, rewrite_hosts, detach_sockets, unpin_socket_programs,
    close_service,
]  # fmt: skip


def works(mesh: Mesh) -> bool:
    own, front = mesh.function("b").address4, mesh.service("web").address4
    in_fn(mesh, "a", ["getent", "hosts", "web"])
    with listener(mesh, "b", own, 8080):
        return connects(mesh, "a", front, 80) and is_blocked(mesh, "a", own, 8080, seconds=0.1)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_up_repairs(mesh: Mesh, damage: Callable[[], None]) -> None:
    damage()
    done = apply.up(mesh)
    assert [step.kind for step in done] in (["repair"], ["repair", "repair"]), done
    assert works(mesh)
    assert apply.up(mesh) == ()


def empty_calls() -> None:
    """Without them all but plain packets of flows are dropped."""
    for slot in programs.CALLS:
        Maps(Pins("repair"))["mesh_tc_calls"].delete(ctypes.c_uint32(slot))


@pytest.mark.parametrize(
    ("name", "damage"),
    [("mesh_policy", empty("mesh_policy")), ("mesh_tc_calls", empty_calls)],
    ids=["rules", "calls"],
)
def test_gc_repairs(mesh: Mesh, name: str, damage: Callable[[], None]) -> None:
    assert collected(mesh.name) == []
    damage()
    assert any(name in line for line in collected(mesh.name))
    assert works(mesh)
    assert collected(mesh.name) == []


def test_a_mesh_of_all_kinds_is_well() -> None:
    """Nothing to repair after changes of every kind."""
    text = MESH.replace('"repair"', '"well"')
    with running(text):
        changed = mesh_of(
            text.replace('tenant = "one"', 'tenant = "three"\naudit = true')
            + '[[function]]\nname = "c"\n[[service]]\nname = "idle"\naddress = "198.19.0.9"\n'
            + 'port = "90-99"\nfunctions = ["c"]\nweights = { c = 0 }\n'
        )
        apply.up(changed)
        apply.edit("well", lambda _: changed)
        assert apply.up(changed) == ()
        assert collected("well") == []
