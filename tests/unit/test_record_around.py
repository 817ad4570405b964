# SPDX-License-Identifier: BSD-2-Clause
"""What the record tells of a part of the mesh is what it tells of the whole."""

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from ebpfmesh.config import edit
from ebpfmesh.kernel.netns import NetnsId
from ebpfmesh.model import Mesh, Policy, Scope
from ebpfmesh.plan import diff
from ebpfmesh.state import files
from ebpfmesh.state.rows import Attachment
from ebpfmesh.state.writer import Writer

MESH = Mesh.model_validate_json("""{"name": "edge",
"functions": [
  {"name": "a", "tenant": "one", "address4": "198.18.0.1"},
  {"name": "b", "tenant": "two", "address4": "198.18.0.2", "address6": "2001:db8::2"},
  {"name": "c", "tenant": "two", "address4": "198.18.0.3"},
  {"name": "d", "tenant": "two", "address4": "198.18.0.4"},
  {"name": "g-0", "tenant": "two", "address4": "198.18.0.5", "group": "g"},
  {"name": "g-1", "tenant": "six", "address4": "198.18.0.6", "group": "g"},
  {"name": "h-0", "tenant": "six", "address4": "198.18.0.7", "group": "h"}],
"services": [
  {"name": "all", "address4": "198.19.0.3", "port": 80, "target_port": 80,
   "functions": ["g", "d"], "weights": {"g": 3, "g-1": 0}},
  {"name": "one", "address4": "198.19.0.4", "port": 80, "target_port": 80, "functions": ["h"]},
  {"name": "web", "address4": "198.19.0.1", "port": 80, "target_port": 80, "functions": ["b", "c"]},
  {"name": "own", "address4": "198.19.0.2", "port": 80, "target_port": 80, "functions": ["a"]}],
"policies": [
  {"source": "tenant:one", "destination": "service:web"},
  {"source": "tenant:two", "destination": "any", "action": "deny"},
  {"source": "any", "destination": "function:a", "protocol": "icmp"},
  {"source": "function:b", "destination": "function:c"},
  {"source": "group:g", "destination": "group:h"},
  {"source": "function:g-1", "destination": "any"},
  {"source": "function:d", "destination": "outside"}]}""")


NEW = Policy.model_validate({"source": "function:h", "destination": "function:g", "action": "deny"})
OLD = Policy.model_validate({"source": "function:g", "destination": "function:h"})


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Writer]:
    """The record of MESH."""
    monkeypatch.setattr(files, "RUN", tmp_path)
    made = Writer.create(MESH, NetnsId(1, 2))
    nowhere = Attachment("", made_netns=False, interface="", made_interface=False)
    for function in MESH.functions:
        made.id_of("function", function.name)
        made.put_function(function, nowhere, ready=True)
    for service in MESH.services:
        made.put_service(service, 0, 0, 0)
    for policy in MESH.policies:
        made.put_policy(policy, ())
    yield made
    made.close()


def steps(before: Mesh, after: Mesh) -> set[tuple[str, str]]:
    return {(step.kind, step.object.model_dump_json()) for step in diff(before, after)}


TOGETHER = [*((function.name,) for function in MESH.functions), ("g-0", "g-1"), ("a", "c", "h-0")]


@pytest.mark.parametrize("names", TOGETHER, ids="+".join)
def test_what_is_around_functions_is_enough_to_remove_them(
    kept: Writer, names: tuple[str, ...]
) -> None:
    whole = kept.model(), kept.model(without=names)
    assert steps(*kept.around([MESH.function(name) for name in names])) == steps(*whole)


@pytest.mark.parametrize(
    ("change", "scope"),
    [
        (lambda mesh: edit.add_policy(mesh, NEW), Scope(rules=(NEW,))),
        (lambda mesh: edit.delete_policy(mesh, OLD), Scope(rules=(OLD,))),
        *(
            (lambda mesh, v=values: edit.set_service(mesh, "all", addresses=(), **v), scope)
            for values, scope in (
                ({"weights": {"g": 2}}, edit.scope_of_service("all")),
                ({"weights": {"d": 1}}, edit.scope_of_service("all")),
                ({"functions": ("h", "d")}, edit.scope_of_service("all", functions=("h", "d"))),
                ({"functions": ("g-0",)}, edit.scope_of_service("all", functions=("g-0",))),
            )
        ),
        (lambda mesh: edit.delete_service(mesh, "all"), edit.scope_of_service("all")),
    ],
)
def test_a_part_is_enough_to_change_it(
    kept: Writer, change: Callable[[Mesh], Mesh], scope: Scope
) -> None:
    part, whole = kept.part(scope), kept.model()
    assert steps(part, change(part)) == steps(whole, change(whole))


def test_a_rule_about_a_service_needs_none_of_its_functions(kept: Writer) -> None:
    """However many replicas there are, one of each group is enough to know that it is there."""
    rule = Policy.model_validate({"source": "function:g", "destination": "service:all"})
    part = kept.part(Scope(rules=(rule,)))
    assert [function.group for function in part.functions] == ["g"]
    assert [service.functions for service in part.services] == [()]


def test_the_default_weight_is_no_change(kept: Writer) -> None:
    mesh = kept.model()
    said = edit.set_service(mesh, "web", addresses=(), weights={"b": 1})
    assert said != mesh
    assert diff(mesh, said) == ()
    same = edit.set_service(mesh, "all", addresses=(), weights={"g-0": 3, "d": 1})
    assert diff(mesh, same) == ()


def test_whose_an_address_is(kept: Writer) -> None:
    owners = {a: item.name for item in (*MESH.functions, *MESH.services) for a in item.addresses}
    assert {address: kept.address_owner(address) for address in owners} == owners
    assert sorted(kept.hosts()) == sorted((str(a), name) for a, name in owners.items())
    assert kept.address_owner(IPv4Address("198.18.0.9")) is None


def test_a_tenant_without_functions_is_forgotten(kept: Writer) -> None:
    numbers = {name: kept.id_of("tenant", name) for name in ("one", "two", "three")}
    assert kept.forget_ids() == [numbers["three"]]
    kept.delete_function("a")
    assert kept.forget_ids() == [], "a policy still names it"
    for _, policy in kept.policies():
        if str(policy.source) == "tenant:one":
            kept.delete_policy(policy)
    assert kept.forget_ids() == [numbers["one"]]
    assert kept.names("tenant") == {numbers["two"]: "two"}
