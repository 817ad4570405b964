# SPDX-License-Identifier: BSD-2-Clause
"""A NIC of the host's: a tap, whose driver does native XDP, and whose wire is a file of the test's.

host ── nic0 ═══ frames written and read here, of a station 198.19.220.2, 02:00:00:00:00:02
"""

import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
NAME, HOST, STATION = "nic0", "198.19.220.1", "198.19.220.2"
MAC, STATION_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"


class Nic:
    """The wire's end of it."""

    def __init__(self, wire: int) -> None:
        self._wire = wire

    def put(self, frame: Packet | bytes) -> None:
        """Have a frame come in."""
        os.write(self._wire, bytes(frame))

    def send(self, payload: bytes, port: int, *, source: str = STATION) -> None:
        """Have a datagram to the host come in, from port 5000."""
        ip = IP(src=source, dst=HOST) / UDP(sport=5000, dport=port)
        self.put(Ether(src=STATION_MAC, dst=MAC) / ip / payload)


@contextmanager
def nic() -> Iterator[Nic]:
    """The interface, up and with its address, for the ``with`` block."""
    # one that blocks has skbs made before XDP: tun_can_build_skb(), linux/drivers/net/tun.c
    wire = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        request = struct.pack("16sH22x", NAME.encode(), IFF_TAP | IFF_NO_PI)
        fcntl.ioctl(wire, TUNSETIFF, request)
        lines = f"""link set {NAME} address {MAC}
link set {NAME} up addrgenmode none
addr add {HOST}/24 dev {NAME}
neigh add {STATION} lladdr {STATION_MAC} dev {NAME}
route add 100.64.0.0/10 via {STATION}
"""
        subprocess.run(["ip", "-batch", "-"], input=lines, check=True, text=True)
        yield Nic(wire)
    finally:
        os.close(wire)
