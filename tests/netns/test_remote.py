# SPDX-License-Identifier: BSD-2-Clause
"""Services published on an uplink whose backends are other machines, beyond an uplink too.

    client ═══ up0 ── mesh ── up8 ═══ bridge ─┬─ one    remote "one", tenant a
                       └ fn, tenant a         └─ two    remote "two", tenant a; its .4 is nobody's

"one" and "two" have no route but by way of the host, to each other either.
"""

import contextlib
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address

import pytest

from ebpfmesh import apply
from ebpfmesh._abi import Direction, Reason
from ebpfmesh.config import edit, write
from ebpfmesh.errors import ConfigError, UsageError
from ebpfmesh.kernel import netns
from ebpfmesh.model import Address, Mesh
from ebpfmesh.observe import dryrun, flows, health, remotes
from ebpfmesh.observe.mesh import read_services
from ebpfmesh.observe.view import opened
from support.meshes import function, mesh_file, rule, service, table
from support.outside import Outside, addressed, batch, beyond, delete, forward, namespaces
from support.sockets import (
    BLOCKED_SECONDS,
    SECONDS,
    accepted,
    carries,
    connect,
    connects,
    datagrams,
    is_cut,
    listener,
    made,
    moved_whole,
    ready,
)
from support.topology import collected, drops, mesh_of, poll, running

MESH = mesh_file(
    "afar",
    function("fn", "a"),
    table("uplink", name="uplink0", interface="up0"),
    table("uplink", name="uplink8", interface="up8"),
    table(
        "remote",
        name="one",
        address=["198.19.208.2", "2001:db8:d8::2"],
        uplink="uplink8",
        tenant="a",
    ),
    table(
        "remote",
        name="two",
        address=["198.19.208.3", "2001:db8:d8::3"],
        uplink="uplink8",
        tenant="a",
    ),
    service("web", 80, "one", "two", target_port=8080, publish=["uplink0:80", "uplink8:80"]),
    service("talk", 5000, "one", number=2, protocol="udp", publish=["uplink0:53", "uplink8:53"]),
    rule("outside", "service:web", protocol="tcp", port=80),
    rule("outside:198.19.210.128/25", "function:one", action="deny", priority=10),
    rule("outside:198.19.210.128/25", "function:two", action="deny", priority=10),
    rule("outside", "service:talk"),
)
FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
HOST = (ip_address("198.19.208.1"), ip_address("2001:db8:d8::1"))
STRANGER = (ip_address("198.19.208.4"), ip_address("2001:db8:d8::4"))
"""Of "two", and none of the mesh."""


class Machines:
    """Namespaces behind a bridge at up8."""

    interface = "up8"

    def __init__(self) -> None:
        self.one, self.two = (netns.find(f"afar-{name}") for name in ("one", "two"))


@contextlib.contextmanager
def machines() -> Iterator[Machines]:
    with ExitStack() as stack:
        stack.callback(forward, 0)
        forward(1)
        namespaces(stack, "afar-hub", "afar-one", "afar-two")
        stack.callback(delete, "up8")
        batch(
            """
link add up8 type veth peer name host netns afar-hub
link set up8 up addrgenmode none
addr add 198.19.208.1/24 dev up8
addr add 2001:db8:d8::1/64 dev up8 nodad
addr add fe80::1/64 dev up8 nodad
"""
        )
        lines = "link add name hub0 type bridge\nlink set hub0 up\nlink set host up master hub0"
        batch(lines, "afar-hub")
        for number, name in ((2, "one"), (3, "two")):
            batch(f"link add {name} type veth peer name eth0 netns afar-{name}", "afar-hub")
            batch(f"link set {name} up master hub0", "afar-hub")
            extra = "addr add 198.19.208.4/32 dev eth0\n"
            extra += "addr add 2001:db8:d8::4/128 dev eth0 nodad preferred_lft 0"
            lines = f"""
link set lo up
link set eth0 up addrgenmode none
addr add 198.19.208.{number}/32 dev eth0
addr add 2001:db8:d8::{number}/128 dev eth0 nodad
addr add fe80::{number}/64 dev eth0 nodad
{extra if name == "two" else ""}
route add 198.19.208.1 dev eth0
route add default via 198.19.208.1 dev eth0
route add 2001:db8:d8::1 dev eth0
route add default via 2001:db8:d8::1 dev eth0
"""
            batch(lines, f"afar-{name}")
        yield Machines()


@pytest.fixture(scope="module")
def afar() -> Iterator[Machines]:
    with machines() as found:
        yield found


