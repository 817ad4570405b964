# SPDX-License-Identifier: BSD-2-Clause
"""The rules of the nftables and the Open vSwitch baseline, as text."""

import re

import pytest

from ebpfmesh.bench import workload
from ebpfmesh.bench.measure import changes
from ebpfmesh.bench.paths import nftables_rules, ovs_flows
from ebpfmesh.bench.workload import Scale
from ebpfmesh.model import Mesh


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return workload.load()


@pytest.fixture(scope="module")
def filled(mesh: Mesh) -> Mesh:
    return workload.fill(mesh, Scale(services=10, rules=5))


def nft_lines(mesh: Mesh) -> list[str]:
    return "".join(nftables_rules.transactions(mesh)).splitlines()


def test_the_fewest_functions_are_the_measured_ones(mesh: Mesh) -> None:
    assert len(mesh.functions) == workload.MIN_FUNCTIONS


def test_nftables_look_a_service_up_in_one_map(filled: Mesh) -> None:
    lines = nft_lines(filled)
    look_up = [line for line in lines if "vmap @service-ips" in line]
    assert look_up == [
        "add rule ip kube-proxy services ip daddr . meta l4proto . th dport vmap @service-ips"
    ]
    elements = [line for line in lines if line.startswith("add element ip kube-proxy service-ips")]
    assert len(elements) == len(filled.services)
    for service, element in zip(filled.services, elements, strict=True):
        front = f"{service.address4} . {service.protocol} . {service.port}"
        assert f"{{ {front} : goto service-" in element


def test_nftables_choose_an_endpoint_at_random_and_translate_there(mesh: Mesh) -> None:
    api = mesh.service(workload.SERVICES["crr"])
    lines = nft_lines(mesh)
    front = f"{{ {api.address4} . tcp . {api.port} :"
    (element,) = (line for line in lines if front in line)
    chain = re.search(r"goto (\S+)", element)
    assert chain
    (choice,) = (line for line in lines if line.startswith(f"add rule ip kube-proxy {chain[1]} "))
    ends = re.findall(r"(\d) : goto ([^\s,]+)", choice)
    assert f"numgen random mod {len(api.functions)} vmap" in choice
    assert [number for number, _ in ends] == ["0", "1"]
    for (_, end), backend in zip(ends, api.functions, strict=True):
        address = f"{mesh.function(backend).address4}:{api.target_port}"
        assert f"add rule ip kube-proxy {end} meta l4proto tcp dnat to {address}" in lines


def test_nftables_accept_established_first_and_drop_by_default(mesh: Mesh) -> None:
    lines = nft_lines(mesh)
    forward = [line for line in lines if "network-policy forward" in line]
    assert "policy drop" in forward[0]
    assert forward[1].endswith("ct state established,related accept")
    assert forward[2].endswith("@allowed accept")
    assert len(forward) == 3


def test_nothing_is_used_before_it_is_there(filled: Mesh) -> None:
    """Transactions are done one after another: what a line leads to was made by one before."""
    made: set[str] = set()
    for line in nft_lines(filled):
        made |= set(re.findall(r"^add chain \S+ \S+ (\S+)", line))
        assert set(re.findall(r"goto ([^\s,}]+)", line)) <= made


