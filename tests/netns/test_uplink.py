# SPDX-License-Identifier: BSD-2-Clause
"""The outside reaches functions and published services by an uplink; the host's own stays its own.

                 ┌─ web-0, web-1   tenant a, service web: published at up0, port 80
client ═══ up0 ──┤
       (up1)     └─ other          tenant b
"""

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from ebpfmesh import apply
from ebpfmesh._abi import Direction, Reason
from ebpfmesh.errors import NotFound, UsageError
from ebpfmesh.kernel import interface, links, netns
from ebpfmesh.model import Mesh
from ebpfmesh.observe import dryrun, flows, uplinks
from ebpfmesh.observe.view import opened
from support.meshes import function, mesh_file, rule, service, table
from support.outside import Outside, addressed, beyond
from support.sockets import (
    BLOCKED_SECONDS,
    SECONDS,
    accepted,
    carries,
    connect,
    connection,
    datagrams,
    is_blocked,
    listener,
    made,
    moved_whole,
    ready,
)
from support.topology import collected, drops, lost, mesh_of, poll, running

FAR = "outside:198.19.210.128/25"


def text(**settings: str) -> str:
    ports = ["uplink0:80", "uplink0:8000"]
    return mesh_file(
        "served",
        function("web", "a", replicas=2),
        function("other", "b"),
        table("uplink", name="uplink0", interface="up0"),
        service("web", 80, "web", target_port=8080, publish=ports),
        service("talk", 5000, "web", number=2, protocol="udp", publish=["uplink0:53"]),
        rule("outside", "service:web", protocol="tcp", port=80),
        rule(FAR, "service:web", action="deny", priority=10),
        rule("outside", "service:talk"),
        rule("outside", "function:web-0", protocol="icmp"),
        **settings,
    )


FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])


@pytest.fixture(scope="module", params=["auto", "clsact"])
def mesh(request: pytest.FixtureRequest, outside: Outside) -> Iterator[Mesh]:
    assert FAR.endswith(outside.far_prefixes[0])
    with running(text(hook=request.param)) as found:
        yield found


@contextlib.contextmanager
def serving(mesh: Mesh, family: int) -> Iterator[list[socket.socket]]:
    """Both backends listen at port 8080."""
    names = ("web-0", "web-1")
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(listener(mesh, one, mesh.function(one).addresses[family], 8080))
            for one in names
        ]


def whichever(servers: list[socket.socket]) -> tuple[socket.socket, str]:
    """The connection that one of them has got, and who its client is for the server."""
    end = accepted(ready(servers, SECONDS)[0])
    return end, end.getpeername()[0]


@FAMILIES
@pytest.mark.parametrize("port", [80, 8000])
def test_outside_reaches_a_published_service_and_keeps_its_address(
    mesh: Mesh, outside: Outside, family: int, port: int
) -> None:
    with serving(mesh, family) as servers:
        for _ in range(4):
            with connect(mesh, outside.home, outside.host[family], port) as here:
                there, client = whichever(servers)
                with there:
                    assert client == str(outside.near[family])
                    assert here.getpeername()[:2] == (str(outside.host[family]), port)
                    assert carries(here, there)
                    assert carries(there, here)


@FAMILIES
def test_bulk_is_intact_both_ways(mesh: Mesh, outside: Outside, family: int) -> None:
    with (
        serving(mesh, family) as servers,
        connect(mesh, outside.home, outside.host[family], 80) as here,
    ):
        there, _ = whichever(servers)
        with there:
            assert moved_whole(here, there, 8 << 20)
            assert moved_whole(there, here, 8 << 20)
    with opened(mesh.name) as view:
        entries = list(flows.read(view, flows.Wanted(service="web")))
    assert {(one.sender == "outside", one.receiver == "outside") for one in entries} == {
        (True, False),
        (False, True),
    }


@FAMILIES
def test_datagrams_too(mesh: Mesh, outside: Outside, family: int) -> None:
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(datagrams(mesh, one, mesh.function(one).addresses[family], 5000))
            for one in ("web-0", "web-1")
        ]
        client = stack.enter_context(datagrams(mesh, outside.home, outside.near[family]))
        client.sendto(b"ask" * 1000, (str(outside.host[family]), 53))  # in fragments
        (there,) = ready(servers, SECONDS)
        text, sender = there.recvfrom(4096)
        assert text == b"ask" * 1000
        assert sender[0] == str(outside.near[family])
        there.sendto(b"tell" * 1000, sender)  # in fragments as well
        text, sender = client.recvfrom(8192)
        assert (text, sender[:2]) == (b"tell" * 1000, (str(outside.host[family]), 53))


