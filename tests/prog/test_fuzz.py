# SPDX-License-Identifier: BSD-2-Clause
"""Valid packets with random damage: never an error, and both programs agree on everything."""

import errno
import random
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from ebpfmesh._abi import Direction, Reason
from ebpfmesh.kernel.interface import GATEWAY_MAC
from prog import (
    table_drop,
    table_error,
    table_extension,
    table_forward,
    table_fragment,
    table_reject,
    table_to_function,
)
from prog.lab import TC, TO_FN, Drop, Hook, Lab, Seen
from prog.rows import Row, prepare
from support.packets import GATEWAY4, GATEWAY6, Peer

FROM_FN = [
    *table_forward.ROWS,
    *table_drop.ROWS,
    *table_fragment.ROWS,
    *table_extension.ROWS,
    *table_error.ROWS,
    *table_reject.ROWS,
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
    """Whether it was dropped, and the sender gets something else for it."""
    ways = [Drop(sender.name, Direction.FROM_FN, why) for why in (Reason.TTL, Reason.POLICY)]
    return seen.verdict == "forward" and any(seen.counted.keys() == {where} for where in ways)


def is_answer(function: Peer, frame: bytes, answer: bytes) -> None:
    """A reset, or an ICMP error from the gateway that quotes the frame, whatever was in that."""
    packet = Ether(answer)
    network = packet.payload
    assert (packet.dst, packet.src) == (function.mac, GATEWAY_MAC)
    ends = frame[26:34] if IP in packet else frame[22:54]
    half = len(ends) // 2
    assert _packed(network.dst) == ends[:half]
    assert answer == bytes(packet.__class__(_without_sums(packet)))
    if packet.haslayer(TCP):
        assert _packed(network.src) == ends[half:]
        assert packet[TCP].flags in ("R", "RA")
        return
    assert network.src == (GATEWAY4 if IP in packet else GATEWAY6)
    quote = bytes(network.payload)[8:]
    assert quote
    assert frame[14:].startswith(quote)


def _packed(address: str) -> bytes:
    return ip_address(address).packed


def _without_sums(packet: Packet) -> bytes:
    """The packet with its checksums and lengths made again."""
    again = packet.copy()
    network, layer = again.payload, again.payload.payload
    for field in ("len", "chksum") if IP in again else ("plen",):
        network.delfieldval(field)
    layer.delfieldval("chksum" if isinstance(layer, ICMP | TCP) else "cksum")
    if not isinstance(layer, TCP):
        layer.payload = Raw(bytes(packet.payload.payload)[8:])
    return bytes(again)


@pytest.mark.parametrize("seed", range(20))
def test_damaged_packets_of_functions(lab: Lab, seed: int) -> None:
    chosen = random.Random(seed)
    for _ in range(100):
        row = chosen.choice(FROM_FN)
        frame = damaged(chosen, row.step.frame)
        tc = run(lab, row, TC, frame)
        about = f"{row.text}: {frame.hex()}"
        if tc is None:
            continue
        assert tc.verdict in WORDS, about
        if is_answered(row.step.function, tc):
            is_answer(row.step.function, frame, tc.frame)
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
        row = chosen.choice((*table_to_function.ROWS, *table_reject.TO_FUNCTION))
        frame = damaged(chosen, row.step.frame)
        seen = run(lab, row, TO_FN, frame)
        about = f"{row.text}: {frame.hex()}"
        if seen is None:
            continue
        assert seen.verdict in WORDS, about
        if seen.verdict == "forward":
            answer = Ether(seen.frame)
            assert (answer.dst, answer.src) == (GATEWAY_MAC, row.step.function.mac), about
            assert seen.frame == bytes(answer.__class__(_without_sums(answer))), about
        elif seen.verdict == "pass":  # with the function's MAC for its destination
            assert seen.frame[6:] == frame[6:], about
        else:
            assert seen.frame == frame, about


def test_no_packet_at_all(lab: Lab) -> None:
    """Random bytes, of which hardly any are an Ethernet frame from here."""
    chosen = random.Random(1)
    for length in range(14, 400):
        frame = chosen.randbytes(length)
        assert lab.run(TC, "a", frame).verdict == "drop"
