# SPDX-License-Identifier: BSD-2-Clause
"""What the record tells of a part of the mesh is what it tells of the whole."""

from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from ebpfmesh.kernel import record
from ebpfmesh.kernel.record import Place, Record
from ebpfmesh.model import Function, Mesh
from ebpfmesh.plan import diff

MESH = Mesh.model_validate_json("""{"name": "edge",
"functions": [
  {"name": "a", "tenant": "one", "address4": "198.18.0.1"},
  {"name": "b", "tenant": "two", "address4": "198.18.0.2", "address6": "2001:db8::2"},
  {"name": "c", "tenant": "two", "address4": "198.18.0.3"},
  {"name": "d", "tenant": "two", "address4": "198.18.0.4"}],
"services": [
  {"name": "web", "address4": "198.19.0.1", "port": 80, "target_port": 80, "functions": ["b", "c"]},
  {"name": "own", "address4": "198.19.0.2", "port": 80, "target_port": 80, "functions": ["a"]}],
"policies": [
  {"source": "tenant:one", "destination": "service:web"},
  {"source": "tenant:two", "destination": "any", "action": "deny"},
  {"source": "any", "destination": "function:a", "protocol": "icmp"},
  {"source": "function:b", "destination": "function:c"},
  {"source": "function:d", "destination": "outside"}]}""")


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Record]:
    """The record of MESH."""
    monkeypatch.setattr(record, "RUN", tmp_path)
    made = Record.create(MESH, 1)
    for function in MESH.functions:
        made.id_of("function", function.name)
        made.put_function(function, Place("", made_netns=False, interface="", made_interface=False),
                          ready=True)  # fmt: skip
    for service in MESH.services:
        made.put_service(service, 0, 0, 0)
    for policy in MESH.policies:
        made.put_policy(policy, ())
    yield made
    made.close()


def steps(before: Mesh, after: Mesh) -> set[tuple[str, str]]:
    return {(step.kind, step.object.model_dump_json()) for step in diff(before, after)}


@pytest.mark.parametrize("function", MESH.functions, ids=lambda function: function.name)
def test_what_is_around_a_function_is_enough_to_remove_it(kept: Record, function: Function) -> None:
    whole = kept.model(), kept.model(without=(function.name,))
    assert steps(*kept.around(function)) == steps(*whole)


def test_whose_an_address_is(kept: Record) -> None:
    owners = {a: item.name for item in (*MESH.functions, *MESH.services) for a in item.addresses}
    assert {address: kept.address_owner(address) for address in owners} == owners
    assert sorted(kept.hosts()) == sorted((str(a), name) for a, name in owners.items())
    assert kept.address_owner(IPv4Address("198.18.0.9")) is None


def test_a_tenant_without_functions_is_forgotten(kept: Record) -> None:
    numbers = {name: kept.id_of("tenant", name) for name in ("one", "two", "three")}
    assert kept.forget_ids() == [numbers["three"]]
    kept.delete_function("a")
    assert kept.forget_ids() == [], "a policy still names it"
    for _, policy in kept.policies():
        if str(policy.source) == "tenant:one":
            kept.delete_policy(policy)
    assert kept.forget_ids() == [numbers["one"]]
    assert kept.names("tenant") == {numbers["two"]: "two"}
