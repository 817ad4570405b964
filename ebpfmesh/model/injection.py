# SPDX-License-Identifier: BSD-2-Clause
"""What is injected into the way of packets, and where."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from ebpfmesh.model.base import LABEL, Invalid, Model, Name, few, integer, show
from ebpfmesh.model.function import SOURCE_CHARACTERS
from ebpfmesh.model.pool import POOL_BYTES
from ebpfmesh.model.rate import Rate, rate_field
from ebpfmesh.model.shares import Bytes, Shares

Way = Literal["egress", "ingress"]
AT_ONE_PLACE = 8
LOG_LEAST = 128 << 10
"""Bytes of what a command says that are kept at least."""
INJECTIONS = 256  # of a mesh: their texts are in the record


def _place(text: object) -> object:
    """A place as it is written shortest: ``web/ingress`` for ``function:web/ingress``."""
    if isinstance(text, str):
        return text.removeprefix("function:")
    return text


At = Annotated[
    str,
    BeforeValidator(_place),
    Field(
        pattern=rf"^(tenant:)?{LABEL[1:-1]}/(egress|ingress)$",
        max_length=80,
        description='a place such as "web/ingress" or "tenant:op-a/egress"',
    ),
]
_PARAMETERS = "a table of integers, such as {rate = 1000000}"


class Rights(Shares):
    """What a tenant has of what is shared, and may inject: how many, which way, at which cost.

    Its ``rate`` is that of all its functions together, and so are ``log`` and ``pools``, in bytes.

    It injects at places of its own. The costs are those of ``inject.Budget``: instructions, bytes
    of maps, nanoseconds a packet.
    """

    name: Name
    rate: Rate | None = rate_field()
    log: Bytes | None = Field(
        default=None, ge=LOG_LEAST, le=1 << 40, description=f'{LOG_LEAST} or more, such as "64M"'
    )
    pools: Bytes = Field(
        default=POOL_BYTES, ge=4096, le=1 << 40, description='4096 or more, such as "256M"'
    )
    inject: int = integer(0, 0, 64)
    ways: tuple[Way, ...] = Field(
        default=("egress", "ingress"), strict=False, description='an array of "egress", "ingress"'
    )
    instructions: int = integer(4096, 1, 4096)
    map_bytes: int = integer(16 << 20, 0, 1 << 30)
    ns_median: int = integer(500, 1, 100_000)
    ns_worst: int = integer(2000, 1, 100_000)


class InjectionSettings(Model):
    """What can be said of an injected program besides its name and its text."""

    at: At
    tenant: Name | None = None
    parameters: Annotated[dict[str, int], BeforeValidator(few)] = Field(
        default_factory=dict, description=_PARAMETERS
    )


class Canary(Model):
    """Another text that a part of the flows meets, ``share`` percent of them."""

    file: str
    source: str = Field(max_length=SOURCE_CHARACTERS)
    parameters: dict[str, int] = Field(default_factory=dict)
    share: int = Field(ge=1, le=99, description="an integer from 1 to 99")


class Injection(InjectionSettings):
    """A program of somebody's at a place: it meets what a function sends or gets.

    ``at`` names a function, a group or a tenant, and the way. ``source`` is the text, ``file`` what
    it was read from, for people. With a ``tenant`` it has that one's rights and no others. Those at
    one place are met in the order of their ``rank``.
    """

    name: Name
    file: str
    source: str = Field(max_length=SOURCE_CHARACTERS)
    rank: int = Field(default=0, ge=0, lt=AT_ONE_PLACE)
    canary: Canary | None = None

    @property
    def target(self) -> tuple[str, str]:
        """(tenant or function, its name); a function's may be a group's."""
        where = self.at.rpartition("/")[0]
        kind, colon, name = where.partition(":")
        return (kind, name) if colon else ("function", where)

    @property
    def way(self) -> Way:
        """Whether it meets what is sent or what is received."""
        return "egress" if self.at.endswith("/egress") else "ingress"

    @property
    def alone(self) -> "Injection":
        """Without its canary."""
        return self.model_copy(update={"canary": None})

    @property
    def promoted(self) -> "Injection":
        """With its canary in its place."""
        if self.canary is None:
            return self
        new = self.canary.model_dump(exclude={"share"})
        return self.model_copy(update=new | {"canary": None})

    def __str__(self) -> str:
        return f"{self.name}  {self.at}  {self.file}"


def ranked(injections: "tuple[Injection, ...]") -> "tuple[Injection, ...]":
    """The same with their ranks: their order at each place. Raises Invalid if they are too many."""
    counts: dict[str, int] = {}
    found = []
    for index, one in enumerate(injections):
        rank = counts.setdefault(one.at, 0)
        if rank == AT_ONE_PLACE:
            what = f"{show(one.at)}: more than {AT_ONE_PLACE} are injected there"
            raise Invalid(what, path=("injections", index, "at"), hint="make two of them one")
        counts[one.at] += 1
        found.append(one.model_copy(update={"rank": rank}))
    return tuple(found)
