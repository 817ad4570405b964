# SPDX-License-Identifier: BSD-2-Clause
"""What CPU time was used, to the nanosecond: by processes, and by the machine as a whole.

/proc/stat counts ticks where CONFIG_TICK_CPU_ACCOUNTING is set, and shows hundredths of a second:
a second's window cannot tell 0.1 % from nothing. Two clocks are finer, and neither takes anything
while it runs:

- The scheduler's own clock of each process. Softirqs that a process raises run in its context and
  are on its clock, as far as CONFIG_IRQ_TIME_ACCOUNTING is not set; so is the whole way of a packet
  through veths from sendto() to the receiver's socket. It does not see what runs while a core is
  idle: the interrupt that wakes a sleeper, and kernel threads, of which ksoftirqd is counted too.
  It stays right beside other load. A cgroup's usage is the sum of the same clocks.
- The idle time of each core in /proc/timer_list, which the tick keeps, interrupts left out. The
  rest is what everything together took, also what has no process, and also what has nothing to do
  with the measurement: it counts only beside a window in which nothing is sent, on a quiet machine.

Neither is a soaker, a spinning process that gets what nobody else wants: it keeps cores from going
idle, so that waking up costs less than it does, and interrupts are on its own clock.
"""

import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ebpfmesh.errors import CommandFailed

CPUCLOCK_SCHED = 2
"""Of a clock id made from a pid: the time the scheduler counted (linux/posix-timers.h)."""
TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
STEAL = 8
"""Field of a core's line in /proc/stat (proc(5))."""
_CORE = re.compile(
    r"^cpu: (\d+)$.*?\.idle_sleeptime\s*: (\d+) nsecs$.*?\.iowait_sleeptime\s*: (\d+) nsecs$",
    re.MULTILINE | re.DOTALL,
)
_NOW = re.compile(r"^now at (\d+) nsecs$", re.MULTILINE)


def of_processes(pids: Iterable[int]) -> int:
    """Nanoseconds that processes with all their threads have used; CommandFailed if one is gone."""
    used = 0
    for pid in pids:
        try:
            used += time.clock_gettime_ns(~pid << 3 | CPUCLOCK_SCHED)
        except OSError as error:
            raise CommandFailed(f"process {pid} is gone: it was to be measured") from error
    return used


def ksoftirqd() -> dict[int, int]:
    """The kernel's threads that softirqs are left to when there are many, by their core."""
    found = {}
    for file in Path("/proc").glob("[0-9]*/comm"):
        try:
            name, _, core = file.read_text().partition("/")
            if name == "ksoftirqd":
                found[int(core)] = int(file.parent.name)
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended meanwhile
    return found


@dataclass(frozen=True)
class Core:
    """What a core had been at a time, in ns since boot: idle, and taken by the hypervisor."""

    now: int
    idle: int
    steal: int


def of_cores() -> dict[int, Core]:
    """Each core we may use, seen from itself: the idle time of one that sleeps is of the past."""
    allowed, found = os.sched_getaffinity(0), {}
    try:
        for core in allowed:
            os.sched_setaffinity(0, {core})
            found[core] = _core(core)
    finally:
        os.sched_setaffinity(0, allowed)
    return found


def _core(core: int) -> Core:
    text = Path("/proc/timer_list").read_text()
    idle = {int(number): int(sleep) + int(wait) for number, sleep, wait in _CORE.findall(text)}
    now = _NOW.search(text)
    if now is None or core not in idle:
        raise CommandFailed("/proc/timer_list does not tell how long a core was idle")
    line = next(line for line in stat() if line.startswith(f"cpu{core} "))
    return Core(int(now[1]), idle[core], int(line.split()[STEAL]) * TICK_NS)


def stat() -> list[str]:
    """The lines of /proc/stat about CPUs: all together, then each."""
    lines = Path("/proc/stat").read_text().splitlines()
    return [line for line in lines if line.startswith("cpu")]


def busy(before: Mapping[int, Core], after: Mapping[int, Core]) -> float:
    """How many cores were at work on average between two looks: not idle, and not stolen."""
    return sum(
        1 - (now.idle - then.idle + now.steal - then.steal) / (now.now - then.now)
        for core, now in after.items()
        for then in [before[core]]
    )
