# SPDX-License-Identifier: BSD-2-Clause
"""Addresses: how they are written, and which ones functions get that were given none."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from hashlib import sha256
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import overload

from ebpfmesh.model import Address, Function, Invalid, Network, check_address, show


def parse_address(text: object) -> Address:
    """The unicast address written as ``text``, without a prefix length; raises ``Invalid``."""
    hint = "give an address such as 198.18.0.10 or 2001:db8::10"
    if not isinstance(text, str):
        raise Invalid("an address must be a string", hint=hint)
    try:
        address = ip_address(text)
    except ValueError:
        hint = hint if "/" not in text else "leave out the / and all after it"
        raise Invalid(f"{show(text)} is not an IP address", hint=hint) from None
    return check_address(address)


@overload
def assign_addresses(
    names: Iterable[str], pool: IPv4Network, used: Collection[Address]
) -> dict[str, IPv4Address]: ...


@overload
def assign_addresses(
    names: Iterable[str], pool: IPv6Network, used: Collection[Address]
) -> dict[str, IPv6Address]: ...


def assign_addresses(
    names: Iterable[str], pool: Network, used: Collection[Address]
) -> Mapping[str, Address]:
    """An address of ``pool`` for each of ``names``, none of them ``used``.

    The hash of a name says which address it gets. Only where that one is taken, by ``used`` or
    by a name before it, the next free one is found, after all others have had their own: so a
    name that comes or goes moves no other, unless the two wanted the same address.

    Raises ``Invalid``, with the name as its path, if the pool has no address left.
    """
    first, size = _hosts(pool)
    onward = {
        int(address) - first: int(address) - first + 1
        for address in used
        if address.version == pool.version and 0 <= int(address) - first < size
    }
    chosen: dict[str, int] = {}
    waiting: dict[str, int] = {}
    for name in names:
        if not size:
            raise _full(pool, name)
        wanted = int.from_bytes(sha256(name.encode()).digest()[:8]) % size
        (waiting if wanted in onward else chosen)[name] = wanted
        onward.setdefault(wanted, wanted + 1)
    for name, wanted in waiting.items():
        if len(onward) == size:
            raise _full(pool, name)
        chosen[name] = _next_free(onward, wanted, size)
        onward[chosen[name]] = chosen[name] + 1
    kind = type(pool.network_address)
    return {name: kind(first + offset) for name, offset in chosen.items()}


def as_assigned(
    functions: Sequence[Function],
    pool4: IPv4Network,
    pool6: IPv6Network,
    used: Collection[Address],
) -> set[str]:
    """Names of those that have the addresses that they are assigned, given those of all others.

    ``functions`` are in the order of a mesh file, ``used`` what its services have.
    """
    found = {
        one.name: one
        for one in functions
        if one.address4 and one.address6 and _in(pool4, one.address4) and _in(pool6, one.address6)
    }
    while True:  # who has another one than assigned is in the way of others
        given = {a for one in functions if one.name not in found for a in one.addresses}
        taken = given.union(used)
        assigned4 = assign_addresses(found, pool4, taken)
        assigned6 = assign_addresses(found, pool6, taken)
        others = [
            name
            for name, one in found.items()
            if (one.address4, one.address6) != (assigned4[name], assigned6[name])
        ]
        if not others:
            return set(found)
        for name in others:
            del found[name]


def _in(pool: Network, address: Address) -> bool:
    first, size = _hosts(pool)
    return 0 <= int(address) - first < size


def _full(pool: Network, name: str) -> Invalid:
    what = f'no address of {pool} is left for function "{name}"'
    return Invalid(what, path=(name,), hint="give a larger prefix under [mesh]")


def _hosts(pool: Network) -> tuple[int, int]:
    """The first address of ``pool`` that a function can have, and how many there are.

    The network's own address stands for functions that reach themselves through a service, and
    broadcast is left out; of a large IPv6 pool all but the first 2³² addresses too, which keeps
    what people read short.
    """
    ends = 2 if pool.version == 4 and pool.num_addresses > 2 else 1
    return int(pool.network_address) + 1, min(pool.num_addresses - ends, 1 << 32)


def _next_free(onward: dict[int, int], start: int, size: int) -> int:
    """The first offset from ``start`` on, round the end, that is not a key of ``onward``.

    ``onward`` leads from a taken offset towards a free one; the way gone is shortened, so that
    a full pool costs no more than an empty one.
    """
    way = []
    at = start
    while at in onward:
        way.append(at)
        at = onward[at] % size
    onward.update(dict.fromkeys(way, at))
    return at
