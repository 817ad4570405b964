# SPDX-License-Identifier: BSD-2-Clause
"""What changes while functions speak to the outside by an uplink's address, and what runs out.

web, other ─── host, mesh-out 198.19.200.1 ─── router ── MTU 1400 ── server 198.19.201.2
"""

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from ebpfmesh import apply
from ebpfmesh._abi import Direction, Reason
from ebpfmesh.model import Mesh
from ebpfmesh.observe import flows, health, uplinks
from ebpfmesh.observe.view import opened
from support.masquerade import PORTS, is_translated, sysctl, text, unforwarding
from support.outside import HOST4, ROUTER4, Outside
from support.sockets import (
    accepted,
    carries,
    connect,
    connection,
    datagrams,
    listener,
    moved_whole,
)
from support.topology import collected, drops, mesh_of, poll, running


@pytest.fixture(scope="module")
def beyond() -> Iterator[Outside]:
    with unforwarding() as found:
        yield found


def test_what_does_not_change_a_flow_leaves_it(beyond: Outside) -> None:
    """Nor does it lose its port when it is judged again, from either side."""
    near = beyond.near[0]
    rule = '[[policy]]\nfrom = "function:{}"\nto = "outside:198.19.202.0/24"\naction = "deny"\n'
    with (
        running(text()) as mesh,
        connection(mesh, "web", beyond.server, near, 7003) as (here, there),
    ):
        peer = there.getpeername()
        for number, ends in enumerate(((here, there), (there, here))):
            apply.up(mesh_of(text() + rule.format(("web", "other")[number])))
            assert carries(*ends)
            assert moved_whole(ends[0], ends[1], 1 << 20)
        more = text(ports="50000-65535")
        (step,) = [one for one in apply.up(mesh_of(more)) if one.kind == "change-uplink"]
        assert step.describe() == f"~ uplink u0  masquerade_ports {PORTS} → 50000-65535"
        assert carries(here, there)
        assert carries(there, here)
        assert there.getpeername() == peer
        with opened(mesh.name) as view:
            (seen,) = uplinks.read_uplinks(view)
        assert seen.masquerade == uplinks.Masquerade(HOST4, "50000-65535", 1, 1, 0)
        assert not collected(mesh.name)


def test_a_flow_whose_port_is_gone_ends(beyond: Outside) -> None:
    """A stream is reset by its server, to which it is another; datagrams go on by another port."""
    near, other = beyond.near[0], "50000-50009"
    with (
        running(text()) as mesh,
        connection(mesh, "web", beyond.server, near, 7004) as (here, there),
        datagrams(mesh, beyond.server, near, 7004) as server,
        datagrams(mesh, "web", mesh.function("web").address4) as asking,
    ):
        assert carries(here, there)
        asking.sendto(b"before", (str(near), 7004))
        assert is_translated(server.recvfrom(64)[1])
        apply.up(mesh_of(text(ports=other)))
        there.sendall(b"lost")  # comes to the host, which knows no such connection
        assert poll(lambda: _is_over(there))
        asking.sendto(b"after", (str(near), 7004))
        data, sender = server.recvfrom(64)
        assert data == b"after"
        assert is_translated(sender, other)


def _is_over(one: socket.socket) -> bool:
    with contextlib.suppress(TimeoutError):
        try:
            one.settimeout(0.1)
            one.sendall(b"?")
            return not one.recv(1)
        except ConnectionError:
            return True
    return False


def exchanged(here: socket.socket, server: socket.socket, at: tuple[str, int]) -> bool:
    """Whether a datagram to ``at`` is answered to who sent it."""
    here.sendto(b"ask", at)
    try:
        _, sender = server.recvfrom(64)
    except TimeoutError:
        return False
    server.sendto(b"tell", sender)
    return here.recv(64) == b"tell"


