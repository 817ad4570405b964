# SPDX-License-Identifier: BSD-2-Clause
"""A run of a scenario: rounds with every measurement once, in random order; raw results kept.

Must run in a sandbox (``ebpfmesh.kernel.netns.enter_sandbox``).
"""

import json
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from ebpfmesh import config
from ebpfmesh.bench import control, traffic, workload
from ebpfmesh.bench.environment import describe_machine
from ebpfmesh.bench.paths import PATHS, DataPath
from ebpfmesh.bench.pps import PacketRate, measure_pps
from ebpfmesh.bench.results import Measurement, Results, Scenario
from ebpfmesh.bench.traffic import Sample
from ebpfmesh.errors import CommandFailed, UsageError
from ebpfmesh.model import Mesh

Progress = Callable[[int, int, str], None]
"""Called before each step with the measurements done, their number, and what comes now."""


class Lab:
    """The paths of a scenario, built side by side, and the packet generator."""

    def __init__(self, mesh: Mesh, names: Mapping[str, object], stack: ExitStack) -> None:
        self.rate = PacketRate(mesh, stack)
        self.paths: dict[str, DataPath] = {}
        for name in names:
            path = PATHS[name](mesh)
            path.build(stack)
            self.paths[name] = path

    def measure(self, path: str, kind: str, seconds: float) -> Sample:
        """Measure a kind of traffic over a path as it is set up now."""
        if kind in traffic.MEASURES:
            return traffic.MEASURES[kind](self.paths[path], seconds)
        answered = kind == "pps-answered"
        return measure_pps(self.rate, self.paths[path], seconds, answered=answered)

    def connections(self) -> dict[str, dict[str, str]]:
        """Try a connection from the client and from the blocked one, over paths with a policy."""
        return {
            name: {
                client: traffic.try_connection(path, client)
                for client in (workload.CLIENT, workload.BLOCKED)
            }
            for name, path in self.paths.items()
            if path.has_services
        }

    def limit(self) -> int:
        """Nanoseconds that every packet of the generator costs before it enters any path."""
        return self.rate.limit(next(iter(self.paths.values())))

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
        lab = Lab(config.load(workload.DEMO_FILE), scenario.paths, stack)
        environment["generator"] = f"{lab.limit()} ns for a frame that is thrown away at once"
        head = Results(
            scenario=scenario,
            seed=seed,
            environment=environment,
            paths={name: path.describe() for name, path in lab.paths.items()},
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
    set_to: dict[str, int] = {}
    with (directory / "results.jsonl").open("w") as results:
        for number in range(1, scenario.rounds + 1):
            for size, kind, name in round_steps(scenario, order):
                place = f"{name}, {size} services" if size else name
                progress(done, total, f"round {number}: {kind} over {place}")
                if set_to.get(name, 0) != size:
                    lab.paths[name].set_services(size)
                    set_to[name] = size
                raw = f"raw/{done:04}-{name}-{size}-{kind}.txt"
                measured = _measure(lab, name, kind, scenario.seconds[kind], directory / raw)
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


def round_steps(scenario: Scenario, order: random.Random) -> Iterator[tuple[int, str, str]]:
    """(services, kind of traffic, path) of one round: everything once, in random order.

    What is compared stands together, so that both sides meet the same machine: numbers of
    services, then kinds of traffic, then paths. A path without services goes with the smallest.
    """
    sizes = sorted({size for sizes in scenario.paths.values() for size in sizes if size}) or [0]
    smallest = sizes[0]
    order.shuffle(sizes)
    for size in sizes:
        kinds = list(scenario.seconds)
        order.shuffle(kinds)
        names = [
            (name, has)
            for name, all_sizes in scenario.paths.items()
            for has in all_sizes
            if (has or smallest) == size
        ]
        for kind in kinds:
            order.shuffle(names)
            for name, has in names:
                yield has, kind, name


def _measure(
    lab: Lab, path: str, kind: str, seconds: float, raw: Path
) -> tuple[float | None, str, str]:
    """Value, unit and error of one measurement; its raw output goes to a file."""
    try:
        sample = lab.measure(path, kind, seconds)
    except CommandFailed as error:
        raw.write_text(f"{error.message}\n{error.hint}\n")
        return None, "", error.message
    raw.write_text(sample.raw)
    return sample.value, sample.unit, ""
