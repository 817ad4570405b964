# SPDX-License-Identifier: BSD-2-Clause
"""Pools: memory of places for messages that functions of one tenant share, and its bounds."""

from typing import NamedTuple

from pydantic import Field

from ebpfmesh.model.base import Model, Name

MEMBERS = 16
"""The most functions that share a pool: each has a ring to each."""
POOLS = 16
"""The most pools that a function is in."""
PAGE, LINE = 4096, 64
ENTRY = 256  # bytes about a member
DESCRIPTOR = 16
POOL_BYTES = 1 << 30
"""The largest pool, and what all of a tenant take together unless the mesh file says more."""


class Layout(NamedTuple):
    """Where the parts of a pool begin, in bytes; docs/pool.md has it as a table."""

    owners: int
    rings: int
    ring: int  # bytes of one
    places: int
    size: int


class Pool(Model):
    """``slots`` places of ``bytes`` bytes, with room for so many ``members``; all of one tenant."""

    name: Name
    slots: int = Field(ge=2, le=1 << 16)
    bytes: int = Field(ge=LINE, le=1 << 20, multiple_of=LINE)
    members: int = Field(ge=1, le=MEMBERS)

    @property
    def layout(self) -> Layout:
        """Of its memory: who is in it, who has which place, the rings, and the places."""
        owners = _whole(self.members * ENTRY)
        rings = owners + _whole(self.slots * 4)
        ring = 2 * LINE + self.slots * DESCRIPTOR
        places = rings + _whole(self.members**2 * ring)
        return Layout(owners, rings, ring, places, places + _whole(self.slots * self.bytes))

    @property
    def size(self) -> int:
        """Bytes of memory that it takes."""
        return self.layout.size


def _whole(size: int) -> int:
    return -(-size // PAGE) * PAGE
