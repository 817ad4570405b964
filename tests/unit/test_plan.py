# SPDX-License-Identifier: BSD-2-Clause
"""Operations lead from one mesh to another, and each step on the way is safe."""

from collections.abc import Iterator
from ipaddress import IPv4Address
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebpfmesh.model import (
    Function,
    Mesh,
    Policy,
    Remote,
    Service,
    Timeouts,
    Uplink,
    problems,
)
from ebpfmesh.operation import (
    Operation,
    ReplacePrograms,
    load,
)
from ebpfmesh.plan import diff, told
from support.models import EMPTY, NAMES, TENANTS, X, Y, function, mesh, policy, service
from support.policy import Party, decide

pytestmark = pytest.mark.unit


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
