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
from typing import TextIO

from ebpfmesh.bench.kinds import BY_CPU, KINDS
from ebpfmesh.bench.lab import Lab
from ebpfmesh.bench.measure import costs
from ebpfmesh.bench.measure.environment import describe_machine
from ebpfmesh.bench.results import Measurement, Results
from ebpfmesh.bench.sample import Sample
from ebpfmesh.bench.scenario import Scenario, Step
from ebpfmesh.errors import CommandFailed, UsageError

Progress = Callable[[int, int, str], None]
"""Called before each step with the measurements done, their number, and what comes now."""


def total(scenario: Scenario) -> int:
    """Number of measurements of all rounds, and of the figures of control."""
    return scenario.measurements + (len(costs.FIGURES) if scenario.control else 0)


def run(scenario: Scenario, directory: Path, *, seed: int, progress: Progress) -> Results:
    """Run a scenario and keep its results in ``directory``, which is made or empty.

    Raises UsageError if there is something in it, Unsupported if a tool is missing.
    """
    if directory.is_dir() and any(directory.iterdir()):
        raise UsageError(f"{directory} is not empty", hint="name another directory")
    with ExitStack() as stack:
        environment = describe_machine()
        lab = Lab(
            scenario.steps, stack, lambda text: progress(0, total(scenario), f"building {text}")
        )
        (directory / "raw").mkdir(parents=True)
        head = Results(
            scenario=scenario.model_dump(mode="json"),
            seed=seed,
            environment=environment | lab.environment(),
            paths=lab.describe(),
            missing=lab.missing,
            connections=lab.connections(),
        )
        head.save_head(directory)
        for name, text in lab.offloads().items():
            (directory / "raw" / f"offloads-{name}.txt").write_text(text)
        lab.warm_up()
        with (directory / "results.jsonl").open("w") as results:
            _Rounds(lab, scenario, directory, results, progress).take(random.Random(seed))
    return Results.load(directory)


class _Rounds:
    """The steps of all rounds, each written down as it is done."""

    def __init__(
        self, lab: Lab, scenario: Scenario, directory: Path, results: TextIO, progress: Progress
    ) -> None:
        self._lab, self._scenario, self._directory = lab, scenario, directory
        self._results, self._progress = results, progress
        self._done, self._total = 0, total(scenario)

    def take(self, order: random.Random) -> None:
        """Take everything."""
        scenario = self._scenario
        self._built()
        for number in range(1, scenario.rounds + 1):
            for step in round_steps(scenario.steps, order):
                self._tell(f"round {number}: {say(step)}")
                self._step(number, step)
        for name in costs.FIGURES if scenario.control else ():
            self._tell(f"what a mesh costs: {name}")
            self._control(name)
        self._progress(self._total, self._total, "done")

    def _built(self) -> None:
        """What building the paths took, which was done once."""
        raw = "raw/built.json"
        told = {f"{name} {scale}": took for (name, scale), took in self._lab.built.items()}
        (self._directory / raw).write_text(json.dumps(told, indent=1) + "\n")
        left = dict(self._lab.built)
        for step in self._scenario.steps:
            for kind, value in left.pop((step.path, step.scale), {}).items():
                self._write(Measurement(1, kind, step.path, step.axis, step.at, value, raw))

    def _tell(self, what: str) -> None:
        self._progress(self._done, self._total, what)

    def _step(self, number: int, step: Step) -> None:
        raw = f"raw/{self._done:04}-{step.path}-{step.axis}-{step.at}-{step.kind}.txt"
        self._done += 1
        if step.path in self._lab.missing:
            return
        place = (number, step.kind, step.path, step.axis, step.at)
        try:
            sample = self._lab.measure(step, self._scenario.seconds_of(step))
        except CommandFailed as error:
            (self._directory / raw).write_text(f"{error.message}\n{error.hint}\n")
            self._write(Measurement(*place, None, raw, error.message))
            return
        (self._directory / raw).write_text(sample.raw)
        self._write(Measurement(*place, sample.value, raw))
        more = dict(sample.more)
        if sample.by_cpu is not None:
            more[step.kind + BY_CPU] = sample.by_cpu
        for kind, value in more.items():
            self._write(Measurement(number, kind, *place[2:], value, raw))

    def _control(self, name: str) -> None:
        """A figure of the control plane, taken several times, or how it failed."""
        raw = f"raw/{self._done:04}-{name}.txt"
        self._done += 1
        samples: list[Sample] = []
        try:
            samples = costs.FIGURES[name](self._scenario.control)
        except CommandFailed as error:
            (self._directory / raw).write_text(f"{error.message}\n{error.hint}\n")
            self._write(Measurement(1, name, "mesh", "", 0, None, raw, error.message))
        else:
            (self._directory / raw).write_text("".join(sample.raw for sample in samples))
        for number, sample in enumerate(samples, 1):
            self._write(Measurement(number, name, "mesh", "", 0, sample.value, raw))

    def _write(self, line: Measurement) -> None:
        """Add a line to results.jsonl, so that a run that is cut short keeps what it has."""
        self._results.write(json.dumps(asdict(line), ensure_ascii=False) + "\n")
        self._results.flush()


def say(step: Step) -> str:
    """A step in words."""
    at = f", {step.at} {step.axis}" if step.at else ""
    return f"{step.kind} over {step.path}{at}"


def round_steps(steps: Iterable[Step], order: random.Random) -> Iterator[Step]:
    """The steps of one round: everything once, in random order.

    What is compared stands together, so that both sides meet the same machine: beside each other
    the kinds whose names begin with the same word, and among them what is at the same place.
    """
    left = list(steps)
    order.shuffle(left)
    families = _firsts(_family(step) for step in left)
    places = _firsts((_family(step), step.axis, step.at) for step in left)
    yield from sorted(
        left,
        key=lambda step: (
            families[_family(step)],
            places[_family(step), step.axis, step.at],
        ),
    )


def _family(step: Step) -> str:
    return KINDS[step.kind].take if step.kind.startswith("pps") else step.kind.partition("-")[0]


def _firsts(items: Iterable[object]) -> dict[object, int]:
    """The items by the order in which they first come."""
    return {item: number for number, item in enumerate(dict.fromkeys(items))}
