# SPDX-License-Identifier: BSD-2-Clause
"""What the commands attach, service and policy make of a mesh."""

from ipaddress import IPv4Address

import pytest

from ebpfmesh import config
from ebpfmesh.config import edit
from ebpfmesh.errors import MeshError
from ebpfmesh.model import Function, Identity, Injection, Mesh, Policy, Service, ranked

MESH = config.make(
    Mesh,
    name="m",
    functions=(
        config.make(Function, name="a", tenant="t", address4=IPv4Address("198.18.0.1")),
        config.make(Function, name="b", tenant="u", address4=IPv4Address("198.18.0.2")),
    ),
    services=(
        config.make(Service, name="s", address4=IPv4Address("198.19.0.1"), port=80,
                    target_port=80, functions=("b",)),
    ),
    policies=(config.make(Policy, source="tenant:t", destination="service:s"),),
)  # fmt: skip


def policy(source: str, destination: str, **values: object) -> Policy:
    return config.make(Policy, source=source, destination=destination, **values)


def only(*names: str, **parts: tuple[object, ...]) -> Mesh:
    """A part of the mesh, with other parts of its own."""
    functions = tuple(one for one in MESH.functions if one.name in names)
    return config.make(Mesh, name="m", **({"functions": functions} | parts))


def test_what_is_not_named_stays() -> None:
    assert edit.with_others(MESH, Mesh(name="m", reject=True)) == MESH.model_copy(
        update={"reject": True}
    )
    assert edit.with_others(MESH, MESH) == MESH
    new = config.make(Function, name="c", address4=IPv4Address("198.18.0.3"))
    both = edit.with_others(MESH, only(functions=(new,)))
    assert {one.name for one in both.functions} == {"a", "b", "c"}
    assert (both.services, both.policies) == (MESH.services, MESH.policies)


def test_what_is_named_is_as_it_is_named() -> None:
    moved = MESH.function("a").model_copy(update={"tenant": "v"})
    deny = policy("tenant:v", "any", action="deny")
    both = edit.with_others(MESH, only(functions=(moved,), policies=(deny,)))
    assert both.function("a") == moved
    assert both.policies == (deny,)  # nobody is of tenant t any more


def test_a_group_that_is_named_has_the_replicas_that_are_named() -> None:
    """Who names the others loses them."""
    web = tuple(
        config.make(Function, name=f"web-{n}", group="web", address4=IPv4Address("198.18.0.3") + n)
        for n in range(3)
    )
    service = config.make(Service, name="w", address4=IPv4Address("198.19.0.2"), port=1,
                          target_port=1, functions=("web-0", "web-2"))  # fmt: skip
    rules = (policy("function:web-2", "any"), policy("group:web", "any"))
    before = config.make(Mesh, name="m", functions=web, services=(service,), policies=rules)
    after = edit.with_others(before, only(functions=web[:2]))
    assert [one.name for one in after.functions] == ["web-0", "web-1"]
    assert after.service("w").functions == ("web-0",)
    assert after.policies == rules[1:]


def test_what_stays_may_be_in_the_way() -> None:
    taken = MESH.function("a").model_copy(update={"name": "c"})
    with pytest.raises(MeshError, match=r"198\.18\.0\.1 is the address of function"):
        edit.with_others(MESH, only(functions=(taken,)))


def test_injected_functions_stand_among_others_where_they_stood() -> None:
    def injected(names: str) -> Mesh:
        rows = [Injection(name=name, file="f.c", source="", at="a/egress") for name in names]
        return only("a", injections=ranked(tuple(rows)))

    def order(before: str, wanted: str) -> str:
        found = edit.with_others(injected(before), injected(wanted)).injections
        assert [one.rank for one in found] == list(range(len(found)))
        return "".join(one.name for one in found)

    assert order("xy", "z") == "xyz"
    assert order("axb", "ab") == "axb"
    assert order("axb", "ba") == "bxa"
    assert order("axb", "cb") == "axcb"
    assert order("ax", "abc") == "axbc"


def test_a_function_gets_addresses_of_both_families_that_nobody_has() -> None:
    function = edit.new_function(MESH, "c", addresses=[], tenant="t")
    assert function.address4 in MESH.prefix4
    assert function.address6 in MESH.prefix6
    assert not set(function.addresses) & {a for f in MESH.functions for a in f.addresses}


