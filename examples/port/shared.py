# SPDX-License-Identifier: BSD-2-Clause
"""Frames of two functions in one pool, of which none is copied between them.

`shared.py decode` hands UDP to port 7 on, and `shared.py filter` answers it by its own port.
"""

import socket
import sys
from pathlib import Path

from ebpfmesh.port import Pool, Port


def decode(pool: Pool, port: Port) -> None:
    """What is none of this is let go with the next batch."""
    for batch in port.receive():
        udp = (batch.read(12, ">u2") == 0x0800) & (batch.read(23, "u1") == 17)
        pool.send("filter", batch[udp & (batch.read(36, ">u2") == 7)])


def answer(pool: Pool, port: Port, mac: bytes, address: bytes) -> None:
    """From its own addresses, as all else would be dropped."""
    for batch in pool.receive():
        batch.write(6, mac, "V6")
        batch.write(0, bytes.fromhex("02eb9f000001"), "V6")
        batch.swap(26, 30, 4)
        batch.write(26, int.from_bytes(address), ">u4")
        batch.swap(34, 36, 2)
        batch.write(24, 0, ">u2")
        batch.write(24, batch.checksum(14, 20), ">u2")
        batch.write(40, 0, ">u2")  # UDP over IPv4 may have none
        port.send(batch)


def own(pool: Pool) -> tuple[bytes, bytes]:
    """Its MAC and its IPv4 address, of which the mesh tells the name."""
    mac = Path("/sys/class/net/eth0/address").read_text()
    return bytes.fromhex(mac.replace(":", "")), socket.inet_aton(socket.gethostbyname(pool.name))


if __name__ == "__main__":
    shared = Pool("frames")
    if sys.argv[1] == "decode":
        decode(shared, Port(pool=shared))
    else:
        answer(shared, Port(pool=shared), *own(shared))
