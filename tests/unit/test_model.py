# SPDX-License-Identifier: BSD-2-Clause
"""The model: what a mesh cannot be, what the policy says, and that JSON loses nothing."""

from ipaddress import IPv4Address, IPv6Address
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from ebpfmesh.config import make
from ebpfmesh.errors import NotFound, UsageError
from ebpfmesh.model import (
    Function,
    Identity,
    Invalid,
    Limits,
    Mesh,
    Policy,
    Service,
    Timeouts,
    parse_ports,
    port_prefixes,
    ports_text,
    show,
    suggest,
)
from support.policy import Party, Verdict, decide

pytestmark = pytest.mark.unit

A = Function(name="a", tenant="x", address4=IPv4Address("198.18.0.1"))
B = Function(name="b", tenant="x", address4=IPv4Address("198.18.0.2"))
C = Function(
    name="c",
    tenant="y",
    address4=IPv4Address("198.18.0.3"),
    address6=IPv6Address("2001:db8::3"),
    cpu=0.5,
    memory=1 << 20,
    netns="given",
    command=("nginx", "-g", "daemon off;"),
)
S = Service(
    name="s",
    address4=IPv4Address("198.18.128.1"),
    port=80,
    target_port=8080,
    functions=("a", "c"),
)


def rule(source: str, destination: str, action: str = "allow", **rest: object) -> Policy:
    values = {"source": source, "destination": destination, "action": action}
    return Policy.model_validate(values | rest)


def mesh(*rules: Policy, **rest: object) -> Mesh:
    values = {"name": "edge", "functions": (A, B, C), "services": (S,), "policies": rules}
    return Mesh.model_validate(values | rest)


DEFAULT_ALLOW, DEFAULT_DENY = Verdict("allow", None), Verdict("deny", None)


@pytest.mark.parametrize(
    ("source", "destination", "service", "verdict"),
    [
        (A, B, None, "allow"),
        (A, C, None, "deny"),
        (A, None, None, "allow"),
        (None, A, None, "deny"),
        (None, C, S, "deny"),
        (None, None, None, "deny"),
        (B, A, S, "allow"),
        (B, C, S, "deny"),
    ],
)
def test_without_rules(
    source: Function | None, destination: Function | None, service: Service | None, verdict: str
) -> None:
    assert decide(mesh(), source, destination, service, "tcp", 80) == Verdict(verdict, None)


@pytest.mark.parametrize(
    ("only", "applies"),
    [
        (rule("any", "any"), True),
        (rule("function:a", "function:c"), True),
        (rule("function:b", "function:c"), False),
        (rule("function:a", "function:a"), False),
        (rule("function:c", "function:a"), False),
        (rule("tenant:x", "tenant:y"), True),
        (rule("tenant:y", "tenant:y"), False),
        (rule("tenant:x", "tenant:x"), False),
        (rule("any", "service:s"), True),
        (rule("any", "service:t"), False),
        (rule("outside", "any"), False),
        (rule("any", "outside"), False),
        (rule("any", "any", protocol="tcp"), True),
        (rule("any", "any", protocol="udp"), False),
        (rule("any", "any", protocol="icmp"), False),
        (rule("any", "any", protocol="tcp", port=80), False),
        (rule("any", "any", protocol="tcp", port=8080), True),
        (rule("any", "service:s", protocol="tcp", port=80), True),
        (rule("any", "service:s", protocol="tcp", port=8080), False),
        (rule("any", "any", protocol="udp", port=80), False),
    ],
    ids=str,
)
def test_what_a_rule_applies_to(only: Policy, applies: bool) -> None:
    """A flow from a to port 80 of s, which is port 8080 of c."""
    here = mesh().model_copy(update={"policies": (only,)})
    expected = Verdict("allow", only) if applies else DEFAULT_DENY
    assert decide(here, A, C, S, "tcp", 80) == expected


def test_a_service_is_not_its_backends() -> None:
    here = mesh(rule("any", "service:s"))
    assert decide(here, A, C, None, "tcp", 80) == DEFAULT_DENY
    assert decide(here, None, A, S, "tcp", 80).action == "allow"


def test_outside() -> None:
    here = mesh(rule("function:a", "outside", "deny"), rule("outside", "function:a"))
    assert decide(here, A, None, None, "udp", 53).action == "deny"
    assert decide(here, B, None, None, "udp", 53) == DEFAULT_ALLOW
    assert decide(here, None, A, None, "udp", 53).action == "allow"
    assert decide(here, None, B, None, "udp", 53) == DEFAULT_DENY
    assert decide(mesh(rule("any", "any")), None, B, None, "udp", 53).action == "allow"