def test_policy_speaks_of_prefixes_outside(mesh: Mesh, outside: Outside) -> None:
    with serving(mesh, 0) as servers:
        before = drops(mesh)
        with made(mesh, outside.home, socket.AF_INET, socket.SOCK_STREAM) as client:
            client.bind((str(outside.far[0]), 0))
            client.settimeout(BLOCKED_SECONDS)
            with pytest.raises(TimeoutError):
                client.connect((str(outside.host[0]), 80))
        key = ("outside", Direction.FROM_UPLINK, Reason.POLICY)
        assert drops(mesh)[key] > before.get(key, 0)
        with connect(mesh, outside.home, outside.host[0], 80):
            whichever(servers)[0].close()


@FAMILIES
def test_a_function_is_reached_by_its_own_address_if_policy_lets_it(
    mesh: Mesh, outside: Outside, family: int
) -> None:
    ping = ["ip", "netns", "exec", outside.home.name, "ping", "-c", "1", "-W"]
    allowed, denied = (str(mesh.function(one).addresses[family]) for one in ("web-0", "web-1"))
    assert subprocess.run([*ping, "20", allowed], capture_output=True, check=False).returncode == 0
    assert subprocess.run([*ping, "0.3", denied], capture_output=True, check=False).returncode == 1
    assert drops(mesh)["outside", Direction.FROM_UPLINK, Reason.POLICY]


@FAMILIES
def test_no_more_is_reached_than_what_is_published(
    mesh: Mesh, outside: Outside, family: int
) -> None:
    own = mesh.service("web").addresses[family]
    before = drops(mesh)
    with serving(mesh, family):
        assert is_blocked(mesh, outside.home, own, 80)
        with pytest.raises(ConnectionRefusedError):  # by the host, as nobody listens there
            connect(mesh, outside.home, outside.host[family], 8080)
        with pytest.raises(ConnectionRefusedError):  # it is published for the outside alone
            connect(mesh, "web-0", outside.host[family], 80)
    key = ("outside", Direction.FROM_UPLINK, Reason.NO_SERVICE)
    assert drops(mesh)[key] > before.get(key, 0)


@FAMILIES
def test_what_is_the_hosts_stays_the_hosts(mesh: Mesh, outside: Outside, family: int) -> None:
    before = lost(mesh)
    host, client = outside.host[family], outside.home
    with connection(mesh, client, None, host, 22) as (here, there):
        assert carries(here, there)
        assert moved_whole(there, here, 4 << 20)
    with connection(mesh, None, client, outside.near[family], 8022) as (here, there):
        assert moved_whole(there, here, 4 << 20)
    with (
        datagrams(mesh, None, host, 5300) as there,
        datagrams(mesh, client, outside.near[family]) as here,
    ):
        here.sendto(b"x" * 4000, (str(host), 5300))
        assert there.recv(8192) == b"x" * 4000
    words = ["ip", "netns", "exec", client.name, "ping", "-c", "1", "-W", "20", str(host)]
    assert subprocess.run(words, capture_output=True, check=False).returncode == 0
    assert lost(mesh) == before


@FAMILIES
def test_a_source_of_the_mesh_is_a_lie(mesh: Mesh, outside: Outside, family: int) -> None:
    for liar in (mesh.function("other").addresses[family], mesh.service("web").addresses[family]):
        before = drops(mesh)
        with addressed(liar, home=outside.home), datagrams(mesh, outside.home, liar) as here:
            here.sendto(b"x", (str(outside.host[family]), 53))
            here.sendto(b"x", (str(mesh.function("web-0").addresses[family]), 53))
            here.sendto(b"x", (str(outside.host[family]), 22))
        key = ("outside", Direction.FROM_UPLINK, Reason.SPOOF_IP)
        assert poll(lambda: drops(mesh).get(key, 0) == before.get(key, 0) + 3)  # noqa: B023


def at_uplinks(counted: dict[Any, int]) -> dict[Any, int]:
    """What was dropped of what came in there; functions send multicast by themselves."""
    return {key: count for key, count in counted.items() if key[1] == Direction.FROM_UPLINK}


def asked(mesh: Mesh, source: str, to: str, **flow: Any) -> tuple[str, str, str, str, int | None]:
    """Verdict, reason, service, receiver without its number, and its port."""
    with opened(mesh.name) as view:
        one = dryrun.ask(view, dryrun.party(view, source), dryrun.party(view, to), **flow)
    function = one.receiver.rpartition("-")[0] or one.receiver
    return one.verdict, one.reason, one.service, function, one.target_port


