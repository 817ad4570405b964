# SPDX-License-Identifier: BSD-2-Clause
"""New TCP connections per second, by a client in the kernel that costs next to nothing.

A client with sockets takes as long for a connection as the server does, and hides the path between
them. bpf/bench/connect.c answers the server's segments instead: SYN, ACK with FIN, ACK, and the
next SYN, so that IN_FLIGHT connections are always under way. The server is nginx on the kernel's
own stack; every connection is accepted and closed in order, and the server's kernel counts it too.
"""

import json
import socket
import struct
import time
from contextlib import ExitStack
from ctypes import sizeof
from ipaddress import IPv4Address
from pathlib import Path

from ebpfmesh.bench._abi import Client
from ebpfmesh.bench.measure import traffic
from ebpfmesh.bench.packets.frames import words
from ebpfmesh.bench.packets.hooks import build_pinned
from ebpfmesh.bench.paths import DataPath
from ebpfmesh.bench.sample import Sample
from ebpfmesh.bench.tools import one_core
from ebpfmesh.bench.topology import Member, attach_at
from ebpfmesh.bench.workload import Target
from ebpfmesh.errors import CommandFailed
from ebpfmesh.kernel import bpf, netns

IN_FLIGHT = 32
PORTS = range(20000, 60000)
PACKETS = 3
"""The client's segments of a connection: SYN, ACK with FIN, ACK."""
WARM_UP_SECONDS = 0.05
DRAIN_SECONDS = 10.0
PINS = Path("/sys/fs/bpf/bench_connect")
ZERO = bytes(4)


class Connector:
    """The client's program, loaded for as long as ``stack`` lives."""

    def __init__(self, stack: ExitStack) -> None:
        PINS.mkdir()
        stack.callback(PINS.rmdir)
        fds = build_pinned("connect.c", {"bench_connect": "tc"}, ("bench_client",), PINS, stack)
        self._program, self._state = fds["bench_connect"], fds["bench_client"]
        self._next = 0  # ports go on from run to run, so that none is used again soon

    def measure(self, path: DataPath, seconds: float) -> Sample:
        """New connections per second over ``path``; CommandFailed if one was lost.

        Client, path and server are on one core.
        """
        client, receivers = path.client, path.receivers("crr")
        with traffic.servers(path, "crr"), ExitStack() as stack:
            with netns.entered(client.netns):
                eth0 = socket.if_nametoindex("eth0")
            attach_at(client.netns, eth0, self._program, PINS / "bench_connect_link", stack)
            before = sum(_accepted(receiver) for receiver in receivers)
            begin = time.monotonic_ns() + round(WARM_UP_SECONDS * 1e9)
            until = begin + round(seconds * 1e9)
            first = (self._next + IN_FLIGHT) % len(PORTS)
            state = Client(PORTS.start, len(PORTS), first, eth0, begin, until)
            bpf.map_update(self._state, ZERO, bytes(state))
            self._send_first(client, path.target("crr"))
            raw = self._drained(until)
            raw["accepted"] = sum(_accepted(receiver) for receiver in receivers) - before
        return _sample(raw, seconds)

    def _send_first(self, client: Member, target: Target) -> None:
        """Send the SYNs that begin the chains."""
        with (
            one_core(),
            netns.entered(client.netns),
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire,
        ):
            wire.bind(("eth0", 0))
            for number in range(self._next, self._next + IN_FLIGHT):
                wire.send(syn(client, target, PORTS[number % len(PORTS)]))

    def _drained(self, until: int) -> dict[str, int]:
        """What the client counted, once its last connection has ended or nothing more comes."""
        deadline = until + round(DRAIN_SECONDS * 1e9)
        while True:
            raw = bpf.map_lookup(self._state, ZERO, sizeof(Client)) or b""
            state = Client.from_buffer_copy(raw)
            found = {
                "opened": state.opened,
                "closed": state.closed,
                "counted": state.counted,
                "chains_ended": state.ended,
                "resets": state.resets,
                "client_ns": state.spent_ns,
            }
            now = time.monotonic_ns()
            if found["chains_ended"] >= IN_FLIGHT or now > deadline:
                self._next = state.next
                return found
            time.sleep(max((until - now) * 1e-9, 0.005))


def _sample(raw: dict[str, int], seconds: float) -> Sample:
    """The figure, if every connection was opened, accepted and closed once."""
    text = json.dumps(raw) + "\n"
    if not raw["closed"]:
        raise CommandFailed("no connection was closed", hint=text)
    if raw["chains_ended"] != IN_FLIGHT or raw["resets"] or raw["accepted"] != raw["closed"]:
        raise CommandFailed("connections were lost", hint=text)
    raw["client_ns"] //= raw["closed"]
    packets = PACKETS * raw["closed"]
    return Sample(raw["counted"] / seconds, json.dumps(raw) + "\n", packets=packets)


def syn(client: Member, target: Target, port: int) -> bytes:
    """The first segment of a connection, as a frame from ``client``."""
    if not isinstance(target.address, IPv4Address):
        raise TypeError("the client speaks IPv4")
    addresses = client.address.packed + target.address.packed
    ip = struct.pack(">BBHHHBBH8s", 0x45, 0, 40, 0, 0x4000, 64, 6, 0, addresses)
    tcp = struct.pack(">HHIIBBHHH", port, target.port, 0, 0, 5 << 4, 2, 65535, 0, 0)
    ethernet = bytes.fromhex((client.gateway_mac + client.mac).replace(":", "")) + b"\x08\x00"
    ip = ip[:10] + _checksum(ip) + ip[12:]
    tcp = tcp[:16] + _checksum(addresses + struct.pack(">HH", 6, len(tcp)) + tcp) + tcp[18:]
    return ethernet + ip + tcp


def _checksum(data: bytes) -> bytes:
    total = sum(words(data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack(">H", ~total & 0xFFFF)


def _accepted(member: Member) -> int:
    """TCP connections opened to sockets of a namespace so far, by its kernel's count."""
    with netns.entered(member.netns):
        lines = Path("/proc/thread-self/net/snmp").read_text().splitlines()
    names, values = (line.split() for line in lines if line.startswith("Tcp:"))
    return int(values[names.index("PassiveOpens")])
