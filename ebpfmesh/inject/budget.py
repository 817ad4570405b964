# SPDX-License-Identifier: BSD-2-Clause
"""What a function of others may cost, and what it does cost."""

from collections.abc import Iterator
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Budget:
    """The most of each; times are above those of a program that does nothing, on this machine."""

    instructions: int = 4096  # as the compiler made them
    verified: int = 200_000  # followed by the verifier, of the million it may
    jited_bytes: int = 64 << 10
    maps: int = 8
    map_bytes: int = 16 << 20
    ns_median: int = 500  # of the packets in ``measure``, warm
    ns_worst: int = 2000  # of the one that costs most, warm


@dataclass(frozen=True)
class Figures:
    """What it costs; names are those of ``Budget`` where that bounds it."""

    instructions: int
    verified: int
    jited_bytes: int
    maps: int
    map_bytes: int
    ns_median: float
    ns_worst: float
    ns_cold_median: float
    ns_cold_worst: float
    slowest: str  # the packet of ns_worst

    def over(self, budget: Budget) -> Iterator[str]:
        """What is too much, in words."""
        for one in fields(budget):
            has, may = getattr(self, one.name), getattr(budget, one.name)
            if has > may:
                yield f"{WORDS[one.name]}: {has:.0f}, of {may} it may have"


WORDS = {
    "instructions": "instructions",
    "verified": "instructions that the verifier follows",
    "jited_bytes": "bytes of machine code",
    "maps": "maps",
    "map_bytes": "bytes of maps",
    "ns_median": "nanoseconds a packet, median",
    "ns_worst": "nanoseconds for the slowest packet",
}
