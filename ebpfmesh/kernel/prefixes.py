# SPDX-License-Identifier: BSD-2-Clause
"""Addresses and prefixes as the maps have them: IPv4 as ::ffff:a.b.c.d."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_network
from typing import NamedTuple

from ebpfmesh.model import Address, Network

BYTES = 16
_MAPPED = 0xFFFF << 32
_MAPPED4 = _MAPPED.to_bytes(BYTES)[:12]


class Block(NamedTuple):
    """A prefix: its length and its first address; as numbers, blocks sort the wide ones first."""

    length: int
    first: bytes

    @property
    def last(self) -> bytes:
        """Its last address."""
        return (int.from_bytes(self.first) | (1 << 128 - self.length) - 1).to_bytes(BYTES)

    @property
    def is4(self) -> bool:
        """Whether it is of IPv4."""
        return self.length >= 96 and self.first.startswith(_MAPPED4)

    def wider(self, length: int) -> "Block":
        """The block of that length around it."""
        rest = 128 - length
        return Block(length, (int.from_bytes(self.first) >> rest << rest).to_bytes(BYTES))

    @property
    def prefix(self) -> Network:
        """As people write it."""
        if self.is4:
            return IPv4Network((self.first[12:], self.length - 96))
        return IPv6Network((self.first, self.length))

    @classmethod
    def of4(cls, bits: int, first: bytes) -> "Block":
        """The block of a prefix of IPv4."""
        return cls(96 + bits, _MAPPED4 + first)


def block(both: Sequence[object]) -> Block:
    """The block of a length and a first address; ValueError if there is none."""
    length, first = both
    if not (isinstance(length, int) and isinstance(first, bytes)):
        raise ValueError(f"{both} is no prefix")
    if not (0 <= length <= 128 and len(first) == BYTES):
        raise ValueError(f"{first.hex()}/{length} is no prefix")
    if int.from_bytes(first) & (1 << 128 - length) - 1:
        raise ValueError(f"{first.hex()}/{length} has bits behind its length")
    return Block(length, first)


def packed(address: Address) -> bytes:
    """The 16 bytes of an address."""
    mapped = _MAPPED if isinstance(address, IPv4Address) else 0
    return (int(address) | mapped).to_bytes(BYTES)


def block_of(prefix: Network | str) -> Block:
    """A prefix of either family, be it as text."""
    if isinstance(prefix, str):
        prefix = ip_network(prefix)
    mapped = 96 if prefix.version == 4 else 0
    return Block(prefix.prefixlen + mapped, packed(prefix.network_address))
