# SPDX-License-Identifier: BSD-2-Clause
"""User namespaces of functions: whose network namespace is owned by one has no power beyond it.

All capabilities of a process in one end there, CAP_NET_ADMIN too. Its users are those of the host,
each by the same number, but for two: ``root`` and ``nobody`` are at the host two users that nobody
else is, so that no process in it is the host's root, whatever it does.
"""

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from ebpfmesh.errors import Unsupported
from ebpfmesh.kernel import libc

ROOT, NOBODY = 0, 65534
FIRST_OWN = 0x70000000
"""The first of 2^28 ids that systemd and others leave free (systemd.io/UIDS-GIDS)."""
LAST = (1 << 32) - 1  # ids end before it
NS_GET_USERNS, NS_GET_OWNER_UID = 0xB701, 0xB704  # linux/include/uapi/linux/nsfs.h
SYS_ADMIN = 21


def outside(number: int, own: int) -> int:
    """What the host calls a user or group that has this ``number`` inside.

    ``own`` and ``own`` + 1 are the host's numbers for root and nobody; ``own`` is even.
    """
    return {ROOT: own, NOBODY: own + 1}.get(number, number)


def _extents(own: int) -> str:
    """Of /proc/PID/uid_map and gid_map: first inside, first outside, how many."""
    after = NOBODY + 1
    return (
        f"{ROOT} {own} 1\n1 1 {NOBODY - 1}\n{NOBODY} {own + 1} 1\n"
        f"{after} {after} {own - after}\n{own + 2} {own + 2} {LAST - own - 2}\n"
    )


@contextlib.contextmanager
def made(own: int, owner: int, kinds: int = 0) -> Iterator[Path]:
    """A new user namespace, and others of ``kinds`` that it owns: a directory as /proc/PID/ns.

    ``owner`` is the host's number of the user it belongs to: who may enter it without being root.
    They are gone after the block but for what holds them: a descriptor, a process or a mount.
    Unsupported if the machine has no more of them, or none.
    """
    ready, told = os.pipe()
    asked, end = os.pipe()
    child = os.fork()
    if not child:
        _be_first(owner, kinds, told, asked, (ready, end))
    os.close(told)
    os.close(asked)
    try:
        if not os.read(ready, 1):
            what = "a user namespace cannot be made"
            raise Unsupported(
                what, hint="sysctl user.max_user_namespaces says how many there may be"
            )
        for kind in ("uid_map", "gid_map"):
            Path(f"/proc/{child}/{kind}").write_text(_extents(own))
        yield Path(f"/proc/{child}/ns")
    finally:
        os.close(ready)
        os.close(end)
        os.waitpid(child, 0)


def _be_first(owner: int, kinds: int, told: int, asked: int, others: tuple[int, ...]) -> None:
    """Be the process that the namespaces are made by, until it is waited for."""
    try:
        for descriptor in others:
            os.close(descriptor)
        libc.prctl(libc.PR_SET_KEEPCAPS, 1)
        os.setresuid(owner, owner, owner)
        libc.capset(1 << SYS_ADMIN)  # not every system lets users without it make one
        libc.unshare(libc.CLONE_NEWUSER | kinds)
        os.write(told, b"1")
        os.read(asked, 1)
    finally:
        os._exit(0)


def owner_of(namespace: int) -> int:
    """A descriptor of the user namespace that owns a namespace, given by a descriptor.

    OSError with EPERM if that is none of those below the caller's.
    """
    return fcntl.ioctl(namespace, NS_GET_USERNS)


def user_of(found: int) -> int:
    """The user that a user namespace was made by, given by a descriptor: who may enter it."""
    raw = fcntl.ioctl(found, NS_GET_OWNER_UID, bytes(4))
    return int.from_bytes(raw, sys.byteorder)
