# SPDX-License-Identifier: BSD-2-Clause
"""bpf(2) through libbpf: pins, maps, programs, links and test runs.

Owns the ctypes side of libbpf.so.1 and nothing above it: keys and values are bytes here, in the
layouts of ``ebpfmesh._abi``. A call that fails raises OSError with the kernel's errno, except
EPERM, which becomes MissingPrivilege. Reference: linux/include/uapi/linux/bpf.h.
"""

import contextlib
import ctypes as c
import errno
import functools
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from ebpfmesh.errors import MissingPrivilege, Unsupported

# enum bpf_map_type, bpf_prog_type, bpf_attach_type and flags, as far as we use them.
MAP_TYPE = {
    "hash": 1, "array": 2, "prog": 3, "percpu_hash": 5, "percpu_array": 6, "lru_hash": 9,
    "lpm_trie": 11, "array_of_maps": 12, "xskmap": 17, "sk_storage": 24, "ringbuf": 27,
}  # fmt: skip
MAP_INNER = 1 << 12
"""Of an array in a map of maps: the others there may have other sizes (BPF_F_INNER_MAP)."""
PROG_XDP_HAS_FRAGS = 1 << 5
PROG_TYPE_SCHED_CLS = 3
PROG_TYPE_XDP = 6
PROG_TYPE_CGROUP_SOCK_ADDR = 18
XDP = 37  # enum bpf_attach_type, linux/include/uapi/linux/bpf.h
XDP_NATIVE, XDP_GENERIC = 1 << 2, 1 << 1  # of a link: XDP_FLAGS_DRV_MODE, _SKB_MODE
TCX_INGRESS = 46
TCX_EGRESS = 47
BEFORE = 1 << 3  # of a link: before all that are there
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
NOEXIST = 1
BPF_STATS_RUN_TIME = 0
TEST_XDP_LIVE_FRAMES = 1 << 1
BATCH = 1024
REPLACING = "replacing"
"""Beside the directory of a pin that is about to be replaced: what a kill may leave."""


RING_CALLBACK = c.CFUNCTYPE(c.c_int, c.c_void_p, c.c_void_p, c.c_size_t)
"""ring_buffer_sample_fn: what libbpf calls with each record of a ring buffer."""


_Info = TypeVar("_Info", bound=c.Structure)


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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class MapInfo(c.Structure):
    """First fields of struct bpf_map_info."""

    _fields_ = (
        ("type", c.c_uint32),
        ("id", c.c_uint32),
        ("key_size", c.c_uint32),
        ("value_size", c.c_uint32),
        ("max_entries", c.c_uint32),
        ("map_flags", c.c_uint32),
        ("name", c.c_char * 16),
    )


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


class _LinkTarget(c.Union):
    _fields_ = (("cgroup_id", c.c_uint64), ("ifindex", c.c_uint32))


class LinkInfo(c.Structure):
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


class _MapCreateOpts(c.Structure):
    _fields_ = (
        ("sz", c.c_size_t),
        ("btf_fd", c.c_uint32),
        ("btf_key_type_id", c.c_uint32),
        ("btf_value_type_id", c.c_uint32),
        ("btf_vmlinux_value_type_id", c.c_uint32),
        ("inner_map_fd", c.c_uint32),
        ("map_flags", c.c_uint32),
        ("map_extra", c.c_uint64),
        ("numa_node", c.c_uint32),
        ("map_ifindex", c.c_uint32),
    )


class _BatchOpts(c.Structure):
    _fields_ = (("sz", c.c_size_t), ("elem_flags", c.c_uint64), ("flags", c.c_uint64))


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


@functools.cache
def _libbpf() -> c.CDLL:
    try:
        return c.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise Unsupported("libbpf.so.1 is missing", hint="apt install libbpf1") from error


def _call(function: str, *arguments: Any, about: object = "") -> int:
    """Call a libbpf function that returns a descriptor, zero or a negative errno."""
    result: int = getattr(_libbpf(), function)(*arguments)
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
    return _call(question, *arguments, None) == 1


