# SPDX-License-Identifier: BSD-2-Clause
"""Operations lead from one mesh to another, and each step on the way is safe."""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebpfmesh.errors import UsageError
from ebpfmesh.model import (
    Function,
    Identity,
    Limits,
    Mesh,
    Policy,
    Remote,
    Service,
    Timeouts,
    Uplink,
    problems,
)
from ebpfmesh.operation import (
    AddFunction,
    AddPolicy,
    ChangeFunction,
    Operation,
    ReplacePrograms,
    RollFunction,
    SetService,
    load,
)
from ebpfmesh.plan import diff, told
from support.policy import Party, decide

pytestmark = pytest.mark.unit

EMPTY = Mesh(name="edge")
NAMES = ("a", "b", "c", "d")
TENANTS = ("x", "y")


def function(name: str, tenant: str = "x", *, low: int = 0, **settings: object) -> Function:
    """A function whose last byte of the address is its place in NAMES, ``low`` further on."""
    address = IPv4Address("198.18.0.1") + NAMES.index(name) + low
    return Function(name=name, tenant=tenant, address4=address, **settings)


def service(name: str, *functions: str, at: str = "", **settings: object) -> Service:
    """A service whose last byte of the address is its letter, or that of another, ``at``."""
    address = IPv4Address("198.18.128.0") + ord(at or name)
    ports = {"port": 80, "target_port": 5201} | settings
    return Service(name=name, address4=address, functions=functions, **ports)


def policy(source: str, destination: str, **rest: object) -> Policy:
    return Policy.model_validate({"source": source, "destination": destination, **rest})


def mesh(*items: Function | Service | Policy) -> Mesh:
    return Mesh(
        name="edge",
        functions=tuple(item for item in items if isinstance(item, Function)),
        services=tuple(item for item in items if isinstance(item, Service)),
        policies=tuple(item for item in items if isinstance(item, Policy)),
    )


def apply_to_model(current: Mesh | None, step: Operation) -> Mesh:
    """What ``step`` makes of a mesh, refusing what a kernel could not do."""
    if step.kind == "create-mesh":
        assert current is None
        assert isinstance(step.object, Mesh)
        return step.object
    assert current is not None
    item = step.object
    match item:
        case Function():
            field, here = "functions", {one.name: one for one in current.functions}
            key: object = item.name
        case Service():
            field, here = "services", {one.name: one for one in current.services}
            key = item.name
        case Timeouts():
            assert current.timeouts == step.old
            return current.model_copy(update={"timeouts": item})
        case Mesh():
            assert step.kind in ("set-reject", "set-host")
            assert isinstance(step.old, Mesh)
            key = step.kind.removeprefix("set-")
            old, new = getattr(step.old, key), getattr(item, key)
            assert getattr(current, key) == old != new
            return current.model_copy(update={key: new})
        case Policy():
            field, here = "policies", {one.match: one for one in current.policies}
            key = item.match
    if step.kind.startswith("remove-"):
        assert here.pop(key) == item
    else:
        assert here.get(key) == step.old
        assert step.old or not step.kind.startswith("change-")
        here[key] = item
    return current.model_copy(update={field: tuple(here.values())})


def steps_between(a: Mesh | None, b: Mesh) -> list[Mesh]:
    """The meshes after each operation, services with their backends; the last one is ``b``."""
    meshes = []
    steps = diff(a, b)
    a = a.model_copy(update={"services": a.backed}) if a else None
    for step in steps:
        assert load(step.dump()) == step
        a = apply_to_model(a, step)
        meshes.append(a)
    return meshes


def sorted_mesh(one: Mesh) -> Mesh:
    """The same mesh with its parts in a fixed order, all validators run again."""
    whole = Mesh(
        name=one.name,
        limits=one.limits,
        timeouts=one.timeouts,
        reject=one.reject,
        host=one.host,
        functions=tuple(sorted(one.functions, key=lambda item: item.name)),
        services=tuple(sorted(one.services, key=lambda item: item.name)),
        policies=tuple(sorted(one.policies, key=str)),
    )
    return whole.model_copy(update={"services": whole.backed})


def allowed(one: Mesh) -> set[tuple[object, ...]]:
    """All flows that ``one`` lets through, of those that a rule could tell apart."""
    flows = set()
    senders = [None, IPv4Address("192.0.2.1"), IPv4Address("192.0.2.200"), *one.functions]
    for source, destination in product(senders, senders):
        for protocol, port in (("tcp", 80), ("tcp", 81), ("udp", 80), ("icmp", 0)):
            if decide(one, source, destination, None, protocol, port).action == "allow":
                flows.add((name(source), name(destination), None, protocol, port))
    for source, to, backend in service_flows(one):
        if decide(one, source, backend, to, to.protocol, to.port).action == "allow":
            flows.add((name(source), backend.name, to.name, to.protocol, to.port))
    return flows


