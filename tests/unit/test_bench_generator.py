# SPDX-License-Identifier: BSD-2-Clause
"""The frames of the packet generator, computed here as generate.c does and judged by scapy."""

from ctypes import sizeof
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from ebpfmesh.bench import workload
from ebpfmesh.bench._abi import FLOW_BITS, MAGIC, Tag, Template
from ebpfmesh.bench.measure.connect import syn
from ebpfmesh.bench.packets.frames import (
    LARGEST,
    MAX_FLOWS,
    PORTS,
    from_member,
    least_size,
    words,
)
from ebpfmesh.bench.packets.generator import Generator
from ebpfmesh.bench.packets.paced import MAX_FRAMES, Pace
from ebpfmesh.bench.packets.send import refuse_outside
from ebpfmesh.bench.topology import Member
from ebpfmesh.bench.workload import Target
from ebpfmesh.errors import UsageError

SENDER = Member(
    netns=Path("/run/netns/none"),
    address=IPv4Address("198.18.255.250"),
    address6=IPv6Address("2001:db8::ffff:250"),
    mac="02:00:00:00:00:01",
    ifindex=1,
    gateway_mac="02:00:00:00:00:02",
)
TARGETS = {
    4: Target(IPv4Address("198.19.255.254"), 2152),
    6: Target(IPv6Address("2001:db8:ffff::7"), 2152),
}
SHAPES: list[tuple[int, Any, int]] = [
    (4, "udp", 64), (4, "udp", 65), (4, "udp", 1514), (4, "syn", 64), (4, "syn", 1514),
    (6, "udp", 64), (6, "udp", 70), (6, "udp", 71), (6, "udp", 1514), (6, "syn", 74),
    (6, "syn", 1514), (4, "udp", LARGEST), (6, "syn", LARGEST),
]  # fmt: skip
PLACES = [(0, 0, 0, 0), (1, 1, 0, 0), (49999, 49999, 0, 77), (999_999, 49999, 19, 2**28 - 1)]
"""Flow, port and destination counted from 0, and the number in the flow."""


def fold(total: int) -> int:
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def frame(first: bytes, template: bytes, place: tuple[int, int, int, int]) -> bytes:
    """What generate.c makes of a template for one flow, in a page that has the first frame."""
    t = Template.from_buffer_copy(template)
    flow, source, target, sequence = place
    out = bytearray(first)
    out[: sizeof(t.frame)] = bytes(t.frame)
    ports = t.port + source, t.target_port + target
    changing = b"".join(port.to_bytes(2, "big") for port in ports)
    out[t.l4 : t.l4 + 4] = changing
    if t.tag:
        out[t.tag : t.tag + 8] = bytes(Tag(sequence, MAGIC << FLOW_BITS | flow))
        changing += out[t.tag : t.tag + 8]
    checksum = fold(t.sum + sum(words(changing))) or t.no_check
    out[t.check : t.check + 2] = checksum.to_bytes(2, "big")
    return bytes(out)


@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize(("version", "protocol", "size"), SHAPES)
def test_frame_is_what_scapy_would_send(
    version: int, protocol: Any, size: int, place: tuple[int, int, int, int]
) -> None:
    """All lengths and checksums left to scapy, nothing changes; and it carries its number."""
    frames = from_member(SENDER, TARGETS[version], flows=MAX_FLOWS, size=size, protocol=protocol)
    made = frame(frames.first(), frames.template(), place)
    packet = Ether(made)
    flow, source, target, sequence = place
    ip, l4 = packet[IP if version == 4 else IPv6], packet[UDP if protocol == "udp" else TCP]
    assert len(made) == size
    assert (packet.src, packet.dst) == (SENDER.mac, SENDER.gateway_mac)
    assert (ip.src, ip.dst) == (str(frames.source), str(frames.target.address))
    assert (l4.sport, l4.dport) == (PORTS.start + source, 2152 + target)
    number = (sequence, MAGIC << FLOW_BITS | flow)
    if protocol == "syn":
        assert (l4.flags, (l4.seq, l4.ack)) == ("S", number)
    elif frames.tagged:
        tag = Tag.from_buffer_copy(bytes(l4.payload))
        assert (tag.sequence, tag.flow) == number
    assert frames.tagged == (size >= least_size(version, protocol, tagged=True))
    for layer in (ip, l4):
        for field in ("len", "plen", "chksum"):
            if field in layer.fields:
                delattr(layer, field)
    assert bytes(packet) == made


