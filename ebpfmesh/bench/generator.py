# SPDX-License-Identifier: BSD-2-Clause
"""Packets without a NIC: a generator and a sink in the kernel (bpf/bench/generate.c, sink.c).

BPF_PROG_TEST_RUN with live frames makes the packets; they enter an interface of the host as if its
NIC had received them, pass through whatever is attached and configured there, and are counted and
dropped in the receiver's namespace. Everything runs on the caller's core.
"""

import math
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Literal

from ebpfmesh.bench import workload
from ebpfmesh.bench.topology import Member, address6, attach_at
from ebpfmesh.bench.workload import Target
from ebpfmesh.kernel import bpf, build, netns
from ebpfmesh.kernel.source import bpf_dir

FRAME_SIZE = 64
"""Bytes of a frame as the kernel sees it, that is without a checksum at its end."""
BATCH = 64
TEMPLATE = struct.Struct(f"={FRAME_SIZE}sIIIIIIII")
COUNT = struct.Struct("=QQQQ")
STRIDE = 64
"""SINK_STRIDE of sink.c."""
XDP_MD = struct.Struct("=IIIIII")
"""struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex."""
PORTS = range(10000, 60000)
"""Source ports of the flows."""
DRAIN_SECONDS = 0.2
ZERO = bytes(4)
PAYLOAD = b"ebpfmesh".ljust(FRAME_SIZE, b".")


@dataclass(frozen=True)
class Burst:
    """What one run of the generator sent and what the sink saw of it.

    ``nanoseconds`` is the time per packet delivered, from the first arrival to the last one the
    sink took the time of; nan if too few arrived to tell.
    """

    offered: int
    delivered: int
    nanoseconds: float


def words_sum(data: bytes) -> int:
    """Ones' complement sum of big-endian 16-bit words, not folded; an odd end is padded."""
    return sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))