def obj_get(path: Path) -> Fd:
    """Open a pinned object; FileNotFoundError where there is none."""
    return Fd(_call("bpf_obj_get", os.fsencode(path), about=path))


def obj_pin(fd: Fd, path: Path) -> None:
    """Pin an object at a new path of a BPF file system."""
    _call("bpf_obj_pin", fd.fileno(), os.fsencode(path), about=path)


def obj_repin(fd: Fd, path: Path) -> None:
    """Pin an object where another is pinned: the path leads to one of both at any time."""
    beside = path.parent.parent / REPLACING
    beside.unlink(missing_ok=True)
    obj_pin(fd, beside)
    beside.rename(path)


def _info(fd: Fd, shape: type[_Info]) -> _Info:
    info, size = shape(), c.c_uint32(c.sizeof(shape))
    _call("bpf_obj_get_info_by_fd", fd.fileno(), c.byref(info), c.byref(size))
    return info


def map_info(fd: Fd) -> MapInfo:
    """Type, sizes, entries, flags and name of a map."""
    return _info(fd, MapInfo)


def prog_info(fd: Fd) -> ProgInfo:
    """Id, type and name of a program, and the bytes of its translated and JITed code."""
    return _info(fd, ProgInfo)


def is_link(fd: Fd) -> bool:
    """Whether an object that was pinned is a link, and not a program or a map."""
    return "link_id" in fdinfo(fd)


def enable_stats() -> Fd:
    """Have the kernel time every run of every program, while this is open (``prog_runs``)."""
    return Fd(_call("bpf_enable_stats", BPF_STATS_RUN_TIME))


def prog_runs(fd: Fd) -> tuple[int, int]:
    """Nanoseconds a program ran for, and how often, while the kernel timed it.

    What it called by tail calls is in it; what only ever is called so has nothing.
    """
    found = fdinfo(fd)
    return int(found.get("run_time_ns", 0)), int(found.get("run_cnt", 0))


def prog_by_id(number: int) -> Fd:
    """Open a loaded program by its id."""
    return Fd(_call("bpf_prog_get_fd_by_id", c.c_uint32(number), about=f"program {number}"))


def map_by_id(number: int) -> Fd:
    """Open a map by its id, as one that is in a map of maps is found."""
    return Fd(_call("bpf_map_get_fd_by_id", c.c_uint32(number), about=f"map {number}"))


@functools.cache
def possible_cpus() -> int:
    """Number of CPUs a per-CPU map holds a value for."""
    return _call("libbpf_num_possible_cpus")


def btf_load(value_size: int) -> Fd:
    """Types of a map's key and value, where the kernel asks for them: 1 is int, 2 the value."""
    strings = b"\0int\0value\0"
    # struct btf_type and what comes after it (linux/btf.h): a signed INT, a STRUCT of no members.
    types = struct.pack("=4I", 1, 1 << 24, 4, 1 << 24 | 32) + struct.pack(
        "=3I", 5, 4 << 24, value_size
    )
    header = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    raw = header + types + strings
    return Fd(_call("bpf_btf_load", raw, c.c_size_t(len(raw)), None))


def map_create(
    kind: int, name: str, key_size: int, value_size: int, entries: int, flags: int = 0,
    *, inner: Fd | None = None,
) -> Fd:  # fmt: skip
    """Create a map; the kernel keeps the first 15 characters of the name.

    ``inner`` is a map such as those that a map of maps holds.
    """
    opts = _MapCreateOpts(sz=c.sizeof(_MapCreateOpts), map_flags=flags)
    opts.inner_map_fd = inner.fileno() if inner else 0
    if kind == MAP_TYPE["sk_storage"]:
        types = btf_load(value_size)
        opts.btf_fd, opts.btf_key_type_id, opts.btf_value_type_id = types.fileno(), 1, 2
    sizes = (c.c_uint32(key_size), c.c_uint32(value_size), c.c_uint32(entries))
    return Fd(_call("bpf_map_create", kind, name[:15].encode(), *sizes, c.byref(opts), about=name))


def map_freeze(fd: Fd) -> None:
    """Nobody writes a map from user space any more; programs do."""
    _call("bpf_map_freeze", fd.fileno())


