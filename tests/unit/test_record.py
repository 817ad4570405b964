# SPDX-License-Identifier: BSD-2-Clause
"""The record: ids, rows and entries by index, and the part of a mesh that a change looks at."""

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebpfmesh.apply.edits import within
from ebpfmesh.config import edit
from ebpfmesh.errors import MeshError
from ebpfmesh.kernel.netns import NetnsId
from ebpfmesh.kernel.prefixes import block_of
from ebpfmesh.model import Function, Identity, Limits, Mesh, Policy, Scope, Service, Uplink
from ebpfmesh.plan import diff
from ebpfmesh.state import files
from ebpfmesh.state.rows import Attachment, UplinkRow
from ebpfmesh.state.tables import Entry
from ebpfmesh.state.writer import Writer

pytestmark = pytest.mark.unit

NOWHERE = Attachment("/run/netns/x", made_netns=False, interface="x", made_interface=False)


@pytest.fixture
def open_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Mesh], Writer]]:
    """A function that makes a record of a mesh."""
    monkeypatch.setattr(files, "RUN", tmp_path)
    made: list[Writer] = []

    def make(mesh: Mesh) -> Writer:
        if made:
            made.pop().close()
        made.append(filled(mesh))
        return made[-1]

    yield make
    for record in made:
        record.close()


def filled(mesh: Mesh) -> Writer:
    record = Writer.create(mesh, NetnsId(1, 2))
    for function in mesh.functions:
        record.id_of("function", function.name)
        record.id_of("tenant", function.tenant)
        record.put_function(function, NOWHERE, ready=True)
    for uplink in mesh.uplinks:
        record.put_uplink(UplinkRow(uplink, 1, (), ready=True))
    for service in mesh.services:
        record.id_of("service", service.name)
        record.put_service(service, 0, 0, 1 << 16)
    for number, policy in enumerate(mesh.policies):
        record.put_policy(policy, entries(policy, number))
        for identity in (policy.source, policy.destination):
            if identity.prefix:
                record.put_prefix(identity.name)
    return record


def entries(policy: Policy, number: int) -> list[Entry]:
    size = len(policy.prefixes)
    return [Entry(b"%d %d" % (number, index), policy.priority, 0) for index in range(size)]


def test_ids_are_the_smallest_that_are_free(open_record: Callable[[Mesh], Writer]) -> None:
    record = open_record(Mesh(name="m"))
    assert [record.id_of("service", name) for name in "abcd"] == [1, 2, 3, 4]
    for name in "bdc":
        record.forget_id("service", name)
    assert [record.id_of("service", name) for name in "xyzv"] == [2, 3, 4, 5]
    assert record.id_of("service", "a") == 1
    assert record.id_of("function", "a") == 1
    record.forget_id("service", "nobody")
    assert record.names("service") == {1: "a", 2: "x", 3: "y", 4: "z", 5: "v"}


def test_only_ids_of_what_is_gone_are_forgotten(open_record: Callable[[Mesh], Writer]) -> None:
    a = Function(name="a", tenant="t", address4=IPv4Address("198.18.0.1"))
    record = open_record(Mesh(name="m", functions=(a,)))
    number = record.id_of("tenant", "t")
    assert record.forget_ids() == []
    record.put_function(a.model_copy(update={"tenant": "u"}), NOWHERE, ready=True)
    assert record.id_of("tenant", "u") != number
    assert record.forget_ids() == [number]
    record.delete_function("a")
    record.forget_ids()
    assert record.names("function") == record.names("tenant") == {}


@given(st.lists(st.tuples(st.integers(1, 9), st.booleans()), max_size=40))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_are_taken_once(
    open_record: Callable[[Mesh], Writer], steps: list[tuple[int, bool]]
) -> None:
    """Whatever is taken and returned, nothing is taken twice and all of it comes back."""
    record = open_record(Mesh(name="m"))
    record.free_all_rows(40)
    taken: list[tuple[int, int]] = []
    for rows, returned in steps:
        if returned and taken:
            record.return_rows(*taken.pop(rows % len(taken)))
            continue
        first = record.take_rows(rows)
        if first is not None:
            taken.append((first, rows))
        used = [row for first, rows in taken for row in range(first, first + rows)]
        assert len(set(used)) == len(used)
        assert all(0 <= row < 40 for row in used)
    for first, rows in taken:
        record.return_rows(first, rows)
    assert record.take_rows(40) == 0


def test_the_strongest_entry_of_a_key_is_followed_by_the_next(
    open_record: Callable[[Mesh], Writer],
) -> None:
    record = open_record(Mesh(name="m"))
    rules = [edit.rule("any", "any", port, protocol="tcp") for port in (1, 2, 3)]
    for strength, policy in zip((7, 5, 5), rules, strict=True):
        record.put_policy(policy, [Entry(b"key", strength, 3), Entry(b"own", strength, 40)])
    assert record.strongest(b"key") == (5, 2)
    assert record.strongest(b"key", without=2) == (5, 3)
    record.delete_policy(rules[1])
    record.delete_policy(rules[2])
    assert record.strongest(b"key") == (7, 1)
    assert record.shapes() == [3, 40]
    assert record.sizes()["rules"] == 2
    record.delete_policy(rules[0])
    assert record.strongest(b"key") is None
    assert record.shapes() == []


