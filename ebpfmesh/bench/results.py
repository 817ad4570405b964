# SPDX-License-Identifier: BSD-2-Clause
"""What a run leaves, and how it is kept.

A results directory holds ``run.json`` (scenario, seed, environment, the paths), ``results.jsonl``
(a line per measurement) and ``raw/`` (what the tools printed, untouched). The analysis and the
report read nothing else.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from ebpfmesh.errors import NotFound

CONTROL_FIGURES = 5
"""How many there are in ``ebpfmesh.bench.control``."""
NO_SERVICES = (0,)
"""Sizes of a path that has no services."""


@dataclass(frozen=True)
class Scenario:
    """What is compared: numbers of services by path, seconds by kind of traffic, and how often."""

    name: str
    title: str
    paths: Mapping[str, tuple[int, ...]]
    seconds: Mapping[str, float]
    rounds: int
    control: int = 0
    """How often the figures of ``ebpfmesh.bench.control`` are taken."""

    @property
    def total(self) -> int:
        """Number of steps: the measurements of all rounds, and the figures of control."""
        return self.rounds * self.per_round + (CONTROL_FIGURES if self.control else 0)

    @property
    def per_round(self) -> int:
        """Measurements in a round: each kind of traffic over each path at each of its sizes."""
        return len(self.seconds) * sum(map(len, self.paths.values()))


@dataclass(frozen=True)
class Measurement:
    """A line of results.jsonl; ``value`` is None, and ``error`` says why, if it failed."""

    round: int
    path: str
    services: int
    traffic: str
    value: float | None
    unit: str
    raw: str
    """Name of the file with the tool's output, in the directory of the results."""
    error: str = ""


@dataclass(frozen=True)
class Results:
    """All that a run left."""

    scenario: Scenario
    seed: int
    environment: Mapping[str, str]
    paths: Mapping[str, str]
    """Each path's description."""
    connections: Mapping[str, Mapping[str, str]]
    """By path, what became of a connection from a function that may, and from one that may not."""
    measurements: tuple[Measurement, ...] = ()

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read a results directory; NotFound if it is none."""
        try:
            head = json.loads((directory / "run.json").read_text())
            lines = (directory / "results.jsonl").read_text().splitlines()
        except FileNotFoundError as error:
            raise NotFound(f"no results in {directory}", hint="ebpfmesh bench run quick") from error
        scenario = head.pop("scenario")
        scenario["paths"] = {name: tuple(sizes) for name, sizes in scenario["paths"].items()}
        return cls(
            scenario=Scenario(**scenario),
            measurements=tuple(Measurement(**json.loads(line)) for line in lines),
            **head,
        )

    def save_head(self, directory: Path) -> None:
        """Write run.json: everything but the measurements, which are added as they come."""
        head = asdict(self)
        del head["measurements"]
        text = json.dumps(head, indent=2, ensure_ascii=False)
        (directory / "run.json").write_text(text + "\n")