def test_a_function_gets_the_address_a_file_would_give_it() -> None:
    one = edit.new_function(MESH, "c", addresses=[])
    other = edit.new_function(Mesh(name="other"), "c", addresses=[])
    assert one.addresses == other.addresses


def test_a_function_has_the_addresses_given_and_no_more() -> None:
    function = edit.new_function(MESH, "c", addresses=["198.18.0.9"])
    assert function.addresses == (IPv4Address("198.18.0.9"),)


@pytest.mark.parametrize(
    ("name", "addresses", "said"),
    [
        ("a", [], 'there is a function "a" already'),
        ("A", [], '"name" cannot be "A"'),
        ("c", ["198.18.0.1"], "is the address of"),
        ("c", ["198.19.0.1"], "is the address of"),
        ("c", ["198.18.0.8", "198.18.0.9"], "second of IPv4"),
        ("c", ["198.18.0.8/32"], "not an IP address"),
        ("c", ["127.0.0.1"], "loopback"),
    ],
)
def test_a_function_the_mesh_cannot_have(name: str, addresses: list[str], said: str) -> None:
    with pytest.raises(MeshError, match=said) as caught:
        edit.new_function(MESH, name, addresses=addresses)
    assert caught.value.exit_code == 2
    assert caught.value.hint


def test_a_service_is_added_with_its_port_as_target() -> None:
    mesh = edit.add_service(MESH, "x", addresses=["198.19.0.2"], port=53, protocol="udp")
    added = mesh.service("x")
    assert (added.port, added.target_port, added.functions) == (53, 53, ())
    assert mesh.service("s") == MESH.service("s")


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("s", {"port": 81}, 'there is a service "s" already'),
        ("x", {"port": 80}, "is taken by"),
        ("x", {"port": 81, "functions": ("z",)}, 'unknown function "z"'),
    ],
)
def test_a_service_the_mesh_cannot_have(name: str, values: dict[str, object], said: str) -> None:
    with pytest.raises(MeshError, match=said) as caught:
        edit.add_service(MESH, name, addresses=["198.19.0.1"], **values)
    assert caught.value.exit_code == 2


def test_a_service_keeps_what_is_not_changed() -> None:
    changed = edit.set_service(MESH, "s", addresses=[], functions=("a",)).service("s")
    assert changed == MESH.service("s").model_copy(update={"functions": ("a",)})


def test_a_target_port_follows_the_port_until_it_is_its_own() -> None:
    mesh = edit.set_service(MESH, "s", addresses=[], port=81)
    assert mesh.service("s").target_port == 81
    mesh = edit.set_service(mesh, "s", addresses=[], target_port=8080)
    mesh = edit.set_service(mesh, "s", addresses=[], port=82)
    assert (mesh.service("s").port, mesh.service("s").target_port) == (82, 8080)


def test_a_range_becomes_one_of_the_same_length() -> None:
    mesh = edit.add_service(
        MESH, "x", addresses=["198.19.0.2"], port="8000-8099", target_port="9000-9099",
        functions=("a", "b"), weights={"b": 0}, affinity="source",
    )  # fmt: skip
    added = mesh.service("x")
    assert (added.port, added.last_port, added.target_port) == (8000, 8099, 9000)
    assert (added.affinity, added.backed({}).backends) == ("source", {"a": 1, "b": 0})
    with pytest.raises(MeshError, match="port 9000-9099 has 100 ports, port 1-50 has 50") as caught:
        edit.set_service(mesh, "x", addresses=[], port="1-50")
    assert caught.value.exit_code == 2
    changed = edit.set_service(mesh, "x", addresses=[], port="1-50", target_port="1-50")
    assert (changed.service("x").port, changed.service("x").ports) == (1, 50)


def test_weights_that_are_not_given_stay_as_far_as_their_functions_do() -> None:
    mesh = edit.set_service(MESH, "s", addresses=[], functions=("a", "b"), weights={"a": 2, "b": 3})
    mesh = edit.set_service(mesh, "s", addresses=[], weights={"a": 0})
    assert mesh.service("s").weights == {"a": 0, "b": 3}
    mesh = edit.set_service(mesh, "s", addresses=[], functions=("a",), affinity="source")
    assert mesh.service("s").weights == {"a": 0}
    with pytest.raises(MeshError, match='"weights" names "b"'):
        edit.set_service(mesh, "s", addresses=[], weights={"b": 1})