def test_prefixes_know_what_is_around_and_inside(open_record: Callable[[Mesh], Writer]) -> None:
    record = open_record(Mesh(name="m"))
    names = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.2.0.0/16", "fc00::/7", "fc00::/64"]
    for name in names:
        record.put_prefix(name)
    assert record.prefixes_around(block_of("10.1.2.3/32")) == names[2::-1]
    assert record.prefixes_around(block_of("10.1.2.0/24")) == names[1::-1]
    assert sorted(record.prefixes_inside(block_of("10.0.0.0/8"))) == names[1:4]
    assert record.prefixes_inside(block_of("fc00::/7")) == ["fc00::/64"]
    record.delete_prefix("10.1.0.0/16")
    assert record.prefixes_around(block_of("10.1.2.0/24")) == ["10.0.0.0/8"]
    assert record.sizes()["prefixes"] == 5


def test_changes_of_hosts_are_told_once(open_record: Callable[[Mesh], Writer]) -> None:
    a = Function(name="a", address4=IPv4Address("198.18.0.1"))
    both = a.model_copy(update={"address6": IPv6Address("2001:db8::1")})
    record = open_record(Mesh(name="m", functions=(a,)))
    assert record.host_changes() == ([], [("198.18.0.1", "a")])
    record.put_function(both, NOWHERE, ready=True)
    assert record.host_changes() == ([], [("2001:db8::1", "a")])
    record.delete_function("a")
    record.put_function(a, NOWHERE, ready=True)
    assert record.host_changes() == ([("2001:db8::1", "a")], [])
    assert record.hosts() == [("198.18.0.1", "a")]


# The part of a mesh

FUNCTIONS = tuple(
    Function(name=f"f{n}", tenant=f"t{n % 2}", address4=IPv4Address("198.18.0.1") + n)
    for n in range(4)
)
ENDS = ["any", "outside", "function:f0", "tenant:t1", "service:s0", "service:s2"]
ENDS += [f"outside:10.0.0.0/{length}" for length in (8, 9, 10, 11, 12, 13)]
ENDS += ["outside:192.0.2.0/24", "outside:198.18.0.0/30", "function:no", "tenant:no"]
ENDPOINT = st.sampled_from(ENDS)
PORTS = st.sampled_from([None, 80, 81, "80-90", "1-65535"])
ADDRESS = st.sampled_from(["198.19.0.1", "198.19.0.2", "198.18.0.2", "192.0.2.9"])
BACKENDS = st.lists(st.sampled_from(["f0", "f1", "f3"]), unique=True, max_size=2).map(tuple)
UPLINK = Uplink(name="u", interface="eth0")
Change = tuple[Callable[[Mesh], Mesh], Scope]


@st.composite
def rules(draw: st.DrawFn) -> Policy:
    port = draw(PORTS)
    return edit.rule(
        draw(ENDPOINT.filter(lambda end: "service" not in end)), draw(ENDPOINT), port,
        protocol="tcp" if port else "any",
        action=draw(st.sampled_from(["allow", "deny", "reject"])),
    )  # fmt: skip


@st.composite
def changes(draw: st.DrawFn) -> Change:
    """A change as the command line makes them, and its scope."""
    name, rule = draw(st.sampled_from(["s0", "s1", "s2"])), draw(rules())
    values: dict[str, Any] = {"addresses": [draw(ADDRESS)], "functions": draw(BACKENDS)}
    port = draw(PORTS.filter(bool))
    whole = edit.scope_of_service(name, **values)
    few = {"addresses": [], "port": port}
    return draw(st.sampled_from([
        (lambda mesh: edit.add_policy(mesh, rule), edit.scope_of_policy(rule)),
        (lambda mesh: edit.delete_policy(mesh, rule), edit.scope_of_policy(rule)),
        (lambda mesh: edit.add_service(mesh, name, port=port, **values), whole),
        (lambda mesh: edit.set_service(mesh, name, **values), whole),
        (lambda mesh: edit.set_service(mesh, name, **few), edit.scope_of_service(name)),
        (lambda mesh: edit.delete_service(mesh, name), edit.scope_of_service(name)),
    ]))  # fmt: skip


@given(st.lists(changes(), max_size=12), changes(), st.integers(18, 60))
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_part_shows_what_the_whole_shows(
    open_record: Callable[[Mesh], Writer], before: list[Change], last: Change, limit: int
) -> None:
    """The same operations, or an error of which the whole mesh says what it is."""
    limits = Limits(rules=limit, services=limit, prefixes=5)
    mesh = Mesh(name="m", functions=FUNCTIONS, limits=limits)
    for change, _ in before:
        try:
            mesh = change(mesh)
        except MeshError:
            continue
    record = open_record(mesh)
    mesh = record.model()  # in the order of the record
    change, scope = last
    got = within(record, change, scope)
    try:
        expected = diff(mesh, change(mesh))
    except MeshError:
        assert got is None
    else:
        assert got == expected