@pytest.fixture(scope="module")
def mesh(outside: Outside, afar: Machines) -> Iterator[Mesh]:
    assert outside.interface != afar.interface
    with running(mesh_of(MESH)) as found:
        yield found


def own(mesh: Mesh, name: str, family: int) -> Address:
    (remote,) = (one for one in mesh.remotes if one.name == name)
    return remote.addresses[family]


@contextlib.contextmanager
def serving(mesh: Mesh, afar: Machines, family: int) -> Iterator[list[socket.socket]]:
    """Both machines listen at port 8080."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(listener(mesh, where, own(mesh, name, family), 8080))
            for name, where in (("one", afar.one), ("two", afar.two))
        ]


def lost(mesh: Mesh) -> Counter[tuple[str, Direction, Reason]]:
    """What was dropped, but for what a stack says by itself when its interface comes up."""
    found = Counter(drops(mesh))
    return Counter({key: n for key, n in found.items() if key[2] != Reason.MULTICAST})


def whichever(servers: list[socket.socket]) -> tuple[socket.socket, str]:
    end = accepted(ready(servers, SECONDS)[0])
    return end, end.getpeername()[0]


@FAMILIES
def test_the_outside_reaches_machines_beyond_another_uplink(
    mesh: Mesh, outside: Outside, afar: Machines, family: int
) -> None:
    before, chosen = lost(mesh), set()
    with serving(mesh, afar, family) as servers:
        for _ in range(40):
            with connect(mesh, outside.home, outside.host[family], 80) as here:
                there, client = whichever(servers)
                chosen.add(there.getsockname()[0])
                with there:
                    assert client == str(outside.near[family])  # it is kept
                    assert here.getpeername()[:2] == (str(outside.host[family]), 80)
                    assert carries(here, there)
                    assert carries(there, here)
        with connect(mesh, outside.home, outside.host[family], 80) as here:
            there, _ = whichever(servers)
            with there:
                assert moved_whole(here, there, 8 << 20)
                assert moved_whole(there, here, 8 << 20)
    assert chosen == {str(own(mesh, name, family)) for name in ("one", "two")}
    assert lost(mesh) == before
    with opened(mesh.name) as view:
        entries = list(flows.read(view, flows.Wanted(service="web")))
    ends = {(one.sender, one.receiver) for one in entries}
    assert {("outside", "one"), ("one", "outside")} <= ends


@FAMILIES
def test_datagrams_in_fragments_both_ways(
    mesh: Mesh, outside: Outside, afar: Machines, family: int
) -> None:
    with (
        datagrams(mesh, afar.one, own(mesh, "one", family), 5000) as there,
        datagrams(mesh, outside.home, outside.near[family]) as client,
    ):
        client.sendto(b"ask" * 1000, (str(outside.host[family]), 53))
        text, sender = there.recvfrom(8192)
        assert (text, sender[0]) == (b"ask" * 1000, str(outside.near[family]))
        there.sendto(b"tell" * 1000, sender)
        text, sender = client.recvfrom(8192)
        assert (text, sender[:2]) == (b"tell" * 1000, (str(outside.host[family]), 53))


@FAMILIES
def test_an_error_of_a_remote_comes_from_the_service(
    mesh: Mesh, outside: Outside, family: int
) -> None:
    with datagrams(mesh, outside.home, outside.near[family]) as client:
        client.connect((str(outside.host[family]), 53))
        client.send(b"nobody listens")
        with pytest.raises(ConnectionRefusedError):
            client.recv(100)


@FAMILIES
def test_functions_reach_the_service_and_the_machine(
    mesh: Mesh, afar: Machines, family: int
) -> None:
    before = lost(mesh)
    with serving(mesh, afar, family) as servers:
        for address, port in (
            (mesh.service("web").addresses[family], 80),
            (own(mesh, "one", family), 8080),
        ):
            with connect(mesh, "fn", address, port) as here:
                there, client = whichever(servers)
                with there:
                    assert client == str(mesh.function("fn").addresses[family])
                    assert moved_whole(here, there, 1 << 20)
                    assert moved_whole(there, here, 1 << 20)
    assert lost(mesh) == before


@FAMILIES
def test_a_remote_is_a_client_too_and_meets_itself(mesh: Mesh, afar: Machines, family: int) -> None:
    """At one uplink in and out; tenant a may, and a connection to its own machine is no other."""
    chosen = set()
    with serving(mesh, afar, family) as servers:
        for _ in range(40):
            with connect(mesh, afar.two, HOST[family], 80) as here:
                there, client = whichever(servers)
                with there:
                    chosen.add((there.getsockname()[0], client))
                    assert carries(here, there)
                    assert carries(there, here)
        with (
            listener(mesh, "fn", mesh.function("fn").addresses[family], 8080) as server,
            connect(mesh, afar.two, mesh.function("fn").addresses[family], 8080) as here,
            accepted(server) as there,
        ):
            assert carries(here, there)
            assert carries(there, here)
    two = str(own(mesh, "two", family))
    itself = str((mesh.prefix4, mesh.prefix6)[family].network_address)
    assert chosen == {(str(own(mesh, "one", family)), two), (two, itself)}


@FAMILIES
def test_a_stranger_at_the_same_uplink(mesh: Mesh, afar: Machines, family: int) -> None:
    before = drops(mesh)
    with (
        datagrams(mesh, afar.one, own(mesh, "one", family), 5000) as there,
        datagrams(mesh, afar.two, STRANGER[family]) as here,
    ):
        here.sendto(b"ask", (str(HOST[family]), 53))
        text, sender = there.recvfrom(100)
        assert (text, sender[0]) == (b"ask", str(STRANGER[family]))
        there.sendto(b"tell", sender)
        assert here.recvfrom(100)[1][:2] == (str(HOST[family]), 53)
        here.sendto(b"x", (str(mesh.function("fn").addresses[family]), 8080))
    key = ("outside", Direction.FROM_UPLINK, Reason.POLICY)
    assert poll(lambda: drops(mesh).get(key, 0) == before.get(key, 0) + 1)


def test_policy_is_about_remotes_too(mesh: Mesh, outside: Outside, afar: Machines) -> None:
    with serving(mesh, afar, 0):
        before = drops(mesh)
        with made(mesh, outside.home, socket.AF_INET, socket.SOCK_STREAM) as client:
            client.bind((str(outside.far[0]), 0))
            client.settimeout(BLOCKED_SECONDS)
            with pytest.raises(TimeoutError):
                client.connect((str(outside.host[0]), 80))
        key = ("outside", Direction.FROM_UPLINK, Reason.POLICY)
        assert drops(mesh)[key] > before.get(key, 0)


@FAMILIES
def test_the_address_of_a_remote_is_a_lie_elsewhere(
    mesh: Mesh, outside: Outside, family: int
) -> None:
    before, liar = drops(mesh), own(mesh, "one", family)
    with addressed(liar, home=outside.home), datagrams(mesh, outside.home, liar) as here:
        here.sendto(b"x", (str(outside.host[family]), 53))
        here.sendto(b"x", (str(outside.host[family]), 22))
    key = ("outside", Direction.FROM_UPLINK, Reason.SPOOF_IP)
    assert poll(lambda: drops(mesh).get(key, 0) == before.get(key, 0) + 2)


@FAMILIES
def test_what_the_host_and_a_remote_have_with_each_other_stays_theirs(
    mesh: Mesh, outside: Outside, afar: Machines, family: int
) -> None:
    before, there = lost(mesh), own(mesh, "one", family)
    for client, server, address in (
        (None, afar.one, there),
        (afar.one, None, HOST[family]),
        (afar.one, outside.home, outside.near[family]),  # routed by the host
        (outside.home, afar.one, there),
    ):
        with (
            listener(mesh, server, address, 2222) as listening,
            connect(mesh, client, address, 2222) as here,
            accepted(listening) as end,
        ):
            assert moved_whole(here, end, 1 << 20)
            assert moved_whole(end, here, 1 << 20)
    assert lost(mesh) == before


def test_flows_stay_while_weights_change_and_end_with_the_remote(
    mesh: Mesh, outside: Outside, afar: Machines
) -> None:
    def weights(**given: int) -> None:
        apply.edit(mesh.name, lambda old: edit.set_service(old, "web", addresses=(), weights=given))

    with serving(mesh, afar, 0) as servers, ExitStack() as stack:
        weights(two=0)
        here = stack.enter_context(connect(mesh, outside.home, outside.host[0], 80))
        there, _ = whichever(servers)
        stack.enter_context(there)
        assert there.getsockname()[0] == str(own(mesh, "one", 0))
        weights(one=0, two=1)
        assert carries(here, there)
        assert carries(there, here)
        with connect(mesh, outside.home, outside.host[0], 80):
            other, _ = whichever(servers)
            with other:
                assert other.getsockname()[0] == str(own(mesh, "two", 0))
        apply.set_ready(mesh.name, "two", False)
        assert not connects_or_is_refused(mesh, outside)
        apply.set_ready(mesh.name, "two", True)
        another_has_its_id(mesh)
        assert is_cut(here, there)
        with opened(mesh.name) as view:
            rows = flows.read(view, flows.Wanted(service="web", port=here.getsockname()[1]))
            assert "two" in {row.receiver for row in rows if row.direction == "forward"}
        apply.up(mesh)


def another_has_its_id(mesh: Mesh) -> None:
    """The remote "one" goes, and "uno" gets what it was known by."""
    with opened(mesh.name) as view:
        before = view.record.find_id("function", "one")
    parts = {
        "remotes": mesh.remotes[1:],
        "services": tuple(service.only(["two"]) for service in mesh.services),
        "policies": tuple(p for p in mesh.policies if p.destination.name != "one"),
    }
    left = mesh.model_copy(update=parts)
    apply.up(left)
    uno = mesh.remotes[0].model_copy(update={"name": "uno", "address4": STRANGER[0]})
    apply.up(left.model_copy(update={"remotes": (uno, *left.remotes)}))
    with opened(mesh.name) as view:
        assert view.record.find_id("function", "uno") == before


def connects_or_is_refused(mesh: Mesh, outside: Outside) -> bool:
    try:
        return connects(mesh, outside.home, outside.host[0], 80, seconds=BLOCKED_SECONDS)
    except ConnectionRefusedError:
        return False


def test_up_finds_nothing_to_do(mesh: Mesh) -> None:
    assert apply.up(mesh) == ()
    assert apply.snapshot(mesh.name)[0].remotes == mesh.remotes
    assert not collected(mesh.name)


def test_what_is_told_of_remotes(mesh: Mesh) -> None:
    with opened(mesh.name) as view:
        one, two = remotes.read_remotes(view)
        assert (one.state, one.uplink, one.tenant, one.ready) == ("up", "uplink8", "a", True)
        assert (one.route, one.services) == (("direct", "direct"), ("talk", "web"))
        assert one.addresses == tuple(map(str, mesh.remotes[0].addresses))
        assert two.services == ("web",)
        (web,) = (row for row in read_services(view) if row.name == "web")
        assert [(row.function, row.alive) for row in web.backends] == [("one", True), ("two", True)]
        for source, to, sender, receiver, verdict in (
            ("fn", "service:talk", "fn", "one", "pass"),
            ("one", "fn", "one", "fn", "pass"),
            ("outside:192.0.2.1", "uplink0:53", "outside", "one", "pass"),
            ("two", "one", "two", "", "host"),
        ):
            ends = dryrun.party(view, source), dryrun.party(view, to)
            port = None if to.startswith(("service", "uplink")) else 80
            answer = dryrun.ask(view, *ends, port=port)
            assert (answer.sender, answer.receiver, answer.verdict) == (sender, receiver, verdict)
        assert not list(remotes.astray(view))
        batch("route add 198.19.208.2/32 dev lo")
        try:
            ((name, why),) = remotes.astray(view)
        finally:
            batch("route del 198.19.208.2/32 dev lo")
        assert (name, why) == ("one", "the host's route to 198.19.208.2 does not lead out of up8")
    assert mesh_of(write.text(mesh)).remotes == mesh.remotes


def test_what_cannot_be_a_remote(mesh: Mesh) -> None:
    with pytest.raises(UsageError, match="this host's own address"):
        apply.up(mesh_of(MESH.replace("198.19.208.2", "198.19.208.1")))
    assert apply.up(mesh) == ()
    for wrong, why in (
        (('uplink = "uplink8"', 'uplink = "uplink9"'), "there is no uplink"),
        (('name = "two"', 'name = "fn"'), "another function has that name"),
        (("198.19.208.3", "198.19.208.2"), "is the address of remote"),
    ):
        with pytest.raises(ConfigError, match=why):
            mesh_of(MESH.replace(*wrong))


def test_remotes_go_and_come_with_their_uplink() -> None:
    text = MESH.replace("afar", "gone").replace("up0", "up2").replace("up8", "up3")
    text = text.replace("198.19.208", "198.19.213").replace("2001:db8:d8", "2001:db8:d3")
    wanted = mesh_of(text.replace("198.19.213.2", "198.19.213.9"))
    with beyond(2):
        try:
            with beyond(3):
                apply.up(wanted)
            problems = [one.text for one in health.check("gone") if one.status == "missing"]
            assert "remote one: uplink uplink8: interface gone" in problems
            told = [line for line in collected("gone") if "uplink8" in line or "remote" in line]
            gone = ("uplink uplink8", "remote one", "remote two")
            assert told == [f"{what} of mesh gone" for what in gone]
            assert apply.snapshot("gone")[0].remotes == ()
            with beyond(3):
                kinds = [step.kind for step in apply.up(wanted)]
                assert kinds.count("add-remote") == 2
                assert apply.up(wanted) == ()
        finally:
            apply.down("gone")
