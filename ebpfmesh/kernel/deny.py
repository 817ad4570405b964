# SPDX-License-Identifier: BSD-2-Clause
"""Deny lists as packets meet them: a list is made beside the one that runs, then put in its place.

Of each prefix length in use there is a look-up in a hash, behind a filter in which most addresses
that are not denied are not found (a Bloom filter of three bits in one word, Putze, Sanders and
Singler, JEA 2009); with more lengths than ``_abi.DENY_LENGTHS`` in a family it is one in a trie. A
filter cannot forget: each change makes all of a list anew, and no packet meets parts of two.
"""

import contextlib
import ctypes
import functools
import hashlib
import itertools
import secrets
import struct
import sys
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from ebpfmesh import _abi
from ebpfmesh.kernel import bpf
from ebpfmesh.kernel.maps import INNER, Maps
from ebpfmesh.kernel.prefixes import Block, packed
from ebpfmesh.model import Address

WORDS = 1 << 20
"""The most that a filter has: 8 MiB."""
PER_WORD = 4
"""Prefixes in a word: sixteen bits for each let about one other address in a hundred through."""
_FAMILIES = ("mesh_deny4", "mesh_deny6")
_MAPS = tuple(INNER)
_MASK = (1 << 64) - 1


class Entry(NamedTuple):
    """A denied prefix, at the uplink of interface ``ifindex``; 0: at all of them."""

    ifindex: int
    block: Block

    @property
    def is4(self) -> bool:
        """Whether it is of IPv4."""
        return self.block.is4


def stamp(entries: Iterable[Entry]) -> int:
    """What tells a list from another: of its entries, in order."""
    digest = hashlib.sha256()
    for ifindex, (length, first) in entries:
        digest.update(struct.pack("=IB16s", ifindex, length, first))
    return int.from_bytes(digest.digest()[:8]) or 1


def current(maps: Maps) -> int:
    """The stamp of the list that runs; 0: nothing is denied."""
    row = _list(maps, _slot(maps))
    return int(row.stamp)


def replace(maps: Maps, entries: Collection[Entry]) -> dict[Entry, int]:
    """Have packets meet these; packets that were dropped for each prefix of before, none for zero.

    Nothing has changed where it raises OSError, which it does without memory.
    """
    slot = 1 - _slot(maps)
    _clear(maps, slot)  # a kill may have left something there
    if entries:
        row = _abi.DenyList(stamp=stamp(sorted(entries)), seed=secrets.randbits(64))
        row.own = any(entry.ifindex for entry in entries)
        try:
            _fill(maps, slot, row, entries)
            maps["mesh_deny_list"].set(ctypes.c_uint32(slot), row)
        except BaseException:
            _clear(maps, slot)
            raise
    return _flip(maps, slot)


def _flip(maps: Maps, slot: int) -> dict[Entry, int]:
    """Have packets meet the other list; what the old one had counted once none meets it."""
    maps["mesh_deny"].set(ctypes.c_uint32(0), ctypes.c_uint32(slot))
    bpf.grace_period()
    counted = {entry: packets for entry, packets in _counts(maps, 1 - slot) if packets}
    _clear(maps, 1 - slot)
    return counted


def counts(maps: Maps) -> dict[Entry, int]:
    """Packets that were dropped for each prefix of the list that runs, since it does."""
    return dict(_counts(maps, _slot(maps)))


def find(maps: Maps, ifindex: int, address: Address) -> Entry | None:
    """The entry by which packets from an address are denied at an uplink, as deny_check() finds it.

    Nothing is counted. Of a trie, which tells nobody what it has found, all is read: a second or so
    for each million.
    """
    slot, four = _slot(maps), address.version == 4
    row = _list(maps, slot)
    lengths, name = (row.four, _FAMILIES[0]) if four else (row.six, _FAMILIES[1])
    if not lengths.count:
        return None
    at = (0, ifindex) if row.own else (0,)
    if lengths.trie:
        known = {entry for entry, _ in _entries(maps, f"{name}_trie", slot)}
        tried = [(here, bits) for here in at for bits in range(32 if four else 128, -1, -1)]
        has = known.__contains__
    else:
        tried = [(here, bits) for bits in lengths.bits[: lengths.count] for here in at]
        has = functools.partial(_has, maps, name, slot)
    whole = Block(128, packed(address))
    found = (Entry(here, whole.wider(96 * four + bits)) for here, bits in tried)
    return next(filter(has, found), None)


def _has(maps: Maps, name: str, slot: int, entry: Entry) -> bool:
    """Whether a list has this entry in its hash."""
    with _opened(maps, name, slot) as opened:
        size = ctypes.sizeof(INNER[name].value)
        return opened is not None and bpf.map_lookup(opened, _key(entry), size) is not None


@contextlib.contextmanager
def _opened(maps: Maps, name: str, slot: int) -> Iterator[bpf.Fd | None]:
    """A map of a list; None if it has none, or a change goes on beside who only reads."""
    number = maps[name].get(ctypes.c_uint32(slot))
    try:
        opened = bpf.map_by_id(number.value) if number else None
    except FileNotFoundError:
        opened = None
    with opened or contextlib.nullcontext():
        yield opened


