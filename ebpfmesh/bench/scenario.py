# SPDX-License-Identifier: BSD-2-Clause
"""Scenarios: what is measured over which paths, as TOML. Those that come along have a name.

title = "The cost of a packet, by the number of services"
rounds = 5

[[measure]]
kinds = ["pps", "rr"]
seconds = 0.5
paths = ["redirect_peer", "iptables", "mesh"]
services = [1, 100, 10000]     # or one of the other axes; without any: services = [1]
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, NamedTuple, Self

from pydantic import Field, ValidationError, model_validator

from ebpfmesh.bench.kinds import AXES, KINDS
from ebpfmesh.bench.paths import PATHS, MeshPath, add_build
from ebpfmesh.bench.workload import Scale
from ebpfmesh.config import explain, toml
from ebpfmesh.errors import UsageError
from ebpfmesh.model import Invalid, Model, suggest

DIRECTORY = Path(__file__).with_name("scenarios")
QUICK_ROUNDS = 3
QUICK_SECONDS = 0.5
MAX_ROUNDS = 1000
BY_PACKETS = ("pps", "refused", "connect", "stream", "rr", "http", "load")
"""What measures kinds that need nothing of a path but that it carries packets."""
MAX_PLACES = 64

_Names = Annotated[
    tuple[str, ...], Field(min_length=1, strict=False, description="an array of names")
]


_Places = Annotated[
    tuple[int, ...],
    Field(strict=False, max_length=MAX_PLACES, description=f"up to {MAX_PLACES} integers"),
]


def _listens(kind: str) -> bool:
    return "listener" in KINDS[kind].settings


class Step(NamedTuple):
    """One measurement: a kind over a path, at a place on an axis; 0 where that means nothing."""

    kind: str
    path: str
    axis: str
    at: int

    @property
    def scale(self) -> Scale:
        """What its path is built at."""
        return Scale(**{self.axis: self.at}) if self.at and AXES[self.axis].built else Scale()


class Part(Model):
    """Kinds of figures that are taken over the same paths, at the same places of one axis."""

    kinds: _Names
    paths: _Names
    seconds: float = Field(gt=0, le=60, description="a number above 0 and up to 60")
    services: _Places = ()
    rules: _Places = ()
    functions: _Places = ()
    flows: _Places = ()
    size: _Places = ()
    load: _Places = ()

    @property
    def axis(self) -> str:
        """The axis it names, or services."""
        return next((name for name in AXES if getattr(self, name)), "services")

    @property
    def values(self) -> tuple[int, ...]:
        """The places on its axis."""
        found: tuple[int, ...] = getattr(self, self.axis)
        return found or (1,)

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if len(named := [name for name in AXES if getattr(self, name)]) > 1:
            what = f"{named[0]} and {named[1]} cannot both be varied"
            raise Invalid(what, path=(named[1],), hint="make two parts of it")
        axis = AXES[self.axis]
        for index, value in enumerate(self.values):
            if not axis.least <= value <= axis.most:
                what = f"{self.axis} cannot be {value}"
                hint = f"allowed: {axis.least} to {axis.most}"
                raise Invalid(what, path=(self.axis, index), hint=hint)
        for key, known in (("kinds", [k for k in KINDS if KINDS[k].take]), ("paths", PATHS)):
            for index, name in enumerate(getattr(self, key)):
                if name not in known:
                    what = f"{key}: there is no {name}"
                    raise Invalid(what, path=(key, index), hint=suggest(name, known))
        for index, path in enumerate(self.paths):
            for kind in self.kinds:
                if (source := KINDS[kind].source) not in PATHS[path].carries:
                    what, hint = f"{path} cannot carry {kind}", f"it takes no {source}"
                    raise Invalid(what, path=("paths", index), hint=hint)
        return self

    def steps(self) -> Iterator[Step]:
        """Every measurement of it, once."""
        for kind in self.kinds:
            for path in self.paths:
                if AXES[self.axis].needs_services and not PATHS[path].has_services:
                    yield Step(kind, path, self.axis, 0)
                    continue
                for at in self.values:
                    yield Step(kind, path, self.axis, at)

    def again(self, path: str, other: str) -> "Part | None":
        """What of it is measured over ``path`` by packets, over another path; None if nothing."""
        kinds = tuple(k for k in self.kinds if KINDS[k].take in BY_PACKETS and not _listens(k))
        if path not in self.paths or not kinds:
            return None
        return self.model_copy(update={"kinds": kinds, "paths": (other,)})

    def quick(self) -> "Part":
        """Less of it: the ends of its axis, and half the time."""
        ends = tuple(dict.fromkeys((self.values[0], self.values[-1])))
        return self.model_copy(update={"seconds": self.seconds * QUICK_SECONDS, self.axis: ends})


class Scenario(Model):
    """What is measured, and how often.

    ``control`` is how often the figures of ``ebpfmesh.bench.measure.costs`` are taken.
    """

    name: str = ""
    title: str = Field(description="what it is about, in a line of text")
    about: str = ""
    rounds: int = Field(ge=1, le=MAX_ROUNDS, description=f"an integer from 1 to {MAX_ROUNDS}")
    control: int = Field(default=0, ge=0, le=100, description="an integer from 0 to 100")
    measure: tuple[Part, ...] = Field(
        strict=False, min_length=1, description="at least one [[measure]]"
    )

    @property
    def steps(self) -> tuple[Step, ...]:
        """The measurements of a round."""
        return tuple(dict.fromkeys(step for part in self.measure for step in part.steps()))

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths it names, in its order."""
        return tuple(dict.fromkeys(path for part in self.measure for path in part.paths))

    @property
    def measurements(self) -> int:
        """How many measurements all rounds have."""
        return self.rounds * len(self.steps)

    @property
    def seconds(self) -> float:
        """What the measurements of all rounds take at least."""
        return self.rounds * sum(part.seconds * len(list(part.steps())) for part in self.measure)

    def seconds_of(self, step: Step) -> float:
        """How long a measurement of it takes."""
        return next(part.seconds for part in self.measure if step in part.steps())

    def quick(self) -> "Scenario":
        """A shorter one, to see that all of it works: its figures are rough."""
        parts = tuple(part.quick() for part in self.measure)
        rounds = min(self.rounds, QUICK_ROUNDS)
        return self.model_copy(
            update={"measure": parts, "rounds": rounds, "control": min(self.control, 1)}
        )

    def over(self, paths: Iterable[str]) -> "Scenario":
        """Only what is measured over ``paths``; raises UsageError if that is nothing."""
        wanted = tuple(paths)
        for name in wanted:
            if name not in self.paths:
                what = f"scenario {self.name} has no path {name}"
                raise UsageError(what, hint=suggest(name, self.paths))
        parts = (
            part.model_copy(update={"paths": tuple(p for p in part.paths if p in wanted)})
            for part in self.measure
        )
        return self.model_copy(update={"measure": tuple(part for part in parts if part.paths)})

    def beside(self, directory: Path) -> "Scenario":
        """The same, and the mesh of another build wherever this one's carries packets.

        Raises UsageError if there is no build in ``directory``, or nothing to compare it with.
        """
        name = add_build(directory)
        parts = tuple(found for part in self.measure if (found := part.again(MeshPath.name, name)))
        if not parts:
            what = f"scenario {self.name} has no packets over {MeshPath.name}"
            raise UsageError(f"{what} to compare another build by", hint="bench run builds")
        return self.model_copy(update={"measure": self.measure + parts})


def names() -> list[str]:
    """Names of the scenarios that come along."""
    return sorted(file.stem for file in DIRECTORY.glob("*.toml"))


def find(name: str) -> Scenario:
    """A scenario by its name, or by the path of its file, which ends in .toml.

    Raises UsageError if there is none, ConfigError with file and line if it is wrong.
    """
    file = Path(name) if name.endswith(".toml") else DIRECTORY / f"{name}.toml"
    if file.parent == DIRECTORY and not file.is_file():
        raise UsageError(f'there is no scenario "{name}"', hint=suggest(name, names()))
    return load(file)


def load(file: Path) -> Scenario:
    """Read a scenario; raises ConfigError for whatever is wrong."""
    text = toml.read(file)
    values = {**toml.parse(file, text), "name": file.stem}
    try:
        return Scenario.model_validate(values)
    except ValidationError as error:
        details = error.errors(include_url=False)
        raise toml.fault(toml.errors(file, text, explain(details, Scenario, values))) from None