@pytest.mark.parametrize("version", [4, 6])
def test_what_would_become_of_what_comes_in(mesh: Mesh, outside: Outside, version: int) -> None:
    near, far = (f"outside:{ends[version == 6]}" for ends in (outside.near, outside.far))
    served, denied = (
        ("pass", "", "web", "web", 8080),
        ("drop", "POLICY", "web", "web", 8080),
    )
    before = at_uplinks(drops(mesh))
    for source, to, flow, expected in (
        (near, "uplink0:80", {}, served),
        (near, "uplink0:8000", {}, served),
        (near, "uplink0:53", {}, ("pass", "", "talk", "web", 5000)),
        (far, "uplink0:80", {}, denied if version == 4 else served),
        (near, "uplink0:81", {}, ("host", "", "", "", None)),
        (near, "uplink0:80", {"protocol": "udp"}, ("host", "", "", "", None)),
        ("outside:203.0.113.9", "function:web-0", {"uplink": "uplink0", "version": 4},
         ("pass", "", "", "web", None)),
        (near, "function:web-1", {"uplink": "uplink0"}, ("drop", "POLICY", "", "web", None)),
        (near, "service:web", {"uplink": "uplink0"}, ("drop", "NO_SERVICE", "", "outside", 80)),
    ):  # fmt: skip
        assert asked(mesh, source, to, **{"version": version, **flow}) == expected, (source, to)
    with opened(mesh.name) as view:
        ends = dryrun.party(view, far), dryrun.party(view, "uplink0:80")
        one = dryrun.ask(view, *ends, version=version)
    assert (one.uplink, one.destination) == ("uplink0", str(outside.host[version == 6]))
    wanted = outside.far_prefixes[0] if version == 4 else "outside →"
    assert wanted in one.rule_text, one.rule_text
    assert at_uplinks(drops(mesh)) == before


def test_what_cannot_be_asked_of_an_uplink(mesh: Mesh) -> None:
    for source, to, flow, wrong, text in (
        ("outside", "service:web", {}, UsageError, "is for functions"),
        ("uplink0:80", "web-0", {}, UsageError, "an uplink opens no flows"),
        ("web-0", "other", {"uplink": "uplink0"}, UsageError, "comes in by no uplink"),
        ("outside", "uplink0:80", {"port": 81}, UsageError, "has a port already"),
        ("outside", "web-0", {"uplink": "uplink1"}, NotFound, "no uplink uplink1"),
        ("outside", "uplink1:80", {}, NotFound, "no uplink uplink1"),
        ("outside", "uplink0:70000", {}, UsageError, "70000 is not a port"),
    ):
        with pytest.raises(wrong, match=text):
            asked(mesh, source, to, **flow)


def test_a_command_for_functions_says_what_an_uplink_is(mesh: Mesh) -> None:
    with pytest.raises(NotFound, match="no function uplink0") as wrong:
        apply.detach(mesh.name, "uplink0")
    assert "detach --uplink" in wrong.value.hint


def test_show_uplinks(mesh: Mesh, outside: Outside) -> None:
    with opened(mesh.name) as view:
        (row,) = uplinks.read_uplinks(view)
    assert (row.name, row.interface, row.state, row.mtu) == ("uplink0", "up0", "up", 1500)
    assert row.addresses == tuple(map(str, outside.host))
    assert row.published == ("udp/53 talk", "tcp/80 web", "tcp/8000 web")
    assert row.how == ("clsact filter" if mesh.hook == "clsact" else "TCX link")
    assert not row.xdp
    assert not collected(mesh.name)


def test_up_finds_nothing_to_do_and_down_leaves_nothing() -> None:
    with beyond(1):
        wanted = mesh_of(text().replace("up0", "up1")).model_copy(update={"name": "again"})
        apply.up(wanted)
        try:
            assert apply.up(wanted) == ()
            assert apply.snapshot("again")[0].uplinks == wanted.uplinks
        finally:
            apply.down("again")
        words = ["tc", "filter", "show", "dev", "up1", "ingress"]
        assert not subprocess.run(words, check=True, capture_output=True).stdout
        with netns.rtnetlink() as ip:
            index = interface.find("up1")
            assert index is not None
            assert not list(links.programs(ip, index))
            assert interface.outer(ip, index).up
