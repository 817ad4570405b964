# SPDX-License-Identifier: BSD-2-Clause
"""Which volumes of a command its user cannot use, by whom their files belong to at the host."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ebpfmesh.errors import MeshError
from ebpfmesh.kernel import userns
from ebpfmesh.model import Volume
from ebpfmesh.runtime.sandbox import Sandbox

READ, WRITE, SEARCH = 4, 2, 1
BECOME_ITS_OWNER = {"SETUID", "DAC_OVERRIDE"}
UNKNOWN = (0, userns.NOBODY)
"""Owners at the host that no function's user can become."""


def barred(sandbox: Sandbox) -> Iterator[tuple[Volume, str]]:
    """Each such volume, with a line that says what its user cannot do, and what helps.

    Only the volume itself is looked at, not what lies in it; what an access control list allows is
    not told of, nor what somebody may whom a capability lets become the owner.
    """
    function = sandbox.function
    volumes = [one for one in map(Volume.parse, function.volumes) if one.from_host]
    if not volumes:
        return
    try:
        root = sandbox.root()
        inside, (user, group) = sandbox.user(root), sandbox.outside(root)
    except MeshError:  # which is told elsewhere
        return
    name = (function.user or "nobody").partition(":")[0]
    known = name if inside[0] == user else f"{name}, {user} at the host,"
    becomes = not BECOME_ITS_OWNER.isdisjoint(function.capabilities)
    for volume in volumes:
        if verb := _cannot(volume, user, group, becomes=becomes):
            what = f"function {function.name}: its user {known} cannot {verb} {volume.source}"
            yield volume, f"{what}: chown {user}:{group} {volume.source}, or give it another user"


def _cannot(volume: Volume, user: int, group: int, *, becomes: bool) -> str:
    """``read`` or ``write to``; empty if the user can, or it cannot be told."""
    try:
        found = Path(volume.source).stat()
        if "system.posix_acl_access" in os.listxattr(volume.source):
            return ""
    except OSError:
        return ""
    if becomes and found.st_uid not in UNKNOWN:
        return ""
    shift = 6 if user == found.st_uid else 3 if group == found.st_gid else 0
    rights = found.st_mode >> shift
    if not rights & (SEARCH if stat.S_ISDIR(found.st_mode) else READ):
        return "read"
    return "write to" if volume.writable and not rights & WRITE else ""