def test_many_services_take_several_transactions(
    filled: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = nft_lines(filled)
    monkeypatch.setattr(nftables_rules, "CHUNK", 4)
    parts = list(nftables_rules.transactions(filled))
    assert len(parts) == 1 + -(-len(filled.services) // 4)
    assert "".join(parts).splitlines() == whole


def test_added_to_nftables_is_what_the_whole_has_more(mesh: Mesh) -> None:
    service, rule = changes.new_service(mesh), changes.new_rule()
    more = mesh.model_copy(update={"services": (*mesh.services, service)})
    do, undo = nftables_rules.add_service(mesh, service)
    assert set(do.splitlines()) == set(nft_lines(more)) - set(nft_lines(mesh))
    chains = re.findall(r"^add chain \S+ \S+ (\S+)", do, re.MULTILINE)
    assert sorted(re.findall(r"^delete chain \S+ \S+ (\S+)", undo, re.MULTILINE)) == sorted(chains)
    more = mesh.model_copy(update={"policies": (*mesh.policies, rule)})
    do, undo = nftables_rules.add_rule(mesh, rule)
    assert set(do.splitlines()) == set(nft_lines(more)) - set(nft_lines(mesh))
    assert undo == do.replace("add", "delete")


@pytest.mark.parametrize("what", ["nftables", "openflow"])
def test_only_who_is_allowed_is_accepted(mesh: Mesh, what: str) -> None:
    client, blocked = mesh.function(workload.CLIENT), mesh.function(workload.BLOCKED)
    text = "".join(nftables_rules.transactions(mesh)) if what == "nftables" else flows(mesh)
    assert f"{client.address4}" in text
    assert not re.search(rf"(nw_src=|\{{ ){blocked.address4}\b", text)


def flows(mesh: Mesh) -> str:
    return ovs_flows.bundle(mesh, {}, {}, "02:00:00:00:00:01")


def test_each_service_is_a_group_of_its_backends(filled: Mesh) -> None:
    lines = flows(filled).splitlines()
    groups = [line for line in lines if line.startswith("group add ")]
    assert len(groups) == len(filled.services)
    for number, (service, group) in enumerate(zip(filled.services, groups, strict=True), 1):
        assert group.startswith(f"group add group_id={number},type=select,")
        ends = [int(end, 16) for end in re.findall(r"set_field:(0x\w+)->reg3", group)]
        wanted = [filled.function(name).address4 for name in service.functions]
        assert ends == [int(address) for address in wanted if address]
        front = f"nw_dst={service.address4},tp_dst={service.port},actions=group:{number}"
        assert sum(front in line for line in lines) == 1


def test_a_connection_is_committed_only_once_it_is_allowed(mesh: Mesh) -> None:
    """Before the table of policies there is no commit, and nothing passes that by but answers."""
    lines = [line for line in flows(mesh).splitlines() if line.startswith("flow add ")]
    for line in lines:
        table = int(re.search(r"table=(\d)", line)[1])  # type: ignore[index]
        match, _, actions = line.partition(",actions=")
        assert ("commit" in actions) == (table == ovs_flows.ENDPOINT)
        if f"resubmit(,{ovs_flows.ROUTE})" in actions:
            assert "+est" in match or "+rel" in match
        if f"resubmit(,{ovs_flows.ENDPOINT})" in actions:
            assert table == ovs_flows.POLICY
            assert "nw_src=" in match


def test_no_flow_is_there_twice(filled: Mesh) -> None:
    matches = [line.partition(",actions=")[0] for line in flows(filled).splitlines()]
    assert len(set(matches)) == len(matches)


def test_added_to_the_switch_is_what_the_whole_has_more(mesh: Mesh) -> None:
    service, rule = changes.new_service(mesh), changes.new_rule()
    old = set(flows(mesh).splitlines())
    for kind, new, (do, undo) in (
        ("services", service, ovs_flows.add_service(mesh, service)),
        ("policies", rule, ovs_flows.add_rule(mesh, rule)),
    ):
        more = mesh.model_copy(update={kind: (*getattr(mesh, kind), new)})
        assert set(do.splitlines()) == set(flows(more).splitlines()) - old
        assert len(undo.splitlines()) == len(do.splitlines())
        for line in undo.splitlines():
            assert line.startswith(("flow delete_strict table=", "group delete group_id="))
            assert "actions" not in line


def test_an_endpoint_that_two_services_share_stays_with_one(mesh: Mesh) -> None:
    """Taking a service out must not take the translation from another with the same backends."""
    twin = mesh.service(workload.SERVICES["crr"]).model_copy(update={"name": "twin", "port": 99})
    do, undo = ovs_flows.add_service(mesh, twin)
    assert len(do.splitlines()) == 2  # a group, and the flow to it
    assert f"table={ovs_flows.ENDPOINT}" not in undo
