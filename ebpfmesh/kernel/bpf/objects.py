# SPDX-License-Identifier: BSD-2-Clause
"""What all objects of bpf(2) have: a descriptor, a pin, what the kernel tells of them.

Owns libbpf.so.1 itself, which ``call`` calls.
"""

import ctypes as c
import errno
import functools
import os
from pathlib import Path
from typing import Any, Self, TypeVar

from ebpfmesh.errors import MissingPrivilege, Unsupported

REPLACING = "replacing"
"""Beside the directory of a pin that is about to be replaced: what a kill may leave."""
Info = TypeVar("Info", bound=c.Structure)


class Fd:
    """An open file descriptor of a BPF object; closes with its ``with`` block or when dropped."""

    def __init__(self, number: int) -> None:
        self.number = number

    def fileno(self) -> int:
        """The descriptor, for calls that take one."""
        return self.number

    def close(self) -> None:
        """Close once; later calls do nothing."""
        if self.number >= 0:
            os.close(self.number)
            self.number = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


@functools.cache
def libbpf() -> c.CDLL:
    """The library; Unsupported where there is none."""
    try:
        return c.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise Unsupported("libbpf.so.1 is missing", hint="apt install libbpf1") from error


def call(function: str, *arguments: Any, about: object = "") -> int:
    """Call a libbpf function that returns a descriptor, zero or a negative errno."""
    result: int = getattr(libbpf(), function)(*arguments)
    if result >= 0:
        return result
    code = -result if result != -1 else c.get_errno()
    if code == errno.EPERM:
        raise MissingPrivilege(
            f"{function}: not permitted: CAP_BPF and CAP_NET_ADMIN are needed", hint="run as root"
        )
    raise OSError(code, f"{function}: {os.strerror(code)}", str(about))


def probe(question: str, *arguments: int) -> bool:
    """What a function of libbpf's ``libbpf_probe_bpf_*`` answers; it loads a program to see."""
    return call(question, *arguments, None) == 1


def obj_get(path: Path) -> Fd:
    """Open a pinned object; FileNotFoundError where there is none."""
    return Fd(call("bpf_obj_get", os.fsencode(path), about=path))


def obj_pin(fd: Fd, path: Path) -> None:
    """Pin an object at a new path of a BPF file system."""
    call("bpf_obj_pin", fd.fileno(), os.fsencode(path), about=path)


def obj_repin(fd: Fd, path: Path) -> None:
    """Pin an object where another is pinned: the path leads to one of both at any time."""
    beside = path.parent.parent / REPLACING
    beside.unlink(missing_ok=True)
    obj_pin(fd, beside)
    beside.rename(path)


def info_of(fd: Fd, shape: type[Info]) -> Info:
    """The first bytes of what BPF_OBJ_GET_INFO_BY_FD gives, as a ``shape``."""
    info, size = shape(), c.c_uint32(c.sizeof(shape))
    call("bpf_obj_get_info_by_fd", fd.fileno(), c.byref(info), c.byref(size))
    return info


def fdinfo(fd: Fd) -> dict[str, str]:
    """What the kernel tells of a map or a program in /proc/self/fdinfo, by name."""
    lines = Path(f"/proc/self/fdinfo/{fd.fileno()}").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