@pytest.mark.parametrize(
    ("rules", "decides"),
    [
        ([rule("any", "any", priority=9), rule("tenant:x", "any", "deny", priority=10)], 0),
        ([rule("any", "any", priority=10), rule("tenant:x", "any", "deny", priority=9)], 1),
        ([rule("function:a", "function:b"), rule("any", "any", "deny")], 1),
        ([rule("any", "any", "deny"), rule("function:a", "function:b")], 0),
        ([rule("any", "any", "deny", priority=0), rule("tenant:x", "any", priority=0)], 0),
        ([rule("any", "any", "reject"), rule("tenant:x", "any")], 0),
        ([rule("any", "any", "reject"), rule("tenant:x", "any", "deny")], 1),
        (
            [rule("any", "any", "deny", priority=9), rule("tenant:x", "any", "reject", priority=8)],
            1,
        ),
        ([rule("tenant:y", "any", "deny", priority=0), rule("any", "any", priority=65535)], 1),
    ],
)
def test_which_rule_decides(rules: list[Policy], decides: int) -> None:
    verdict = decide(mesh(*rules), A, B, None, "tcp", 1)
    assert verdict == Verdict(rules[decides].action, rules[decides])


def test_what_no_rule_allows_is_rejected_if_the_mesh_says_so() -> None:
    here = mesh().model_copy(update={"reject": True})
    assert decide(here, None, A, None, "tcp", 1) == Verdict("reject", None)
    assert decide(here, A, None, None, "tcp", 1) == DEFAULT_ALLOW


OUT4, OUT6 = IPv4Address("192.0.2.7"), IPv6Address("2001:db8:5::7")


@pytest.mark.parametrize(
    ("name", "party", "applies"),
    [
        ("outside:192.0.2.0/24", OUT4, True),
        ("outside:192.0.2.7", OUT4, True),
        ("outside:192.0.3.0/24", OUT4, False),
        ("outside:2001:db8:5::/48", OUT4, False),
        ("outside:2001:db8:5::/48", OUT6, True),
        ("outside:192.0.2.0/24", None, False),
        ("outside:192.0.2.0/24", B, False),
        ("outside", OUT4, True),
        ("any", OUT6, True),
        ("tenant:x", OUT4, False),
        ("function:b", OUT4, False),
    ],
)
def test_prefixes_of_the_outside(name: str, party: Party, applies: bool) -> None:
    to, of = rule("function:a", name, "deny"), rule(name, "function:a")
    assert (decide(mesh(to), A, party, None, "udp", 53).rule is to) == applies
    assert (decide(mesh(of), party, A, None, "udp", 53).rule is of) == applies


def test_the_strongest_of_nested_prefixes_decides_not_the_longest() -> None:
    wide = rule("outside:192.0.0.0/16", "any", "deny", priority=1)
    narrow = rule("outside:192.0.2.0/24", "any")
    assert decide(mesh(narrow, wide), OUT4, A, None, "tcp", 1).rule is wide


@pytest.mark.parametrize(
    ("what", "protocol", "port", "applies"),
    [
        ({"protocol": "tcp", "port": 80, "port_end": 90}, "tcp", 79, False),
        ({"protocol": "tcp", "port": 80, "port_end": 90}, "tcp", 80, True),
        ({"protocol": "tcp", "port": 80, "port_end": 90}, "tcp", 90, True),
        ({"protocol": "tcp", "port": 80, "port_end": 90}, "tcp", 91, False),
        ({"protocol": "tcp", "port": 80, "port_end": 90}, "udp", 85, False),
        ({"protocol": "icmp"}, "icmp", 0, True),
        ({"protocol": "icmp", "icmp_type": 8}, "icmp", 0, True),
        ({"protocol": "icmp", "icmp_type": 13}, "icmp", 0, False),
        ({"protocol": "icmp", "icmp_type": 8}, "tcp", 8, False),
    ],
)
def test_ranges_and_types(
    what: dict[str, object], protocol: Literal["tcp", "udp", "icmp"], port: int, applies: bool
) -> None:
    only = rule("any", "any", "deny", **what)
    assert (decide(mesh(only), A, B, None, protocol, port).rule is only) == applies


def test_ports_of_a_range_are_shifted() -> None:
    ranged = S.model_copy(update={"port": 80, "ports": 10, "target_port": 8080})
    own = rule("any", "function:a", "deny", protocol="tcp", port=8085)
    its = rule("any", "service:s", "deny", protocol="tcp", port=86)
    here = mesh(own, its, services=(ranged,))
    assert decide(here, B, A, ranged, "tcp", 85).rule is own
    assert decide(here, B, A, ranged, "tcp", 86).rule is its
    assert decide(here, B, A, ranged, "tcp", 87).rule is None


