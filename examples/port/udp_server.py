# SPDX-License-Identifier: BSD-2-Clause
"""Answer each datagram to port 5000 by how many came before it, as text; IPv4."""

import numpy as np

from ebpfmesh.port import Batch, Port

PORT, DIGITS = 5000, 12
ETHERNET, IP, UDP = 14, 20, 8
TEXT = ETHERNET + IP + UDP


def is_for_us(batch: Batch) -> np.ndarray:
    """Of each packet: IPv4 without options or fragments, UDP, our port."""
    whole = (batch.read(20, ">u2") & 0x3FFF) == 0
    plain = (batch.read(12, ">u2") == 0x0800) & (batch.read(14, "u1") == 0x45) & whole
    return plain & (batch.read(23, "u1") == 17) & (batch.read(36, ">u2") == PORT)


def answer(batch: Batch, first: int) -> None:
    """Turn packets round, with another text."""
    batch.swap(0, 6, 6)
    batch.swap(26, 30, 4)
    batch.swap(34, 36, 2)
    numbers = np.arange(first, first + len(batch)).astype(f"S{DIGITS}")
    batch.write(TEXT, numbers, f"S{DIGITS}")
    batch.lengths[:] = TEXT + DIGITS
    batch.write(16, IP + UDP + DIGITS, ">u2")
    batch.write(38, UDP + DIGITS, ">u2")
    batch.write(40, 0, ">u2")  # UDP over IPv4 need not have a checksum
    batch.write(24, 0, ">u2")
    batch.write(24, batch.checksum(ETHERNET, IP), ">u2")


def main() -> None:
    """Serve, until somebody ends it."""
    port, count = Port(), 0
    for batch in port.receive():
        asked = batch[(batch.lengths >= TEXT) & is_for_us(batch)]
        if len(asked):
            answer(asked, count)
            count += len(asked)
            port.send(asked)


if __name__ == "__main__":
    main()
