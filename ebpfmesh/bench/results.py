# SPDX-License-Identifier: BSD-2-Clause
"""What a run leaves, and how it is kept.

A results directory holds ``run.json`` (scenario, seed, environment, the paths), ``results.jsonl``
(a line per measurement) and ``raw/`` (what the tools printed, untouched). The analysis and the
report read nothing else.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from ebpfmesh.errors import NotFound

CONTROL_FIGURES = 6
"""How many there are in ``ebpfmesh.bench.control``."""
NO_SERVICES = (0,)
"""Sizes of a path that has no services."""
Place = tuple[str, int]
"""A path and its number of services."""


@dataclass(frozen=True)
class Scenario:
    """What is compared: numbers of services by path, seconds by kind of traffic, and how often.

    A kind in ``only`` is measured over these paths, and at these numbers, instead of all.
    """

    name: str
    title: str
    paths: Mapping[str, tuple[int, ...]]
    seconds: Mapping[str, float]
    rounds: int
    only: Mapping[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)
    control: int = 0
    """How often the figures of ``ebpfmesh.bench.control`` are taken."""

    @property
    def total(self) -> int:
        """Number of steps: the measurements of all rounds, and the figures of control."""
        return self.rounds * self.per_round + (CONTROL_FIGURES if self.control else 0)

    @property
    def per_round(self) -> int:
        """Measurements in a round: each kind of traffic at all its places."""
        return sum(len(self.places(kind)) for kind in self.seconds)

    def places(self, kind: str) -> tuple[Place, ...]:
        """Where a kind of traffic is measured."""
        paths = self.only.get(kind, self.paths)
        return tuple((path, size) for path, sizes in paths.items() for size in sizes)

    @property
    def all_places(self) -> tuple[Place, ...]:
        """All of them, each once."""
        return tuple(dict.fromkeys(p for kind in self.seconds for p in self.places(kind)))


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
        scenario["paths"] = _sizes(scenario["paths"])
        scenario["only"] = {kind: _sizes(at) for kind, at in scenario.get("only", {}).items()}
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


def _sizes(paths: Mapping[str, Iterable[int]]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(sizes) for name, sizes in paths.items()}
