# SPDX-License-Identifier: BSD-2-Clause
"""Programs: loaded, run on a packet, timed."""

import ctypes as c
from dataclasses import dataclass
from typing import Any

from ebpfmesh.kernel.bpf.objects import Fd, call, fdinfo, info_of

PROG_XDP_HAS_FRAGS = 1 << 5  # of prog_flags
# enum bpf_prog_type, as far as we use it.
PROG_TYPE_SCHED_CLS = 3
PROG_TYPE_XDP = 6
PROG_TYPE_CGROUP_SOCK_ADDR = 18
_STATS_RUN_TIME = 0
TEST_XDP_LIVE_FRAMES = 1 << 1


class ProgInfo(c.Structure):
    """First fields of struct bpf_prog_info."""

    _fields_ = (
        ("type", c.c_uint32),
        ("id", c.c_uint32),
        ("tag", c.c_uint8 * 8),
        ("jited_prog_len", c.c_uint32),
        ("xlated_prog_len", c.c_uint32),
        ("jited_prog_insns", c.c_uint64),
        ("xlated_prog_insns", c.c_uint64),
        ("load_time", c.c_uint64),
        ("created_by_uid", c.c_uint32),
        ("nr_map_ids", c.c_uint32),
        ("map_ids", c.c_uint64),
        ("name", c.c_char * 16),
    )


class _ProgLoadOpts(c.Structure):
    _fields_ = (
        ("sz", c.c_size_t),
        ("attempts", c.c_int),
        ("expected_attach_type", c.c_uint32),
        ("prog_btf_fd", c.c_uint32),
        ("prog_flags", c.c_uint32),
        ("_unused", c.c_uint32 * 5),
        ("_pointers", c.c_void_p * 5),
        ("log_level", c.c_uint32),
        ("log_size", c.c_uint32),
        ("log_buf", c.c_void_p),
    )


class _TestRunOpts(c.Structure):
    _fields_ = (
        ("sz", c.c_size_t),
        ("data_in", c.c_void_p),
        ("data_out", c.c_void_p),
        ("data_size_in", c.c_uint32),
        ("data_size_out", c.c_uint32),
        ("ctx_in", c.c_void_p),
        ("ctx_out", c.c_void_p),
        ("ctx_size_in", c.c_uint32),
        ("ctx_size_out", c.c_uint32),
        ("retval", c.c_uint32),
        ("repeat", c.c_int),
        ("duration", c.c_uint32),
        ("flags", c.c_uint32),
        ("cpu", c.c_uint32),
        ("batch_size", c.c_uint32),
    )


@dataclass(frozen=True)
class TestRun:
    """What BPF_PROG_TEST_RUN gave back; ``duration_ns`` is the mean of one run.

    ``context`` is what the program made of the context it was given.
    """

    __test__ = False  # not a pytest class

    verdict: int
    packet: bytes
    duration_ns: int
    context: bytes


def prog_info(fd: Fd) -> ProgInfo:
    """Id, type and name of a program, and the bytes of its translated and JITed code."""
    return info_of(fd, ProgInfo)


def enable_stats() -> Fd:
    """Have the kernel time every run of every program, while this is open (``prog_runs``)."""
    return Fd(call("bpf_enable_stats", _STATS_RUN_TIME))


def prog_runs(fd: Fd) -> tuple[int, int]:
    """Nanoseconds a program ran for, and how often, while the kernel timed it.

    What it called by tail calls is in it; what only ever is called so has nothing.
    """
    found = fdinfo(fd)
    return int(found.get("run_time_ns", 0)), int(found.get("run_cnt", 0))


def prog_by_id(number: int) -> Fd:
    """Open a loaded program by its id."""
    return Fd(call("bpf_prog_get_fd_by_id", c.c_uint32(number), about=f"program {number}"))


def prog_load(
    kind: int, name: str, code: bytes | bytearray, attach_type: int = 0, log: Any = None,
    *, flags: int = 0,
) -> Fd:  # fmt: skip
    """Load a program's instructions; ``log`` is a string buffer for what the verifier says."""
    opts = _ProgLoadOpts(sz=c.sizeof(_ProgLoadOpts), expected_attach_type=attach_type)
    opts.prog_flags = flags
    if log is not None:
        opts.log_level, opts.log_size, opts.log_buf = 1, len(log), c.addressof(log)
    what = (kind, name[:15].encode(), b"GPL", bytes(code), c.c_size_t(len(code) // 8))
    return Fd(call("bpf_prog_load", *what, c.byref(opts), about=name))


def prog_test_run(
    fd: Fd, packet: bytes, *, context: bytes = b"", repeat: int = 1, flags: int = 0, batch: int = 0
) -> TestRun:
    """Run a program on a packet (BPF_PROG_TEST_RUN).

    ``context`` is a whole struct __sk_buff or xdp_md. With TEST_XDP_LIVE_FRAMES the frames are
    really sent: no packet comes back, and ``batch`` frames are made at a time.
    """
    live = bool(flags & TEST_XDP_LIVE_FRAMES)
    out = c.create_string_buffer(0 if live else len(packet) + 256)
    data, ctx = (
        c.create_string_buffer(packet, len(packet)),
        c.create_string_buffer(context, len(context)),
    )
    ctx_out = c.create_string_buffer(0 if live else len(context))
    opts = _TestRunOpts(
        sz=c.sizeof(_TestRunOpts),
        data_in=c.addressof(data),
        data_size_in=len(packet),
        ctx_in=c.addressof(ctx) if context else None,
        ctx_size_in=len(context),
        repeat=repeat,
        flags=flags,
        batch_size=batch,
    )
    if not live:
        opts.data_out, opts.data_size_out = c.addressof(out), len(out)
    if context and not live:
        opts.ctx_out, opts.ctx_size_out = c.addressof(ctx_out), len(ctx_out)
    call("bpf_prog_test_run_opts", fd.fileno(), c.byref(opts))
    return TestRun(
        verdict=opts.retval,
        packet=out.raw[: opts.data_size_out],
        duration_ns=opts.duration,
        context=ctx_out.raw,
    )
