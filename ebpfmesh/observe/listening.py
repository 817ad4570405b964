# SPDX-License-Identifier: BSD-2-Clause
"""Where sockets of the host listen."""

import socket
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

_STATES = {"tcp": "0A", "udp": "07"}
"""TCP_LISTEN, and a UDP socket without a peer (linux/include/net/tcp_states.h)."""


def ports(protocol: str, addresses: Collection[IPv4Address | IPv6Address]) -> set[int]:
    """Ports at which sockets of this network namespace listen, at any of these addresses."""
    found = set()
    ours = {*addresses, IPv4Address(0), IPv6Address(0)}
    for family, file in ((4, protocol), (6, f"{protocol}6")):
        path = Path("/proc/thread-self/net") / file
        lines = path.read_text().splitlines()[1:] if path.exists() else []
        for line in lines:
            _, local, _, state, *_ = line.split()
            host, _, port = local.partition(":")
            if state == _STATES[protocol] and _address(family, host) in ours:
                found.add(int(port, 16))
    return found


def _address(family: int, text: str) -> IPv4Address | IPv6Address:
    """An address as proc(5) has it: words of 32 bits in the order of this machine."""
    words = (socket.htonl(int(text[at : at + 8], 16)) for at in range(0, len(text), 8))
    packed = b"".join(word.to_bytes(4) for word in words)
    return IPv4Address(packed) if family == 4 else IPv6Address(packed)
