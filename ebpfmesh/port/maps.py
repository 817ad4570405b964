# SPDX-License-Identifier: BSD-2-Clause
"""Maps of injected functions, read in memory that the kernel's programs write."""

import functools
import mmap
import os
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

MAPS = "EBPFMESH_MAPS"
ROW, WORD = 256, 8  # bytes about a map in the file that tells of them: the last are its id


class NoMap(LookupError):
    """This process was not handed such a map."""


class _Said(NamedTuple):
    place: int
    descriptor: int
    id: int
    entries: int
    size: int


def map(name: str, dtype: DTypeLike | None = None) -> NDArray[np.generic]:
    """The values of a map of MESH_SHARED, [entries], as they are whenever they are looked at.

    ``name`` is what the map is called, or INJECTED/MAP where several are called so. ``dtype`` is
    that of a value: without one an unsigned integer of its size. Nothing can be written. Raises
    NoMap, and ValueError for a dtype of another size.
    """
    said = _find(name)
    kind = np.dtype(f"=u{said.size}" if dtype is None and said.size in (1, 2, 4, 8) else dtype)
    if kind.itemsize != said.size:
        raise ValueError(f"a value of {name} has {said.size} bytes, and {kind} {kind.itemsize}")
    stride = -(-said.size // WORD) * WORD
    page = mmap.PAGESIZE
    length = -(-said.entries * stride // page) * page
    shared = mmap.mmap(said.descriptor, length, mmap.MAP_SHARED, mmap.PROT_READ)
    return np.ndarray((said.entries,), kind, shared, 0, (stride,))


def is_current(name: str) -> bool:
    """Whether packets meet the program whose map this is; no system call is made to know.

    Not so once another version has a map of another layout in its place, or it was ejected: then
    the values stay as they are, and a command that is started anew has the new one.
    """
    said = _find(name)
    return int(_state()[said.place]) == said.id


@functools.cache
def _find(name: str) -> _Said:
    _, *words = os.environ.get(MAPS, "").split() or [""]
    found = []
    for place, word in enumerate(words):
        called, *numbers = word.split(":")
        if name in (called, called.partition("/")[2]):
            found.append(_Said(place, *(int(one) for one in numbers)))
    if len(found) != 1:
        why = "several are called so: name it INJECTED/MAP" if found else "none was handed over"
        raise NoMap(f"map {name}: {why}")
    return found[0]


@functools.cache
def _state() -> NDArray[np.uint64]:
    descriptor = int(os.environ[MAPS].split()[0])
    shared = mmap.mmap(descriptor, 0, mmap.MAP_SHARED, mmap.PROT_READ)
    return np.ndarray((len(shared) // ROW,), np.uint64, shared, ROW - WORD, (ROW,))