def test_no_port_is_left_and_one_is_again(beyond: Outside) -> None:
    """Of two ports a third flow to the same peer has none, another peer has; then one is over."""
    few, near, far = "61000-61001", beyond.near[0], beyond.far[0]
    settings = "timeouts = {udp = 2}"
    with contextlib.ExitStack() as stack:
        mesh = stack.enter_context(running(text(ports=few, settings=settings)))
        own = mesh.function("web").address4
        here = [stack.enter_context(datagrams(mesh, "web", own)) for _ in range(3)]
        server, another = (
            stack.enter_context(datagrams(mesh, beyond.server, address, 5002))
            for address in (near, far)
        )
        server.settimeout(0.3)
        at = str(near), 5002
        assert exchanged(here[0], server, at)
        assert exchanged(here[1], server, at)
        assert not exchanged(here[2], server, at)
        assert drops(mesh)["web", Direction.FROM_FN, Reason.NO_PORT] == 1
        assert exchanged(here[2], another, (str(far), 5002))
        with opened(mesh.name) as view:
            (seen,) = uplinks.read_uplinks(view)
        assert seen.masquerade == uplinks.Masquerade(HOST4, few, 3, 2, 1)
        assert any("found no port of 61000-61001" in one.text for one in health.check(mesh.name))
        assert poll(lambda: exchanged(here[2], server, at), seconds=15)
        with opened(mesh.name) as view:  # whose port it was has no entry for the peer any more
            entries = [one for one in flows.read(view) if one.destination_port == 5002]
        ports = [one.nat for one in entries if one.destination == str(near)]
        assert len(ports) == len(set(ports)) == 2


def test_a_closed_connection_keeps_its_port_for_a_moment_alone(beyond: Outside) -> None:
    with running(text(ports="61000-61001")) as mesh:
        for _ in range(3):
            with connection_when_there_is_room(mesh, beyond) as (here, there):
                assert carries(here, there)
        assert drops(mesh).get(("web", Direction.FROM_FN, Reason.NO_PORT), 0)


@contextlib.contextmanager
def connection_when_there_is_room(
    mesh: Mesh, beyond: Outside
) -> Iterator[tuple[socket.socket, socket.socket]]:
    with (
        listener(mesh, beyond.server, beyond.near[0], 7005) as server,
        connect(mesh, "web", beyond.near[0], 7005, seconds=15) as here,
        accepted(server) as there,
    ):
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        yield here, there


def test_an_address_that_goes_ends_flows(beyond: Outside) -> None:
    near = beyond.near[0]
    with (
        running(text()) as mesh,
        datagrams(mesh, beyond.server, near, 5003) as server,
        datagrams(mesh, "web", mesh.function("web").address4) as here,
    ):
        assert exchanged(here, server, (str(near), 5003))
        readdress(HOST4, "198.19.200.9")
        try:
            collected(mesh.name)
            here.sendto(b"again", (str(near), 5003))
            assert server.recvfrom(64)[1][0] == "198.19.200.9"
        finally:
            readdress("198.19.200.9", HOST4)


def readdress(old: str, new: str) -> None:
    """Give the uplink another address; routes go with the old one."""
    lines = f"addr del {old}/24 dev mesh-out\naddr add {new}/24 dev mesh-out\n"
    for network in ("201", "202"):
        lines += f"route replace 198.19.{network}.0/24 via {ROUTER4}\n"
    subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True)


def test_without_it_the_hosts_stack_has_the_flow(beyond: Outside) -> None:
    """What began by it stays there when it comes, and what began with it goes there then."""
    near = beyond.near[0]
    sysctl("net.ipv4.ip_forward=1")
    try:
        with (
            running(text(on="false")) as mesh,
            connection(mesh, "web", beyond.server, near, 7006) as (here, there),
        ):
            own = str(mesh.function("web").address4)
            assert there.getpeername()[0] == own
            (step,) = apply.up(mesh_of(text()))
            assert step.describe() == "~ uplink u0  masquerade on"
            assert carries(here, there)
            assert carries(there, here)
            with connection(mesh, "web", beyond.server, near, 7007) as (_, new):
                assert is_translated(new.getpeername())
            apply.up(mesh_of(text(on="false")))
            assert carries(here, there)
            with connection(mesh, "web", beyond.server, near, 7008) as (_, new):
                assert new.getpeername()[0] == own
    finally:
        sysctl("net.ipv4.ip_forward=0", "net.ipv4.conf.lo.forwarding=1")


@pytest.mark.usefixtures("beyond")
def test_what_the_host_has_to_be_told() -> None:
    """Where routes cannot be asked, and where its own sockets get the same ports."""
    with running(text(ports="60000-61000")) as mesh:
        place = Path("/proc/sys/net/ipv4/ip_local_port_range")
        low, high = place.read_text().split()
        sysctl("net.ipv4.conf.lo.forwarding=0")
        try:
            with listener(mesh, None, ip_address(HOST4), 60001):
                said = [one.text for one in health.check(mesh.name) if "uplink u0" in one.text]
        finally:
            sysctl("net.ipv4.conf.lo.forwarding=1")
        assert any("net.ipv4.conf.lo.forwarding is 0" in one for one in said)
        assert any(f"net.ipv4.ip_local_port_range is {low}-{high}" in one for one in said)
        assert any("listens at tcp port 60001" in one for one in said)
