# SPDX-License-Identifier: BSD-2-Clause
"""Pools: who shares them, and which places are taken."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from ebpfmesh.kernel import pool as memory
from ebpfmesh.model import Pool
from ebpfmesh.observe.commands import lives
from ebpfmesh.observe.view import View
from ebpfmesh.runtime.pools import find
from ebpfmesh.state.place import cgroup_of
from ebpfmesh.state.rows import pool_key


@dataclass(frozen=True)
class Member:
    """A function that shares a pool: ``holds`` are places, ``waiting`` messages on their way to it.

    ``state`` is its command's. What it counted it says itself, as all of the numbers.
    """

    name: str
    state: str
    holds: int = 0
    waiting: int = 0
    sent: int = 0
    received: int = 0
    malformed: int = 0
    reclaimed: int = 0


@dataclass(frozen=True)
class PoolRow:
    """A pool: ``used`` are places that are not free; not ``in_use``: nobody has its memory."""

    name: str
    tenant: str
    slots: int
    bytes: int
    memory: int
    in_use: bool
    used: int
    members: tuple[Member, ...]


def read(view: View) -> Iterator[PoolRow]:
    """All pools, by name."""
    inodes = view.record.pools()
    functions = {row.function.name: row.function for row in view.functions if row.ready}
    pools: dict[tuple[str, str], tuple[Pool, list[str]]] = {}
    for one in functions.values():
        for pool in one.pools:
            pools.setdefault((pool.name, pool_key(one.tenant, pool)), (pool, []))[1].append(
                one.name
            )
    states = lives(view.record, {name: one for name, one in functions.items() if one.pools})
    for (_, key), (pool, names) in sorted(pools.items()):
        groups = (cgroup_of(view.record, name) for name in names)
        found = find(pool, inodes.get(key), groups)
        inside = {}
        if found is not None:
            with os.fdopen(found, "rb"):
                inside = {one.name: one for one in memory.members(found, pool)}
        members = tuple(_member(name, states[name].state, inside.get(name)) for name in names)
        used = sum(one.holds + one.waiting for one in inside.values())
        tenant = functions[names[0]].tenant
        sizes = pool.slots, pool.bytes, pool.size
        yield PoolRow(pool.name, tenant, *sizes, found is not None, used, members)


def _member(name: str, state: str, found: memory.Member | None) -> Member:
    if found is None:
        return Member(name, state)
    return Member(name, state, found.holds, found.waiting, **found.counters)