def chain(*lengths: int) -> list[Policy]:
    return [edit.rule(f"outside:10.0.0.0/{length}", "any") for length in lengths]


def served(name: str, address: str, port: str, *publish: str) -> Change:
    values: dict[str, Any] = {"addresses": [address], "functions": ("f0",), "publish": publish}
    scope = edit.scope_of_service(name, **values)
    return lambda mesh: edit.add_service(mesh, name, port=port, **values), scope


def ruled(policy: Policy) -> Change:
    return lambda mesh: edit.add_policy(mesh, policy), edit.scope_of_policy(policy)


UNSEEN = {
    "a sixth prefix inside five": [*map(ruled, chain(8, 9, 10, 11, 12)), ruled(chain(13)[0])],
    "a sixth prefix around five": [*map(ruled, chain(9, 10, 11, 12, 13)), ruled(chain(8)[0])],
    "a sixth prefix between": [*map(ruled, chain(8, 9, 11, 12, 13)), ruled(chain(10)[0])],
    "a prefix that holds an address": [
        served("s0", "192.0.2.9", "80"),
        ruled(edit.rule("any", "outside:192.0.2.0/24")),
    ],
    "an address in a prefix": [
        ruled(edit.rule("any", "outside:192.0.2.0/24")),
        served("s0", "192.0.2.9", "80"),
    ],
    "a port in a range": [served("s0", "198.19.0.1", "80-90"), served("s1", "198.19.0.1", "85")],
    "a port that moves into a range": [
        served("s0", "198.19.0.1", "80-90"),
        served("s1", "198.19.0.1", "91"),
        (lambda mesh: edit.set_service(mesh, "s1", addresses=[], port=90),
         edit.scope_of_service("s1")),
    ],
    "a published port": [
        served("s0", "198.19.0.1", "80", "u:80"), served("s1", "198.19.0.2", "81", "u:80")
    ],
    "a port among published ones": [
        served("s0", "198.19.0.1", "80-90", "u:80-90"),
        served("s1", "198.19.0.2", "80"),
        (lambda mesh: edit.set_service(mesh, "s1", addresses=[], publish=("u:85",)),
         edit.scope_of_service("s1", publish=("u:85",))),
    ],
    "another protocol at a published port": [
        served("s0", "198.19.0.1", "80", "u:80"),
        (lambda mesh: edit.add_service(mesh, "s1", addresses=["198.19.0.2"], port=80,
                                       protocol="udp", functions=("f0",), publish=("u:80",)),
         edit.scope_of_service("s1", addresses=["198.19.0.2"], functions=("f0",))),
        (lambda mesh: edit.set_service(mesh, "s1", addresses=[], protocol="tcp"),
         edit.scope_of_service("s1")),
    ],
    "the address of a function": [served("s0", "198.18.0.2", "80")],
    "a second service of that name": [
        served("s0", "198.19.0.1", "80"), served("s0", "198.19.0.2", "80")
    ],
    "more than the limit": [
        served("s0", "198.19.0.1", "1-65535"), served("s1", "198.19.0.2", "32768-32773")
    ],
    "more prefixes than the limit": [
        ruled(edit.rule(f"outside:10.{n}.0.0/16", "any")) for n in range(7)
    ],
    "nobody": [ruled(edit.rule("function:no", "any"))],
}  # fmt: skip


@pytest.mark.parametrize("steps", UNSEEN.values(), ids=UNSEEN)
def test_what_a_part_must_show(open_record: Callable[[Mesh], Writer], steps: list[Change]) -> None:
    """The last step is not possible, and before it nothing is wrong."""
    limits = Limits(services=17, prefixes=6)
    mesh = Mesh(name="m", functions=FUNCTIONS, limits=limits, uplinks=(UPLINK,))
    for change, scope in steps[:-1]:
        assert within(open_record(mesh), change, scope)
        mesh = change(mesh)
    change, scope = steps[-1]
    assert within(open_record(mesh), change, scope) is None
    with pytest.raises(MeshError):
        change(mesh)


def test_a_part_is_small(open_record: Callable[[Mesh], Writer]) -> None:
    services = tuple(
        Service(name=f"s{n}", address4=IPv4Address("198.19.0.1") + n, port=80, target_port=80,
                functions=(f"f{n % 4}",))
        for n in range(50)
    )  # fmt: skip
    policies = tuple(
        Policy(source=Identity("any"), destination=Identity("service", f"s{n}")) for n in range(50)
    )
    record = open_record(Mesh(name="m", functions=FUNCTIONS, services=services, policies=policies))
    part = record.part(edit.scope_of_service("s7", addresses=["198.19.0.9"]))
    assert [service.name for service in part.services] == ["s7", "s8"]
    assert [function.name for function in part.functions] == ["f3"]
    assert [str(policy) for policy in part.policies] == ["any → service:s7 allow"]
