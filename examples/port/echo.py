# SPDX-License-Identifier: BSD-2-Clause
"""Send every UDP datagram back to where it came from; IPv4 and IPv6."""

from ebpfmesh.port import Batch, Port

IPV4, IPV6, UDP = 0x0800, 0x86DD, 17


def turn_round(batch: Batch, addresses: int, size: int, ports: int) -> None:
    """Have MACs, addresses and ports change places; no checksum changes by that."""
    batch.swap(0, 6, 6)
    batch.swap(addresses, addresses + size, size)
    batch.swap(ports, ports + 2, 2)


def main() -> None:
    """Echo, until somebody ends it."""
    port = Port()
    for batch in port.receive():
        kind = batch.read(12, ">u2")
        plain = (kind == IPV4) & (batch.read(14, "u1") == 0x45) & (batch.lengths >= 42)
        four = batch[plain & (batch.read(23, "u1") == UDP)]
        six = batch[(kind == IPV6) & (batch.read(20, "u1") == UDP) & (batch.lengths >= 62)]
        if len(four):
            turn_round(four, 26, 4, 34)
            port.send(four)
        if len(six):
            turn_round(six, 22, 16, 54)
            port.send(six)


if __name__ == "__main__":
    main()