def test_a_udp_checksum_of_zero_is_sent_as_ones() -> None:
    """RFC 768: zero would mean that there is none. TCP has no such rule."""
    frames = from_member(SENDER, TARGETS[4], flows=MAX_FLOWS)
    made = frames.first(), frames.template()
    checksums = {frame(*made, (f, f % 50000, 0, 0))[40:42] for f in range(1 << 16)}
    assert b"\xff\xff" in checksums
    assert b"\x00\x00" not in checksums


@pytest.mark.parametrize(
    ("flows", "targets", "ports"),
    [(1, 1, 1), (50_000, 1, 50_000), (50_001, 2, 25_001), (1_000_000, 20, 50_000)],
)
def test_flows_are_spread_over_ports_first(flows: int, targets: int, ports: int) -> None:
    frames = from_member(SENDER, TARGETS[4], flows=flows)
    assert (frames.targets, frames.ports) == (targets, ports)


@pytest.mark.parametrize(
    ("version", "settings", "said"),
    [
        (4, {"flows": 0}, "flows"),
        (4, {"flows": MAX_FLOWS + 1}, "flows"),
        (4, {"size": 63}, "size"),
        (4, {"size": LARGEST + 1}, "size"),
        (6, {"size": 73, "protocol": "syn"}, "size"),
        (4, {"port": 0}, "ports"),
        (4, {"port": 60_000, "flows": 10_000}, "ports"),
    ],
)
def test_what_cannot_be_sent_is_refused(version: int, settings: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        from_member(SENDER, TARGETS[version], **settings)


def test_both_addresses_are_of_one_version() -> None:
    frames = from_member(SENDER, TARGETS[4])
    with pytest.raises(ValueError, match="versions"):
        replace(frames, target=TARGETS[6])


def test_every_flow_has_a_service_to_go_to() -> None:
    """Neighbouring ports, of both protocols, with the addresses and functions of the first."""
    mesh = workload.load()
    first = mesh.service(workload.SERVICES["pps"])
    most = from_member(SENDER, TARGETS[4], flows=MAX_FLOWS).targets
    for protocol in ("udp", "tcp"):
        there = [
            s for s in mesh.services if (s.addresses, s.protocol) == (first.addresses, protocol)
        ]
        assert [s.port for s in there] == list(range(first.port, first.port + most))
        assert [s.target_port for s in there] == [s.port for s in there]
        assert {s.functions for s in there} == {first.functions}


@pytest.mark.parametrize(
    "settings",
    [{"burst": 0}, {"interval": 0}, {"seconds": 1e4}, {"frames": MAX_FRAMES + 1}, {"burst": 9999}],
)
def test_pace_is_bounded(settings: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Pace(**settings)


@pytest.mark.parametrize(
    ("rate", "burst", "interval"), [(0.5, 1, 2.0), (10, 1, 0.1), (16_000, 16, 0.001)]
)
def test_pace_of_a_rate(rate: float, burst: int, interval: float) -> None:
    pace = Pace.at_rate(rate, seconds=1, frames=100)
    assert (pace.burst, pace.interval) == (burst, interval)


@pytest.mark.parametrize("packets", [0, (1 << 20) + 1])
def test_a_run_is_bounded(packets: int) -> None:
    with pytest.raises(ValueError, match="packets"):
        Generator.send(None, 1, packets)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [None, "bridge", "vlan", "bond", "veth", "tun", "netkit"])
def test_the_machines_own_interfaces_are_refused(kind: str | None) -> None:
    refuse_outside("eth0", kind, initial=False)
    if kind in ("veth", "tun", "netkit"):
        refuse_outside("eth0", kind, initial=True)
        return
    with pytest.raises(UsageError, match="machine") as caught:
        refuse_outside("eth0", kind, initial=True)
    assert (caught.value.exit_code, "--force" in caught.value.hint) == (2, True)


def test_first_segment_is_what_scapy_would_send() -> None:
    made = syn(SENDER, Target(IPv4Address("198.19.0.7"), 80), 20000)
    packet = Ether(made)
    assert packet[TCP].flags == "S"
    assert (packet[TCP].sport, packet[TCP].dport) == (20000, 80)
    del packet[IP].chksum, packet[TCP].chksum
    assert bytes(packet) == made


def test_words_pad_an_odd_end() -> None:
    assert list(words(b"\x01\x02\x03")) == [0x0102, 0x0300]
