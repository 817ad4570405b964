# SPDX-License-Identifier: BSD-2-Clause
"""What the kernel can do, by asking it: never by its version."""

import functools

from ebpfmesh.kernel import bpf

# enum bpf_func_id of linux/include/uapi/linux/bpf.h.
REDIRECT_PEER = 155
GET_NETNS_COOKIE = 122


@functools.cache
def has_redirect_peer() -> bool:
    """Whether a tc program can put a packet straight into a container; since Linux 5.10."""
    return bpf.probe("libbpf_probe_bpf_helper", bpf.PROG_TYPE_SCHED_CLS, REDIRECT_PEER)


@functools.cache
def has_netns_cookie() -> bool:
    """Whether a program at connect can tell its socket's namespace; since Linux 5.7."""
    return bpf.probe("libbpf_probe_bpf_helper", bpf.PROG_TYPE_CGROUP_SOCK_ADDR, GET_NETNS_COOKIE)


@functools.cache
def has_program(kind: int) -> bool:
    """Whether programs of a type (PROG_TYPE_…) are known."""
    return bpf.probe("libbpf_probe_bpf_prog_type", kind)