@given(st.integers(1, 65535), st.integers(1, 65535))
@example(1, 65535)
@example(32768, 65535)
def test_prefixes_of_a_range(one: int, other: int) -> None:
    """They are exactly the range, side by side, and no two of them make a wider one."""
    first, last = sorted((one, other))
    parts = port_prefixes(first, last)
    at = first
    for port, bits in parts:
        assert port == at
        assert port % (1 << (16 - bits)) == 0
        at += 1 << (16 - bits)
    assert at == last + 1
    assert len(parts) == fewest(first, last)


def fewest(first: int, last: int, start: int = 0, bits: int = 0) -> int:
    """How many prefixes a range needs at least, by halves of all ports."""
    end = start + (1 << (16 - bits)) - 1
    if last < start or end < first:
        return 0
    if first <= start and end <= last:
        return 1
    half = 1 << (15 - bits)
    return fewest(first, last, start, bits + 1) + fewest(first, last, start + half, bits + 1)


@given(st.integers(1, 65535), st.integers(1, 65535))
def test_ports_are_read_as_they_are_written(one: int, other: int) -> None:
    first, last = sorted((one, other))
    assert parse_ports(ports_text(first, last)) == (first, last)
    assert parse_ports(first) == (first, first)


@given(st.text() | st.text("0123456789-", max_size=8) | st.integers() | st.booleans())
def test_ports_of_anything(value: object) -> None:
    try:
        first, last = parse_ports(value)
    except Invalid as caught:
        error = caught
    else:
        assert 1 <= first <= last <= 65535
        return
    assert error.hint


def test_audit_is_no_verdict() -> None:
    audited = C.model_copy(update={"audit": True})
    assert decide(mesh(), A, audited, None, "tcp", 1) == DEFAULT_DENY


