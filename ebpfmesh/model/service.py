# SPDX-License-Identifier: BSD-2-Clause
"""A service: an address and a port, and the functions behind it."""

from collections.abc import Collection, Mapping
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from ebpfmesh.model.base import Address, Invalid, Name, Port, few, integer, repeated
from ebpfmesh.model.endpoint import Endpoint
from ebpfmesh.model.ports import port_prefixes
from ebpfmesh.model.uplink import Published, check_published, on

Weight = Annotated[int, Field(ge=0, le=100, description="an integer from 0 to 100")]
Publish = Annotated[
    tuple[str, ...], Field(strict=False), BeforeValidator(few), AfterValidator(check_published)
]


class Service(Endpoint):
    """A stable address and port in front of functions, or a range of ports.

    ``functions`` are the names of its backends, or of groups of them. It may be empty: a service
    without backends is there and refuses, as while its last function is being replaced. A range
    has ``ports`` ports from ``port`` on, which become as many from ``target_port`` on.

    Of new flows each backend gets a part by its weight: 1 if ``weights`` does not say, its own or
    its group's, none with 0, while what it has stays. With ``affinity`` "source" a client's address
    alone chooses. ``backends`` are the functions behind it with their weights; a mesh as people
    write it has none: see ``backed``. ``publish`` says on which ports of uplinks the outside
    reaches it, each a ``Published``.
    """

    port: Port
    target_port: Port
    ports: int = integer(1, 1, 65535)
    protocol: Literal["tcp", "udp"] = "tcp"
    functions: tuple[Name, ...] = ()
    affinity: Literal["none", "source"] = Field(default="none", description='"none" or "source"')
    weights: dict[Name, Weight] = Field(
        default_factory=dict, description="a table of integers from 0 to 100, such as {web-1 = 0}"
    )
    backends: dict[Name, Weight] = Field(default_factory=dict)
    publish: Publish = ()

    @property
    def published(self) -> tuple[Published, ...]:
        """Where the outside reaches it."""
        return tuple(map(Published.parse, self.publish))

    def published_on(self, uplinks: Collection[str]) -> "Service":
        """The same, published on these uplinks alone."""
        kept = on(self.publish, uplinks)
        return self if kept == self.publish else self.model_copy(update={"publish": kept})

    @property
    def entries(self) -> int:
        """How much it takes of limits.services: one for each prefix of its ports."""
        ranges = [(self.port, self.last_port), *(one[1:] for one in self.published)]
        return sum(len(port_prefixes(*ports)) for ports in ranges)

    @property
    def last_port(self) -> int:
        """The last of its ports."""
        return self.port + self.ports - 1

    @property
    def shift(self) -> int:
        """What is added to a port of its own to make the backend's."""
        return self.target_port - self.port

    @property
    def frontends(self) -> tuple[tuple[Address, int, int, str], ...]:
        """What clients connect to: (address, first port, last, protocol), one for each address."""
        ports = self.port, self.last_port
        return tuple((address, *ports, self.protocol) for address in self.addresses)

    def backed(self, groups: Mapping[str, tuple[str, ...]]) -> "Service":
        """The service with its ``backends``, and the ``weights`` that make a difference to them."""
        backends, weights = {}, dict[str, int]()
        for name in self.functions:
            usual = self.weights.get(name, 1)
            weights |= {name: usual} if usual != 1 else {}
            for function in groups.get(name, (name,)):
                backends[function] = self.weights.get(function, usual)
                weights |= {function: backends[function]} if backends[function] != usual else {}
        return self.model_copy(update={"backends": backends, "weights": weights})

    def only(self, names: Collection[str]) -> "Service":
        """The service with those of its functions, groups and backends that are among ``names``."""
        kept = tuple(name for name in self.functions if name in names)
        weights = {name: weight for name, weight in self.weights.items() if name in names}
        backends = {name: weight for name, weight in self.backends.items() if name in names}
        update = {"functions": kept, "weights": weights, "backends": backends}
        return self.model_copy(update=update)

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        for index, _, name in repeated(self.functions):
            path = ("functions", index)
            raise Invalid(f'"functions" names "{name}" twice', path=path, hint="name it once")
        for key, first in (("port", self.port), ("target_port", self.target_port)):
            if first + self.ports - 1 > 65535:
                what = f'"{key}" cannot be {self.ports} ports from {first} on'
                raise Invalid(what, path=(key,), hint="ports end at 65535")
        for index, one in enumerate(self.published):
            if one.last - one.first != self.ports - 1:
                what = f'"publish" has {one.last - one.first + 1} ports in {one}, '
                what += f"the service has {self.ports}"
                hint = "a range becomes one of the same length"
                raise Invalid(what, path=("publish", index), hint=hint)
        return self
