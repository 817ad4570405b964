# SPDX-License-Identifier: BSD-2-Clause
"""Ports of an uplink's address run out, are had again, and never by two at once.

web, other ─── host, mesh-out 198.19.200.1 ─── router ── MTU 1400 ── server 198.19.201.2
"""

import contextlib
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ebpfmesh._abi import Direction, Reason
from ebpfmesh.model import Mesh
from ebpfmesh.observe import flows, health, uplinks
from ebpfmesh.observe.view import opened
from support.masquerade import exchanged, text, unforwarding
from support.outside import HOST4, Outside
from support.serving import age
from support.sockets import (
    BLOCKED_SECONDS,
    SECONDS,
    accepted,
    carries,
    datagrams,
    listener,
    made,
)
from support.topology import drops, lost, running

FEW = "61000-61001"
OUTSIDE = unforwarding


def test_many_at_once_have_a_port_each(outside: Outside) -> None:
    """Of 256 ports as many flows to one peer, from both functions and threads of each."""
    near = outside.near[0]
    with contextlib.ExitStack() as stack:
        mesh = stack.enter_context(running(text(ports="61000-61255")))
        server = stack.enter_context(datagrams(mesh, outside.home, near, 5004))
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        own = {name: mesh.function(name).address4 for name in ("web", "other")}
        here = [
            [stack.enter_context(datagrams(mesh, name, own[name])) for _ in range(60)]
            for name in ("web", "other", "web", "other")
        ]

        def say(sockets: list[socket.socket]) -> None:
            for one in sockets:
                one.sendto(str(one.getsockname()).encode(), (str(near), 5004))

        with ThreadPoolExecutor(len(here)) as pool:
            list(pool.map(say, here))
        missed = drops(mesh)
        lacking = sum(n for (*_, reason), n in missed.items() if reason is Reason.NO_PORT)
        heard = [server.recvfrom(64) for _ in range(240 - lacking)]
        assert lacking < 24  # 32 of 256 are tried
        for ends in zip(*heard, strict=True):
            assert len(set(ends)) == len(heard)
        for said, sender in heard:
            server.sendto(said, sender)
        for one in (one for some in here for one in some):
            if str(one.getsockname()).encode() in {said for said, _ in heard}:
                assert one.recv(64) == str(one.getsockname()).encode()


@pytest.fixture(scope="module")
def few(outside: Outside) -> Iterator[Mesh]:
    """Two ports, and room for few flows."""
    assert outside.interface == "mesh-out"
    with running(text(ports=FEW, timeouts={"udp": 300}, limits={"flows": 512})) as mesh:
        yield mesh


def test_no_port_is_left_and_one_is_again(few: Mesh, outside: Outside) -> None:
    """A third flow to the same peer has none, another peer has; then one is over."""
    near, far, own = outside.near[0], outside.far[0], few.function("web").address4
    with contextlib.ExitStack() as stack:
        here = [stack.enter_context(datagrams(few, "web", own)) for _ in range(3)]
        server, another = (
            stack.enter_context(datagrams(few, outside.home, address, 5002))
            for address in (near, far)
        )
        at = str(near), 5002
        assert exchanged(here[0], server, at)
        assert exchanged(here[1], server, at)
        server.settimeout(BLOCKED_SECONDS)
        assert not exchanged(here[2], server, at)
        server.settimeout(SECONDS)
        assert drops(few)["web", Direction.FROM_FN, Reason.NO_PORT] == 1
        assert exchanged(here[2], another, (str(far), 5002))
        with opened(few.name) as view:
            (seen,) = uplinks.read_uplinks(view)
        assert seen.masquerade == uplinks.Masquerade(HOST4, FEW, 3, 2, 1)
        assert any(f"found no port of {FEW}" in one.text for one in health.check(few.name))
        age(few, 5002)
        assert exchanged(here[2], server, at)
        with opened(few.name) as view:  # whose port it was has no entry for the peer any more
            entries = [one for one in flows.read(view) if one.destination_port == 5002]
        ports = [one.nat for one in entries if one.destination == str(near)]
        assert len(ports) == len(set(ports)) == 2
        # The place of the flow before is given away, and its entry is this one's by now.
        here[2].sendto(b"from", at)
        _, sender = server.recvfrom(64)
        for port in range(6000, 6240):
            here[0].sendto(b"x", (str(far), port))
            server.sendto(b"kept", sender)
            assert here[2].recv(64) == b"kept"


def test_what_comes_after_a_flow_is_over_is_the_hosts(few: Mesh, outside: Outside) -> None:
    with (
        datagrams(few, outside.home, outside.near[0], 5005) as server,
        datagrams(few, "web", few.function("web").address4) as here,
    ):
        assert exchanged(here, server, (str(outside.near[0]), 5005))
        age(few, 5005)
        with opened(few.name) as view:
            port = next(
                int(one.nat[-5:]) for one in flows.read(view) if one.destination_port == 5005
            )
        before = lost(few)
        server.connect((HOST4, port))
        server.send(b"late")
        with pytest.raises(ConnectionRefusedError):
            server.recv(64)
        assert lost(few) == before


def test_a_closed_connection_keeps_its_port_for_a_moment_alone(few: Mesh, outside: Outside) -> None:
    """A third one has to wait, which follows two at once: their sockets are made before."""
    key, near = ("web", Direction.FROM_FN, Reason.NO_PORT), outside.near[0]
    before = drops(few).get(key, 0)
    with (
        listener(few, outside.home, near, 7005) as server,
        contextlib.ExitStack() as stack,
    ):
        for here in [
            stack.enter_context(made(few, "web", socket.AF_INET, socket.SOCK_STREAM))
            for _ in range(3)
        ]:
            here.settimeout(60)
            here.connect((str(near), 7005))
            with accepted(server) as there:
                assert carries(here, there)
            here.close()
    assert drops(few)[key] > before
