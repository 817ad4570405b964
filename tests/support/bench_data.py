# SPDX-License-Identifier: BSD-2-Clause
"""Invented results for tests of the analysis and the report: of any scenario, noise included.

    PYTHONPATH=tests python -m support.bench_data DIRECTORY

writes those of every scenario that comes along, to look at their reports. No figure of it was ever
measured.
"""

import json
import random
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from math import log10
from pathlib import Path
from typing import Any

from ebpfmesh.bench.kinds import AXES, BY_CPU, KINDS, NET
from ebpfmesh.bench.results import Measurement, Results
from ebpfmesh.bench.scenario import DIRECTORY as SCENARIOS

SPEED = {
    "loopback": 2.2, "xdp_redirect": 2.0, "redirect_peer": 1.25, "mesh": 1.0, "routed": 0.62,
    "bridge": 0.66, "ovs": 0.16, "ovs-kernel": 0.6, "nftables": 0.36, "iptables": 0.4,
    "iptables-legacy": 0.43, "iptables-each-packet": 0.39, "iptables-append": 0.4,
    "mesh-unmetered": 1.03, "mesh-counted": 0.98,
    "mesh-swapped": 1.0, "mesh-reattached": 1.0,
}  # fmt: skip
"""How fast paths are, beside the mesh."""
WITH_SERVICES = (
    "mesh", "mesh-unmetered", "mesh-counted", "nftables", "iptables", "iptables-legacy",
    "iptables-each-packet", "iptables-append", "mesh-swapped", "mesh-reattached", "iptables-raw",
    "iptables-recvmmsg", "recvmmsg", "tpacket-v3", "mesh-uplink", "mesh-xdp", "mesh-deny",
    "mesh-af-xdp", "mesh-af-xdp-python",
)  # fmt: skip
LISTS = {"iptables": 0.02, "iptables-legacy": 0.01, "iptables-each-packet": 0.03}
"""What an entry of a list costs, as a part of the time for a packet."""
MESH = {
    "pps": 2.6, "pps-answered": 2.6, "pps-syn": 1.1, "pps-100000-flows": 1.6, "pps-ipv6": 2.4,
    "pps-new-flows": 0.4, "pps-spoofed": 2.5, "pps-denied": 1.25,
    "pps-events": 1.7, "pps-capture": 0.9, "stream": 22.0, "stream-two-cores": 24.0, "rr": 12.0,
    "rr-p99": 21.0, "rr-p999": 48.0, "connect": 21000.0, "http": 41000.0, "http-short": 9800.0,
    "add-service": 900.0, "add-rule": 700.0, "add-service-command": 4.1, "add-rule-command": 4.3,
    "attach-one": 14.0, "build": 1.9, "build-memory": 70.0, "update-service": 1.3,
    "update-rule": 1.6, "update-programs": 9.0, "update-swap": 40.0,
    "update-lost": 0.0, "update-reordered": 0.0, "update-gap": 900.0,
    "update-gap-without": 850.0,
}  # fmt: skip
COSTS = {
    "help": 0.13, "up": 0.6, "up-compiling": 1.1, "attach": 14.0, "attach-clsact": 15.0,
    "maps": 30.0, "idle": 0.0,
}  # fmt: skip
MORE = {
    "rr": ("rr-p99", "rr-p999"),
    "load": ("load-idle", "load-received", "load-machine"),
    "wire": ("wire-idle",),
    "taken": ("taken-idle",),
    "update": ("update-lost", "update-reordered", "update-gap", "update-gap-without"),
}
"""What comes along with a kind, by how that begins."""
PART = {"pps": 1.0, "connect": 0.55, "stream": 0.3, "rr": 0.3, "http": 0.15, "add": 1.2}
"""How much of what a path does to a packet is seen in a figure, by how its kind begins."""


def scenario(name: str) -> dict[str, Any]:
    """A scenario that comes along, as the results of its run have it."""
    parts = tomllib.loads((SCENARIOS / f"{name}.toml").read_text())
    return {"name": name, "about": "", "control": 0, **parts}


def names() -> list[str]:
    """The scenarios that come along."""
    return sorted(file.stem for file in SCENARIOS.glob("*.toml"))


