# SPDX-License-Identifier: BSD-2-Clause
"""What people and programs are told of a change: lines, actions, fields."""

from ipaddress import IPv4Address, IPv6Address

import pytest

from ebpfmesh.errors import UsageError
from ebpfmesh.model import (
    Function,
    Identity,
    Limits,
    Mesh,
    Service,
    Timeouts,
)
from ebpfmesh.operation import (
    AddFunction,
    AddPolicy,
    ChangeFunction,
    RollFunction,
    SetService,
)
from ebpfmesh.plan import diff, told
from support.models import EMPTY, NAMES, PACKET, X, Y, function, mesh, policy, service

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("a", "b", "lines"),
    [
        (
            None,
            mesh(X, service("s", "a"), policy("any", "service:s")),
            [
                "+ mesh edge",
                "+ function a  tenant x  198.18.0.1",
                "+ service s  198.18.128.115  tcp/80 → 5201  a",
                "+ policy any → service:s allow",
            ],
        ),
        (
            mesh(PACKET),
            mesh(PACKET.model_copy(update={"program": "b.c", "source": "int b;"})),
            ["~ function a  program b.c"],
        ),
        (EMPTY, mesh(PACKET), ["+ function a  tenant x  198.18.0.1  xdp a.c"]),
        (
            mesh(X, service("s", "a"), policy("any", "service:s")),
            EMPTY,
            [
                "- policy any → service:s allow",
                "- service s  198.18.128.115  tcp/80 → 5201  a",
                "- function a  tenant x  198.18.0.1",
            ],
        ),
        (mesh(X), mesh(function("a", "y")), ["~ function a  tenant x → y"]),
        (mesh(X), mesh(function("a", audit=True)), ["~ function a  audit on"]),
        (
            mesh(X),
            mesh(function("a", "y", command=("sleep",))),
            ["- function a  tenant x  198.18.0.1", "+ function a  tenant y  198.18.0.1"],
        ),
        (
            mesh(function("a", cpu=0.5, memory=64 << 20)),
            mesh(function("a", "y", cpu=1.0)),
            ["~ function a  tenant x → y  cpu 0.5 → 1  memory 64M → none"],
        ),
        (  # from one function to another that is there: in one step
            mesh(X, Y, service("s", "a")),
            mesh(X, Y, service("s", "b", target_port=80)),
            ["~ service s  198.18.128.115  tcp/80  b"],
        ),
        (  # drain, and a client stays where it is
            mesh(X, Y, service("s", "a", "b", weights={"b": 2})),
            mesh(X, Y, service("s", "a", "b", weights={"b": 2, "a": 0}, affinity="source")),
            ["~ service s  198.18.128.115  tcp/80 → 5201  a, b  weights a 0, b 2  affinity source"],
        ),
        (  # the weight goes with its function
            mesh(X, Y, service("s", "a", "b", weights={"b": 2})),
            mesh(X, service("s", "a")),
            [
                "~ service s  198.18.128.115  tcp/80 → 5201  a",
                "- function b  tenant x  198.18.0.2",
            ],
        ),
        (  # a longer range is another service to its clients
            mesh(service("s", ports=2)),
            mesh(service("s", ports=3)),
            [
                "- service s  198.18.128.115  tcp/80-81 → 5201-5202  0 functions",
                "+ service s  198.18.128.115  tcp/80-82 → 5201-5203  0 functions",
            ],
        ),
        (
            EMPTY,
            EMPTY.model_copy(update={"timeouts": Timeouts(udp=30, icmp=5)}),
            ["~ timeouts udp 120 → 30 s  icmp 30 → 5 s"],
        ),
        (EMPTY, EMPTY.model_copy(update={"reject": True}), ["~ reject on"]),
        (EMPTY.model_copy(update={"reject": True}), EMPTY, ["~ reject off"]),
        (EMPTY.model_copy(update={"host": True}), EMPTY, ["~ host off"]),
        (
            mesh(X),
            mesh(X, policy("outside:192.0.2.0/24", "any", protocol="udp", port=5, port_end=9)),
            ["+ policy outside:192.0.2.0/24 → any udp/5-9 allow"],
        ),
        (  # scale up: the service is set once its new function is there
            mesh(X, service("s", "a")),
            mesh(X, Y, service("s", "a", "b")),
            [
                "+ function b  tenant x  198.18.0.2",
                "~ service s  198.18.128.115  tcp/80 → 5201  a, b",
            ],
        ),
        (  # scale down: the service lets go first
            mesh(X, Y, service("s", "a", "b")),
            mesh(X, service("s", "a")),
            [
                "~ service s  198.18.128.115  tcp/80 → 5201  a",
                "- function b  tenant x  198.18.0.2",
            ],
        ),
        (  # another port is another service to its clients
            mesh(X, service("s", "a")),
            mesh(X, service("s", "a", port=81)),
            [
                "- service s  198.18.128.115  tcp/80 → 5201  a",
                "+ service s  198.18.128.115  tcp/81 → 5201  a",
            ],
        ),
        (
            mesh(X, Y, service("s")),
            mesh(*map(function, NAMES), service("s", *NAMES)),
            [
                "+ function c  tenant x  198.18.0.3",
                "+ function d  tenant x  198.18.0.4",
                "~ service s  198.18.128.115  tcp/80 → 5201  a, b, c, d",
            ],
        ),
        (
            mesh(X, service("s", "a")),
            mesh(X, service("s")),
            ["~ service s  198.18.128.115  tcp/80 → 5201  0 functions"],
        ),
        (  # one rule in place of another about the same flows
            mesh(X, policy("any", "any", protocol="tcp", port=80)),
            mesh(X, policy("any", "any", protocol="tcp", port=80, action="deny", priority=7)),
            ["~ policy any → any tcp/80 deny priority 7"],
        ),
        (  # allows that go; denies about who comes, functions; denies that go, then allows
            mesh(X, policy("any", "any"), policy("any", "function:a", action="deny")),
            mesh(X, Y, policy("any", "function:b", action="deny"), policy("any", "tenant:x")),
            [
                "- policy any → any allow",
                "+ policy any → function:b deny",
                "+ function b  tenant x  198.18.0.2",
                "- policy any → function:a deny",
                "+ policy any → tenant:x allow",
            ],
        ),
        (  # two change tenant: neither sends meanwhile
            mesh(X, Y),
            mesh(function("a", "y"), function("b", "y")),
            [
                "+ policy function:a → any deny priority 0",
                "+ policy function:b → any deny priority 0",
                "~ function a  tenant x → y",
                "~ function b  tenant x → y",
                "- policy function:a → any deny priority 0",
                "- policy function:b → any deny priority 0",
            ],
        ),
    ],
)
def test_describe(a: Mesh | None, b: Mesh, lines: list[str]) -> None:
    assert [step.describe() for step in diff(a, b)] == lines