def service_flows(one: Mesh) -> Iterator[tuple[Party, Service, Function]]:
    for source, to in product([None, IPv4Address("192.0.2.1"), *one.functions], one.services):
        for backend in to.backends:
            yield source, to, one.function(backend)


def name(party: Party) -> str:
    return party.name if isinstance(party, Function) else str(party or "")


IDENTITIES = [
    *("any", "outside", "tenant:x", "tenant:y", "service:s", "service:t"),
    *("outside:192.0.2.0/24", "outside:192.0.2.0/25"),
    *(f"function:{one}" for one in NAMES),
    *("group:g", "group:h"),
]


PORTS = [{}, {"port": 80}, {"port": 80, "port_end": 81}, {"port": 1, "port_end": 80}]


@st.composite
def meshes(draw: st.DrawFn) -> Mesh:
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=4))
    tenant, few = st.sampled_from(TENANTS), st.sampled_from([(), (), (), ("sleep", "1")])
    functions = [
        function(one, draw(tenant), low=draw(st.sampled_from([0, 0, 0, 10])),
                 audit=draw(st.booleans()), command=draw(few),
                 cpu=draw(st.sampled_from([None, 0.5, 1.0])),
                 group=draw(st.sampled_from([None, None, "g", "h"])))
        for one in names
    ]  # fmt: skip
    groups = sorted({one.group for one in functions if one.group})
    behind = st.sampled_from([*(one.name for one in functions if not one.group), *groups, *groups])
    services = [
        service(one, *draw(st.lists(behind, unique=True) if names else st.just([])),
                at=draw(st.sampled_from(["", "", "u"])) if one == "s" else "",
                port=draw(st.sampled_from([80, 80, 81])),
                target_port=draw(st.sampled_from([1, 2])))
        for one in draw(st.lists(st.sampled_from(["s", "t"]), unique=True))
    ]  # fmt: skip
    services = [
        one.model_copy(update={"weights": {name: draw(st.integers(0, 2)) for name in one.functions},
                               "affinity": draw(st.sampled_from(["none", "source"])),
                               "ports": draw(st.sampled_from([1, 1, 2]))})
        for one in services
    ]  # fmt: skip
    known = {one for one in IDENTITIES if one.startswith(("any", "outside"))}
    known |= {f"function:{one}" for one in names} | {f"group:{one}" for one in groups}
    known |= {f"tenant:{one.tenant}" for one in functions} | {f"service:{s.name}" for s in services}
    whom = st.sampled_from([one for one in IDENTITIES if one in known])
    rules = {}
    for _ in range(draw(st.integers(0, 6))):
        protocol = draw(st.sampled_from(["any", "any", "tcp"]))
        rule = policy(
            draw(whom.filter(lambda text: not text.startswith("service:"))),
            draw(whom),
            protocol=protocol,
            **dict(draw(st.sampled_from(PORTS)) if protocol == "tcp" else {}),
            action=draw(st.sampled_from(["allow", "deny", "reject"])),
            priority=draw(st.sampled_from([0, 100, 100, 200])),
        )
        rules[rule.match] = rule
    made = mesh(*functions, *services, *rules.values())
    return made.model_copy(update={"reject": draw(st.booleans()), "host": draw(st.booleans())})


