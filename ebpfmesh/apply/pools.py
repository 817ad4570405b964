# SPDX-License-Identifier: BSD-2-Clause
"""Pools of a mesh: their memory goes to commands, and is forgotten with who shared it.

The record has the inode of each, written before anybody has it; whether it is still there, those
tell who keep the commands. A pool that nobody has any more is made anew by the next to begin.
"""

import contextlib
import os

from ebpfmesh.apply.held import Held
from ebpfmesh.kernel import pool as memory
from ebpfmesh.model import Function, Pool
from ebpfmesh.runtime.pools import find
from ebpfmesh.state.place import cgroup_of, pool_cgroup
from ebpfmesh.state.rows import pool_key


class Pools:
    """The pools of a mesh."""

    def __init__(self, mesh: Held) -> None:
        self._mesh = mesh
        self._record = mesh.record

    def handed(self, stack: contextlib.ExitStack, function: Function) -> memory.Handed:
        """What a command that is about to begin shares, open until ``stack`` ends."""
        shares = []
        for pool in function.pools:
            known = self._record.members(function.tenant, pool)
            found = self._find(function.tenant, pool)
            if found is None:
                found = self._make(function.tenant, pool)
            stack.callback(os.close, found)
            number = memory.enrol(found, pool, function.name, known)
            shares.append(memory.Share(pool, found, number))
        return memory.Handed(shares)

    def _find(self, tenant: str, pool: Pool) -> int | None:
        inode = self._record.pools().get(pool_key(tenant, pool))
        members = self._record.members(tenant, pool)
        return find(pool, inode, (cgroup_of(self._record, one) for one in members))

    def _make(self, tenant: str, pool: Pool) -> int:
        self._mesh.step(f"pool {pool.name}")
        key = pool_key(tenant, pool)
        self._record.put_pool(key, 0)  # its cgroup, made next, goes with this row
        self._mesh.step(f"pool {pool.name}: memory")
        made = memory.make(pool, pool_cgroup(self._record, pool.name))
        self._record.put_pool(key, os.fstat(made).st_ino)
        return made

    def names(self) -> set[str]:
        """Of those that were made."""
        return {key.split("/")[1] for key in self._record.pools()}

    def tidy(self) -> None:
        """Forget pools that no function shares any more, and members that are none."""
        left: dict[str, tuple[str, Pool]] = {}
        rows = [row.function for row in self._record.functions()]
        for one in rows:
            left |= {pool_key(one.tenant, pool): (one.tenant, pool) for pool in one.pools}
        names = {pool.name for _, pool in left.values()}
        for key in self._record.pools():
            if key in left:
                tenant, pool = left[key]
                found = self._find(tenant, pool)
                if found is not None:
                    with os.fdopen(found, "rb"):
                        memory.forget(found, pool, self._record.members(tenant, pool))
                continue
            name = key.split("/")[1]
            if name not in names:
                self._mesh.step(f"remove pool {name}")
                pool_cgroup(self._record, name).remove()
            self._record.delete_pool(key)
