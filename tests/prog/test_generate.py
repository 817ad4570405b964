# SPDX-License-Identifier: BSD-2-Clause
"""The generator's program, frame by frame: what it makes of a page, judged by scapy."""

from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from ebpfmesh.bench._abi import FLOW_BITS, MAGIC, Tag, Template
from ebpfmesh.bench.packets.frames import PORTS, Frames
from ebpfmesh.bench.packets.generator import Generator
from ebpfmesh.bench.workload import Target
from ebpfmesh.kernel import bpf
from ebpfmesh.kernel.pins import BPFFS

PINS = BPFFS / "test_generate"
PASS, DROP = 2, 1
ENDS = {
    4: (IPv4Address("198.18.0.1"), Target(IPv4Address("198.18.0.2"), 2152)),
    6: (IPv6Address("2001:db8::1"), Target(IPv6Address("2001:db8::2"), 2152)),
}


@pytest.fixture(scope="module")
def generator() -> Iterator[Generator]:
    PINS.mkdir()
    with ExitStack() as stack:
        stack.callback(PINS.rmdir)
        yield Generator(PINS, stack)


def frames_of(version: int, **shape: Any) -> Frames:
    source, target = ENDS[version]
    macs = {"source_mac": "02:00:00:00:00:01", "target_mac": "02:00:00:00:00:02"}
    return Frames(**macs, source=source, target=target, **shape)


def made(page: bytes, number: int, verdict: int = PASS) -> bytes:
    """Frame ``number`` of those that are made from now on, in a page that holds ``page``."""
    with bpf.obj_get(PINS / "bench_generate") as program:
        if number:
            bpf.prog_test_run(program, page, repeat=number)
        run = bpf.prog_test_run(program, page)
    assert run.verdict == verdict
    return run.packet


@pytest.mark.parametrize(
    ("version", "shape"),
    [
        (4, {"flows": 1}),
        (4, {"flows": 1_000_000}),
        (4, {"flows": 50_001, "size": 1514}),
        (4, {"flows": 7, "protocol": "syn"}),
        (6, {"flows": 100_000, "size": 70}),
        (6, {"flows": 100_000, "size": 64}),
        (6, {"flows": 50_001, "size": 74, "protocol": "syn"}),
        (6, {"flows": 3, "size": 1514, "protocol": "syn"}),
    ],
)
@pytest.mark.parametrize("number", [0, 1, 6, 7, 25_000, 25_001, 50_000, 50_001, 1_234_567])
def test_frame(generator: Generator, version: int, shape: dict[str, Any], number: int) -> None:
    frames = frames_of(version, **shape)
    generator.load(frames)
    page = frames.first()
    out = made(page, number)
    packet, sequence, flow = Ether(out), number // frames.flows, number % frames.flows
    ip, l4 = packet[IP if version == 4 else IPv6], packet[UDP if UDP in packet else TCP]
    assert l4.sport == PORTS.start + flow % frames.ports
    assert l4.dport == 2152 + flow // frames.ports
    if UDP not in packet:
        assert (l4.seq, l4.ack) == (sequence, MAGIC << FLOW_BITS | flow)
    elif frames.tagged:
        tag = Tag.from_buffer_copy(bytes(l4.payload))
        assert (tag.sequence, tag.flow) == (sequence, MAGIC << FLOW_BITS | flow)
    for layer in (ip, l4):
        for field in {"len", "plen", "chksum"} & layer.fields.keys():
            delattr(layer, field)
    assert bytes(packet) == out, "lengths and checksums are right"
    assert out[90:] == page[90:]
    assert generator.sent() == number + 1


@pytest.mark.parametrize(("version", "protocol"), [(4, "udp"), (4, "syn"), (6, "udp"), (6, "syn")])
def test_what_a_path_has_rewritten_is_put_right(
    generator: Generator, version: int, protocol: Any
) -> None:
    """Pages come back from the path as they left it: MACs, addresses, ports, TTL, checksums."""
    frames = frames_of(version, protocol=protocol, size=1514)
    first, at = frames.first(), Template.from_buffer_copy(frames.template()).check
    dirty = bytearray(first)
    dirty[:64] = bytes(64)
    dirty[at : at + 2] = b"\xde\xad"
    generator.load(frames)
    assert made(bytes(dirty), 0) == first


def test_all_five_tuples_are_different(generator: Generator) -> None:
    """Of the first flows of two destinations, and of where one ends and the other begins."""
    frames = frames_of(4, flows=100_000)
    seen = set()
    for number in (0, 1, 49_999, 50_000, 50_001, 99_999):
        generator.load(frames)
        packet = Ether(made(frames.first(), number))
        seen.add((packet[UDP].sport, packet[UDP].dport))
    assert len(seen) == 6


def test_a_page_too_short_is_dropped(generator: Generator) -> None:
    generator.load(frames_of(4))
    made(bytes(63), 0, DROP)
    assert generator.sent() == 0
