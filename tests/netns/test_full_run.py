# SPDX-License-Identifier: BSD-2-Clause
"""/run is full, before a change or from one of its steps on: it is done, or as if it never was."""

from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from ebpfmesh import apply
from ebpfmesh.apply import OnStep, batch
from ebpfmesh.errors import MeshError
from ebpfmesh.kernel import netns
from ebpfmesh.model import Function
from support.filling import filling_from, full_run, small_run
from support.killing import Change, steps_of
from support.meshes import function, mesh_file, rule, service
from support.sockets import connects, is_blocked, listener
from support.topology import mesh_of

FUNCTIONS = mesh_file(
    "full", function("a", "one"), function("b", "two"), limits={"functions": 128, "prefixes": 128}
)
SERVICE = service("web", "8000-8099", "b", address="198.19.0.1")
POLICY = rule("function:a", "service:web", protocol="tcp", port="8000-8099")
RULE = rule("outside:192.0.2.0/24", "tenant:two", protocol="tcp", port="1-65534")
MORE = """
[[function]]
name = "more-{0}"
tenant = "three"
[[service]]
name = "service-{0}"
address = "198.19.1.{0}"
port = "8001-8998"
functions = ["more-{0}", "b"]
[[policy]]
from = "outside:192.0.2.{0}"
to = "function:b"
protocol = "udp"
port = "1001-8998"
"""
OLD = mesh_of(FUNCTIONS + SERVICE + POLICY)
GUEST = Function(name="guest", netns="box", address4=IPv4Address("198.18.7.7"))


@pytest.fixture(scope="module", autouse=True)
def mesh() -> Iterator[None]:
    netns.create("box")
    apply.up(OLD)
    yield
    apply.down("full")
    netns.remove("box")


def to(text: str) -> Change:
    """What changes the mesh to one of this text, as the commands for its parts do."""
    wanted = mesh_of(text)
    return lambda on_step: apply.edit("full", lambda _: wanted, on_step)


def up(number: int) -> Change:
    """Other functions, services and rules in the place of those that are there."""
    wanted = mesh_of(FUNCTIONS.replace('"a"', '"c"') + "".join(map(MORE.format, range(1, number))))
    return lambda on_step: apply.up(wanted, on_step)


def attach(on_step: OnStep) -> None:
    apply.add_function("full", GUEST, on_step=on_step)


def detach(on_step: OnStep) -> None:
    apply.detach("full", "b", on_step)


CHANGES: dict[str, Change] = {
    "attach": attach,
    "detach": detach,
    "service set": to(FUNCTIONS + SERVICE.replace("8000-8099", "8000-9001") + POLICY),
    "service del": to(FUNCTIONS),
    "policy add": to(FUNCTIONS + SERVICE + POLICY + RULE),
    "policy del": to(FUNCTIONS + SERVICE),
    "up": up(3),
}


def as_it_was() -> None:
    """Nothing is to be done, also while there is no room, and packets go as they did."""
    assert apply.plan(OLD) == ()
    assert apply.up(OLD) == ()
    with apply.opened("full") as live:
        assert not live.record.cut_short
        assert live.functions.broken() == []
        assert batch.problems(live) == []
    own, front = OLD.function("b").address4, OLD.service("web").address4
    with listener(OLD, "b", own, 8080), listener(OLD, "b", own, 8000):
        assert connects(OLD, "a", front, 8000)
        assert is_blocked(OLD, "a", own, 8080, seconds=0.05)


def refused(change: Change, on_step: OnStep) -> bool:
    """Whether there was no room for a change, which then undid itself there and then."""
    try:
        change(on_step)
        return False
    except MeshError as error:
        said = error
    assert "df" in said.hint
    assert "could not be undone" not in said.message
    as_it_was()
    return True


@pytest.mark.parametrize("name", CHANGES)
def test_full_before(name: str) -> None:
    """What an undo needs was there from the first up: a small change may find room, or not."""
    with full_run():
        refused(CHANGES[name], lambda _step: None)
    apply.up(OLD)
    as_it_was()


@pytest.mark.parametrize("name", CHANGES)
def test_full_from_each_step(name: str) -> None:
    for step in range(len(steps_of(CHANGES[name]))):
        apply.up(OLD)
        with small_run():
            refused(CHANGES[name], filling_from(step))
    apply.up(OLD)


@pytest.mark.parametrize("part", range(1, 10))
def test_full_within_a_large_change(part: int) -> None:
    """Larger than what is set aside: undone from wherever it ends, be it filled all the time."""
    large = up(60)
    steps = steps_of(large)
    apply.down("full")  # what was large once has room in its record
    apply.up(OLD)
    with small_run():
        assert refused(large, filling_from(part * len(steps) // 10))
    apply.up(OLD)
    as_it_was()
