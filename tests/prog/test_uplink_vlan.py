# SPDX-License-Identifier: BSD-2-Clause
"""Frames with VLAN tags at an uplink: XDP and tc leave them as they came, and count nothing.

But for what the stack takes for the interface's own, behind priority tags (VLAN 0): XDP drops that
if it would drop it without. Each is one that would be taken, or dropped, without its tag. Those of
tc have it in the frame here; where packets come in the kernel has taken it out by then
(tests/netns/test_uplink_vlan.py).
"""

from collections.abc import Callable
from ipaddress import ip_network

import pytest
from scapy.layers.l2 import Dot1AD, Dot1Q
from scapy.packet import Packet

from ebpfmesh.kernel import deny
from ebpfmesh.kernel.deny import Entry
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.kernel.prefixes import block_of
from ebpfmesh.kernel.programs import BOTH, CARRY
from prog.test_uplink import (
    CLIENT,
    HOST,
    OWN,
    SERVICE,
    WEB,
    XDP_DROP,
    XDP_PASS,
    Uplink,
    counted,
    verdict,
)
from prog.test_uplink import by_xdp as by_xdp  # noqa: PLC0414  (fixtures)
from prog.test_uplink import uplink as uplink  # noqa: PLC0414
from prog.test_uplink import wanted as wanted  # noqa: PLC0414
from support.packets import tcp, udp
from support.topology import drops, mesh_of

TAGS = {
    "802.1Q": lambda: Dot1Q(vlan=7),
    "802.1ad": lambda: Dot1AD(vlan=7),
    "QinQ": lambda: Dot1AD(vlan=7) / Dot1Q(vlan=8),
    "a priority and a VLAN": lambda: Dot1Q(vlan=0) / Dot1Q(vlan=8),
    "three": lambda: Dot1AD(vlan=7) / Dot1Q(vlan=8) / Dot1Q(vlan=9),
}
PRIORITIES = {
    "one": lambda: Dot1Q(vlan=0, prio=5),
    "one of a provider": lambda: Dot1AD(vlan=0, prio=5),
    "two": lambda: Dot1Q(vlan=0, prio=5) / Dot1Q(vlan=0),
}
WITHIN: dict[str, Callable[[int], Packet]] = {
    "published": lambda v: udp(v, CLIENT, OWN, 3000, 53),
    "for a function": lambda v: tcp(v, CLIENT, WEB, 1000, 8080),
    "for a service": lambda v: tcp(v, CLIENT, SERVICE, 1, 80),
    "spoofed": lambda v: tcp(v, WEB, OWN, 1000, 80),
}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("tag", TAGS | PRIORITIES)
def test_tc_leaves_them_to_the_host(uplink: Uplink, wanted: str, tag: str, version: int) -> None:
    before = drops(mesh_of(wanted))
    for what, make in WITHIN.items():
        whole = uplink.frame((TAGS | PRIORITIES)[tag]() / make(version))
        for frame in (whole, whole[:20]):
            seen = uplink.run(frame)
            assert (verdict(seen.verdict), seen.packet) == (HOST, frame), what
    assert not counted(before, wanted)


@pytest.mark.parametrize("program", [CARRY.name, BOTH.name])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("tag", TAGS)
def test_xdp_lets_them_pass(by_xdp: Uplink, tag: str, version: int, program: str) -> None:
    """Of an established flow, from who is denied, malformed, or cut short within the tags."""
    plain = by_xdp.frame(WITHIN["published"](version))
    by_xdp.run(plain)
    by_xdp.run(plain)
    whole = by_xdp.frame(TAGS[tag]() / WITHIN["published"](version))
    maps = Maps(Pins("edge"))
    source = CLIENT.address4 if version == 4 else CLIENT.address6
    try:
        if program == BOTH.name:
            deny.replace(maps, [Entry(0, block_of(ip_network(source)))])
            assert by_xdp.early(plain, program).verdict == XDP_DROP
        for length in (len(whole), len(whole) - 1, 40, 18, 17, 16, 15, 14):
            frame = whole[:length]
            seen = by_xdp.early(frame, program)
            assert (seen.verdict, seen.packet) == (XDP_PASS, frame), length
    finally:
        deny.replace(maps, [])
        maps.close()


@pytest.mark.parametrize("program", [CARRY.name, BOTH.name])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("tag", PRIORITIES)
def test_behind_a_priority_tag_nothing_denied_comes_in(
    by_xdp: Uplink, tag: str, version: int, program: str
) -> None:
    """Nor what is malformed; the rest is the stack's, as it came."""
    tags = PRIORITIES[tag]()
    whole = by_xdp.frame(tags / WITHIN["published"](version))
    before = len(by_xdp.frame(tags))
    seen = by_xdp.early(whole, program)
    assert (seen.verdict, seen.packet) == (XDP_PASS, whole)
    for length in (len(whole) - 1, before + 21, before + 1, before):
        assert by_xdp.early(whole[:length], program).verdict == XDP_DROP, length
    for length in (before - 1, before - 2, 14):
        assert by_xdp.early(whole[:length], program).verdict == XDP_PASS, length
    many = by_xdp.frame(tags / tags / tags / WITHIN["published"](version))
    assert by_xdp.early(many, program).verdict == XDP_DROP
    vlan = by_xdp.frame(tags / Dot1Q(vlan=7) / WITHIN["published"](version))
    assert by_xdp.early(vlan, program).verdict == (XDP_DROP if tag == "two" else XDP_PASS)
    if program == CARRY.name:
        return
    maps = Maps(Pins("edge"))
    source = CLIENT.address4 if version == 4 else CLIENT.address6
    try:
        deny.replace(maps, [Entry(0, block_of(ip_network(source)))])
        assert by_xdp.early(whole, program).verdict == XDP_DROP
    finally:
        deny.replace(maps, [])
        maps.close()
