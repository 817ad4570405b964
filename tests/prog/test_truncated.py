# SPDX-License-Identifier: BSD-2-Clause
"""A packet cut at any byte of its headers is malformed, whatever its length fields say."""

import errno

import pytest
from scapy.layers.inet import IP, TCP, IPOption
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from ebpfmesh._abi import Reason
from prog.lab import TC, TO_FN, Drop, Hook, Lab, peer
from support.packets import behind, built, error, ip, ping, sent, tcp, udp

A, B = peer("a"), peer("b")
ETHERNET = 14
LONGEST_TCP = TCP(sport=1, dport=2, options=[("MSS", 1400), ("NOP", None), ("WScale", 7)])
KINDS: dict[str, Packet] = {
    "IPv4-TCP": tcp(4, A, B, 1000, 80, payload=b"data"),
    "IPv4-TCP-options": ip(4, A, B) / LONGEST_TCP / b"data",
    "IPv4-options-TCP": IP(src=A.address4, dst=B.address4, options=[IPOption(b"\x94\x04\0\0")])
    / LONGEST_TCP,
    "IPv4-UDP": udp(4, A, B, 1000, 53),
    "IPv4-ping": ping(4, A, B),
    "IPv6-TCP": tcp(6, A, B, 1000, 80, payload=b"data"),
    "IPv6-TCP-options": ip(6, A, B) / LONGEST_TCP / b"data",
    "IPv6-UDP": udp(6, A, B, 1000, 53),
    "IPv6-ping": ping(6, A, B),
    "IPv6-extensions-UDP": behind(
        udp(6, A, B, 1000, 53),
        IPv6ExtHdrHopByHop(),
        IPv6ExtHdrRouting(type=2, segleft=0, addresses=[B.address6]),
        IPv6ExtHdrDestOpt(),
    ),
    "IPv6-atomic-TCP": behind(tcp(6, A, B, 1000, 80, payload=b"data"), IPv6ExtHdrFragment()),
}
ERROR = {
    f"IPv{v}-error-{name}": error(v, A, B, built(packet))
    for v in (4, 6)
    for name, packet in (
        ("TCP", tcp(v, B, A, 80, 1000)),
        ("UDP", udp(v, B, A, 53, 1000)),
        ("ping", ping(v, B, A)),
    )
}
QUOTED = 8
"""So much of the quoted packet's transport an error must have (RFC 792)."""

NEIGHBOUR = {
    "ARP": ARP(hwsrc=A.mac, psrc=A.address4, pdst="169.254.1.1"),
    "ND-solicitation": IPv6(src=A.address6, dst="fe80::1", hlim=255) / ICMPv6ND_NS(tgt="fe80::1"),
    "ND-advertisement": IPv6(src=A.address6, dst="fe80::1", hlim=255)
    / ICMPv6ND_NA(tgt=A.address6)
    / ICMPv6NDOptDstLLAddr(lladdr=A.mac),
}
HOOKS = pytest.mark.parametrize("hook", [TC, TO_FN], ids=["tc", "to"])


def least(packet: Packet) -> int:
    """Bytes without which the kernel may refuse to run a program on a packet.

    Those are Ethernet's header and the one after it.
    """
    return ETHERNET + {IP: 20, IPv6: 40}.get(type(packet), 1)


def is_malformed(lab: Lab, hook: Hook, frame: bytes, least: int) -> None:
    """Dropped as MALFORMED, or below ``least`` bytes refused by the kernel."""
    try:
        seen = lab.run(hook, "a", frame)
    except OSError as error:
        if error.errno != errno.EINVAL or len(frame) >= least:
            raise
        return
    counted = {Drop("a", hook.direction, Reason.MALFORMED): (1, len(frame))}
    assert (seen.verdict, seen.counted) == ("drop", counted), f"cut to {len(frame)} bytes"
    assert seen.frame == frame


@HOOKS
@pytest.mark.parametrize("kind", [*KINDS, *NEIGHBOUR])
def test_cut_short(lab: Lab, kind: str, hook: Hook) -> None:
    packet = (KINDS | NEIGHBOUR)[kind]
    if kind == "ARP" and hook is TO_FN:
        return  # the host's stack may say by ARP what it likes
    frame = bytes(sent(A, packet))
    for length in range(len(frame)):
        is_malformed(lab, hook, frame[:length], least(packet))


def shortened(packet: Packet, length: int) -> bytes:
    """The frame cut to ``length``, with an IP header that agrees."""
    frame = sent(A, packet).copy()
    network = frame[packet.__class__]
    payload = length - ETHERNET
    if isinstance(network, IP):
        network.len = max(payload, 0)
    else:
        network.plen = max(payload - 40, 0)
    return bytes(frame)[:length]


@HOOKS
@pytest.mark.parametrize("kind", KINDS)
def test_short_by_its_own_account(lab: Lab, kind: str, hook: Hook) -> None:
    """The lengths agree with each other, but there is less than the transport's header."""
    packet = KINDS[kind]
    data = len(packet[Raw]) if Raw in packet else 0
    for length in range(len(sent(A, packet)) - data):
        is_malformed(lab, hook, shortened(packet, length), least(packet))


@HOOKS
@pytest.mark.parametrize("kind", ERROR)
def test_short_quote(lab: Lab, kind: str, hook: Hook) -> None:
    """Cut in its header, in the quoted one, or before so much of what is behind that."""
    packet = ERROR[kind]
    network = 20 if IP in packet else 40
    enough = ETHERNET + 2 * network + 8 + QUOTED
    frame = bytes(sent(A, packet))
    for length in range(len(frame)):
        is_malformed(lab, hook, frame[:length], least(packet))
    for length in range(enough):
        is_malformed(lab, hook, shortened(packet, length), least(packet))
    seen = lab.run(hook, "a", shortened(packet, enough))
    assert seen.counted != {Drop("a", hook.direction, Reason.MALFORMED): (1, enough)}


def test_short_neighbour_discovery(lab: Lab) -> None:
    packet = NEIGHBOUR["ND-advertisement"]
    whole, bare = len(sent(A, packet)), ETHERNET + 40 + 24
    for length in set(range(whole)) - {bare}:
        is_malformed(lab, TC, shortened(packet, length), least(packet))
    assert lab.run(TC, "a", shortened(packet, bare)).verdict == "pass"  # without its option


def test_a_frame_of_nothing_but_ethernet(lab: Lab) -> None:
    frame = bytes(Ether(src=A.mac, dst=B.mac, type=0x88B5) / b"x")
    seen = lab.run(TC, "a", frame)
    assert seen.counted == {Drop("a", TC.direction, Reason.PROTOCOL): (1, 15)}
