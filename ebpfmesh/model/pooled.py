# SPDX-License-Identifier: BSD-2-Clause
"""What must hold between pools and the functions that share them."""

from collections.abc import Iterator

from ebpfmesh.model.base import Invalid, Location
from ebpfmesh.model.function import FRAME, FRAMES, Function
from ebpfmesh.model.parts import Parts
from ebpfmesh.model.pool import POOL_BYTES, POOLS, Pool
from ebpfmesh.model.sizes import memory_text

LEAST = 64
"""Frames of a queue, as with memory of its own."""


def refusal(function: Function, pool: str, tenant: str) -> Invalid | None:
    """Why a function cannot be in a tenant's pool; None if it can."""
    what = f'pool "{pool}" is of tenant "{tenant}"'
    if function.tenant != tenant:
        what += f', and function "{function.name}" of "{function.tenant}"'
        return Invalid(what, hint="memory is shared within one tenant alone; send it packets")
    if not function.command:
        what = f'pool "{pool}" is handed to a command, and "{function.name}" has none'
        return Invalid(what, hint="give it a command, or leave it out of the pool")
    return None


def bad_pools(mesh: Parts) -> Iterator[Invalid]:
    """Each pool is one tenant's and the same for all, and no tenant has too much of them."""
    known: dict[str, tuple[Pool, str]] = {}
    members: dict[str, int] = {}
    used: dict[str, int] = {}
    for number, function in enumerate(mesh.functions):
        if function.frames_in and (fault := _frames_fault(function)):
            fault.path = ("functions", number, "frames_in")
            yield fault
        for index, pool in enumerate(function.pools):
            path: Location = ("functions", number, "pools", index)
            first, tenant = known.setdefault(pool.name, (pool, function.tenant))
            members[pool.name] = members.get(pool.name, 0) + 1
            if fault := _fault(function, pool, first, tenant, members[pool.name]):
                fault.path = path
                yield fault
            elif first is pool:
                used[tenant] = used.get(tenant, 0) + pool.size
                most = mesh.rights_of(tenant).pools
                if used[tenant] > most:
                    what = f'with pool "{pool.name}" tenant "{tenant}" shares {used[tenant]} bytes'
                    hint = "fewer slots; or raise pools under [[tenant]]"
                    yield Invalid(f"{what}, of {memory_text(most)} it may", path=path, hint=hint)


def _fault(function: Function, pool: Pool, first: Pool, tenant: str, count: int) -> Invalid | None:
    if fault := refusal(function, pool.name, tenant):
        return fault
    if pool != first:
        what = f'pool "{pool.name}" is another one for function "{function.name}"'
        return Invalid(what, hint="all members of a pool share one")
    if count > pool.members:
        what = f'pool "{pool.name}" has room for {pool.members} members'
        return Invalid(what, hint="raise members in its table, or scale down")
    if pool.size > POOL_BYTES:
        what = f'pool "{pool.name}" takes {pool.size} bytes, and {memory_text(POOL_BYTES)} is most'
        return Invalid(what, hint="fewer slots, or smaller ones")
    if len(function.pools) > POOLS:
        what = f'function "{function.name}" is in more than {POOLS} pools'
        return Invalid(what, hint="make two of them one")
    return None


def _frames_fault(function: Function) -> Invalid | None:
    """Why its frames cannot be in the pool that it says."""
    name = function.frames_in
    pool = next((one for one in function.pools if one.name == name), None)
    if pool is None:
        what = f'frames_in is pool "{name}", and "{function.name}" is no member of that'
        return Invalid(what, hint="name it in functions of a [[pool]] of its tenant")
    if pool.bytes != FRAME:
        what = f'a frame takes {FRAME} bytes, and pool "{name}" has places of {pool.bytes}'
        return Invalid(what, hint=f"bytes = {FRAME} in its [[pool]]")
    if function.frames != FRAMES:
        what = f'"frames" is about memory of its own, and its frames are in pool "{name}"'
        return Invalid(what, hint="leave out frames; slots of the pool are for all members")
    part = pool.slots // pool.members
    if part < LEAST * function.queues:
        what = f'its part of pool "{name}" is {part} places, of which a queue needs {LEAST}'
        return Invalid(what, hint="more slots in its [[pool]]")
    return None