@pytest.mark.parametrize(
    ("change", "what", "path"),
    [
        ({"functions": (A, B, C, A)}, "two functions", ("functions", 3, "name")),
        ({"services": (S, S)}, "two services", ("services", 1, "name")),
        (
            {"functions": (A, B, C, A.model_copy(update={"name": "d"}))},
            'is the address of function "a"',
            ("functions", 3, "address4"),
        ),
        (
            {"services": (S.model_copy(update={"address4": C.address4, "functions": ()}),)},
            'is the address of function "c"',
            ("services", 0, "address4"),
        ),
        (
            {"services": (S, S.model_copy(update={"name": "t"}))},
            'is taken by "s"',
            ("services", 1, "port"),
        ),
        ({"functions": (A, B)}, 'unknown function "c"', ("services", 0, "functions", 1)),
        (
            {"services": (S.model_copy(update={"address6": IPv6Address("2001:db8::9")}),)},
            'function "a" has no IPv6 address',
            ("services", 0, "functions", 0),
        ),
        (
            {"functions": (A, B, C.model_copy(update={"netns": None}),
                           C.model_copy(update={"name": "d", "address4": None,
                                                "address6": IPv6Address("2001:db8::4")}),
                           C.model_copy(update={"name": "e", "address4": None,
                                                "address6": IPv6Address("2001:db8::5")}))},
            "netns given",
            ("functions", 4, "netns"),
        ),
        ({"policies": (rule("any", "function:d"),)}, 'no function "d"',
         ("policies", 0, "destination")),
        ({"policies": (rule("tenant:z", "any"),)}, 'no tenant "z"', ("policies", 0, "source")),
        ({"policies": (rule("any", "service:t"),)}, 'no service "t"',
         ("policies", 0, "destination")),
        (
            {"policies": (rule("any", "any"), rule("any", "any", "deny", priority=1))},
            "the same flows",
            ("policies", 1),
        ),
        ({"limits": Limits(functions=2)}, "more than 2 functions", ("functions", 2)),
        ({"limits": Limits(tenants=1)}, "more than 1 tenants", ("functions", 2, "tenant")),
        (
            {"limits": Limits(services=1), "services": (S, S)},
            "more than 1 services",
            ("services", 1),
        ),
        (
            {"limits": Limits(rules=1), "policies": (rule("any", "any"),) * 2},
            "more than 1 rules",
            ("policies", 1),
        ),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit(change: dict[str, object], what: str, path: tuple[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        mesh(**change)
    (detail,) = caught.value.errors()
    problem = detail["ctx"]["error"]
    assert isinstance(problem, Invalid)
    assert what in problem.message
    assert problem.path == path
    assert problem.hint


@pytest.mark.parametrize(
    ("model", "values"),
    [
        (Function, {"name": "a"}),
        (Function, {"name": "a", "address4": "198.18.0.1"}),
        (Function, {"name": "a", "address4": IPv4Address("127.0.0.1")}),
        (Function, {"name": "a", "address6": IPv6Address("2001:db8::1%1")}),
        (Service, {"name": "s", "port": 80, "target_port": 80}),
        (Service, S.model_dump() | {"functions": ("a", "a")}),
        (Service, S.model_dump() | {"protocol": "icmp"}),
        (Service, S.model_dump() | {"port": 65535, "ports": 2}),
        (Service, S.model_dump() | {"target_port": 65535, "ports": 2}),
        (Service, S.model_dump() | {"ports": 0}),
        (Service, S.model_dump() | {"weights": {"a": 101}}),
        (Service, S.model_dump() | {"affinity": "client"}),
        (Timeouts, {"udp": 0}),
        (Limits, {"flows": 511}),
        (Limits, {"flows": 2097153}),
        (Limits, {"tenants": 256}),
        (Policy, {"source": "service:s", "destination": "any"}),
        (Policy, {"source": "any", "destination": "any", "port": 80}),
        (Policy, {"source": "any", "destination": "any", "protocol": "tcp", "port_end": 80}),
        (Policy, {"source": "any", "destination": "any", "protocol": "tcp", "port": 80,
                  "port_end": 80}),
        (Policy, {"source": "any", "destination": "any", "icmp_type": 8}),
    ],
)  # fmt: skip
def test_nonsense(model: type, values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        model(**values)


def test_json() -> None:
    whole = mesh(
        rule("tenant:x", "service:s", protocol="tcp", port=80),
        rule("outside", "function:c", "deny", priority=3),
        rule("outside:192.0.2.0/24", "any", protocol="udp", port=5, port_end=9),
        rule("any", "outside:2001:db8:5::/48", protocol="icmp", icmp_type=8),
        services=(S.model_copy(update={"ports": 3, "weights": {"a": 0}, "affinity": "source"}),),
        timeouts=Timeouts(udp=5),
        limits=Limits(functions=7),
    )
    assert Mesh.model_validate_json(whole.model_dump_json()) == whole


def test_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        A.tenant = "z"


def test_lookup() -> None:
    here = mesh()
    assert (here.function("b"), here.service("s"), here.tenants) == (B, S, ("x", "y"))
    with pytest.raises(NotFound, match='no function "aa"') as caught:
        here.function("aa")
    assert caught.value.hint == 'did you mean "a"?'
    with pytest.raises(NotFound, match='no service "zzz"') as caught:
        here.service("zzz")
    assert caught.value.hint == "known: s"


@pytest.mark.parametrize(
    "text",
    ["any", "outside", "function:a", "tenant:op-a", "service:s-1", "outside:10.0.0.0/8",
     "outside:fc00::/7"],
)  # fmt: skip
def test_identity(text: str) -> None:
    identity = Identity.parse(text)
    assert str(identity) == text
    assert Identity.parse(identity) is identity


@given(
    st.text()
    | st.sampled_from(
        ["function:", "outside:10.0.0.9/8", "outside:FC00::", "any:", "tenant:a:b", "x", ""]
    )
)
def test_identity_of_any_text(text: str) -> None:
    try:
        identity = Identity.parse(text)
    except UsageError as caught:
        error = caught
    else:
        assert str(identity) == text or identity.prefix
        assert Identity.parse(str(identity)) == identity
        return
    assert error.hint


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (rule("any", "any"), "any → any allow"),
        (rule("tenant:a", "any", protocol="tcp", port=80), "tenant:a → any tcp/80 allow"),
        (rule("outside", "any", "deny", protocol="icmp"), "outside → any icmp deny"),
        (rule("any", "any", protocol="udp", port=8, port_end=9), "any → any udp/8-9 allow"),
        (rule("any", "outside:FC00::/7", protocol="icmp", icmp_type=8),
         "any → outside:fc00::/7 icmp/8 allow"),
        (rule("any", "any", priority=1), "any → any allow priority 1"),
    ],
)  # fmt: skip
def test_policy_text(policy: Policy, text: str) -> None:
    assert str(policy) == text


def test_words() -> None:
    assert suggest("tennant", ["tenant", "name"]) == 'did you mean "tenant"?'
    assert suggest("x", []) == "there is none"
    assert suggest("zz", "abcdefghij") == "known: a, b, c, d, e, f, g, h, …"
    assert show("a\nb") == r'"a\nb"'
    assert len(show("x" * 1000)) == 66


# Objects of the command line


def test_make() -> None:
    made = make(Function, name="a", address4=IPv4Address("198.18.0.1"), memory="1G")
    assert made.memory == 1 << 30
    rule = make(Policy, source="any", destination="function:a")
    assert rule.destination == Identity("function", "a")


@pytest.mark.parametrize(
    ("values", "message", "hint"),
    [
        ({"name": "A"}, 'function "A": "name" cannot be "A"', "lower-case"),
        ({"name": "a"}, 'function "a": it has no address', "IPv4"),
        ({"name": "a", "tenat": "x"}, 'function "a": unknown key "tenat"', '"tenant"?'),
        ({}, '"name" is missing', "lower-case"),
    ],
)
def test_make_of_nonsense(values: dict[str, object], message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        make(Function, **values)
    assert caught.value.message == message
    assert hint in caught.value.hint