def grace_period() -> None:
    """Wait until no program runs that ran before.

    As an update of a map of maps does (maybe_wait_bpf_programs() in linux/kernel/bpf/syscall.c);
    membarrier(2) would not on a machine with nohz_full.
    """
    kind, outer = MAP_TYPE["array"], MAP_TYPE["array_of_maps"]
    with (
        map_create(kind, "inner", 4, 4, 1) as inner,
        map_create(outer, "grace_period", 4, 4, 1, inner=inner) as maps,
    ):
        map_update(maps, bytes(4), struct.pack("=I", inner.fileno()))


def map_lookup(fd: Fd, key: bytes, value_size: int) -> bytes | None:
    """The value of a key, or None. A per-CPU map gives each CPU's value, rounded up to 8 bytes."""
    value = c.create_string_buffer(value_size)
    try:
        _call("bpf_map_lookup_elem", fd.fileno(), key, value)
    except FileNotFoundError:
        return None
    return value.raw


def map_update(fd: Fd, key: bytes, value: bytes, flags: int = 0) -> None:
    """Set a key; flags is 0 or NOEXIST (FileExistsError if the key is there)."""
    _call("bpf_map_update_elem", fd.fileno(), key, value, c.c_uint64(flags))


def map_delete(fd: Fd, key: bytes) -> bool:
    """Delete a key; False if it was not there."""
    try:
        _call("bpf_map_delete_elem", fd.fileno(), key)
    except FileNotFoundError:
        return False
    return True


