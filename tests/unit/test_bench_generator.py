# SPDX-License-Identifier: BSD-2-Clause
"""The frames of the packet generator, computed here as generate.c does and judged by scapy."""

from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from ebpfmesh.bench.connect import syn
from ebpfmesh.bench.generator import FRAME_SIZE, PORTS, TEMPLATE, make_template, words_sum
from ebpfmesh.bench.topology import Member
from ebpfmesh.bench.workload import Target

SENDER = Member(
    netns=Path("/run/netns/none"),
    address=IPv4Address("198.18.255.250"),
    address6=IPv6Address("2001:db8::ffff:250"),
    mac="02:00:00:00:00:01",
    ifindex=1,
    gateway_mac="02:00:00:00:00:02",
)
TARGET = Target(IPv4Address("198.19.255.254"), 2152)
TARGET6 = Target(IPv6Address("2001:db8:ffff::7"), 2152)


def fold(total: int) -> int:
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def frame(template: bytes, address_offset: int, port_offset: int) -> bytes:
    """What generate.c makes of a template for one flow."""
    raw, ip_sum, udp_sum, address, port, *_ = TEMPLATE.unpack(template)
    out, udp, halves = bytearray(raw), 54, 0
    if raw[12:14] == b"\x08\x00":
        target = address + address_offset
        udp, halves = 34, (target >> 16) + (target & 0xFFFF)
        out[30:34] = target.to_bytes(4, "big")
        out[24:26] = fold(ip_sum + halves).to_bytes(2, "big")
    out[udp : udp + 2] = (port + port_offset).to_bytes(2, "big")
    total = fold(udp_sum + halves + port + port_offset) or 0xFFFF
    out[udp + 6 : udp + 8] = total.to_bytes(2, "big")
    return bytes(out)


@pytest.mark.parametrize(("address", "port"), [(0, 0), (0, 49999), (1, 1), (3, 7)])
def test_frame_is_what_scapy_would_send(address: int, port: int) -> None:
    made = frame(make_template(SENDER, TARGET, flows=1), address, port)
    packet = Ether(made)
    assert len(made) == FRAME_SIZE
    assert (packet.src, packet.dst) == (SENDER.mac, SENDER.gateway_mac)
    assert packet[IP].src == str(SENDER.address)
    assert packet[IP].dst == str(TARGET.address + address)
    assert (packet[UDP].sport, packet[UDP].dport) == (PORTS.start + port, TARGET.port)
    del packet[IP].chksum, packet[UDP].chksum
    assert bytes(packet) == made


@pytest.mark.parametrize("port", [0, 1, 49999])
def test_ipv6_frame_is_what_scapy_would_send(port: int) -> None:
    made = frame(make_template(SENDER, TARGET6, flows=1), 0, port)
    packet = Ether(made)
    assert len(made) == FRAME_SIZE
    assert packet[IPv6].src == str(SENDER.address6)
    assert packet[IPv6].dst == str(TARGET6.address)
    assert (packet[UDP].sport, packet[UDP].dport) == (PORTS.start + port, TARGET6.port)
    del packet[UDP].chksum
    assert bytes(packet) == made


@pytest.mark.parametrize(
    ("flows", "addresses", "ports"), [(1, 1, 1), (50000, 1, 50000), (50001, 2, 25001)]
)
def test_flows_are_spread_over_ports_first(flows: int, addresses: int, ports: int) -> None:
    fields = TEMPLATE.unpack(make_template(SENDER, TARGET, flows=flows))
    assert fields[5:7] == (addresses, ports)


@pytest.mark.parametrize(
    ("target", "flows"), [(TARGET, 0), (TARGET, 100_001), (TARGET6, 0), (TARGET6, 50_001)]
)
def test_number_of_flows_is_bounded(target: Target, flows: int) -> None:
    with pytest.raises(ValueError, match="flows"):
        make_template(SENDER, target, flows=flows)


def test_first_segment_is_what_scapy_would_send() -> None:
    made = syn(SENDER, Target(IPv4Address("198.19.0.7"), 80), 20000)
    packet = Ether(made)
    assert packet[TCP].flags == "S"
    assert (packet[TCP].sport, packet[TCP].dport) == (20000, 80)
    del packet[IP].chksum, packet[TCP].chksum
    assert bytes(packet) == made


def test_words_sum_pads_an_odd_end() -> None:
    assert words_sum(b"\x01\x02\x03") == 0x0102 + 0x0300
