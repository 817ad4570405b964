# SPDX-License-Identifier: BSD-2-Clause
"""The rules of the iptables baseline, and the workload they are made from."""

import pytest

from ebpfmesh.bench import workload
from ebpfmesh.bench.measure import changes
from ebpfmesh.bench.paths import iptables_rules
from ebpfmesh.bench.workload import Scale
from ebpfmesh.model import Mesh
from support.policy import decide


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return workload.load()


def forward(rules: str) -> list[str]:
    return [line for line in rules.splitlines() if line.startswith("-A FORWARD")]


def test_demo_has_what_the_workload_names(mesh: Mesh) -> None:
    assert {workload.CLIENT, workload.BLOCKED} <= {function.name for function in mesh.functions}
    for traffic in workload.SERVICES:
        assert workload.service_target(mesh, traffic).port
        assert workload.backends(mesh, traffic)
    client, blocked = mesh.function(workload.CLIENT), mesh.function(workload.BLOCKED)
    api = mesh.service(workload.SERVICES["crr"])
    server = mesh.function(api.functions[0])
    assert client.tenant != server.tenant
    assert decide(mesh, client, server, api, "tcp", api.port).action == "allow"
    assert decide(mesh, blocked, server, api, "tcp", api.port).action == "deny"


@pytest.mark.parametrize("services", [1, 2, 1000])
def test_filled_mesh_is_valid_and_ends_with_the_measured_services(
    mesh: Mesh, services: int
) -> None:
    filled = workload.fill(mesh, Scale(services=services))
    assert Mesh.model_validate_json(filled.model_dump_json()) == filled
    assert len(filled.services) == len(mesh.services) + services - 1
    assert filled.services[services - 1].name == workload.SERVICES["pps"]
    assert filled.services[-len(mesh.services) :] == mesh.services


@pytest.mark.parametrize("services", [0, workload.MAX_SERVICES + 1])
def test_number_of_services_is_bounded(mesh: Mesh, services: int) -> None:
    with pytest.raises(ValueError, match="services"):
        workload.fill(mesh, Scale(services=services))


def test_rules_and_functions_stand_beside_what_is_measured(mesh: Mesh) -> None:
    filled = workload.fill(mesh, Scale(rules=100, functions=50))
    assert Mesh.model_validate_json(filled.model_dump_json()) == filled
    assert len(filled.functions) == 50
    assert filled.functions[: len(mesh.functions)] == mesh.functions
    rules = forward(iptables_rules.ruleset(filled, established_first=True))
    assert len(rules) == 1 + 100 + len(mesh.policies)
    assert len(set(rules)) == len(rules)


def test_each_service_costs_one_rule_in_each_list(mesh: Mesh) -> None:
    few = iptables_rules.ruleset(workload.fill(mesh, Scale()), established_first=True).splitlines()
    many = iptables_rules.ruleset(
        workload.fill(mesh, Scale(services=101)), established_first=True
    ).splitlines()
    for start in ("-A KUBE-SERVICES ", "-A FORWARD -s"):
        assert sum(r.startswith(start) for r in many) - sum(r.startswith(start) for r in few) == 100


def test_measured_service_is_rule_number_n(mesh: Mesh) -> None:
    rules = iptables_rules.ruleset(
        workload.fill(mesh, Scale(services=10)), established_first=False
    ).splitlines()
    services = [rule for rule in rules if rule.startswith("-A KUBE-SERVICES ")]
    samples = mesh.service(workload.SERVICES["pps"])
    assert f"-d {samples.address4}/32 -p udp" in services[9]
    assert f"--dport {samples.target_port} " in forward("\n".join(rules))[9]


def test_established_connections_are_accepted_first_or_last(mesh: Mesh) -> None:
    first = forward(iptables_rules.ruleset(mesh, established_first=True))
    last = forward(iptables_rules.ruleset(mesh, established_first=False))
    assert first[0] == last[-1] == iptables_rules.ESTABLISHED
    assert first[1:] == last[:-1]


def test_backends_are_chosen_with_equal_chances(mesh: Mesh) -> None:
    api = mesh.service(workload.SERVICES["crr"])
    chain = iptables_rules.chain_name("SVC", api.name)
    rules = iptables_rules.ruleset(mesh, established_first=True).splitlines()
    choices = [rule for rule in rules if rule.startswith(f"-A {chain} ")]
    assert len(choices) == len(api.functions) == 2
    assert "--probability 0.5000000000" in choices[0]
    assert "--probability" not in choices[1]


def test_only_who_is_allowed_is_accepted(mesh: Mesh) -> None:
    rules = forward(iptables_rules.ruleset(mesh, established_first=True))
    client, blocked = mesh.function(workload.CLIENT), mesh.function(workload.BLOCKED)
    assert any(f"-s {client.address4}/32" in rule for rule in rules)
    assert not any(f"-s {blocked.address4}/32" in rule for rule in rules)


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("-A ")]


@pytest.mark.parametrize("append", [False, True])
def test_added_service_is_what_a_whole_ruleset_has_more(mesh: Mesh, append: bool) -> None:
    service = changes.new_service(mesh)
    more = mesh.model_copy(update={"services": (*mesh.services, service)})
    old, new = (iptables_rules.ruleset(m, established_first=True) for m in (mesh, more))
    do, undo = iptables_rules.add_service(mesh, service, append=append)
    services = {line for line in lines(new) if line.startswith("-A KUBE-SERVICES ")}
    own = set(lines(new)) - set(lines(old))
    assert set(lines(do)) == (own if append else own | services)
    assert (":KUBE-SERVICES" in do) == (not append)
    chains = {line.split()[0][1:] for line in do.splitlines() if line.startswith(":")}
    for chain in chains - {"KUBE-SERVICES"}:
        assert f"-X {chain}" in undo.splitlines()


@pytest.mark.parametrize("append", [False, True])
def test_added_rule_is_the_last_of_its_list(mesh: Mesh, append: bool) -> None:
    do, undo = iptables_rules.add_rule(mesh, changes.new_rule(), append=append)
    old = forward(iptables_rules.ruleset(mesh, established_first=True))
    new = forward(do)
    assert new[:-1] == ([] if append else old)
    assert new[-1] not in old
    assert forward(undo) == ([] if append else old)
    assert (f"-D {new[-1][3:]}" in undo) == append


def test_what_is_added_to_a_mesh_can_be(mesh: Mesh) -> None:
    parts = {
        "services": (*mesh.services, changes.new_service(mesh)),
        "policies": (*mesh.policies, changes.new_rule()),
    }
    more = mesh.model_copy(update=parts)
    assert Mesh.model_validate_json(more.model_dump_json()) == more