def value(kind: str, path: str, axis: str, at: int) -> float:
    """An invented figure."""
    kind = kind.removesuffix(BY_CPU).removesuffix(NET)
    if kind.startswith("load"):
        cpu = (0.02 + 35 * at / 1e9) / SPEED[path]
        idle = 1.2 if path == "ovs" else 0.01
        told = {"load-idle": idle, "load-received": at, "load-machine": cpu + 0.2}
        return told.get(kind, cpu + idle)
    part = next((part for word, part in PART.items() if kind.startswith(word)), 0.5)
    listed = at if axis in ("services", "rules") and kind[:3] != "add" else 0
    slower = 1 + LISTS.get(path, 0.0) * listed
    if path == "mesh" and axis == "rules":
        slower *= 1 + 0.01 * log10(listed + 1)
    if axis == "flows" and kind.startswith("pps"):
        slower *= 1 + 0.11 * log10(at)
    if axis == "size":
        slower *= 1 + at / (4000 if path != "xdp_redirect" else 9000)
    if kind.startswith("add") and path != "mesh":
        slower *= 3 if path == "iptables-append" else 90
    faster = (SPEED.get(path, 1.0) / slower) ** part
    return MESH.get(kind, 1.0) * (faster if KINDS[kind].more_is_better else 1 / faster)


def steps(scenario: Mapping[str, Any]) -> Iterator[tuple[str, str, str, int]]:
    """Kind, path, axis and place of all that a scenario measures."""
    for part in scenario["measure"]:
        axis = next((name for name in AXES if part.get(name)), "services")
        for kind in part["kinds"]:
            for path in part["paths"]:
                means = path in WITH_SERVICES or not AXES[axis].needs_services
                for at in part.get(axis) or (1,) if means else (0,):
                    by_cpu = [kind + BY_CPU] if kind + BY_CPU in KINDS else []
                    by_cpu += [kind + NET] if kind + NET in KINDS else []
                    for each in (kind, *by_cpu, *MORE.get(kind.partition("-")[0], ())):
                        yield each, path, axis, at


def measurements(
    scenario: Mapping[str, Any], missing: Mapping[str, str], *, seed: int, noise: float, mesh: float
) -> Iterator[Measurement]:
    """A line for each step of each round: the machine drifts, each figure has noise of its own."""
    chance = random.Random(seed)
    for number in range(1, scenario["rounds"] + 1):
        drift = chance.gauss(1, 0.06)
        for kind, path, axis, at in steps(scenario):
            if path not in missing:
                found = value(kind, path, axis, at)
                if path == "mesh":
                    found *= mesh if KINDS[kind].more_is_better else 1 / mesh
                if not KINDS[kind].by_cpu:
                    found *= drift
                found *= chance.gauss(1, noise * (4 if kind == "rr-p999" else 1))
                yield Measurement(number, kind, path, axis, at, abs(found), "raw/x.txt")
    for _, path, axis, at in {step[1:]: step for step in steps(scenario)}.values():
        if path not in missing:
            took = value("build", path, axis, at) * (1 + at / 5000)
            yield Measurement(1, "build", path, axis, at, took, "raw/built.json")
    for number in range(1, scenario["control"] + 1):
        for kind, cost in COSTS.items():
            value_ = cost * chance.gauss(1, noise)
            yield Measurement(number, kind, "mesh", "", 0, value_, "raw/y.txt")


def made(
    of: str | Mapping[str, Any], *, seed: int = 1, noise: float = 0.03, mesh: float = 1.0,
    missing: Mapping[str, str] | None = None, **environment: str,
) -> Results:  # fmt: skip
    """Results of a scenario, on an invented machine; ``mesh`` is how much faster it is."""
    chosen = scenario(of) if isinstance(of, str) else dict(of)
    absent = missing or {}
    paths = dict.fromkeys(path for part in chosen["measure"] for path in part["paths"])
    return Results(
        scenario=chosen,
        seed=seed,
        environment={
            "time": "2026-01-01T12:00:00+00:00", "machine": "0123456789ab",
            "kernel": "6.18.0 x86_64", "cpu": "An invented processor", "cpus": "2",
            "memory": "4000000 kB", "iperf3": "iperf 3.12", **environment,
        },
        paths={path: f"what {path} is" for path in paths if path not in absent},
        missing=absent,
        connections={
            path: {"radio": "open", "guest": "no answer"}
            for path in paths
            if path in WITH_SERVICES and path not in absent
        },
        measurements=tuple(measurements(chosen, absent, seed=seed, noise=noise, mesh=mesh)),
    )  # fmt: skip


def kept(results: Results, directory: Path) -> Path:
    """Results in a directory, as a run leaves them."""
    directory.mkdir(parents=True, exist_ok=True)
    results.save_head(directory)
    lines = (json.dumps(asdict(m), ensure_ascii=False) + "\n" for m in results.measurements)
    (directory / "results.jsonl").write_text("".join(lines))
    return directory


if __name__ == "__main__":
    for each in names():
        ovs = {"ovs-kernel": "the kernel has no datapath of Open vSwitch"}
        kept(made(each, missing=ovs if "ovs-kernel" in str(scenario(each)) else {}),
             Path(sys.argv[1]) / each)  # fmt: skip
