# SPDX-License-Identifier: BSD-2-Clause
"""Who has the memory of a pool, and gives it to the next who shares it."""

from collections.abc import Iterable

from ebpfmesh.kernel import pool as memory
from ebpfmesh.kernel.cgroup import Cgroup
from ebpfmesh.model import Pool
from ebpfmesh.runtime.home import number_inside


def find(pool: Pool, inode: int | None, members: Iterable[Cgroup]) -> int | None:
    """A new descriptor of the memory that was made with an inode, if somebody has it.

    Of the processes of its members those are asked that are in no sandbox: who keeps a command, and
    of one that is root of the host itself, since it lives on where its keeper was killed.
    """
    if inode is None:
        return None
    for group in members:
        for one in sorted(group.processes()):
            if not number_inside(one) and (found := memory.find(pool, inode, one)) is not None:
                return found
    return None
