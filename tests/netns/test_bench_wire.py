# SPDX-License-Identifier: BSD-2-Clause
"""Packets from a wire, over each path that takes some: they arrive, are counted, nothing remains.

DPDK's are not here, since its packages are as large as all others: `make bench-uplink` installs
them, and has no figure of what forwarded nothing.
"""

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from ebpfmesh.bench import workload
from ebpfmesh.bench.lab import Lab
from ebpfmesh.bench.measure import wire
from ebpfmesh.bench.paths import PATHS
from ebpfmesh.bench.scenario import Step
from ebpfmesh.errors import CommandFailed
from support import topology

KINDS = {"wire": "wire", "taken": "consumers", "flood": "floods"}
STEPS = [
    Step(kind, name, "services", 2 if path.has_services else 0)
    for kind, source in KINDS.items()
    for name, path in PATHS.items()
    if source in path.carries and not name.startswith("dpdk")
]
SECONDS = 0.01


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """All of them side by side, as a run has them; then nothing is left."""
    before = topology.leftovers()
    with (
        tempfile.TemporaryDirectory() as place,
        pytest.MonkeyPatch.context() as patch,
        ExitStack() as stack,
    ):
        patch.setattr(tempfile, "tempdir", place)
        made = Lab(STEPS, stack, lambda _: None)
        if made.missing:
            topology.unavailable(str(made.missing))
        yield made
        stack.close()
        assert not list(Path(place).iterdir())
    assert topology.poll(lambda: topology.leftovers() <= before), topology.leftovers() - before


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.path)
def test_packets_of_a_wire_arrive_and_are_counted(lab: Lab, step: Step) -> None:
    """The lab refuses what did not go by the path, and each measurement what did not arrive."""
    sample = lab.measure(step, SECONDS)
    assert sample.packets > 0
    assert sample.value > 0
    assert sample.by_cpu is not None
    assert 0 < sample.by_cpu < sample.more[f"{step.kind}-net"]
    assert sample.more.get(f"{step.kind}-idle", 0) < 50


@pytest.mark.parametrize("name", ["iptables-raw", "mesh-deny"])
def test_a_flood_that_is_let_in_has_no_figure(
    lab: Lab, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of another source than is denied it arrives, or ends where refusing costs more."""
    monkeypatch.setattr(workload, "FLOOD_ADDRESS", IPv4Address("198.19.220.2"))
    with pytest.raises(CommandFailed, match=f"that {name} lets in, and it denied 0 of"):
        lab.measure(Step("flood", name, "services", 2), SECONDS)


def test_what_a_program_does_not_take_has_no_figure(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "TAKEN_SECONDS", 0.1)
    step = Step("taken", "mesh-af-xdp", "services", 2)
    (process,) = lab.paths[step.path, step.scale].processes()
    os.kill(process, signal.SIGSTOP)
    try:
        with pytest.raises(CommandFailed, match="of mesh-af-xdp got 0 of 1024 packets"):
            lab.measure(step, SECONDS)
    finally:
        os.kill(process, signal.SIGCONT)