X, Y = function("a"), function("b")
PACKET = X.model_copy(update={"datapath": "xdp", "program": "a.c", "source": "int a;"})
OTHERS = function("c", "x"), function("d", "y")
NO_PEERS = (
    policy("tenant:x", "tenant:x", action="deny"),
    policy("tenant:y", "tenant:y", action="deny"),
    policy("tenant:y", "tenant:x"),
)
GROUPED = function("a", group="g"), function("b", group="h")
NO_GROUPS = (
    policy("group:g", "group:g", action="deny"),
    policy("group:h", "group:h", action="deny"),
)
# (which rule of the order it takes, before, after)
HARD = [
    (
        "a deny is there before the function it names",
        mesh(X),
        mesh(X, Y, policy("function:a", "function:b", action="deny")),
    ),
    (
        "a service lets go of a function that is replaced",
        mesh(X, service("s", "a")),
        mesh(function("a", low=10), service("s", "a")),
    ),
    (
        "functions that change tenant together are kept apart",
        mesh(X, Y, *OTHERS, *NO_PEERS),
        mesh(function("a", "y"), function("b", "y"), *OTHERS, *NO_PEERS),
    ),
    (
        "who changes tenant does not meet backends that go",
        mesh(X, function("b", "z"), *OTHERS, service("s", "b"), policy("tenant:y", "service:s")),
        mesh(
            *(function("a", "y"), function("b", "z"), *OTHERS),
            *(service("s", "c"), policy("tenant:y", "service:s")),
        ),
    ),
    (
        "a new function does not meet backends that go",
        mesh(X, Y, service("s", "a"), policy("any", "service:s")),
        mesh(X, Y, function("c", "y"), service("s", "b"), policy("any", "service:s")),
    ),
    (
        "nor if the new backend is new too",
        mesh(X, service("s", "a"), policy("any", "service:s")),
        mesh(X, function("c", "y"), service("s", "c"), policy("any", "service:s")),
    ),
    (
        "functions that change group together are kept apart",
        mesh(*GROUPED, *NO_GROUPS),
        mesh(function("a", group="h"), function("b", group="g"), *NO_GROUPS),
    ),
    (
        "a group that grows, and a rule about it that stays",
        mesh(function("a", group="g"), service("s", "g"), policy("group:g", "service:s")),
        mesh(
            *(function("a", group="g"), function("b", group="g")),
            *(service("s", "g"), policy("group:g", "service:s")),
        ),
    ),
    (
        "a function that is one of a group from now on",
        mesh(X, Y, service("s", "a"), policy("function:a", "function:b", action="deny")),
        mesh(
            *(function("a", group="g"), Y, service("s", "g")),
            policy("group:g", "function:b", action="deny"),
        ),
    ),
    (
        "services exchange their addresses",
        mesh(X, service("s", "a"), service("t", "a")),
        mesh(X, service("s", "a", at="t"), service("t", "a", at="s")),
    ),
    (
        "a deny is weakened late",
        mesh(
            *(X, function("b", "y"), policy("any", "function:b", protocol="tcp")),
            policy("any", "function:b", action="deny", priority=0),
        ),
        mesh(X, function("b", "y"), policy("any", "function:b", action="deny", priority=200)),
    ),
    (
        "a reject is weakened late",
        mesh(
            *(X, function("b", "y"), policy("any", "function:b", protocol="tcp")),
            policy("any", "function:b", action="reject", priority=0),
        ),
        mesh(X, function("b", "y"), policy("any", "function:b", action="reject", priority=200)),
    ),
    (
        "an allow is strengthened late",
        mesh(
            *(X, function("b", "y"), policy("any", "function:b", priority=200)),
            policy("tenant:x", "function:b", action="deny"),
        ),
        mesh(function("b", "y"), policy("any", "function:b", priority=0)),
    ),
]


def check(a: Mesh | None, b: Mesh) -> None:
    meshes = steps_between(a, b)
    last = meshes[-1] if meshes else a
    assert last is not None
    assert sorted_mesh(last) == sorted_mesh(b)
    assert diff(last, b) == ()
    either = allowed(sorted_mesh(b)) | (allowed(sorted_mesh(a)) if a else set())
    for between in meshes:
        backends = {name for one in between.services for name in one.backends}
        assert backends <= {one.name for one in between.functions}
        bare = tuple(one.only(()) for one in between.services)
        Mesh.model_validate(dict(between) | {"services": bare, "policies": ()})  # nothing twice
        assert allowed(between) <= either


@pytest.mark.parametrize(("a", "b"), [row[1:] for row in HARD], ids=[row[0] for row in HARD])
def test_hard_diff(a: Mesh, b: Mesh) -> None:
    check(a, b)
    check(b, a)


@given(st.none() | meshes(), meshes())
@settings(max_examples=300, deadline=None)
def test_diff(a: Mesh | None, b: Mesh) -> None:
    check(a, b)


@given(meshes())
@settings(max_examples=30, deadline=None)
def test_no_change(a: Mesh) -> None:
    other = a.model_copy(update={"functions": a.functions[::-1], "policies": a.policies[::-1]})
    assert diff(a, a) == diff(a, other) == ()


def test_another_order_would_leak() -> None:
    """The check of test_diff can fail: a function before the deny that names it."""
    a, b = mesh(X), mesh(X, Y, policy("function:a", "function:b", action="deny"))
    first, second = diff(a, b)
    assert not allowed(apply_to_model(a, first)) - allowed(a) - allowed(b)
    leak = allowed(apply_to_model(a, second)) - allowed(a) - allowed(b)
    assert {flow[:2] for flow in leak} == {("a", "b")}


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


# ---- what is told of it


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


def test_programs_come_first() -> None:
    """What follows is done for those that will meet it; of the same build they stay."""
    found = diff(EMPTY, mesh(function("a")), ("old", "new"))
    assert [step.kind for step in found] == ["replace-programs", "add-function"]
    assert load(found[0].dump()) == found[0]
    (first, _) = told(found)
    assert (first.text, first.action) == ("~ programs old → new", "change")
    assert first.fields == {"build": ("old", "new")}
    assert diff(EMPTY, EMPTY, ("old", "old")) == ()