def test_describe_both_families() -> None:
    both = X.model_copy(update={"address6": IPv6Address("2001:db8::2")})
    line = AddFunction(both).describe()
    assert line == "+ function a  tenant x  198.18.0.1  2001:db8::2"


def test_many_backends_are_counted() -> None:
    line = SetService(service("s", *(f"f-{n}" for n in range(5)))).describe()
    assert line == "+ service s  198.18.128.115  tcp/80 → 5201  5 functions"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"limits": Limits(functions=2)}, "the limits cannot change"),
        ({"hook": "clsact"}, "the hook cannot change"),
        ({"count_flows": True}, "the count_flows cannot change"),
        ({"prefix4": "198.19.0.0/16"}, "the prefixes cannot change"),
        ({"prefix6": "2001:db8:1::/64"}, "the prefixes cannot change"),
        ({"name": "core"}, "the name cannot change"),
    ],
)
def test_what_is_fixed(change: dict[str, object], what: str) -> None:
    other = Mesh.model_validate(dict(EMPTY) | change, strict=False)
    with pytest.raises(UsageError, match=what) as caught:
        diff(EMPTY, other)
    assert "down first" in caught.value.hint


def test_quarantine_keeps_a_rule_of_the_mesh() -> None:
    """Functions change tenant while a rule about the same flows is there, and stays."""
    rule = policy("function:a", "any", protocol="any", priority=3)
    a, b = mesh(X, Y, rule), mesh(function("a", "y"), function("b", "y"), rule)
    steps = diff(a, b)
    quarantine = rule.model_copy(update={"action": "deny", "priority": 0})
    assert AddPolicy(quarantine, rule) in steps
    assert steps[-1] == AddPolicy(rule, quarantine)
    assert quarantine.source == Identity("function", "a")


def steps(old: Mesh, new: Mesh) -> list[tuple[str, str, dict[str, tuple[object, object]]]]:
    return [(step.action, step.text, step.fields) for step in told(diff(old, new))]


@pytest.mark.parametrize(
    ("key", "was", "now", "text"),
    [
        ("command", ("a", "b c"), (), "command a 'b c' → none"),
        ("command", (), ("a",), "command none → a"),
        ("netns", None, "cache", "netns none → cache"),
    ],
)
def test_a_function_made_anew_says_why(key: str, was: object, now: object, text: str) -> None:
    """Else its two lines are the same but for their signs."""
    first = Function(name="f", tenant="t", address4=IPv4Address("198.18.0.1"))
    old, new = (first.model_copy(update={key: value}) for value in (was, now))
    gone, come = steps(Mesh(name="m", functions=(old,)), Mesh(name="m", functions=(new,)))
    assert gone[:2] == ("remove", f"- function f  to be made anew: {text}")
    assert come[:2] == ("add", "+ function f  tenant t  198.18.0.1")
    plain = [list(value) if isinstance(value, tuple) else value for value in (was, now)]
    assert gone[2] == come[2] == {key: tuple(plain)}


