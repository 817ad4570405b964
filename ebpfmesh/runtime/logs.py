# SPDX-License-Identifier: BSD-2-Clause
"""What commands of functions said: lines with their times, of this run and of the one before."""

import contextlib
import heapq
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

STAMP = re.compile(rb"[0-9]{1,12}\.[0-9]{6} ")


THIS_RUN = 2  # files of it come first


class Line(NamedTuple):
    """A line of a function's log, and the Unix time it came at."""

    time: float
    function: str
    text: str


class Log:
    """The log of one function, read again and again; each reading has what is new.

    ``paths`` are its two files of this run, and those of the run before, or fewer.
    """

    def __init__(self, function: str, paths: Sequence[Path]) -> None:
        self.function = function
        self._paths = paths
        self._read: dict[tuple[int, bytes], int] = {}  # of files by inode and beginning

    def new(self, *, rest: bool = True) -> list[Line]:
        """Lines that came since the last reading; with the ``rest``, one that goes on too."""
        files = []
        for number, path in enumerate(self._paths):
            with contextlib.suppress(FileNotFoundError):
                files.append((*_read(path), rest or number >= THIS_RUN))
        lines: list[Line] = []
        places: dict[tuple[int, bytes], int] = {}
        for _, inode, text, whole in sorted(files):
            key = inode, text[: text.find(b" ")]
            begin = self._read.get(key, 0)
            end = len(text) if whole else text.rfind(b"\n") + 1
            places[key] = max(begin, end)
            lines += self._lines(text[begin:end])
        self._read = places
        return lines

    def _lines(self, text: bytes) -> Iterator[Line]:
        for line in text.removesuffix(b"\n").split(b"\n") if text else ():
            if found := STAMP.match(line):
                said = line[found.end() :].removesuffix(b"\r").decode(errors="replace")
                yield Line(float(found[0]), self.function, said)


def _read(path: Path) -> tuple[float, int, bytes]:
    """When a file of a log begins, its inode, and all of it: it is bounded."""
    with path.open("rb") as file:
        inode, text = os.fstat(file.fileno()).st_ino, file.read()
    found = STAMP.match(text)
    return float(found[0]) if found else 0.0, inode, text


def read(
    logs: Iterable[Log], *, since: float = 0.0, last: int | None = None, rest: bool = True
) -> list[Line]:
    """What is new in some logs since a time, interleaved; the ``last`` lines of it."""
    merged = heapq.merge(*(log.new(rest=rest) for log in logs), key=lambda line: line.time)
    return list(deque((line for line in merged if line.time >= since), maxlen=last))