def test_programs_go_back_with_what_was_kept() -> None:
    step = ReplacePrograms("new", "old", keep="old", kept="older")
    assert step.inverse() == ReplacePrograms("old", "new", keep="older", kept="old")
    assert step.inverse().inverse() == step


def test_uplinks_go_and_come_between_what_is_published_on_them() -> None:
    """No service is published where there is no uplink, nor where it is not meant to be."""
    web, other = service("s", "a", publish=("u:80",)), service("t", "a", publish=("w:80",))
    uplinks = Uplink(name="u", interface="e0"), Uplink(name="w", interface="e1")
    old = mesh(function("a")).model_copy(update={"services": (web, other), "uplinks": uplinks})
    moved = (Uplink(name="u", interface="e2"), old.uplinks[1])
    steps = diff(old, old.model_copy(update={"uplinks": moved}))
    assert [step.describe() for step in steps] == [
        "~ service s  198.18.128.115  tcp/80 → 5201  a",
        "- uplink u  interface e0",
        "+ uplink u  interface e2",
        "~ service s  198.18.128.115  tcp/80 → 5201  a  published at u:80",
    ]
    assert [load(step.dump()) for step in steps] == list(steps)


def test_remotes_go_and_come_with_their_uplink_and_not_while_services_name_them() -> None:
    web, uplink = service("s", "a", "r"), Uplink(name="u", interface="e0")
    remote = Remote(name="r", address4=IPv4Address("192.0.2.7"), uplink="u", tenant="x")
    rule = policy("outside", "function:r", action="allow")
    parts = {"services": (web,), "uplinks": (uplink,), "remotes": (remote,), "policies": (rule,)}
    old = mesh(function("a")).model_copy(update=parts)
    moved = Uplink(name="u", interface="e2")
    steps = diff(old, old.model_copy(update={"uplinks": (moved,)}))
    here = "- remote r  tenant x  beyond u  192.0.2.7"
    lines = [
        "~ service s  198.18.128.115  tcp/80 → 5201  a",
        here,
        "- uplink u  interface e0",
        "+ uplink u  interface e2",
        here.replace("-", "+", 1),
        "~ service s  198.18.128.115  tcp/80 → 5201  a, r",
    ]
    assert [step.describe() for step in steps] == lines
    assert [load(step.dump()) for step in steps] == list(steps)
    gone = diff(old, old.model_copy(update={"remotes": (), "services": (web.only(["a"]),),
                                            "policies": ()}))  # fmt: skip
    assert [step.kind for step in gone] == ["remove-policy", "set-service", "remove-remote"]
    assert diff(old, old) == ()


def test_an_uplink_changes_in_place_whether_it_masquerades() -> None:
    """Once no service is published at the ports for that, and before one is at those it had."""
    web, other = service("s", "a", publish=("u:62000",)), service("t", "a")
    old = mesh(function("a")).model_copy(
        update={"services": (web, other), "uplinks": (Uplink(name="u", interface="e0"),)}
    )
    new = old.model_copy(
        update={
            "services": (web.model_copy(update={"publish": ()}), other),
            "uplinks": (Uplink(name="u", interface="e0", masquerade=True),),
        }
    )
    steps = diff(old, new)
    assert [step.describe() for step in steps] == [
        "~ service s  198.18.128.115  tcp/80 → 5201  a",
        "~ uplink u  masquerade on",
    ]
    assert [load(step.dump()) for step in steps] == list(steps)
    assert [step.describe() for step in diff(new, old)] == [
        "~ uplink u  masquerade off",
        "~ service s  198.18.128.115  tcp/80 → 5201  a  published at u:62000",
    ]
    moved = new.model_copy(update={"uplinks": (Uplink(name="u", interface="e1"),)})
    assert [step.kind for step in diff(new, moved)] == ["remove-uplink", "add-uplink"]


def test_no_service_is_published_at_a_port_that_an_uplink_translates_to() -> None:
    uplink = Uplink(name="u", interface="e0", masquerade=True, masquerade_ports="5000-6000")
    for port, wrong in (("4999", False), ("5000", True), ("6000", True), ("6001", False)):
        parts = {"services": (service("s", "a", publish=(f"u:{port}",)),), "uplinks": (uplink,)}
        found = [*problems(mesh(function("a")).model_copy(update=parts))]
        assert bool(found) == wrong
        without = uplink.model_copy(update={"masquerade": False})
        assert not [
            *problems(mesh(function("a")).model_copy(update=parts | {"uplinks": (without,)}))
        ]
