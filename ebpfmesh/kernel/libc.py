# SPDX-License-Identifier: BSD-2-Clause
"""Calls of the C library that Python has no names for, their numbers and their errors.

A call that fails raises OSError with its errno, except where root is wanted: EPERM and EACCES
become MissingPrivilege.
"""

import ctypes
import errno
import functools
import os
from pathlib import Path

from ebpfmesh.errors import MeshError, MissingPrivilege

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000  # linux/include/uapi/linux/sched.h
CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x02000000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID = 0x10000000, 0x20000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x1, 0x2, 0x4, 0x8
MS_BIND, MS_REC = 0x1000, 0x4000  # linux/include/uapi/linux/mount.h
MS_PRIVATE, MS_SLAVE, MS_SHARED = 1 << 18, 1 << 19, 1 << 20
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_TIMERSLACK = 1, 24, 29  # linux/prctl.h
PR_SET_KEEPCAPS, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 8, 22, 38, 47
PR_CAP_AMBIENT_RAISE, SECCOMP_MODE_FILTER = 2, 2
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432  # system calls, by the same number on all machines
_OPENAT2, _RESOLVE_IN_ROOT = 437, 0x10  # linux/openat2.h
_FSOPEN_CLOEXEC, _FSCONFIG_CREATE, _FSMOUNT_CLOEXEC = 1, 6, 1  # linux/mount.h
_CAPABILITIES = 0x20080522  # _LINUX_CAPABILITY_VERSION_3: two words of 32 bits each


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(function: str, *arguments: object, about: object = "") -> int:
    result: int = getattr(_libc(), function)(*arguments)
    if result >= 0:
        return result
    code, what = ctypes.get_errno(), f"{function} {about}".strip()
    if code in (errno.EPERM, errno.EACCES):
        raise MissingPrivilege(f"{what}: CAP_SYS_ADMIN is needed", hint="run as root")
    raise OSError(code, f"{what}: {os.strerror(code)}")


def unshare(kind: int) -> None:
    """Move the calling thread to a new namespace, of the kinds in CLONE_NEW…."""
    _call("unshare", kind)


def setns(namespace: int, kind: int) -> None:
    """Move the calling thread to the namespace behind a descriptor."""
    _call("setns", namespace, kind)


def bind(descriptor: int, address: bytes) -> None:
    """bind(2), of a family that Python has no addresses for."""
    _call("bind", descriptor, address, len(address))


def mount(
    source: bytes, target: Path, kind: bytes | None, data: bytes = b"", flags: int = 0
) -> None:
    """mount(2); MeshError if it fails, MissingPrivilege without CAP_SYS_ADMIN."""
    words = (source, os.fsencode(target), kind, ctypes.c_ulong(flags), data)
    try:
        _call("mount", *words, about=target)
    except OSError as error:
        raise MeshError(f"mounting {target}: {os.strerror(error.errno or 0)}") from error


def umount(target: Path) -> None:
    """umount(2)."""
    _call("umount", os.fsencode(target), about=target)


def magic(path: Path) -> int:
    """What file system a path is on, by its number in linux/magic.h; 0 where there is no path."""
    buffer = (ctypes.c_long * 64)()  # struct statfs; f_type is its first word
    return int(buffer[0]) if _libc().statfs(os.fsencode(path), buffer) == 0 else 0


def is_below(root: int, path: str) -> bool:
    """Whether there is a file at a path, to whom the directory behind ``root`` is /."""
    how = (ctypes.c_uint64 * 3)(os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT)  # struct open_how
    try:
        found = _call("syscall", _OPENAT2, root, os.fsencode(path), how, ctypes.sizeof(how))
    except OSError:
        return False
    os.close(found)
    return True


def detached_tmpfs() -> Path:
    """An empty directory that no path leads to but this process's own.

    It is gone with the process, however that ends.
    """
    context = _call("syscall", _FSOPEN, b"tmpfs", _FSOPEN_CLOEXEC)
    _call("syscall", _FSCONFIG, context, _FSCONFIG_CREATE, None, None, 0)
    mounted = _call("syscall", _FSMOUNT, context, _FSMOUNT_CLOEXEC, 0)
    os.close(context)
    return Path(f"/proc/self/fd/{mounted}")


def prctl(option: int, value: int, more: int = 0) -> None:
    """prctl(2)."""
    _call("prctl", option, ctypes.c_ulong(value), ctypes.c_ulong(more), 0, 0, about=option)


def seccomp(program: bytes) -> None:
    """Have the calling thread's system calls filtered, for good, by a program of classic BPF."""
    instructions = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):  # struct sock_fprog, linux/filter.h
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    about = Program(len(program) // 8, ctypes.addressof(instructions))
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(about))


def capset(kept: int, *, inheritable: int = 0) -> None:
    """Have the calling thread's effective and permitted capabilities be these bits."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES, 0)
    sets = (ctypes.c_uint32 * 6)(kept, kept, inheritable)
    _call("capset", header, sets)


def set_effective(capabilities: int) -> int:
    """Have the calling thread's effective capabilities be these bits; returns those it had."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then the upper halves
    _call("capget", header, sets)
    before = sets[0] | sets[3] << 32
    sets[0], sets[3] = capabilities & 0xFFFFFFFF, capabilities >> 32
    _call("capset", header, sets)
    return before
