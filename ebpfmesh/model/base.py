# SPDX-License-Identifier: BSD-2-Clause
"""What all models are made of: errors that name a part, names, addresses and prefixes."""

from collections.abc import Collection, Hashable, Iterable, Iterator
from difflib import get_close_matches
from heapq import nsmallest
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_network,
)
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ebpfmesh.errors import UsageError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Location = tuple[str | int, ...]
"""Keys and indices that lead from an object to a part of it: ``("functions", 2, "tenant")``."""

_Address = TypeVar("_Address", bound=Address)
_Network = TypeVar("_Network", bound=Network)
_Item = TypeVar("_Item", bound=Hashable)

_COMPARED = 256  # names that one is compared with
LABEL = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"
LABEL_TEXT = "lower-case letters, digits and inner hyphens, at most"
_UNUSABLE: dict[Network, str] = {
    IPv4Network("0.0.0.0/8"): "an unspecified",
    IPv4Network("127.0.0.0/8"): "a loopback",
    IPv4Network("169.254.0.0/16"): "a link-local",
    IPv4Network("224.0.0.0/4"): "a multicast",
    IPv4Network("255.255.255.255/32"): "the broadcast",
    IPv6Network("::/128"): "the unspecified",
    IPv6Network("::1/128"): "the loopback",
    IPv6Network("::ffff:0:0/96"): "an IPv4-mapped",
    IPv6Network("fe80::/10"): "a link-local",
    IPv6Network("ff00::/8"): "a multicast",
}


MANY = 65535
"""The most functions that a mesh can have, and so elements that an array needs."""
TOLD = 50
"""The most faults that are told one by one."""


_UNUSABLE_SPANS = [
    (network.version, int(network[0]), int(network[-1]), what)
    for network, what in _UNUSABLE.items()
]


class Invalid(UsageError, ValueError):
    """A value that cannot be meant; ``path`` leads to it from the object being validated.

    ``other`` leads to the one that it cannot be beside, if there is one.
    """

    def __init__(
        self, message: str, *, path: Location = (), hint: str = "", other: Location = ()
    ) -> None:
        super().__init__(message, hint=hint)
        self.path = path
        self.other = other


def show(value: str) -> str:
    """A text somebody wrote, for a message: quoted, on one line, cut at 64 characters."""
    return f'"{repr(value if len(value) <= 64 else value[:63] + "…")[1:-1]}"'


def too_many(limit: str, size: int, path: Location) -> Invalid:
    """What to raise at ``path`` when a mesh has more ``limit`` than ``size``."""
    return Invalid(f"more than {size} {limit}", path=path, hint=f"raise limits.{limit} in [mesh]")


def suggest(name: str, known: Iterable[str]) -> str:
    """A hint for a ``name`` that is not among ``known``: the nearest of them, or the first few.

    Of many only those are compared that begin alike.
    """
    names = set(known)
    near = names if len(names) <= _COMPARED else {n for n in names if n[:2] == name[:2]}
    if found := get_close_matches(name[:64], nsmallest(_COMPARED, near), n=1):
        return f'did you mean "{found[0]}"?'
    more = ", …" if len(names) > 8 else ""
    return f"known: {', '.join(nsmallest(8, names))}{more}" if names else "there is none"


class Hints:
    """``suggest`` for names that are not among ``known``, as often as somebody reads it."""

    def __init__(self, known: Collection[str]) -> None:
        self._known = known
        self._left = TOLD

    def __call__(self, name: str) -> str:
        """The hint; empty once there were more than are told."""
        self._left -= 1
        return suggest(name, self._known) if self._left >= 0 else ""


def check_address(address: _Address) -> _Address:
    """``address`` if a function or a service can have it; raises ``Invalid`` if it cannot."""
    if "%" in str(address):
        raise Invalid(f"address {address} has a zone", hint="leave out the % and all after it")
    for network, what in _UNUSABLE.items():
        if address in network:
            hint = "give a unicast address, such as 198.18.0.10 or 2001:db8::10"
            raise Invalid(f"{address} is {what} address", hint=hint)
    return address


def check_prefix(prefix: _Network) -> _Network:
    """``prefix`` if functions can have any address of it; raises ``Invalid`` if they cannot."""
    first = int(prefix.network_address)
    last = first + prefix.num_addresses - 1
    for version, start, end, what in _UNUSABLE_SPANS:
        if version == prefix.version and start <= last and first <= end:
            hint = "choose a prefix of unicast addresses, such as 198.18.0.0/16"
            raise Invalid(f"prefix {prefix} holds {what} address", hint=hint)
    return prefix


def parse_prefix(text: object) -> IPv4Network | IPv6Network:
    """The prefix written as ``text``, all of it unicast; raises ``Invalid``."""
    hint = "give a prefix such as 198.18.0.0/16 or 2001:db8::/64"
    if not isinstance(text, str):
        raise Invalid("a prefix must be a string", hint=hint)
    try:
        return check_prefix(ip_network(text))
    except Invalid:
        raise
    except ValueError:
        pass
    try:
        prefix = ip_network(text, strict=False)
    except ValueError:
        raise Invalid(f"{show(text)} is not a prefix", hint=hint) from None
    raise Invalid(f"{show(text)} has bits after the prefix", hint=f'did you mean "{prefix}"?')


def repeated(values: Iterable[_Item]) -> Iterator[tuple[int, int, _Item]]:
    """The (index, index of the first, value) of all that were there before."""
    seen: dict[_Item, int] = {}
    for index, value in enumerate(values):
        if (first := seen.setdefault(value, index)) != index:
            yield index, first, value


def few(value: object) -> object:
    """An array or a table, unless it is so large that looking at each part would take long."""
    if isinstance(value, (list, tuple, dict)) and len(value) > MANY:
        raise Invalid(f"it has {len(value)} elements", hint=f"at most {MANY}")
    return value


Name = Annotated[str, Field(pattern=LABEL, max_length=63, description=f"{LABEL_TEXT} 63")]
MeshName = Annotated[str, Field(pattern=LABEL, max_length=32, description=f"{LABEL_TEXT} 32")]
Port = Annotated[int, Field(ge=1, le=65535, description="an integer from 1 to 65535")]


def check_mesh_name(text: str) -> str:
    """``text`` if a mesh can be called so, and have files of that name; raises ``Invalid``."""
    try:
        return TypeAdapter(MeshName).validate_python(text)
    except ValidationError:
        hint = f"allowed: {LABEL_TEXT} 32"
        raise Invalid(f"{show(text)} is not the name of a mesh", hint=hint) from None


class Model(BaseModel):
    """Base of all models: frozen, strict about types, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def integer(default: int, least: int, most: int) -> int:
    """A field for an integer within bounds."""
    text = f"an integer from {least} to {most}"
    field: int = Field(default=default, ge=least, le=most, description=text)
    return field
