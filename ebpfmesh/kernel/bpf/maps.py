# SPDX-License-Identifier: BSD-2-Clause
"""Maps: made, read and written, one entry at a time or many."""

import contextlib
import ctypes as c
import functools
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from ebpfmesh.kernel.bpf.objects import Fd, call, fdinfo, info_of

# enum bpf_map_type and flags, as far as we use them.
MAP_TYPE = {
    "hash": 1, "array": 2, "prog": 3, "percpu_hash": 5, "percpu_array": 6, "lru_hash": 9,
    "lpm_trie": 11, "array_of_maps": 12, "xskmap": 17, "sk_storage": 24, "ringbuf": 27,
}  # fmt: skip
MAP_INNER = 1 << 12
"""Of an array in a map of maps: the others there may have other sizes (BPF_F_INNER_MAP)."""
NOEXIST = 1
_BATCH = 1024


class _MapInfo(c.Structure):
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


def map_info(fd: Fd) -> _MapInfo:
    """Type, sizes, entries, flags and name of a map."""
    return info_of(fd, _MapInfo)


def map_by_id(number: int) -> Fd:
    """Open a map by its id, as one that is in a map of maps is found."""
    return Fd(call("bpf_map_get_fd_by_id", c.c_uint32(number), about=f"map {number}"))


@functools.cache
def possible_cpus() -> int:
    """Number of CPUs a per-CPU map holds a value for."""
    return call("libbpf_num_possible_cpus")


def _btf_load(value_size: int) -> Fd:
    """Types of a map's key and value, where the kernel asks for them: 1 is int, 2 the value."""
    strings = b"\0int\0value\0"
    # struct btf_type and what comes after it (linux/btf.h): a signed INT, a STRUCT of no members.
    types = struct.pack("=4I", 1, 1 << 24, 4, 1 << 24 | 32) + struct.pack(
        "=3I", 5, 4 << 24, value_size
    )
    header = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    raw = header + types + strings
    return Fd(call("bpf_btf_load", raw, c.c_size_t(len(raw)), None))


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
        types = _btf_load(value_size)
        opts.btf_fd, opts.btf_key_type_id, opts.btf_value_type_id = types.fileno(), 1, 2
    sizes = (c.c_uint32(key_size), c.c_uint32(value_size), c.c_uint32(entries))
    return Fd(call("bpf_map_create", kind, name[:15].encode(), *sizes, c.byref(opts), about=name))


def map_freeze(fd: Fd) -> None:
    """Nobody writes a map from user space any more; programs do."""
    call("bpf_map_freeze", fd.fileno())


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
        call("bpf_map_lookup_elem", fd.fileno(), key, value)
    except FileNotFoundError:
        return None
    return value.raw


def map_update(fd: Fd, key: bytes, value: bytes, flags: int = 0) -> None:
    """Set a key; flags is 0 or NOEXIST (FileExistsError if the key is there)."""
    call("bpf_map_update_elem", fd.fileno(), key, value, c.c_uint64(flags))


def map_delete(fd: Fd, key: bytes) -> bool:
    """Delete a key; False if it was not there."""
    try:
        call("bpf_map_delete_elem", fd.fileno(), key)
    except FileNotFoundError:
        return False
    return True


def map_items(fd: Fd, key_size: int, value_size: int) -> Iterator[tuple[bytes, bytes]]:
    """Every (key, value), many a system call."""
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
    batch = min(entries, max(_BATCH, 1 << (entries.bit_length() // 2)))  # a bucket must fit
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
            call(
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
            call("bpf_map_lookup_batch", self._fd.fileno(), start, *self._into)
        return memoryview(self._values).cast("B")[: self._got.value * self._size]


def map_update_batch(fd: Fd, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
    """Set keys, in one system call; OSError, E2BIG if there is no room for all, of some are set."""
    opts = _BatchOpts(sz=c.sizeof(_BatchOpts))
    count = c.c_uint32(len(keys))
    joined = b"".join(keys), b"".join(values)
    call("bpf_map_update_batch", fd.fileno(), *joined, c.byref(count), c.byref(opts))


def map_memory(fd: Fd) -> int:
    """Bytes the kernel holds for a map."""
    return int(fdinfo(fd).get("memlock", 0))
