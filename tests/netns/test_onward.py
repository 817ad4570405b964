# SPDX-License-Identifier: BSD-2-Clause
"""XDP at uplinks sends on what goes from machine to machine, where it can; tc does all the rest.

    client ═══ up0 ── mesh ── up1 ═══ far    remote "far": services echo and web at up0

Neither end leaves checksums to offload, and both take frames by XDP, having GRO.
"""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.kernel.programs import CARRY
from ebpfmesh.model import Mesh
from ebpfmesh.observe import uplinks
from ebpfmesh.observe.view import opened
from support.meshes import mesh_file, rule, service, table, uplink
from support.outside import Outside, beyond, forward, redirected, run
from support.sockets import accepted, connect, datagrams, listener, moved_whole
from support.topology import collected, meters, poll, running

MESH = mesh_file(
    "onward",
    uplink(xdp="native"),
    uplink(1, xdp="native"),
    table("remote", name="far", address=["198.19.211.2", "2001:db8:d1::2"], uplink="u1"),
    service("echo", 7, "far", number=7, target_port=7000, protocol="udp", publish=["u0:7"]),
    service("web", 80, "far", number=8, publish=["u0:80"]),
    rule("outside", "tenant:default"),
)
FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
Ends = tuple[Outside, Outside]


@pytest.fixture(scope="module")
def ends() -> Iterator[Ends]:
    with beyond(0) as client, beyond(1) as far:
        for end in (client, far):
            end.run("ethtool -K eth0 gro on tx off")
        forward(1)
        yield client, far
        forward(0)


@pytest.fixture(scope="module")
def mesh(ends: Ends) -> Iterator[Mesh]:
    assert ends[0].interface == "up0"
    with running(MESH) as found:
        yield found


@contextlib.contextmanager
def echo(mesh: Mesh, far: Outside, family: int) -> Iterator[None]:
    """Who is far away says all that it hears, until it hears nothing."""
    with datagrams(mesh, far.home, far.near[family], 7000) as there:

        def say() -> None:
            while True:
                text, sender = there.recvfrom(2000)
                if not text:
                    return
                there.sendto(text, sender)

        saying = threading.Thread(target=say)
        saying.start()
        try:
            yield
        finally:
            with datagrams(mesh, far.home, far.near[family]) as end:
                end.sendto(b"", (str(far.near[family]), 7000))
            saying.join()


def asks(mesh: Mesh, client: Outside, family: int, count: int) -> None:
    """So many datagrams of one flow, each answered before the next."""
    with datagrams(mesh, client.home, client.near[family]) as here:
        here.connect((str(client.host[family]), 7))
        for number in range(count):
            here.send(b"%d" % number)
            assert here.recv(100) == b"%d" % number


def goes_by_xdp(mesh: Mesh, ends: Ends, family: int) -> bool:
    """Whether both ways of a flow do, within some time; one in a tick goes by tc."""

    def does() -> bool:
        before = redirected("up0"), redirected("up1")
        asks(mesh, ends[0], family, 10)
        return redirected("up0") > before[0] and redirected("up1") > before[1]

    return bool(poll(does))


@FAMILIES
def test_packets_from_machine_to_machine_go_by_xdp(mesh: Mesh, ends: Ends, family: int) -> None:
    assert seen("u0").xdp == seen("u1").xdp == CARRY.name
    before = meters(mesh).get(("far", "outside"))
    with echo(mesh, ends[1], family):
        assert goes_by_xdp(mesh, ends, family)
        now = meters(mesh)["far", "outside"]
        known = (before.rx_packets, before.tx_packets) if before else (0, 0)
        assert now.rx_packets - known[0] == now.tx_packets - known[1] >= 10
    with (
        listener(mesh, ends[1].home, ends[1].near[family], 80) as server,
        connect(mesh, ends[0].home, ends[0].host[family], 80) as here,
        accepted(server) as there,
    ):
        before_tcp = redirected("up0")
        assert there.getpeername()[0] == str(ends[0].near[family])
        assert moved_whole(here, there, 4 << 20)
        assert moved_whole(there, here, 4 << 20)
        assert redirected("up0") > before_tcp


@FAMILIES
def test_tc_carries_what_xdp_knows_no_way_for(mesh: Mesh, ends: Ends, family: int) -> None:
    client, far = ends
    with echo(mesh, far, family):
        forward(0)  # XDP is told of no next hop then
        before = redirected("up0")
        asks(mesh, client, family, 10)
        assert redirected("up0") == before
        forward(1)
        if family:  # forwarding goes with routes of its own
            Path("/proc/sys/net/ipv6/conf/up0/forwarding").write_text("1")
        assert goes_by_xdp(mesh, ends, family)
        with datagrams(mesh, client.home, client.near[family]) as here:
            here.connect((str(client.host[family]), 7))
            for number in range(10):
                run("ip neigh flush dev up1")
                here.send(b"%d" % number)  # whose next hop nobody knows
                assert here.recv(100) == b"%d" % number


def test_no_frame_is_sent_where_none_is_taken(mesh: Mesh, ends: Ends) -> None:
    """The kernel would drop it."""
    client, far = ends
    with echo(mesh, far, 0):
        far.run("ethtool -K eth0 gro off")
        try:
            assert "what was wrong with what XDP may send to uplink u1" in " ".join(
                collected(mesh.name)
            )
            before = redirected("up0")
            asks(mesh, client, 0, 10)
            assert redirected("up0") == before
        finally:
            far.run("ethtool -K eth0 gro on")
        assert collected(mesh.name)
        assert goes_by_xdp(mesh, ends, 0)
        assert not collected(mesh.name)


def seen(name: str) -> uplinks.Uplink:
    with opened("onward") as view:
        return next(row for row in uplinks.read_uplinks(view) if row.name == name)


def test_one_packet_in_a_tick_goes_by_tc(mesh: Mesh, ends: Ends) -> None:
    """So a flow's time is known there, and its neighbour confirmed."""
    client, far = ends

    def carried() -> tuple[int, int]:
        here.send(b"x")
        before = redirected("up0"), redirected("up1")
        assert here.recv(100) == b"x"
        here.send(b"y")
        assert here.recv(100) == b"y"
        return redirected("up0") - before[0], redirected("up1") - before[1]

    with echo(mesh, far, 0), datagrams(mesh, client.home, client.near[0]) as here:
        here.connect((str(client.host[0]), 7))
        assert poll(lambda: all(carried()))
        before = redirected("up0"), redirected("up1")
        with contextlib.closing(Maps(Pins(mesh.name))) as maps:
            for key, flow in list(maps["mesh_flow4"].items()):
                flow.seen -= 1
                maps["mesh_flow4"].set(key, flow)
        here.send(b"z")
        assert here.recv(100) == b"z"
        assert (redirected("up0"), redirected("up1")) == before
