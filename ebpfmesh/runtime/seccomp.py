# SPDX-License-Identifier: BSD-2-Clause
"""The system calls of a sandbox: those that libseccomp knows, without what container engines deny.

The list is that of Docker's default profile (docs.docker.com/engine/security/seccomp) with what the
kernel got since: the calls of the mount API, io_uring, and clone3, whose flags no filter can read;
C libraries then take clone. What libseccomp does not know is not there either.
"""

import errno
import functools
import os
from collections.abc import Iterator
from typing import Any

from ebpfmesh.errors import Unsupported
from ebpfmesh.model import Capability

_DENIED = (
    "acct add_key adjtimex bpf clock_adjtime clock_settime create_module delete_module"
    " fanotify_init finit_module fsconfig fsmount fsopen fspick get_kernel_syms get_mempolicy"
    " init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp"
    " kexec_file_load kexec_load keyctl lookup_dcookie mbind migrate_pages mount mount_setattr"
    " move_mount move_pages nfsservctl open_by_handle_at open_tree"
    " perf_event_open personality pidfd_getfd pivot_root process_madvise query_module quotactl"
    " quotactl_fd reboot request_key set_mempolicy set_mempolicy_home_node setdomainname"
    " sethostname setns settimeofday stime swapoff swapon syslog umount umount2 unshare uselib"
    " userfaultfd ustat vhangup vm86 vm86old _sysctl sysfs"
)
DENIED = frozenset(_DENIED.split())
ABSENT = frozenset({"clone3"})
WITH: dict[str, Capability] = {"chroot": "SYS_CHROOT"}
"""Calls that a capability is asked for."""
NAMESPACES = 0x7E020080  # CLONE_NEW… of clone(2); with NEWTIME, which only unshare has
TERMINAL = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: to type into the terminal that exec came from
FAMILIES = (38, 40)  # AF_ALG, AF_VSOCK: neither is bounded by a network namespace
WORD = 0xFFFFFFFF  # what the kernel reads of these arguments
NUMBERS = 1024  # more than any machine has calls


def library() -> Any:
    """Debian's python3-seccomp; Unsupported if it is missing."""
    try:
        import seccomp  # noqa: PLC0415  (only who starts or enters a sandbox needs it)
    except ImportError as error:
        what = "python cannot import seccomp, which a command's sandbox needs"
        raise Unsupported(what, hint="apt install python3-seccomp") from error
    return seccomp


@functools.cache
def filters(capabilities: tuple[Capability, ...]) -> tuple[bytes, ...]:
    """Two programs of classic BPF, both to be installed: by call, and by what calls are given."""
    return _by_call(frozenset(capabilities)), _by_argument()


def _by_call(capabilities: frozenset[Capability]) -> bytes:
    lib = library()
    made = lib.SyscallFilter(lib.ERRNO(errno.ENOSYS))
    made.set_attr(lib.Attr.CTL_OPTIMIZE, 2)  # a tree
    for name in _known(lib):
        if name in DENIED or (name in WITH and WITH[name] not in capabilities):
            made.add_rule(lib.ERRNO(errno.EPERM), name)
        elif name not in ABSENT:
            made.add_rule(lib.ALLOW, name)
    return _program(made)


def _by_argument() -> bytes:
    lib = library()
    made = lib.SyscallFilter(lib.ALLOW)
    for kind in range(NAMESPACES.bit_length()):
        if flag := NAMESPACES & 1 << kind:
            made.add_rule(lib.ERRNO(errno.EPERM), "clone", lib.Arg(0, lib.MASKED_EQ, flag, flag))
    for request in TERMINAL:
        about = lib.Arg(1, lib.MASKED_EQ, WORD, request)
        made.add_rule(lib.ERRNO(errno.EPERM), "ioctl", about)
    for family in FAMILIES:
        about = lib.Arg(0, lib.MASKED_EQ, WORD, family)
        made.add_rule(lib.ERRNO(errno.EAFNOSUPPORT), "socket", about)
    return _program(made)


def _known(lib: Any) -> Iterator[str]:
    for number in range(NUMBERS):
        try:
            name = lib.resolve_syscall(lib.Arch(), number)
        except ValueError:
            continue
        yield name.decode() if isinstance(name, bytes) else name


def _program(made: Any) -> bytes:
    with os.fdopen(os.memfd_create("seccomp"), "w+b") as file:
        made.export_bpf(file)
        file.seek(0)
        return file.read()
