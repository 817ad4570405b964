# SPDX-License-Identifier: BSD-2-Clause
"""What goes through uplinks while all around it is changed: nothing is lost, no connection ends.

    client ═ u0 ─┬─ a (TCP, by tc)            a ── u0 ═ client (masqueraded)
                 ├─ raw (UDP, by XDP)
                 └─ u1 ═ r (TCP, a remote)

Each datagram and each message is waited for, round after round, and TCP sends nothing again.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import ip_network
from pathlib import Path

import pytest

from ebpfmesh import apply
from ebpfmesh._abi import Reason
from ebpfmesh.config import edit
from ebpfmesh.model import Injection, Mesh
from support.alive import Pair, alive, counted, patient
from support.builds import other_build, up_by
from support.everything import MESH
from support.outside import Outside, beyond, sysctl
from support.sockets import accepted, connect, home, listener, made
from support.topology import drops, mesh_of, running

ECHO = Path(__file__).parents[2] / "examples/packet/echo.c"
CONNECTIONS = 8  # of each kind
MORE = """
[[service]]
name = "far"
address = "198.19.0.2"
port = 81
target_port = 80
functions = ["r"]
publish = ["u0:81"]
[[policy]]
from = "outside"
to = "service:far"
[[policy]]
from = "outside"
to = "function:raw"
"""
PASS = '#include "mesh_function.h"\nMESH_FUNCTION(p)\n{\n\treturn mesh_next();\n}\n'
OTHER = Injection(name="other", at="a/ingress", file="other.c", source=PASS)


@pytest.fixture(scope="module")
def outside() -> Iterator[tuple[Outside, Outside]]:
    sysctl("net.ipv4.conf.lo.forwarding=1", "net.ipv6.conf.lo.forwarding=1")
    with beyond(0) as client, beyond(1) as far:
        yield client, far


@pytest.fixture
def mesh(outside: tuple[Outside, Outside]) -> Iterator[Mesh]:
    del outside
    text = MESH.format(name="oracleuplinks").replace('functions = ["a", "r"]', 'functions = ["a"]')
    with running(with_program(mesh_of(text + MORE), 0)) as found:
        yield found


def with_program(mesh: Mesh, version: int) -> Mesh:
    """The packet function answers; its program has another text."""
    source = f"{ECHO.read_text()}/* {version} */\n"
    functions = tuple(
        one.model_copy(update={"source": source}) if one.name == "raw" else one
        for one in mesh.functions
    )
    return mesh.model_copy(update={"functions": functions})


@pytest.fixture
def pairs(mesh: Mesh, outside: tuple[Outside, Outside]) -> Iterator[list[Pair]]:
    """Both ends of connections of each kind; of datagrams one, which gets the answers."""
    client, far = (one.home for one in outside)
    front, here, there = outside[0].host[0], outside[0].near[0], outside[1].near[0]
    a, raw = mesh.function("a").address4, mesh.function("raw").address4
    patient([client, far, home(mesh, "a")])
    with ExitStack() as stack:
        at = lambda *place: stack.enter_context(listener(mesh, *place))  # noqa: E731
        ways = [
            (client, front, 80, at("a", a, 80)),
            (client, front, 81, at(far, there, 80)),
            ("a", here, 9000, at(client, here, 9000)),
        ]
        found = []
        for source, address, port, server in ways * CONNECTIONS:
            one = stack.enter_context(connect(mesh, source, address, port))
            found.append((one, stack.enter_context(accepted(server))))
        for number in range(CONNECTIONS):
            one = stack.enter_context(made(mesh, client, socket.AF_INET, socket.SOCK_DGRAM))
            one.bind((str(here), 6000 + number))
            one.connect((str(raw), 7))
            one.settimeout(20)
            found.append((one, one))
        yield found


def changes(mesh: Mesh) -> Iterator[Callable[[], object]]:
    """All that goes on around them, one after the other."""
    name = mesh.name
    change = lambda how: lambda: apply.edit(name, how)  # noqa: E731
    denied = [ip_network(f"192.0.2.{number}/32") for number in range(200)]
    rule = edit.rule("outside:203.0.113.0/24", "service:web", action="deny", priority=7)
    yield lambda: apply.deny(name, denied)
    yield change(
        lambda now: edit.add_remote(
            now, "more", addresses=["198.19.211.9"], uplink="u1", tenant="far"
        )
    )
    yield lambda: apply.up(with_program(mesh, 1), prune=False)
    yield change(lambda now: edit.inject(now, OTHER))
    yield change(lambda now: edit.add_policy(now, rule))
    yield lambda: apply.add_function(name, edit.new_function(mesh, "new", addresses=()))
    yield lambda: apply.revert(name)
    yield lambda: apply.deny(name, denied[:50], replace=True)
    yield change(lambda now: edit.eject(now, "other"))
    yield lambda: apply.up(with_program(mesh, 2), prune=False)
    yield lambda: apply.detach(name, "new")
    yield change(lambda now: edit.delete_remote(now, "more"))
    yield change(lambda now: edit.delete_policy(now, rule))
    yield lambda: apply.allow(name, None)
    yield lambda: apply.up(with_program(mesh, 0))


def refused(mesh: Mesh) -> dict[object, int]:
    """What the mesh dropped, but for what stacks announce."""
    return {key: count for key, count in drops(mesh).items() if key[2] is not Reason.MULTICAST}


def test_nothing_is_lost_through_uplinks(
    mesh: Mesh, outside: tuple[Outside, Outside], pairs: list[Pair], tmp_path: Path
) -> None:
    up_by(other_build(tmp_path), mesh)  # so that both are at hand
    places = [one.home for one in outside]
    before = counted(places), refused(mesh)
    with alive(pairs) as outcome:
        for change in changes(mesh):
            change()
    assert outcome.broken == ""
    assert outcome.rounds > 1
    assert (counted(places), refused(mesh)) == before
