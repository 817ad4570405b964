# SPDX-License-Identifier: BSD-2-Clause
"""The CPU used at a load: the clocks that are read, and iperf3 over real paths.

Figures are compared only where other work on the machine cannot turn them round.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from ebpfmesh.bench import cputime, workload
from ebpfmesh.bench.measure import load
from ebpfmesh.bench.paths import PATHS, DataPath
from ebpfmesh.bench.sample import Sample
from ebpfmesh.bench.workload import Scale
from ebpfmesh.errors import CommandFailed
from ebpfmesh.kernel import netns
from support import topology

PERIODS, PERIOD = 50, 0.01
BURN = f"""
import sys, time
def burn(duty):
    end = time.process_time() + duty * {PERIOD}
    while time.process_time() < end:
        pass
    time.sleep((1 - duty) * {PERIOD})
print("ready", flush=True)
for line in sys.stdin:
    for _ in range({PERIODS}):
        burn(float(line))
    print(time.process_time(), flush=True)
"""
MB = 1_000_000


@contextmanager
def burner() -> Iterator["subprocess.Popen[str]"]:
    """A process that, for each line it reads, burns that part of a core for half a second.

    It says how much it has burnt by then.
    """
    with subprocess.Popen(
        [sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("duty", [0.01, 0.1, 0.5])
def test_clock_of_a_process_reads_what_it_burnt(duty: float) -> None:
    with burner() as process:
        assert process.stdin is not None
        assert process.stdout is not None
        before = cputime.of_processes([process.pid])
        process.stdin.write(f"{duty}\n")
        process.stdin.flush()
        burnt = float(process.stdout.readline())
        used = cputime.of_processes([process.pid]) / 1e9
    assert used - before / 1e9 >= duty * PERIOD * PERIODS
    assert burnt <= used < burnt + 0.02 * topology.SLOWER  # what it took to say so


def test_sleeping_process_uses_nothing() -> None:
    with burner() as process:
        used = [cputime.of_processes([process.pid])]

        def sleeps() -> bool:  # it may still be on its way to its input
            time.sleep(0.1)
            used.append(cputime.of_processes([process.pid]))
            return used[-1] == used[-2]

        assert topology.poll(sleeps)


def test_process_that_is_gone_is_told() -> None:
    with burner() as process:
        pass
    with pytest.raises(CommandFailed, match="is gone"):
        cputime.of_processes([process.pid])


def test_machine_is_as_busy_as_a_process_at_least() -> None:
    cores, own, began = cputime.of_cores(), time.process_time(), time.monotonic()
    while time.process_time() < own + 0.3:
        pass
    part = (time.process_time() - own) / (time.monotonic() - began)
    busy = cputime.busy(cores, cputime.of_cores())
    assert part * 0.9 < busy <= len(os.sched_getaffinity(0)) * 1.01


def test_every_core_has_its_softirq_thread() -> None:
    assert len(cputime.ksoftirqd()) >= len(os.sched_getaffinity(0))


@pytest.fixture(scope="module", params=["routed", "iptables", "ovs", "mesh"])
def path(request: pytest.FixtureRequest) -> Iterator[DataPath]:
    if reason := PATHS[request.param].missing():
        topology.unavailable(reason)
    with ExitStack() as stack:
        path = PATHS[request.param](workload.load())
        path.build(stack)
        yield path


def own(sample: Sample) -> float:
    """Cores that the load's own processes used: ksoftirqd works for all on the machine."""
    cores = json.loads(sample.raw)["load"]["cores"]
    return float(sum(used for name, used in cores.items() if name != load.SHARED))


def test_load_arrives_and_costs_something(path: DataPath) -> None:
    sample = load.measure(path, 1, load=10 * MB)
    assert sample.more["load-received"] == pytest.approx(10 * MB, rel=0.25)
    assert 0 < sample.value < 200
    assert sample.more["load-idle"] < 0.2 * sample.value
    windows = json.loads(sample.raw)
    assert windows["idle"]["received"] == 0
    assert "sender" in windows["iperf3"]
    assert windows["load"]["received"] == sample.packets > 400
    assert all(windows["load"]["cores"][name] > 0 for name in ("sender", "receiver"))
    assert (windows["load"]["cores"]["path"] > 0) == (path.name == "ovs")


def test_little_arrives_and_costs_little(path: DataPath) -> None:
    low, middle = (load.measure(path, 1, load=rate) for rate in (MB // 10, 50 * MB))
    assert low.more["load-received"] == pytest.approx(MB // 10, rel=0.4)
    assert own(low) < 0.2 * own(middle)
    assert middle.more["load-received"] > 10 * MB


def test_what_the_path_does_to_a_packet_is_on_the_clock() -> None:
    """Five thousand rules before each packet: more than all the rest of its way."""
    with ExitStack() as stack:
        paths = (
            PATHS["routed"](workload.load()),
            PATHS["iptables-each-packet"](workload.load(), Scale(5000)),
        )
        for path in paths:
            path.build(stack)
        free, ruled = (load.measure(path, 0.5, load=20 * MB) for path in paths)
    used = [json.loads(sample.raw)["load"]["cores"]["sender"] for sample in (free, ruled)]
    sent = [json.loads(sample.raw)["load"]["sent"] for sample in (free, ruled)]
    assert used[1] / sent[1] > 1.3 * used[0] / sent[0]


def test_processes_of_a_path_are_part_of_its_cpu() -> None:
    with ExitStack() as stack:
        process = stack.enter_context(burner())
        path = PATHS["routed"](workload.load())
        path.build(stack)
        path.processes = lambda: (process.pid,)  # type: ignore[method-assign]
        assert process.stdin is not None
        process.stdin.write("0.3\n" * 100)
        process.stdin.flush()
        sample = load.measure(path, 0.5, load=MB)
    windows = json.loads(sample.raw)
    assert sample.more["load-idle"] >= 100 * windows["idle"]["cores"]["path"] > 0.5
    assert sample.value > 100 * windows["load"]["cores"]["path"] > 0.5


def test_load_that_does_not_arrive_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "START_SECONDS", 0.5)
    with ExitStack() as stack:
        path = PATHS["routed"](workload.load())
        path.build(stack)
        with netns.entered(path.host.netns):
            Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
        with pytest.raises(CommandFailed, match="did not arrive over routed"):
            load.measure(path, 0.1, load=MB)
