# SPDX-License-Identifier: BSD-2-Clause
"""A command with a port, for tests: what it does with packets is its argument.

It says, a JSON line each, what it met: a test reads its log.
"""

import json
import os
import socket
import struct
import sys
import time

import numpy as np

from ebpfmesh.port import Batch, Port


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)  # noqa: T201


def checksum(data: bytes) -> int:
    words = struct.unpack(f">{len(data + b'x') // 2}H", data + b"\0" * (len(data) % 2))
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def transport(packet: bytes) -> tuple[int, int]:
    """Number of the protocol over IPv4 or IPv6 without options, and what its checksum leaves: 0."""
    if packet[12:14] == b"\x08\x00":
        length, protocol = int.from_bytes(packet[16:18]) - 20, packet[23]
        addresses, begin = packet[26:34], 34
    else:
        length, protocol = int.from_bytes(packet[18:20]), packet[20]
        addresses, begin = packet[22:54], 54
    segment = packet[begin : begin + length]
    assert len(segment) == length, "cut short"
    pseudo = addresses + struct.pack(">II", length, protocol)
    return protocol, checksum(pseudo + segment)


def record(port: Port) -> None:
    """Say of each packet how long it is, and whether its checksum is right."""
    for batch in port.receive():
        for packet in batch:
            protocol, rest = transport(packet.tobytes())
            say(length=len(packet), protocol=protocol, rest=rest)


def mirror(port: Port) -> None:
    """Send TCP and UDP over IPv4 back; checksums stay right."""
    for batch in port.receive():
        batch.swap(0, 6, 6)
        batch.swap(26, 30, 4)
        batch.swap(34, 36, 2)
        port.send(batch)


def queues(port: Port) -> None:
    """Send UDP back, and say by which queue it came."""
    for batch in port.receive():
        for number in batch.read(34, ">u2").tolist():
            say(queue=batch.queue, port=number)
        batch.swap(0, 6, 6)
        batch.swap(26, 30, 4)
        batch.swap(34, 36, 2)
        port.send(batch)


def apart() -> None:
    """The same, by a process for each queue."""
    queues(Port(queue=int(os.fork() > 0)))


def spoof(port: Port) -> None:
    """Answer each packet with four: as it should be, and with addresses of others."""
    for batch in port.receive():
        for packet in batch:
            (own := port.take(4)).lengths += len(packet)
            for place in own:
                place[:] = packet
            own.swap(0, 6, 6)
            own.swap(26, 30, 4)
            own.swap(34, 36, 2)
            own[1:2].write(6, 0x02_00, ">u2")  # another's MAC
            own[2:3].write(26, int.from_bytes(socket.inet_aton("198.18.0.77")), ">u4")
            own[3:4].write(12, 0x1234, ">u2")  # neither IPv4 nor IPv6
            port.send(own)


def ask(port: Port) -> None:
    """Send a datagram to the service and one that is rejected; say what comes for it."""
    own = bytes.fromhex(open("/sys/class/net/eth0/address").read().strip().replace(":", ""))  # noqa: PTH123, SIM115
    for target in ("198.19.0.7", "198.51.100.1"):
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 33, 1, 0, 64, 17, 0)
        ip += socket.inet_aton("198.18.7.7") + socket.inet_aton(target)
        ip = ip[:10] + struct.pack(">H", checksum(ip)) + ip[12:]
        udp = struct.pack(">HHHH", 5000, 7, 13, 0) + b"hello"
        frame = bytes.fromhex("02eb9f000001") + own + b"\x08\x00" + ip + udp
        (place := port.take(1)).lengths[:] = len(frame)
        for packet in place:
            packet[:] = np.frombuffer(frame, np.uint8)
        port.send(place)
        batch = next(port.receive())
        protocol = int(batch.read(23, "u1")[0])
        say(protocol=protocol, port=int(batch.read(34, ">u2")[0]) if protocol == 17 else 0)


def idle(port: Port) -> None:
    """Read nothing, and say what was in the memory in the beginning."""
    say(clean=not port.memory.any(), frames=port.frames, addresses=np.unique(port.memory).tolist())
    while True:
        time.sleep(60)


def misuse(port: Port) -> None:
    """What a program may do wrong: it is told, and nothing is sent."""
    (own := port.take(2)).lengths[:] = 60
    faults = []

    def attempt(batch: Batch) -> None:
        try:
            port.send(batch)
        except (ValueError, IndexError) as fault:
            faults.append(type(fault).__name__)

    attempt(own[[0, 0]])
    own.lengths[:] = 4000
    attempt(own)
    own.lengths[:] = 60
    port.give_back(own)
    attempt(own)
    own.addresses[:] = 1 << 40
    attempt(own)
    everything = port.take(port.frames)
    say(faults=faults, taken=len(everything), more=len(port.take(1)))


if __name__ == "__main__":
    chosen = globals()[sys.argv[1]]
    chosen() if chosen is apart else chosen(Port())