def _entries(maps: Maps, name: str, slot: int) -> Iterator[tuple[Entry, int]]:
    """What a map of a list has, and the packets that were dropped for each."""
    with _opened(maps, name, slot) as opened:
        if opened is not None:
            sizes = ctypes.sizeof(INNER[name].key), ctypes.sizeof(INNER[name].value)
            for key, value in bpf.map_items(opened, *sizes):
                yield _entry(key), struct.unpack("=Q", value)[0]


def _counts(maps: Maps, slot: int) -> Iterator[tuple[Entry, int]]:
    for name in _MAPS[1:]:
        yield from _entries(maps, name, slot)


def _slot(maps: Maps) -> int:
    found = maps["mesh_deny"].get(ctypes.c_uint32(0))
    return int(found.value) & 1 if found else 0


def _list(maps: Maps, slot: int) -> _abi.DenyList:
    row: _abi.DenyList | None = maps["mesh_deny_list"].get(ctypes.c_uint32(slot))
    return row or _abi.DenyList()


def _clear(maps: Maps, slot: int) -> None:
    """Forget a list that no packet meets."""
    for name in _MAPS:
        maps[name].delete(ctypes.c_uint32(slot))
    maps["mesh_deny_list"].set(ctypes.c_uint32(slot), _abi.DenyList())


def _fill(maps: Maps, slot: int, row: _abi.DenyList, entries: Collection[Entry]) -> None:
    """Make all maps of a list, and say in its ``row`` what they are."""
    words = min(WORDS, 1 << max(0, (len(entries) - 1) // PER_WORD).bit_length())
    row.words = words - 1
    bits: dict[int, int] = {}
    for family, lengths, name in zip((True, False), (row.four, row.six), _FAMILIES, strict=True):
        found = [entry for entry in entries if entry.is4 == family]
        if not found:
            continue
        used = sorted({_bits(entry) for entry in found}, reverse=True)
        lengths.trie = len(used) > _abi.DENY_LENGTHS
        lengths.count = 1 if lengths.trie else len(used)
        shown = used[-1:] if lengths.trie else used
        for index, length in enumerate(shown):
            lengths.bits[index] = length
        for entry in found:
            _mark(bits, entry, shown[-1] if lengths.trie else _bits(entry), row)
        _put(maps, f"{name}_trie" if lengths.trie else name, slot, map(_key, found), len(found))
    with INNER["mesh_deny_bits"].create(words) as made:
        pairs = ((struct.pack("=I", at), struct.pack("=Q", value)) for at, value in bits.items())
        _update(made, pairs)
        _set(maps, "mesh_deny_bits", slot, made)


def _put(maps: Maps, name: str, slot: int, keys: Iterable[bytes], count: int) -> None:
    with INNER[name].create(count) as made:
        _update(made, ((key, bytes(8)) for key in keys))
        _set(maps, name, slot, made)


def _update(made: bpf.Fd, pairs: Iterable[tuple[bytes, bytes]]) -> None:
    """Many entries, some thousands in one system call."""
    pairs = iter(pairs)
    while some := list(itertools.islice(pairs, 8192)):
        bpf.map_update_batch(made, [key for key, _ in some], [value for _, value in some])


def _set(maps: Maps, name: str, slot: int, made: bpf.Fd) -> None:
    maps[name].set(ctypes.c_uint32(slot), ctypes.c_uint32(made.fileno()))


def _bits(entry: Entry) -> int:
    return entry.block.length - 96 if entry.is4 else entry.block.length


def _key(entry: Entry) -> bytes:
    """As mesh_deny4_key or mesh_deny6_key."""
    first = entry.block.first[12:] if entry.is4 else entry.block.first
    return struct.pack("=II", 32 + _bits(entry), entry.ifindex) + first


def _entry(key: bytes) -> Entry:
    prefix, ifindex = struct.unpack_from("=II", key)
    if len(key) == ctypes.sizeof(_abi.Deny4Key):
        return Entry(ifindex, Block.of4(prefix - 32, key[8:]))
    return Entry(ifindex, Block(prefix - 32, key[8:]))


def _mix(value: int) -> int:
    """deny_mix() of bpf/lib/deny.h."""
    value = (value ^ value >> 32) * _abi.DENY_MIX1 & _MASK
    value = (value ^ value >> 32) * _abi.DENY_MIX2 & _MASK
    return value ^ value >> 32


def _mark(bits: dict[int, int], entry: Entry, length: int, row: _abi.DenyList) -> None:
    """Set the bits of an entry's first ``length`` bits in a filter, by word."""
    seed = row.seed ^ length << 32
    if entry.is4:
        first = entry.block.wider(96 + length).first[12:]
        value = _mix(seed ^ int.from_bytes(first, sys.byteorder))
    else:
        high, low = struct.unpack("=QQ", entry.block.wider(length).first)
        value = _mix(_mix(seed ^ high) ^ low)
    at = value >> 32 & row.words
    wanted = 1 << (value & 63) | 1 << (value >> 6 & 63) | 1 << (value >> 12 & 63)
    bits[at] = bits.get(at, 0) | wanted
