# SPDX-License-Identifier: BSD-2-Clause
"""Sources that nobody outside has: what the host's stack would not take the mesh does not either.

    client 198.19.210.2 ─ up0, host 198.19.210.1 ─ web, published at port 80; 53 of UDP

A rule lets the host alone, by its address, to a service of UDP: nobody outside gets in by that.
"""

from collections.abc import Iterator

import pytest

from ebpfmesh._abi import Direction, Reason
from ebpfmesh.observe import health
from prog.test_uplink import CLIENT, DROPPED, HOST, OWN, SENT, WEB, Uplink, counted, verdict
from support.outside import batch, beyond
from support.packets import Peer, error, tcp, udp
from support.topology import collected, drops, mesh_of, running

MESH = """
[mesh]
name = "edge"
[[function]]
name = "own"
address = ["198.18.7.1", "2001:db8::7:1"]
[[uplink]]
name = "u0"
interface = "up0"
[[service]]
name = "web"
address = ["198.19.0.1", "2001:db8:1::1"]
port = 80
target_port = 8080
functions = ["own"]
publish = ["u0:80"]
[[service]]
name = "dns"
address = ["198.19.0.2", "2001:db8:1::2"]
port = 53
protocol = "udp"
functions = ["own"]
publish = ["u0:53"]
[[policy]]
from = "outside"
to = "service:web"
[[policy]]
from = "outside:198.19.210.1"
to = "service:dns"
[[policy]]
from = "outside:2001:db8:d0::1"
to = "service:dns"
"""
SPOOFED = {("outside", Direction.FROM_UPLINK, Reason.SPOOF_IP): 1}
MARTIANS = {
    4: ("198.19.210.1", "127.0.0.1", "127.255.0.9", "0.0.0.0", "0.1.2.3", "224.0.0.1",
        "239.255.255.250", "255.255.255.255"),
    6: ("2001:db8:d0::1", "::1", "::", "ff02::1", "ff0e::1"),
}  # fmt: skip
RIGHT = {4: ("1.0.0.1", "126.0.0.1", "128.0.0.1", "223.255.255.255", "240.0.0.1"),
         6: ("::2", "2001:db8:d0::3", "fe00::1")}  # fmt: skip
BOTH = [(version, source) for version, some in MARTIANS.items() for source in some]
OTHERS = [(version, source) for version, some in RIGHT.items() for source in some]


@pytest.fixture(scope="module")
def uplink() -> Iterator[Uplink]:
    with beyond(), running(mesh_of(MESH)):
        yield Uplink()


def of(source: str) -> Peer:
    return Peer("martian", source, source, CLIENT.mac)


@pytest.mark.parametrize(("version", "source"), BOTH)
def test_what_is_for_the_mesh_is_dropped(uplink: Uplink, version: int, source: str) -> None:
    """To what is published, and to a function; as an error that a router tells, too."""
    about = tcp(version, OWN, CLIENT, 80, 4000, "A")
    assert verdict(uplink.run(uplink.frame(tcp(version, CLIENT, OWN, 4000, 80))).verdict) == SENT
    for packet in (
        tcp(version, of(source), OWN, 1000, 80),
        udp(version, of(source), OWN, 1000, 53),
        udp(version, of(source), WEB, 1000, 53),
        error(version, of(source), OWN, about),
    ):
        before, frame = drops(mesh_of(MESH)), uplink.frame(packet)
        seen = uplink.run(frame)
        assert (verdict(seen.verdict), seen.packet) == (DROPPED, frame)
        assert counted(before, MESH) == SPOOFED


@pytest.mark.parametrize(("version", "source"), BOTH)
def test_what_is_for_the_host_is_the_hosts(uplink: Uplink, version: int, source: str) -> None:
    before, frame = drops(mesh_of(MESH)), uplink.frame(udp(version, of(source), OWN, 1000, 67))
    seen = uplink.run(frame)
    assert (verdict(seen.verdict), seen.packet) == (HOST, frame)
    assert counted(before, MESH) == {}


@pytest.mark.parametrize(("version", "source"), OTHERS)
def test_their_neighbours_are_right(uplink: Uplink, version: int, source: str) -> None:
    frame = uplink.frame(tcp(version, of(source), OWN, 1000, 80))
    assert verdict(uplink.run(frame).verdict) == SENT


def test_the_hosts_addresses_are_those_that_it_has_by_now(uplink: Uplink) -> None:
    """Of any interface; told by doctor, and known after gc."""
    frame = uplink.frame(tcp(4, of("198.19.211.77"), OWN, 1000, 80))
    assert verdict(uplink.run(frame).verdict) == SENT
    batch("addr add 198.19.211.77/32 dev lo")
    try:
        told = [one.text for one in health.check("edge")]
        assert any("addresses of the host" in text for text in told), told
        assert collected("edge")
        frame = uplink.frame(tcp(4, of("198.19.211.77"), OWN, 1001, 80))
        assert verdict(uplink.run(frame).verdict) == DROPPED
    finally:
        batch("addr del 198.19.211.77/32 dev lo")
    assert collected("edge")
    frame = uplink.frame(tcp(4, of("198.19.211.77"), OWN, 1002, 80))
    assert verdict(uplink.run(frame).verdict) == SENT
