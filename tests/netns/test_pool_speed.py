# SPDX-License-Identifier: BSD-2-Clause
"""Messages by a pool beside those by TCP over the mesh, by the wall and by CPU time of both ends.

`make pool-speed` prints it; without ROUNDS it is only seen to work.
"""

import logging
import os
import signal
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ebpfmesh.model import Mesh
from ebpfmesh.observe import logs
from ebpfmesh.observe.view import opened
from ebpfmesh.runtime.logs import read
from support.builds import in_c
from support.processes import workers
from support.topology import running, wait_until

ROUNDS = int(os.environ.get("EBPFMESH_POOL_SPEED", "0"))
ROOT = Path(__file__).parents[2]
COUNTS = {"small": 400_000, "large": 20_000} if ROUNDS else {"small": 2000, "large": 50}
WAYS = {
    "pool-small": signal.SIGUSR1, "tcp-small": signal.SIGHUP,
    "pool-large": signal.SIGUSR2, "tcp-large": signal.SIGWINCH,
}  # fmt: skip
MESH = """
[mesh]
name = "speed"
[[function]]
name = "source"
tenant = "one"
command = ["{program}", "source", "198.19.0.1", "{small}", "{large}"]
volumes = ["{root}"]
[[function]]
name = "sink"
tenant = "one"
command = ["{program}", "sink"]
volumes = ["{root}"]
[[service]]
name = "messages"
address = "198.19.0.1"
port = "9-10"
functions = ["sink"]
[[pool]]
name = "small"
tenant = "one"
slots = 1024
bytes = 1024
functions = ["source", "sink"]
[[pool]]
name = "large"
tenant = "one"
slots = 64
bytes = "64K"
functions = ["source", "sink"]
"""


class Figure(NamedTuple):
    """Messages a second: by the wall, and of the CPU time of both ends."""

    wall: float
    cpu: float


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    with in_c("pool-speed", "-O3") as compiled:
        program = compiled(ROOT / "tests/support/pool_speed.c")
        with running(MESH.format(program=program, root=ROOT, **COUNTS)) as made:
            yield made


@pytest.mark.usefixtures("mesh")
def test_messages_by_a_pool_are_cheaper_than_by_tcp() -> None:
    wait_until(lambda: lines("source") == [["waits"]], what="the source waits")
    for name, pick in (("source", min), ("sink", max)):
        for process in workers("speed", name):
            os.sched_setaffinity(process, {pick(os.sched_getaffinity(0))})
    figures: dict[str, list[Figure]] = {way: [] for way in WAYS}
    for _ in range(ROUNDS or 1):
        for way in WAYS:
            figures[way].append(measured(way))
    for size in COUNTS:
        for what in Figure._fields:
            pool, tcp = ([getattr(one, what) for one in figures[f"{how}-{size}"]]
                         for how in ("pool", "tcp"))  # fmt: skip
            ratio = statistics.median(p / t for p, t in zip(pool, tcp, strict=True))
            report = "%s by %s: pool %.0f, TCP %.0f messages a second, %.2f times"
            found = statistics.median(pool), statistics.median(tcp), ratio
            logging.getLogger(__name__).info(report, size, what, *found)
    assert all(one.wall > 0 < one.cpu for found in figures.values() for one in found)


def measured(way: str) -> Figure:
    count = len(lines("source", way))
    (process,) = workers("speed", "source")
    os.kill(process, WAYS[way])
    wait_until(
        lambda: len(lines("source", way)) == len(lines("sink", way)) == count + 1,
        what=f"all is there, {way}", seconds=60,
    )  # fmt: skip
    ends = [lines(name, way)[-1][1:] for name in ("source", "sink")]
    (messages, _, used), (seen, wall, more) = ([int(one) for one in end] for end in ends)
    assert messages == seen == COUNTS[way.partition("-")[2]]
    found = Figure(messages / wall * 1e9, messages / (used + more) * 1e9)
    logging.getLogger(__name__).info("%s: %.0f, %.0f", way, *found)
    return found


def lines(function: str, way: str = "waits") -> list[list[str]]:
    """What it said of a way, as words."""
    with opened("speed") as view:
        said = [line.text.split() for line in read([logs.log(view, function)])]
    return [words for words in said if words[0] == way]