def make_template(
    sender: Member, target: Target, *, flows: int = 1, port: int = PORTS.start
) -> bytes:
    """The value of the generator's map: frames from ``sender`` to ``target`` in ``flows`` flows.

    ``port`` is the source port of the first flow. With more flows than PORTS the others go to the
    addresses after the target's. The family is that of ``target``; IPv6 has PORTS only.
    """
    most = workload.TARGETS * len(PORTS) if target.address.version == 4 else len(PORTS)
    if not 1 <= flows <= most:
        raise ValueError(f"flows: {flows} is not in 1..{most}")
    targets = -(-flows // len(PORTS))
    length = FRAME_SIZE - (34 if target.address.version == 4 else 54)
    udp = struct.pack(">HHHH", 0, target.port, length, 0)
    payload = PAYLOAD[: length - len(udp)]
    if isinstance(target.address, IPv4Address):
        # the generator puts the destination in, for each flow
        kind, addresses = b"\x08\x00", sender.address.packed
        ip = struct.pack(
            ">BBHHHBBH4s4s", 0x45, 0, 20 + length, 0, 0x4000, 64, 17, 0, addresses, bytes(4)
        )
    else:
        kind, addresses = b"\x86\xdd", address6(sender).packed + target.address.packed
        ip = struct.pack(">IHBB32s", 6 << 28, length, 17, 64, addresses)
    pseudo = addresses + struct.pack(">HH", 17, length)
    return TEMPLATE.pack(
        bytes.fromhex((sender.gateway_mac + sender.mac).replace(":", ""))
        + kind
        + ip
        + udp
        + payload,
        words_sum(ip),
        words_sum(pseudo + udp + payload),
        int(target.address) & 0xFFFFFFFF,
        port,
        targets,
        -(-flows // targets),
        0,
        0,
    )


class Generator:
    """The generator's programs, loaded and pinned below ``pins`` for as long as ``stack`` lives."""

    def __init__(self, pins: Path, stack: ExitStack) -> None:
        build_pinned(
            "generate.c", ("bench_generate", "bench_discard"), "bench_template", pins, stack
        )
        self._template = stack.enter_context(bpf.obj_get(pins / "bench_template"))
        self._programs = {
            name: stack.enter_context(bpf.obj_get(pins / name))
            for name in ("bench_generate", "bench_discard")
        }

    def load(self, template: bytes) -> None:
        """Set what the next frames look like; see ``make_template``."""
        bpf.map_update(self._template, ZERO, template)

    def send(self, ifindex: int, packets: int, *, discard: bool = False) -> int:
        """Send frames into an interface of the current namespace until the kernel has taken all.

        With ``discard`` they are made and thrown away. Returns nanoseconds per frame as the kernel
        measured the run; it leaves out the times the run gave way to others.
        """
        run = bpf.prog_test_run(
            self._programs["bench_discard" if discard else "bench_generate"],
            bytes(FRAME_SIZE),
            context=XDP_MD.pack(0, FRAME_SIZE, 0, ifindex, 0, 0),
            repeat=packets,
            flags=bpf.TEST_XDP_LIVE_FRAMES,
            batch=BATCH,
        )
        return run.duration_ns


class Sink:
    """Counts and drops UDP frames to ``port``, or the next, that reach where it is put on."""

    def __init__(self, port: int, pins: Path, stack: ExitStack) -> None:
        defines = {"BENCH_SINK_PORT": str(port)}
        build_pinned("sink.c", ("bench_sink",), "bench_count", pins, stack, defines)
        self._pins = pins
        self._count = stack.enter_context(bpf.obj_get(pins / "bench_count"))
        self._program = stack.enter_context(bpf.obj_get(pins / "bench_sink"))

    @contextmanager
    def on(self, receivers: Iterable[Member]) -> Iterator[None]:
        """Put the sink on eth0 of ``receivers`` while the block runs."""
        with ExitStack() as stack:
            for number, receiver in enumerate(receivers):
                with netns.entered(receiver.netns):
                    eth0 = socket.if_nametoindex("eth0")
                pin = self._pins / f"bench_sink_link{number}"
                attach_at(receiver.netns, eth0, self._program, pin, stack)
            yield

    def reset(self) -> None:
        """Start counting from zero."""
        bpf.map_update(self._count, ZERO, bytes(COUNT.size * bpf.possible_cpus()))

    def packets(self) -> int:
        """Packets since the last reset."""
        return sum(slot[0] for slot in self._slots())

    def nanoseconds(self) -> float:
        """Time per packet since the last reset; everything must have arrived on one core."""
        packets, _, first, last = max(self._slots())
        strides = (packets - 1) // STRIDE
        return (last - first) / (strides * STRIDE) if strides > 0 else math.nan

    def _slots(self) -> list[tuple[int, int, int, int]]:
        raw = bpf.map_lookup(self._count, ZERO, COUNT.size * bpf.possible_cpus()) or b""
        return list(COUNT.iter_unpack(raw))


def build_pinned(
    source: str,
    programs: Sequence[str],
    table: str,
    pins: Path,
    stack: ExitStack,
    defines: Mapping[str, str] | None = None,
) -> None:
    """Compile, load and pin programs of bpf/bench and their map; the pins go with ``stack``."""
    kind: Literal["tc", "xdp"] = "xdp" if source == "generate.c" else "tc"
    build.build(
        bpf_dir() / "bench" / source,
        [build.Program(name, kind) for name in programs],
        pin_to=pins,
        defines=defines or {},
        pin_maps=(table,),
    )
    for name in (*programs, table):
        stack.callback((pins / name).unlink)


def send_burst(generator: Generator, sink: Sink, ifindex: int, packets: int) -> Burst:
    """Send ``packets`` into ``ifindex`` of the current namespace and wait until all are through.

    If some are lost the wait ends when nothing has come for DRAIN_SECONDS.
    """
    sink.reset()
    generator.send(ifindex, packets)
    delivered, deadline = sink.packets(), time.monotonic() + DRAIN_SECONDS
    while delivered < packets and time.monotonic() < deadline:
        time.sleep(0.001)
        if (now := sink.packets()) != delivered:
            delivered, deadline = now, time.monotonic() + DRAIN_SECONDS
    return Burst(packets, delivered, sink.nanoseconds())
