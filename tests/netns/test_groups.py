# SPDX-License-Identifier: BSD-2-Clause
"""Replicas as one group: one rule for all of them, and for those that come later.

client (tenant a) ──▶ web:80 ──▶ web-0:8080 | web-1:8080 (| web-2:8080)     db (tenant c)
"""

from collections.abc import Iterator

import pytest

from ebpfmesh import apply
from ebpfmesh._abi import Direction, Reason
from ebpfmesh.config import edit
from ebpfmesh.errors import NotFound, UsageError
from ebpfmesh.model import Mesh
from ebpfmesh.observe import view
from ebpfmesh.observe.mesh import read_services
from support.sockets import BLOCKED_SECONDS, SECONDS, connects
from support.topology import drops, mesh_of, running

MESH = """
[mesh]
name = "groups"
limits = {{rules = 3}}
[[function]]
name = "client"
tenant = "a"
[[function]]
name = "web"
tenant = "b"
replicas = {replicas}
[[function]]
name = "db"
tenant = "c"
[[service]]
name = "www"
address = ["198.19.0.1", "2001:db8:1::1"]
port = 80
target_port = 8080
functions = ["web"]
[[policy]]
from = "function:client"
to = "function:web"
protocol = "tcp"
[[policy]]
from = "function:web"
to = "function:db"
protocol = "tcp"
[[policy]]
from = "function:client"
to = "function:web-1"
protocol = "tcp"
port = 8080
action = "deny"
"""


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    with running(MESH.format(replicas=2)) as mesh:
        yield mesh


def rules() -> int:
    """How many entries the programs have."""
    with apply.opened("groups") as live:
        return int(live.control.maps["mesh_policy"].count())


def backends() -> dict[str, bool]:
    """Who is behind the service, and whether new flows get there."""
    with view.opened("groups") as seen:
        (service,) = read_services(seen)
        return {backend.function: backend.share > 0 for backend in service.backends}


def passes(
    mesh: Mesh, source: str, destination: str, port: int = 80, *, seconds: float = SECONDS
) -> bool:
    """Whether a connection's first packet gets there; nobody listens."""
    try:
        return connects(mesh, source, mesh.function(destination).address4, port, seconds=seconds)
    except ConnectionRefusedError:
        return True


def test_one_rule_is_for_all_replicas(mesh: Mesh) -> None:
    assert rules() == 3
    assert passes(mesh, "client", "web-0")
    assert passes(mesh, "client", "web-1")
    assert not passes(
        mesh, "client", "web-1", 8080, seconds=BLOCKED_SECONDS
    )  # one of them named alone
    assert passes(mesh, "client", "web-0", 8080)
    assert passes(mesh, "web-1", "db")
    assert not passes(mesh, "client", "db", seconds=BLOCKED_SECONDS)
    assert not passes(mesh, "db", "web-0", seconds=BLOCKED_SECONDS)
    assert drops(mesh)["db", Direction.FROM_FN, Reason.POLICY]


@pytest.mark.usefixtures("mesh")
def test_a_group_grows_and_shrinks_without_a_change_of_rules() -> None:
    assert backends() == {"web-0": True, "web-1": True}
    more = mesh_of(MESH.format(replicas=3))
    done = {(step.kind, step.describe().split()[2]) for step in apply.up(more)}
    assert done == {("add-function", "web-2"), ("set-service", "www")}
    assert rules() == 3
    assert backends() == {"web-0": True, "web-1": True, "web-2": True}
    assert passes(more, "client", "web-2")
    assert passes(more, "web-2", "db")
    assert apply.plan(more) == ()
    apply.detach("groups", "web-0")
    assert backends() == {"web-1": True, "web-2": True}
    assert passes(more, "client", "web-2")


def test_a_function_joins_a_group_where_it_is(mesh: Mesh) -> None:
    alone = MESH.format(replicas=1) + '[[function]]\nname = "web-1"\ntenant = "b"\n'
    apart = mesh_of(alone)
    inside = mesh.function("web-1").addresses
    assert apart.function("web-1").addresses == inside
    steps = {(step.kind, step.describe().split()[2]) for step in apply.up(apart)}
    assert steps == {("change-function", "web-1"), ("set-service", "www")}
    assert not passes(apart, "web-1", "db", seconds=BLOCKED_SECONDS)
    assert passes(apart, "web-0", "db")
    apply.up(mesh)
    assert passes(mesh, "web-1", "db")


def test_the_last_of_a_group_takes_its_rules_along(mesh: Mesh) -> None:
    assert apply.detach("groups", "web") == ("web-0", "web-1")
    assert rules() == 0
    assert backends() == {}
    with apply.opened("groups") as live:
        assert live.record.names("group") == {}
    apply.up(mesh)
    assert rules() == 3
    assert passes(mesh, "client", "web-1")


def test_a_failed_change_leaves_the_group_as_it_was(mesh: Mesh) -> None:
    bad = mesh_of(MESH.format(replicas=3).replace('name = "db"', 'name = "db"\nnetns = "nowhere"'))
    with pytest.raises(NotFound):
        apply.up(bad)
    assert apply.plan(mesh) == ()
    assert backends() == {"web-0": True, "web-1": True}
    assert passes(mesh, "web-1", "db")


def test_a_group_is_named_where_many_make_sense_and_refused_where_one_does(mesh: Mesh) -> None:
    apply.edit("groups", lambda now: edit.set_service(now, "www", addresses=[], weights={"web": 2}),
               scope=edit.scope_of_service("www"))  # fmt: skip
    apply.edit(
        "groups",
        lambda now: edit.set_service(now, "www", addresses=[], weights={"web-1": 0}),
        scope=edit.scope_of_service("www"),
    )
    assert backends() == {"web-0": True, "web-1": False}
    with apply.opened("groups") as live, pytest.raises(UsageError, match="a group") as caught:
        live.home("web")
    assert caught.value.hint == "name one: web-0, web-1"
    with pytest.raises(UsageError, match='there is a function "web" already'):
        edit.new_function(mesh, "web", addresses=())
