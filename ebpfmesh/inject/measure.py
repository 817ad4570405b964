# SPDX-License-Identifier: BSD-2-Clause
"""What a program costs a packet: runs of its own (BPF_PROG_TEST_RUN), no traffic.

Times are above those of a program that does nothing in the same loop. Warm is the best of some
rounds of many runs, so that what else the machine does falls out; cold is a single run after the
caches were filled with something else, and says how much memory it touches rather than how fast it
is.
"""

import math
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from ebpfmesh.inject.instructions import CALL, EXIT, Instruction, encode
from ebpfmesh.kernel import bpf

RUNS = {"tc": (5, 20, 1000), "xdp": (1, 5, 5000)}
"""Fewest and most rounds, and runs in each. At XDP a round begins with a grace period, 15 ms
(bpf_prog_change_xdp() in linux/net/bpf/test_run.c)."""

LONG_NS = 50e6
"""What no machine adds to a whole round, in nanoseconds."""
COLD_ROUNDS = 3
CLOCK_RUNS = 31
CLOCK = 5  # bpf_ktime_get_ns in enum bpf_func_id, linux/include/uapi/linux/bpf.h
EVICT = 8 << 20  # bytes: more than the caches next to a core have
NOTHING = encode([Instruction(0xB7), Instruction(EXIT)])  # r0 = 0; exit
KINDS = {
    "tc": bpf.PROG_TYPE_SCHED_CLS, "xdp": bpf.PROG_TYPE_XDP, "migration": bpf.PROG_TYPE_SCHED_CLS,
}  # fmt: skip
"""By hook; a migration meets no packet, and is run by us alone."""


@dataclass(frozen=True)
class Cost:
    """Nanoseconds of each packet by its name, warm and cold."""

    warm: dict[str, float]
    cold: dict[str, float]

    @property
    def slowest(self) -> str:
        """The packet that costs most, warm."""
        return max(self.warm, key=lambda name: self.warm[name])


def packets() -> Iterator[tuple[str, bytes]]:
    """(Name, frame): what a mesh carries, what it meets besides, and what is no packet at all."""
    for length in (64, 256, 1500):
        for name, version, protocol in (
            ("UDP/IPv4", 4, 17), ("TCP/IPv4", 4, 6), ("UDP/IPv6", 6, 17), ("TCP/IPv6", 6, 6),
        ):  # fmt: skip
            yield f"{name} {length}", _frame(version, protocol, max(length, 74))
    yield "ICMP/IPv4", _frame(4, 1, 98)
    yield "ICMP/IPv6", _frame(6, 58, 118)
    yield "IPv4 with options", _frame(4, 17, 128, options=40)
    yield "first fragment", _frame(4, 17, 1500, fragment=0x2000)
    yield "later fragment", _frame(4, 17, 1500, fragment=0x00B9)
    yield "IPv6 extension headers", _extended()
    yield "GTP-U", _frame(4, 17, 128, port=2152)
    yield "IPv4, cut short", _frame(4, 6, 1500)[:40]
    yield "ARP", b"\xff" * 6 + bytes(6) + b"\x08\x06" + bytes(28)
    yield "14 bytes", bytes(14)
    noise = random.Random(1)
    yield "noise", noise.randbytes(12) + b"\x08\x00" + noise.randbytes(200)


def _ethernet(version: int) -> bytes:
    return bytes.fromhex("02000000000a02000000000b") + (
        b"\x08\x00" if version == 4 else b"\x86\xdd"
    )


def _ip(version: int, protocol: int, length: int, options: int = 0, fragment: int = 0) -> bytes:
    """An IP header; ``length`` is that of the whole IP packet."""
    if version == 6:
        head = struct.pack("!IHBB", 6 << 28, length - 40, protocol, 64)
        addresses = "20010db80000000000000000000000{:02x}"
        return head + bytes.fromhex(addresses.format(1) + addresses.format(2))
    head = struct.pack(
        "!BBHHHBBH", 0x45 + options // 4, 0, length, 7, fragment, 64, protocol, 0
    ) + bytes((198, 18, 0, 1, 198, 18, 0, 2))
    return head + b"\x01" * options


def _frame(
    version: int, protocol: int, length: int, options: int = 0, fragment: int = 0, port: int = 443
) -> bytes:
    inside = length - 14
    header = _ip(version, protocol, inside, options, fragment)
    room = inside - len(header)
    ports = struct.pack("!HH", 40000, port)
    transport = {
        6: ports + struct.pack("!IIBBHHH", 1, 1, 0x50, 0x10, 512, 0, 0),
        17: ports + struct.pack("!HH", room, 0) + bytes.fromhex("30ff00080000002a"),
    }.get(protocol, b"\x08\x00\x00\x00\x00\x01\x00\x01")
    return _ethernet(version) + header + transport.ljust(room, b"\x55")[:room]


def _extended() -> bytes:
    """Hop-by-hop options, destination options and a fragment header before UDP."""
    chain = b"\x3c" + bytes(7) + b"\x2c" + bytes(7) + b"\x11" + bytes(7)
    transport = struct.pack("!HHHH", 40000, 443, 108, 0) + bytes(100)
    inside = chain + transport
    return _ethernet(6) + _ip(6, 0, 40 + len(inside)) + inside


def measure(program: bpf.Fd, hook: str, enough: float = math.inf) -> Cost:
    """What a program costs. It runs for real: its maps are changed.

    A packet is measured again where its time is above ``enough``: the machine may have been busy.
    """
    frames = dict(packets())
    with bpf.prog_load(KINDS[hook], "nothing", NOTHING) as nothing:
        idle = median(_warm(nothing, hook, frame) for frame in (*frames.values(),)[:5])
        warm = {
            name: max(0.0, _warm(program, hook, frame, idle + enough) - idle)
            for name, frame in frames.items()
        }
        still = median(_cold(nothing, frame) for frame in frames.values())
        cold = {name: max(0.0, _cold(program, frame) - still) for name, frame in frames.items()}
    return Cost(warm, cold)


def clock() -> int:
    """Nanoseconds that reading the clock twice takes, which are in what is measured live."""
    code = encode(
        [
            Instruction(CALL, imm=CLOCK),
            Instruction(0xBF, 6, 0),  # r6 = r0
            Instruction(CALL, imm=CLOCK),
            Instruction(0x1F, 0, 6),  # r0 -= r6
            Instruction(EXIT),
        ]
    )
    frame = next(packets())[1]
    with bpf.prog_load(KINDS["tc"], "clock", code) as program:
        return round(median(bpf.prog_test_run(program, frame).verdict for _ in range(CLOCK_RUNS)))


def _warm(program: bpf.Fd, hook: str, frame: bytes, enough: float = math.inf) -> float:
    """The best of the rounds, which go on as long as it is above ``enough``, and they are short."""
    fewest, most, runs = RUNS[hook]
    best = math.inf
    for number in range(most):
        if number >= fewest and (best <= enough or best * runs > LONG_NS):
            break
        best = min(best, bpf.prog_test_run(program, frame, repeat=runs).duration_ns)
    return best


def _cold(program: bpf.Fd, frame: bytes) -> float:
    """The best of some: a neighbour is in the others."""
    found = []
    for _ in range(COLD_ROUNDS):
        bytearray(EVICT).find(1)
        found.append(bpf.prog_test_run(program, frame).duration_ns)
    return min(found)
