# SPDX-License-Identifier: BSD-2-Clause
"""Reading a ring buffer map: records as bytes, in the order the programs sent them.

libbpf reads; Python only collects the records. What the handler of a signal raises meanwhile
cannot go through libbpf: it is raised once that is done.
"""

import ctypes
import select
import sys
from typing import Self

from ebpfmesh.kernel import bpf

BATCH = 1024
"""Most records that one reading gives: a program that never stops sending must not keep us in."""
_FULL = -1


class Ring:
    """The reading side of a ring buffer; there is one position for all readers of a map."""

    def __init__(self, fd: bpf.Fd) -> None:
        self._records: list[bytes] = []
        self._callback = bpf.RING_CALLBACK(self._take)
        self._reader = bpf.ring_new(fd, self._callback)
        self._wait = select.poll()
        self._wait.register(bpf.ring_epoll_fd(self._reader), select.POLLIN)

    def _take(self, _context: int, data: int, size: int) -> int:
        self._records.append(ctypes.string_at(data, size))
        return _FULL if len(self._records) >= BATCH else 0

    def read(self, seconds: float = 0) -> list[bytes]:
        """Up to BATCH records; waits for the first, not longer than ``seconds``."""
        if seconds > 0:
            self._wait.poll(max(seconds * 1000, 1))
        self._consume()
        records, self._records = self._records, []
        return records

    def _consume(self) -> None:
        """Have libbpf call ``_take``, and raise its exception: ctypes only reports it to a hook."""
        raised: list[BaseException] = []

        def keep(lost: "sys.UnraisableHookArgs") -> None:
            if lost.object == self._take and lost.exc_value:
                raised.append(lost.exc_value)
            else:
                before(lost)

        before = sys.unraisablehook
        try:
            sys.unraisablehook = keep
            bpf.ring_consume(self._reader)
        finally:
            sys.unraisablehook = before
        if raised:
            raise raised[0]

    def skip(self) -> None:
        """Discard pending records; for when nobody sends."""
        while self.read():
            pass

    def close(self) -> None:
        """Stop reading; records that are there stay there."""
        bpf.ring_free(self._reader)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
