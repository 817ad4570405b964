# SPDX-License-Identifier: BSD-2-Clause
"""The clock of flows: ticks of the kernel's jiffies, as the programs have it."""

import contextlib
import time
from pathlib import Path
from typing import Literal

from ebpfmesh._abi import TICK_SHIFT

CLOCK_MONOTONIC_COARSE = 6  # its resolution is one jiffy
BEFORE_WRAP = 300
"""Seconds after boot at which 32 bits of jiffies wrap (INITIAL_JIFFIES, linux/jiffies.h)."""


def hz() -> int:
    """Jiffies in a second."""
    return round(1 / time.clock_getres(CLOCK_MONOTONIC_COARSE))


def offset(clock: Literal["monotonic", "boottime"]) -> float:
    """Seconds that a clock is ahead here of what it is outside of all time namespaces (proc(5))."""
    with contextlib.suppress(FileNotFoundError):  # a kernel that has none
        for line in Path("/proc/self/timens_offsets").read_text().splitlines():
            name, seconds, rest = line.split()
            if name == clock:
                return int(seconds) + int(rest) / 1e9
    return 0.0


def now() -> int:
    """The tick it is, as entries have it in ``seen``; a second or two off at most."""
    rate = hz()
    jiffies = (1 << 32) - BEFORE_WRAP * rate + int((time.monotonic() - offset("monotonic")) * rate)
    return (jiffies >> TICK_SHIFT) & 0xFFFFFFFF


def age(seen: int) -> int:
    """Ticks since ``seen``; 0 for what the two clocks' difference puts into the future."""
    passed = (now() - seen) & 0xFFFFFFFF
    return passed if passed < 1 << 31 else 0
