# SPDX-License-Identifier: BSD-2-Clause
"""What a run leaves, and how it is kept.

A results directory holds ``run.json`` (scenario, seed, environment, the paths), ``results.jsonl``
(a line per figure) and ``raw/`` (what the tools printed, untouched). The analysis and the report
read nothing else.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from ebpfmesh.errors import NotFound


@dataclass(frozen=True)
class Measurement:
    """A line of results.jsonl; ``value`` is None, and ``error`` says why, if it failed.

    ``at`` is the place on ``axis``, 0 where the axis means nothing to the path.
    """

    round: int
    kind: str
    path: str
    axis: str
    at: int
    value: float | None
    raw: str
    """Name of the file with the tool's output, in the directory of the results."""
    error: str = ""


@dataclass(frozen=True)
class Results:
    """All that a run left."""

    scenario: Mapping[str, Any]
    """As its file has it."""
    seed: int
    environment: Mapping[str, str]
    paths: Mapping[str, str]
    """Each path's description."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """The paths that could not be built here, and why."""
    connections: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
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
        try:
            found = tuple(Measurement(**json.loads(line)) for line in lines)
            return cls(measurements=found, **head)
        except (ValueError, TypeError) as error:
            raise NotFound(
                f"{directory} holds no results this version can read: {error}",
                hint="measure again: ebpfmesh bench run quick",
            ) from error

    def save_head(self, directory: Path) -> None:
        """Write run.json: everything but the measurements, which are added as they come."""
        head = asdict(self)
        del head["measurements"]
        text = json.dumps(head, indent=2, ensure_ascii=False)
        (directory / "run.json").write_text(text + "\n")
