# SPDX-License-Identifier: BSD-2-Clause
"""Readers of ring buffers."""

import ctypes as c
import os
from typing import Any

from ebpfmesh.kernel.bpf.objects import Fd, call, libbpf

RING_CALLBACK = c.CFUNCTYPE(c.c_int, c.c_void_p, c.c_void_p, c.c_size_t)
"""ring_buffer_sample_fn: what libbpf calls with each record of a ring buffer."""


def ring_new(fd: Fd, callback: Any) -> c.c_void_p:
    """A reader of a ring buffer map; ``callback`` is a RING_CALLBACK that outlives it."""
    make = libbpf().ring_buffer__new
    make.restype = c.c_void_p
    reader = make(fd.fileno(), callback, None, None)
    if not reader:
        code = c.get_errno()
        raise OSError(code, f"ring_buffer__new: {os.strerror(code)}")
    return c.c_void_p(reader)


def ring_epoll_fd(reader: c.c_void_p) -> int:
    """A descriptor that is readable while there are records; it belongs to the reader."""
    return call("ring_buffer__epoll_fd", reader)


def ring_consume(reader: c.c_void_p) -> int:
    """Give the callback all records that are there; what it returned if that was negative."""
    return int(libbpf().ring_buffer__consume(reader))


def ring_free(reader: c.c_void_p) -> None:
    """Undo ring_new."""
    libbpf().ring_buffer__free(reader)
