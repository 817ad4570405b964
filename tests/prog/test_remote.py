# SPDX-License-Identifier: BSD-2-Clause
"""Single packets to and from a remote beyond the uplink that its clients come in by, too."""

from collections.abc import Iterator

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6TimeExceeded, IPv6
from scapy.layers.l2 import Ether

from ebpfmesh._abi import Direction, Reason
from support import meshes
from support.outside import beyond
from support.packets import Peer, built, dissect, error, tcp
from support.topology import mesh_of, running
from tests.prog.test_uplink import CLIENT, DROPPED, HOST, OWN, SENT, Uplink, counted, drops, verdict

MESH = meshes.mesh_file(
    "edge",
    meshes.uplink(),
    meshes.table("remote", name="far", address=["198.19.210.9", "2001:db8:d0::9"], uplink="u0"),
    meshes.service("web", 80, "far", target_port=8080, publish=["u0:80"]),
    meshes.rule("outside", "function:far"),
)
FAR = Peer("far", "198.19.210.9", "2001:db8:d0::9")
ROUTER = Peer("router", "198.19.210.7", "2001:db8:d0::7")


@pytest.fixture(scope="module")
def uplink() -> Iterator[Uplink]:
    with beyond(), running(MESH):
        yield Uplink()


@pytest.mark.parametrize("version", [4, 6])
def test_both_ways_and_errors_are_translated(uplink: Uplink, version: int) -> None:
    there = tcp(version, CLIENT, FAR, 2000, 8080, ttl=8)
    back = tcp(version, OWN, CLIENT, 80, 2000, "SA", ttl=63)
    told = error(version, ROUTER, CLIENT, tcp(version, CLIENT, OWN, 2000, 80, ttl=8))
    setattr(told, "ttl" if version == 4 else "hlim", 63)
    for packet, wanted in (
        (tcp(version, CLIENT, OWN, 2000, 80, ttl=9), there),
        (tcp(version, FAR, CLIENT, 8080, 2000, "SA", ttl=64), back),
        (error(version, ROUTER, CLIENT, there), told),
    ):
        seen = uplink.run(uplink.frame(packet))
        assert verdict(seen.verdict) == SENT
        assert dissect(bytes(seen.packet)[14:]) == dissect(bytes(built(wanted)))


@pytest.mark.parametrize("version", [4, 6])
def test_a_ttl_that_ends_is_told(uplink: Uplink, version: int) -> None:
    before = drops(mesh_of(MESH))
    seen = uplink.run(uplink.frame(tcp(version, CLIENT, OWN, 3000, 80, ttl=1)))
    assert verdict(seen.verdict) == SENT
    told = Ether(bytes(seen.packet))
    assert told[ICMP].type == 11 if version == 4 else ICMPv6TimeExceeded in told
    assert told[IP if version == 4 else IPv6].dst == getattr(CLIENT, f"address{version}")
    key = ("outside", Direction.FROM_UPLINK, Reason.TTL)
    assert counted(before, MESH) == {key: 1}


@pytest.mark.parametrize("version", [4, 6])
def test_what_a_remote_says_besides_is_the_hosts(uplink: Uplink, version: int) -> None:
    before = drops(mesh_of(MESH))
    for packet in (
        tcp(version, FAR, CLIENT, 8080, 4000, "SA"),
        tcp(version, FAR, CLIENT, 22, 2000, "A"),
        tcp(version, CLIENT, FAR, 2000, 8080),
        error(version, ROUTER, CLIENT, tcp(version, CLIENT, FAR, 1, 2)),
    ):
        assert verdict(uplink.run(uplink.frame(packet)).verdict) == HOST
    assert counted(before, MESH) == {}
    reset = tcp(version, FAR, OWN, 5000, 80, "R")
    assert verdict(uplink.run(uplink.frame(reset)).verdict) == DROPPED
