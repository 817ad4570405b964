# SPDX-License-Identifier: BSD-2-Clause
"""Reading a ring buffer map: records as bytes, in the order the programs sent them.

libbpf reads; Python only keeps what it is given. A signal is handled between two readings, never
inside libbpf, which would lose the exception that ends the command.
"""

import ctypes
import select
import signal
from types import TracebackType
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
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        try:  # the next line may block signals and raise for one that came just before
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            bpf.ring_consume(self._reader)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        records, self._records = self._records, []
        return records

    def skip(self) -> None:
        """Forget what is there; for when nobody sends."""
        while self.read():
            pass

    def close(self) -> None:
        """Stop reading; records that are there stay there."""
        bpf.ring_free(self._reader)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
