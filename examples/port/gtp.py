# SPDX-License-Identifier: BSD-2-Clause
"""Take UDP packets out of GTP-U (3GPP TS 29.281) and send them on, from our own address; IPv4.

Which the mesh then judges: it lets nobody send from addresses of others, such as a phone's.
"""

import numpy as np

from ebpfmesh.port import Batch, Port

GTP, T_PDU, IPV4, UDP = 2152, 255, 0x0800, 17
OUTER = 42  # Ethernet, IPv4, UDP; then 8 bytes of GTP, and 4 where one of its flags is set


def is_data(batch: Batch) -> np.ndarray:
    """Of each packet: IPv4 without options, UDP to GTP's port, a packet in it."""
    plain = (batch.read(12, ">u2") == IPV4) & (batch.read(14, "u1") == 0x45)
    gtp = (batch.read(23, "u1") == UDP) & (batch.read(36, ">u2") == GTP)
    return plain & gtp & (batch.read(43, "u1") == T_PDU) & (batch.lengths >= OUTER + 8 + 28)


def unpack(batch: Batch) -> Batch:
    """What is inside, as frames of our own; without what is no UDP over IPv4, or is cut short."""
    gateway, own, address = (batch.read(6, "V6"), batch.read(0, "V6"), batch.read(30, ">u4"))
    flags = batch.read(OUTER, "u1")
    more = np.where(flags & 7, 4, 0)
    extended = (flags & 4 != 0) & (batch.read(OUTER + 11, "u1") != 0)
    more += np.where(extended, batch.read(OUTER + 12, "u1").astype(int) * 4, 0)
    chained = extended & (batch.read(OUTER + 15, "u1") != 0)  # behind an extension of four bytes
    skipped = (OUTER + 8 - 14 + more).astype(np.uint64)  # an Ethernet header has its place before
    room = batch.lengths.astype(int) - skipped.astype(int)
    batch.addresses += skipped
    length = 14 + batch.read(16, ">u2").astype(int)
    good = (batch.read(14, "u1") == 0x45) & (batch.read(23, "u1") == UDP) & ~chained
    good &= (length <= room) & (length >= 42)
    batch.lengths[:] = np.where(good, length, 42)
    inner = batch[good]
    inner.write(0, gateway[good], "V6")
    inner.write(6, own[good], "V6")
    inner.write(12, IPV4, ">u2")
    inner.write(26, address[good], ">u4")
    inner.write(40, 0, ">u2")  # UDP over IPv4 need not have a checksum
    inner.write(24, 0, ">u2")
    inner.write(24, inner.checksum(14, 20), ">u2")
    return inner


def main() -> None:
    """Unpack, until somebody ends it."""
    port = Port()
    for batch in port.receive():
        data = batch[is_data(batch)]
        if len(data) and len(inner := unpack(data)):
            port.send(inner)


if __name__ == "__main__":
    main()
