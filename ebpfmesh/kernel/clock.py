# SPDX-License-Identifier: BSD-2-Clause
"""The clock of flows: ticks of the kernel's jiffies, as the programs have it."""

import time

from ebpfmesh._abi import TICK_SHIFT

CLOCK_MONOTONIC_COARSE = 6  # its resolution is one jiffy
BEFORE_WRAP = 300
"""Seconds after boot at which 32 bits of jiffies wrap (INITIAL_JIFFIES, linux/jiffies.h)."""


def hz() -> int:
    """Jiffies in a second."""
    return round(1 / time.clock_getres(CLOCK_MONOTONIC_COARSE))


def now() -> int:
    """The tick it is, as entries have it in ``seen``; a second or two off at most."""
    rate = hz()
    jiffies = (1 << 32) - BEFORE_WRAP * rate + int(time.monotonic() * rate)
    return (jiffies >> TICK_SHIFT) & 0xFFFFFFFF


def age(seen: int) -> int:
    """Ticks since ``seen``; 0 for what the two clocks' difference puts into the future."""
    passed = (now() - seen) & 0xFFFFFFFF
    return passed if passed < 1 << 31 else 0
