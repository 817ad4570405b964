# SPDX-License-Identifier: BSD-2-Clause
"""Valid packets with random damage: never an error, and both programs agree on everything."""

import errno
import random
from ipaddress import IPv4Address, IPv6Address

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6TimeExceeded, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from ebpfmesh._abi import Direction, Reason
from prog import (
    table_drop,
    table_error,
    table_extension,
    table_forward,
    table_fragment,
    table_to_function,
)
from prog.lab import TC, TO_FN, XDP_FN, Drop, Hook, Lab, Seen
from prog.rows import Row, prepare
from support.packets import GATEWAY4, GATEWAY6, Peer

FROM_FN = [
    *table_forward.ROWS,
    *table_drop.ROWS,
    *table_fragment.ROWS,
    *table_extension.ROWS,
    *table_error.ROWS,
]
MOST = 1600
SHORT = 14 + 40  # the kernel may refuse tc frames below Ethernet and an IPv6 header
WORDS = {"forward", "drop", "pass"}


def damaged(chosen: random.Random, frame: bytes) -> bytes:
    """The frame with up to four bytes changed, perhaps cut or longer; never without a header."""
    data = bytearray(frame[:MOST])
    for _ in range(chosen.randint(0, 4)):
        # Most of what matters is in the first 74 bytes, or 130 with a quote.
        place = chosen.randrange(min(len(data), chosen.choice((34, 74, 130, MOST))))
        kind = chosen.randrange(3)
        if kind == 0:
            data[place] = chosen.randrange(256)
        elif kind == 1:
            data[place] ^= 1 << chosen.randrange(8)
        else:
            data[place] = chosen.choice((0, 1, 6, 17, 58, 127, 128, 255))
    end = chosen.choice((len(data), len(data), chosen.randint(14, len(data)), len(data) + 8))
    return bytes(data[:end]) + bytes(max(0, end - len(data)))


def run(lab: Lab, row: Row, hook: Hook, frame: bytes) -> Seen | None:
    """What a program makes of a frame; None: too short for the kernel to run it."""
    lab.forget_flows()
    prepare(lab, TC if hook is TO_FN else hook, row.given)
    try:
        return lab.run(hook, row.step.function.name, frame)
    except OSError as error:
        if error.errno != errno.EINVAL or len(frame) >= SHORT:
            raise
        return None


def is_own(frame: bytes, sender: Peer) -> bool:
    """Whether the addresses a frame comes from belong to its sender."""
    mac, kind = frame[6:12].hex(":"), frame[12:14]
    if kind == b"\x08\x00":
        own = frame[26:30] == IPv4Address(sender.address4).packed
    else:
        own = frame[22:38] == IPv6Address(sender.address6).packed
    return own and mac == sender.mac


def is_answered(sender: Peer, seen: Seen) -> bool:
    """Whether the TTL ran out and the sender gets an error that quotes its packet."""
    where = Drop(sender.name, Direction.FROM_FN, Reason.TTL)
    return seen.verdict == "forward" and seen.counted.keys() == {where}


def is_error(function: Peer, frame: bytes, answer: bytes) -> None:
    """An ICMP error from the gateway about a frame, whatever was in that."""
    packet = Ether(answer)
    network = packet.payload
    layer, size, gateway = (
        (ICMP, 8, GATEWAY4) if IP in packet else (ICMPv6TimeExceeded, 8, GATEWAY6)
    )
    assert (packet.dst, packet.src) == (function.mac, Ether(frame).dst)
    assert network.src == gateway
    quote = bytes(network[layer])[size:]
    assert quote
    assert frame[14:].startswith(quote)
    assert answer == bytes(packet.__class__(_without_sums(packet)))


def _without_sums(packet: Packet) -> bytes:
    """The packet with its checksums and lengths made again."""
    again = packet.copy()
    if IP in again:
        del again[IP].chksum, again[IP].len, again[ICMP].chksum
        again[ICMP].payload = Raw(bytes(packet[ICMP])[8:])
    else:
        del again[IPv6].plen, again[ICMPv6TimeExceeded].cksum
        again[ICMPv6TimeExceeded].payload = Raw(bytes(packet[ICMPv6TimeExceeded])[8:])
    return bytes(again)


@pytest.mark.parametrize("seed", range(20))
def test_damaged_packets_of_functions(lab: Lab, seed: int) -> None:
    chosen = random.Random(seed)
    for _ in range(100):
        row = chosen.choice(FROM_FN)
        frame = damaged(chosen, row.step.frame)
        tc, xdp = (run(lab, row, hook, frame) for hook in (TC, XDP_FN))
        about = f"{row.text}: {frame.hex()}"
        assert xdp is not None
        if tc is None:
            assert {where.reason for where in xdp.counted} == {Reason.MALFORMED}, about
            continue
        assert tc == xdp, about
        assert tc.verdict in WORDS, about
        if is_answered(row.step.function, tc):
            is_error(row.step.function, frame, tc.frame)
        elif tc.verdict == "forward":
            assert is_own(frame, row.step.function), about
            assert len(tc.frame) == len(frame)
        else:
            assert tc.frame == frame, about
        assert tc.counted or tc.verdict == "pass", about


@pytest.mark.parametrize("seed", range(5))
def test_damaged_packets_of_the_host(lab: Lab, seed: int) -> None:
    chosen = random.Random(seed)
    for _ in range(100):
        row = chosen.choice(table_to_function.ROWS)
        frame = damaged(chosen, row.step.frame)
        seen = run(lab, row, TO_FN, frame)
        about = f"{row.text}: {frame.hex()}"
        assert seen is None or seen.frame == frame, about
        assert seen is None or seen.verdict in WORDS - {"forward"}, about


def test_no_packet_at_all(lab: Lab) -> None:
    """Random bytes, of which hardly any are an Ethernet frame from here."""
    chosen = random.Random(1)
    for length in range(14, 400):
        frame = chosen.randbytes(length)
        for hook in (TC, XDP_FN):
            assert lab.run(hook, "a", frame).verdict == "drop"
