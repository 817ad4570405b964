# SPDX-License-Identifier: BSD-2-Clause
"""Capabilities: what a process of a function keeps, and what others have.

A function's own network namespace belongs to the host's user namespace, and there CAP_NET_ADMIN
is worth as much as at the host: through the number that its namespace has for the host's
(IFLA_TARGET_NETNSID) it reaches every interface. So no process of ours in a function has it.
"""

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path

from ebpfmesh.kernel import libc
from ebpfmesh.model import Capability

# linux/include/uapi/linux/capability.h
CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP = 0, 1, 3, 4, 5, 6, 7, 8
NET_BIND_SERVICE, NET_ADMIN, NET_RAW, SYS_CHROOT, SYS_ADMIN = 10, 12, 13, 18, 21
IPC_LOCK, SYS_NICE, AUDIT_WRITE, BPF = 14, 23, 29, 39
KEPT = (
    CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, NET_RAW,
    SYS_CHROOT, AUDIT_WRITE,
)  # fmt: skip
"""What container engines leave to root in a container, but for MKNOD and SETFCAP: low ports, ping
and tcpdump work, servers may give up being root."""

NUMBERS: dict[Capability, int] = {
    "CHOWN": CHOWN, "DAC_OVERRIDE": DAC_OVERRIDE, "FOWNER": FOWNER, "FSETID": FSETID,
    "KILL": KILL, "SETGID": SETGID, "SETUID": SETUID, "SETPCAP": SETPCAP,
    "NET_BIND_SERVICE": NET_BIND_SERVICE, "NET_ADMIN": NET_ADMIN, "NET_RAW": NET_RAW,
    "IPC_LOCK": IPC_LOCK, "SYS_CHROOT": SYS_CHROOT, "SYS_NICE": SYS_NICE,
}  # fmt: skip

LAST = Path("/proc/sys/kernel/cap_last_cap")


def confine(kept: Collection[int] = KEPT) -> None:
    """Give up all but ``kept``, for good: this process, and whatever it becomes or starts."""
    bound(kept)
    libc.capset(sum(1 << number for number in kept))


def bound(kept: Collection[int]) -> None:
    """Have no more than ``kept`` from the next program on."""
    for number in range(int(LAST.read_text()) + 1):
        if number not in kept:
            libc.prctl(libc.PR_CAPBSET_DROP, number)


def keep_as_user(kept: Collection[int]) -> None:
    """Have just ``kept``, now and in whatever this process becomes, be it root or not."""
    bits = sum(1 << number for number in kept)
    libc.capset(bits, inheritable=bits)
    for number in kept:
        libc.prctl(libc.PR_CAP_AMBIENT, libc.PR_CAP_AMBIENT_RAISE, number)


def administrators(netns_inodes: Collection[int]) -> Iterator[tuple[int, int]]:
    """(Namespace, process) for those in one of these network namespaces that have CAP_NET_ADMIN.

    In the calling process's user namespace, that is: in one of its own a process has it there only.
    """
    own = Path("/proc/self/ns/user").stat().st_ino
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            inode = (process / "ns/net").stat().st_ino
            if inode not in netns_inodes or (process / "ns/user").stat().st_ino != own:
                continue
            if permitted((process / "status").read_text(errors="replace")) >> NET_ADMIN & 1:
                yield inode, int(process.name)


def permitted(status: str) -> int:
    """The permitted set, as bits, in the text of a process's /proc status."""
    return next(int(line.split()[1], 16) for line in status.splitlines() if "CapPrm:" in line)
