# SPDX-License-Identifier: BSD-2-Clause
"""Links: what holds a program at an interface or a cgroup, and where it can."""

import ctypes as c

from ebpfmesh.kernel.bpf.objects import Fd, call, fdinfo, info_of

# enum bpf_attach_type, as far as we use it.
XDP = 37
TCX_INGRESS = 46
TCX_EGRESS = 47
CGROUP_HOOK = {
    "peername4": 29,
    "peername6": 30,
    "connect4": 10,
    "connect6": 11,
}
"""Attach types of programs of cgroups; an answer can be named before anything is asked."""
HOST_HOOK = {
    "peername4": 29,
    "peername6": 30,
    "recvmsg4": 19,
    "recvmsg6": 20,
    "connect4": 10,
    "connect6": 11,
    "sendmsg4": 14,
    "sendmsg6": 15,
}
"""Those of the host's own processes, in the same order."""
XDP_NATIVE, XDP_GENERIC = 1 << 2, 1 << 1  # flags of a link: XDP_FLAGS_DRV_MODE, _SKB_MODE
BEFORE = 1 << 3  # before all that are there


class _LinkTarget(c.Union):
    _fields_ = (("cgroup_id", c.c_uint64), ("ifindex", c.c_uint32))


class _LinkInfo(c.Structure):
    """First fields of struct bpf_link_info."""

    _fields_ = (
        ("type", c.c_uint32),
        ("id", c.c_uint32),
        ("prog_id", c.c_uint32),
        ("_target", _LinkTarget),
    )
    _anonymous_ = ("_target",)


class _LinkCreateOpts(c.Structure):
    _fields_ = (("sz", c.c_size_t), ("flags", c.c_uint32), ("_pad", c.c_uint32))


def is_link(fd: Fd) -> bool:
    """Whether an object that was pinned is a link, and not a program or a map."""
    return "link_id" in fdinfo(fd)


def link_create(program: Fd, target: int, attach_type: int, flags: int = 0) -> Fd:
    """Attach a program by a link.

    ``target`` is an interface's number (TCX_INGRESS, TCX_EGRESS, with BEFORE or without; XDP) or a
    descriptor of a cgroup's directory (CGROUP_HOOK).
    """
    opts = _LinkCreateOpts(sz=c.sizeof(_LinkCreateOpts), flags=flags)
    what = (program.fileno(), target, attach_type, c.byref(opts))
    return Fd(call("bpf_link_create", *what, about=f"target {target}"))


def link_update(link: Fd, program: Fd) -> None:
    """Have another program where a link has one, in one step (BPF_LINK_UPDATE).

    Raises OSError: ENOLINK where the interface or cgroup is gone.
    """
    call("bpf_link_update", link.fileno(), program.fileno(), None)


def link_cgroup(link: Fd) -> int:
    """Number of the cgroup of a link, which is its directory's inode; 0 if it is gone."""
    return int(info_of(link, _LinkInfo).cgroup_id)


def link_program(link: Fd) -> int:
    """Id of a link's program."""
    return int(info_of(link, _LinkInfo).prog_id)


def link_interface(link: Fd) -> int:
    """Index of the interface of a TCX or XDP link; 0 if it is detached."""
    return int(info_of(link, _LinkInfo).ifindex)


def link_detach(link: Fd) -> None:
    """Detach a link's program, whoever else holds the link."""
    call("bpf_link_detach", link.fileno())


def attached(ifindex: int, attach_type: int) -> list[int]:
    """Ids of the programs at an interface's TCX hook, in the order they run."""
    ids, count, flags = (c.c_uint32 * 64)(), c.c_uint32(64), c.c_uint32()
    call("bpf_prog_query", ifindex, attach_type, 0, c.byref(flags), ids, c.byref(count))
    return list(ids[: count.value])