def test_a_rule_about_ports_types_and_prefixes() -> None:
    ports = edit.rule("outside:192.0.2.0/24", "any", "80-90", protocol="tcp")
    echo = edit.rule("any", "outside:2001:DB8:5::/48", protocol="icmp", icmp_type=8)
    mesh = edit.add_policy(edit.add_policy(MESH, ports), echo)
    assert [str(rule) for rule in mesh.policies[1:]] == [
        "outside:192.0.2.0/24 → any tcp/80-90 allow",
        "any → outside:2001:db8:5::/48 icmp/8 allow",
    ]
    mesh = edit.delete_policy(
        mesh, edit.rule("outside:192.0.2.0/24", "any", "80-90", protocol="tcp")
    )
    assert mesh.policies[1:] == (echo,)
    with pytest.raises(MeshError, match="there is no policy about any → any tcp/80-90"):
        edit.delete_policy(mesh, edit.rule("any", "any", "80-90", protocol="tcp"))


def test_addresses_replace_those_of_a_service() -> None:
    mesh = edit.set_service(MESH, "s", addresses=["198.19.0.7"])
    assert mesh.service("s").addresses == (IPv4Address("198.19.0.7"),)


def test_a_service_goes_with_the_rules_about_it() -> None:
    mesh = edit.delete_service(MESH, "s")
    assert mesh.services == ()
    assert mesh.policies == ()


def test_a_rule_takes_the_place_of_the_one_about_the_same_flows() -> None:
    mesh = edit.add_policy(MESH, policy("tenant:t", "service:s", action="deny"))
    assert [rule.action for rule in mesh.policies] == ["deny"]
    mesh = edit.add_policy(mesh, policy("tenant:t", "service:s", protocol="tcp"))
    assert len(mesh.policies) == 2


def test_a_rule_about_nobody_is_refused() -> None:
    with pytest.raises(MeshError, match='there is no tenant "x"'):
        edit.add_policy(MESH, policy("tenant:x", "any"))


def test_a_rule_is_found_by_its_flows_whatever_it_says() -> None:
    mesh = edit.delete_policy(MESH, policy("tenant:t", "service:s", action="deny", priority=3))
    assert mesh.policies == ()


def test_a_rule_that_is_not_there_exits_3() -> None:
    with pytest.raises(MeshError, match="there is no policy about any") as caught:
        edit.delete_policy(MESH, policy("any", "any", protocol="tcp", port=80))
    assert caught.value.exit_code == 3
    assert Identity("any") not in {rule.source for rule in MESH.policies}


@pytest.mark.parametrize("change", [edit.delete_service, edit.set_service])
def test_a_service_that_is_not_there_exits_3(change: object) -> None:
    values = {"addresses": []} if change is edit.set_service else {}
    with pytest.raises(MeshError, match='there is no service "x"') as caught:
        change(MESH, "x", **values)  # type: ignore[operator]
    assert caught.value.exit_code == 3


def test_remotes_come_and_go() -> None:
    beyond = edit.add_uplink(MESH, "u0", "eth0")
    given = {"addresses": ("192.0.2.7",), "uplink": "u0", "tenant": "far"}
    more = edit.add_remote(beyond, "r", **given)
    assert [(one.name, one.uplink, one.tenant) for one in more.remotes] == [("r", "u0", "far")]
    more = edit.set_service(more, "s", addresses=(), functions=("b", "r"))
    more = edit.add_policy(more, policy("tenant:far", "service:s"))
    for name, values, why in (
        ("a", given, "another function has that name"),
        ("q", given, "is the address of remote"),
        ("q", given | {"uplink": "u1", "addresses": ("192.0.2.8",)}, "there is no uplink"),
        ("q", given | {"addresses": ("198.18.0.1",)}, "is the address of function"),
        ("q", given | {"addresses": ()}, "has no address"),
    ):
        with pytest.raises(MeshError, match=why):
            edit.add_remote(more, name, **values)
    left = edit.delete_remote(more, "r")
    assert (left.remotes, left.service("s").functions, left.policies) == ((), ("b",), MESH.policies)
    assert edit.delete_uplink(more, "u0").remotes == ()
    with pytest.raises(MeshError, match="no remote"):
        edit.delete_remote(left, "r")
