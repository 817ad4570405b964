# SPDX-License-Identifier: BSD-2-Clause
"""A run of a scenario: rounds with every measurement once, in random order; raw results kept.

Must run in a sandbox (``ebpfmesh.kernel.netns.enter_sandbox``).
"""

import json
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from ebpfmesh.bench import changes, control, traffic, workload
from ebpfmesh.bench.connect import Connector
from ebpfmesh.bench.environment import describe_machine
from ebpfmesh.bench.paths import PATHS, DataPath
from ebpfmesh.bench.pps import PacketRate, measure_pps
from ebpfmesh.bench.results import Measurement, Place, Results, Scenario
from ebpfmesh.bench.traffic import Sample
from ebpfmesh.errors import CommandFailed, UsageError
from ebpfmesh.model import Mesh

Progress = Callable[[int, int, str], None]
"""Called before each step with the measurements done, their number, and what comes now."""

CLIENT_SECONDS = 0.1
PACKETS: dict[str, dict[str, Any]] = {
    "pps": {},
    "pps-answered": {"answered": True},
    "pps-100000-flows": {"flows": 100_000},
    "pps-ipv6": {"version": 6},
    "pps-events": {"listener": "events"},
    "pps-capture": {"listener": "capture"},
}
"""What each kind of packets per second asks of ``measure_pps``."""


class Lab:
    """The paths of a scenario at all their sizes, side by side, and what sends through them."""

    def __init__(self, mesh: Mesh, places: Iterable[Place], stack: ExitStack) -> None:
        self.rate = PacketRate(mesh, stack)
        self.connector = Connector(stack)
        self.paths: dict[Place, DataPath] = {}
        for name, size in places:
            path = PATHS[name](mesh, size)
            path.build(stack)
            self.paths[name, size] = path

    def measure(self, place: Place, kind: str, seconds: float) -> Sample:
        """Measure a kind of traffic, or of change, over a path."""
        path = self.paths[place]
        if kind in traffic.MEASURES:
            return traffic.MEASURES[kind](path, seconds)
        if kind in changes.KINDS:
            return changes.measure(kind, path, seconds)
        if kind == "connect":
            return self.connector.measure(path, seconds)
        return measure_pps(self.rate, path, seconds, **PACKETS[kind])

    def describe(self) -> dict[str, str]:
        """What each path is, by its name."""
        return {path.name: path.describe() for path in self.paths.values()}

    def connections(self) -> dict[str, dict[str, str]]:
        """Try a connection from the client and from the blocked one, over paths with a policy."""
        first = {path.name: path for path in reversed(self.paths.values()) if path.has_services}
        return {
            name: {
                client: traffic.try_connection(path, client)
                for client in (workload.CLIENT, workload.BLOCKED)
            }
            for name, path in first.items()
        }

    def own_cost(self) -> dict[str, str]:
        """What the measuring itself takes of each figure, by what measures; over the first path."""
        path = next(iter(self.paths.values()))
        connections = self.connector.measure(path, CLIENT_SECONDS)
        own = json.loads(connections.raw)["client_ns"]
        whole = f"{1e9 / connections.value:.0f} ns that it takes over {path.name}"
        return {
            "generator": f"{self.rate.limit(path)} ns for a frame that is thrown away at once",
            "connecting client": f"{own} ns of a new connection, out of {whole}",
        }

    def warm_up(self) -> None:
        """Send a little over every path, so that no first measurement pays for it."""
        for path in self.paths.values():
            self.rate.measure(path, bursts=1)


def run(scenario: Scenario, directory: Path, *, seed: int, progress: Progress) -> Results:
    """Run a scenario and keep its results in ``directory``, which is made or empty.

    Raises UsageError if there is something in it, Unsupported if a tool is missing.
    """
    if directory.is_dir() and any(directory.iterdir()):
        raise UsageError(f"{directory} is not empty", hint="name another directory")
    with ExitStack() as stack:
        progress(0, scenario.total, "building the paths")
        environment = describe_machine()
        lab = Lab(workload.load(), scenario.all_places, stack)
        environment |= lab.own_cost()
        head = Results(
            scenario=scenario,
            seed=seed,
            environment=environment,
            paths=lab.describe(),
            connections=lab.connections(),
        )
        (directory / "raw").mkdir(parents=True)
        head.save_head(directory)
        lab.warm_up()
        _rounds(lab, scenario, directory, random.Random(seed), progress)
    return Results.load(directory)


def _rounds(
    lab: Lab, scenario: Scenario, directory: Path, order: random.Random, progress: Progress
) -> None:
    """Do the steps of every round and write down what comes of them."""
    done, total = 0, scenario.total
    with (directory / "results.jsonl").open("w") as results:
        for number in range(1, scenario.rounds + 1):
            for kind, place in round_steps(scenario, order):
                name, size = place
                where = f"{name}, {size} services" if size else name
                progress(done, total, f"round {number}: {kind} over {where}")
                raw = f"raw/{done:04}-{name}-{size}-{kind}.txt"
                measured = _measure(
                    lab, (name, size), kind, scenario.seconds[kind], directory / raw
                )
                line = Measurement(number, name, size, kind, *measured[:2], raw, measured[2])
                _write(results, line)
                done += 1
        for name, take in control.FIGURES.items() if scenario.control else ():
            progress(done, total, f"what a mesh costs: {name}")
            raw = f"raw/{done:04}-{name}.txt"
            for line in _control(name, take, scenario.control, directory, raw):
                _write(results, line)
            done += 1
    progress(done, total, "done")


def _control(
    name: str, take: Callable[[int], list[Sample]], times: int, directory: Path, raw: str
) -> list[Measurement]:
    """A figure of the control plane, taken several times, or how it failed."""
    try:
        samples = take(times)
    except CommandFailed as error:
        (directory / raw).write_text(f"{error.message}\n{error.hint}\n")
        return [Measurement(1, "mesh", 0, name, None, "", raw, error.message)]
    (directory / raw).write_text("".join(sample.raw for sample in samples))
    return [
        Measurement(number, "mesh", 0, name, sample.value, sample.unit, raw)
        for number, sample in enumerate(samples, 1)
    ]


def _write(results: TextIO, line: Measurement) -> None:
    """Add a line to results.jsonl, so that a run that is cut short keeps what it has."""
    results.write(json.dumps(asdict(line), ensure_ascii=False) + "\n")
    results.flush()


def round_steps(scenario: Scenario, order: random.Random) -> Iterator[tuple[str, Place]]:
    """(kind of traffic, place) of one round: everything once, in random order.

    What is compared stands together, so that both sides meet the same machine: all places of a
    kind, and beside each other the kinds whose names begin with the same word.
    """
    kinds = list(scenario.seconds)
    order.shuffle(kinds)
    families = list(dict.fromkeys(kind.partition("-")[0] for kind in kinds))
    for kind in sorted(kinds, key=lambda kind: families.index(kind.partition("-")[0])):
        places = list(scenario.places(kind))
        order.shuffle(places)
        for place in places:
            yield kind, place


def _measure(
    lab: Lab, place: Place, kind: str, seconds: float, raw: Path
) -> tuple[float | None, str, str]:
    """Value, unit and error of one measurement; its raw output goes to a file."""
    try:
        sample = lab.measure(place, kind, seconds)
    except CommandFailed as error:
        raw.write_text(f"{error.message}\n{error.hint}\n")
        return None, "", error.message
    raw.write_text(sample.raw)
    return sample.value, sample.unit, ""