def commanded(**others: object) -> Function:
    fields: dict[str, object] = {"name": "f", "address4": "198.18.0.1", "command": ("a", "b c")}
    return Function.model_validate(fields | others, strict=False)


def mesh_with(function: Function, *services: Service) -> Mesh:
    return Mesh(name="m", functions=(function,), services=services)


@pytest.mark.parametrize(
    ("was", "now", "text"),
    [
        ({}, {"command": ("a",)}, "command a 'b c' → a"),
        ({}, {"image": "two", "env": {"A": "secret"}}, "env changed  image none → two"),
        ({"privileged": True}, {"privileged": True, "command": ("a",)}, "command a 'b c' → a"),
        ({}, {"user": "www-data", "tmp": 4096}, "user none → www-data  tmp 67108864 → 4096"),
        (
            {"capabilities": ("NET_RAW",), "stop_seconds": 5},
            {"capabilities": ("NET_RAW",), "volumes": ("/srv",)},
            "volumes none → /srv  stop_seconds 5 → 3",
        ),
        (
            {"capabilities": ("NET_RAW",)},
            {"user": "bin"},
            "user none → bin  capabilities NET_RAW → none",
        ),
    ],
)
def test_what_only_a_command_has_changes_where_it_is(
    was: dict[str, object], now: dict[str, object], text: str
) -> None:
    old, new = commanded(**was), commanded(**now)
    (step,) = diff(mesh_with(old), mesh_with(new))
    assert step == RollFunction(new, old)
    assert step.describe() == f"~ function f  {text}"
    assert step.inverse() == RollFunction(old, new)


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ({}, {"capabilities": ("NET_ADMIN",)}),
        ({"capabilities": ("NET_RAW",)}, {"capabilities": ("NET_RAW",), "user": "bin"}),
        ({"capabilities": ("NET_RAW",)}, {"capabilities": ("NET_RAW",), "image": "two"}),
        ({}, {"privileged": True}),
        ({}, {"command": ("a",), "address4": "198.18.0.2"}),
        ({}, {"command": ("a",), "netns": "given"}),
    ],
)
def test_what_needs_another_network_is_made_anew(
    was: dict[str, object], now: dict[str, object]
) -> None:
    """Power over a network namespace is that of the user it was made for."""
    steps = diff(mesh_with(commanded(**was)), mesh_with(commanded(**now)))
    assert [step.kind for step in steps] == ["remove-function", "add-function"]


def test_commands_are_the_last_to_change_and_all_else_of_a_function_is_there() -> None:
    old, new = commanded(), commanded(tenant="t", cpu=0.5, command=("a",), stop_seconds=9)
    between = commanded(tenant="t", cpu=0.5)
    rule = policy("tenant:t", "any", protocol="any", action="allow")
    wanted = Mesh(name="m", functions=(new,), policies=(rule,))
    assert diff(mesh_with(old), wanted) == (
        ChangeFunction(between, old), AddPolicy(rule), RollFunction(new, between),
    )  # fmt: skip


def test_a_roll_says_whom_it_leaves_without() -> None:
    service = Service.model_validate(
        {"name": "s", "address4": "198.19.0.1", "port": 80, "target_port": 80, "functions": ("f",)},
        strict=False,
    )
    new = commanded(command=("a",))
    (step,) = diff(mesh_with(commanded(), service), mesh_with(new, service))
    assert step.describe().endswith("  (alone behind s, which waits for it)")
    (row,) = told([step])
    assert row.action == "change"
    assert row.fields == {"command": (["a", "b c"], ["a"])}


def test_variables_alone_change_at_the_next_start() -> None:
    old, new = commanded(), commanded(env={"A": "secret"}, drain_seconds=5)
    (step,) = diff(mesh_with(old), mesh_with(new))
    assert step == ChangeFunction(new, old)
    assert step.describe() == "~ function f  drain_seconds 10 → 5  env changed, at the next start"


def test_what_is_added_changed_and_removed_is_told_apart() -> None:
    one = Function(name="one", tenant="t", address4=IPv4Address("198.18.0.1"))
    two = Function(name="two", tenant="t", address4=IPv4Address("198.18.0.2"))
    old = Mesh(name="m", functions=(one,))
    moved = one.model_copy(update={"tenant": "u"})
    new = Mesh(name="m", functions=(moved, two))
    found = {step.operation.name: step for step in told(diff(old, new))}
    assert found["one"].action == "change"
    assert found["one"].fields == {"tenant": ("t", "u")}
    assert (found["two"].action, found["two"].fields) == ("add", {})
    back = [step.action for step in told(diff(new, old)) if step.operation.name == "two"]
    assert back == ["remove"]