def map_items(fd: Fd, key_size: int, value_size: int) -> Iterator[tuple[bytes, bytes]]:
    """Every (key, value), read BATCH entries a system call."""
    for raw_keys, raw_values in map_batches(fd, key_size, value_size):
        for i in range(len(raw_keys) // key_size):
            yield (
                raw_keys[i * key_size : (i + 1) * key_size],
                raw_values[i * value_size : (i + 1) * value_size],
            )


def map_batches(fd: Fd, key_size: int, value_size: int) -> Iterator[tuple[bytes, bytes]]:
    """All keys and values, many at a time: one after the other, in two texts."""
    opts = _BatchOpts(sz=c.sizeof(_BatchOpts))
    entries = map_info(fd).max_entries
    batch = min(entries, max(BATCH, 1 << (entries.bit_length() // 2)))  # a bucket must fit
    keys, values = (
        c.create_string_buffer(batch * key_size),
        c.create_string_buffer(batch * value_size),
    )
    cursor = c.create_string_buffer(max(key_size, 8))
    start: Any = None
    done = False
    while not done:
        count = c.c_uint32(batch)
        try:
            _call(
                "bpf_map_lookup_batch", fd.fileno(), start, cursor, keys, values,
                c.byref(count), c.byref(opts),
            )  # fmt: skip
        except FileNotFoundError:  # the end; count says how many came before it
            done = True
        start = cursor
        yield (
            c.string_at(keys, count.value * key_size),
            c.string_at(values, count.value * value_size),
        )


class Slots:
    """Reads ``count`` neighbouring slots of an array in one call, again and again."""

    def __init__(self, fd: Fd, count: int, value_size: int) -> None:
        self._fd, self._count, self._size = fd, count, value_size
        self._cursor, self._got = c.c_uint32(), c.c_uint32()
        keys, self._values = (c.create_string_buffer(count * size) for size in (4, value_size))
        opts, next_ = _BatchOpts(sz=c.sizeof(_BatchOpts)), c.c_uint32()
        self._into = (c.byref(next_), keys, self._values, c.byref(self._got), c.byref(opts))

    def read(self, first: int) -> memoryview:
        """Their values from ``first`` on, in bytes, until the next reading; fewer at the end.

        The cursor of an array is the slot before (generic_map_lookup_batch() in
        linux/kernel/bpf/syscall.c).
        """
        self._cursor.value, self._got.value = first - 1, self._count
        start = c.byref(self._cursor) if first else None
        with contextlib.suppress(FileNotFoundError):  # the end
            _call("bpf_map_lookup_batch", self._fd.fileno(), start, *self._into)
        return memoryview(self._values).cast("B")[: self._got.value * self._size]


def map_update_batch(fd: Fd, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
    """Set keys, in one system call; OSError, E2BIG if there is no room for all, of some are set."""
    opts = _BatchOpts(sz=c.sizeof(_BatchOpts))
    count = c.c_uint32(len(keys))
    joined = b"".join(keys), b"".join(values)
    _call("bpf_map_update_batch", fd.fileno(), *joined, c.byref(count), c.byref(opts))


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
    return Fd(_call("bpf_prog_load", *what, c.byref(opts), about=name))


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
    _call("bpf_prog_test_run_opts", fd.fileno(), c.byref(opts))
    return TestRun(
        verdict=opts.retval,
        packet=out.raw[: opts.data_size_out],
        duration_ns=opts.duration,
        context=ctx_out.raw,
    )


def link_create(program: Fd, target: int, attach_type: int, flags: int = 0) -> Fd:
    """Attach a program by a link.

    ``target`` is an interface's number (TCX_INGRESS, TCX_EGRESS, with BEFORE or without; XDP) or a
    descriptor of a cgroup's directory (CGROUP_HOOK).
    """
    opts = _LinkCreateOpts(sz=c.sizeof(_LinkCreateOpts), flags=flags)
    what = (program.fileno(), target, attach_type, c.byref(opts))
    return Fd(_call("bpf_link_create", *what, about=f"target {target}"))


def link_update(link: Fd, program: Fd) -> None:
    """Have another program where a link has one, in one step (BPF_LINK_UPDATE).

    Raises OSError: ENOLINK where the interface or cgroup is gone.
    """
    _call("bpf_link_update", link.fileno(), program.fileno(), None)


def link_cgroup(link: Fd) -> int:
    """Number of the cgroup of a link, which is its directory's inode; 0 if it is gone."""
    return int(_info(link, LinkInfo).cgroup_id)


def link_program(link: Fd) -> int:
    """Id of a link's program."""
    return int(_info(link, LinkInfo).prog_id)


def link_interface(link: Fd) -> int:
    """Index of the interface of a TCX or XDP link; 0 if it is detached."""
    return int(_info(link, LinkInfo).ifindex)


def link_detach(link: Fd) -> None:
    """Detach a link's program, whoever else holds the link."""
    _call("bpf_link_detach", link.fileno())


def attached(ifindex: int, attach_type: int) -> list[int]:
    """Ids of the programs at an interface's TCX hook, in the order they run."""
    ids, count, flags = (c.c_uint32 * 64)(), c.c_uint32(64), c.c_uint32()
    _call("bpf_prog_query", ifindex, attach_type, 0, c.byref(flags), ids, c.byref(count))
    return list(ids[: count.value])


def fdinfo(fd: Fd) -> dict[str, str]:
    """What the kernel tells of a map or a program in /proc/self/fdinfo, by name."""
    lines = Path(f"/proc/self/fdinfo/{fd.fileno()}").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def map_memory(fd: Fd) -> int:
    """Bytes the kernel holds for a map."""
    return int(fdinfo(fd).get("memlock", 0))


def ring_new(fd: Fd, callback: Any) -> c.c_void_p:
    """A reader of a ring buffer map; ``callback`` is a RING_CALLBACK that outlives it."""
    make = _libbpf().ring_buffer__new
    make.restype = c.c_void_p
    reader = make(fd.fileno(), callback, None, None)
    if not reader:
        code = c.get_errno()
        raise OSError(code, f"ring_buffer__new: {os.strerror(code)}")
    return c.c_void_p(reader)


def ring_epoll_fd(reader: c.c_void_p) -> int:
    """A descriptor that is readable while there are records; it belongs to the reader."""
    return _call("ring_buffer__epoll_fd", reader)


def ring_consume(reader: c.c_void_p) -> int:
    """Give the callback all records that are there; what it returned if that was negative."""
    return int(_libbpf().ring_buffer__consume(reader))


def ring_free(reader: c.c_void_p) -> None:
    """Undo ring_new."""
    _libbpf().ring_buffer__free(reader)
