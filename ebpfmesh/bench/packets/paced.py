# SPDX-License-Identifier: BSD-2-Clause
"""Traffic at a chosen rate while something else goes on: a burst of frames every so often.

The bursts are sent by a process of their own, a fork, on a core of its own where there is one, so
that neither Python's lock nor the work of the caller holds them back. Between two bursts it sleeps.
On an idle core a burst begins within 0.1 ms of its time; what was worse is told
(``Traffic.longest_pause_ns``), since a receiver cannot tell a late burst from a path that stood
still. A burst that is too late is not caught up with.
"""

import contextlib
import os
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import wait

from ebpfmesh.bench.packets.generator import Entry, Generator
from ebpfmesh.bench.tools import Pick, one_core
from ebpfmesh.errors import CommandFailed
from ebpfmesh.kernel import libc

MAX_SECONDS = 600.0
MAX_FRAMES = 100_000_000
"""Bounds of a run, whatever was asked for."""
NICE = -20
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STARTED = b"."
RESULT = struct.Struct("=QQQQ")


@dataclass(frozen=True)
class Pace:
    """``burst`` frames every ``interval`` seconds, for ``seconds`` or until there were ``frames``.

    ValueError beyond MAX_SECONDS, MAX_FRAMES, or where it makes no sense.
    """

    burst: int = 16
    interval: float = 0.001
    seconds: float = 10.0
    frames: int = 1_000_000

    def __post_init__(self) -> None:
        for name, value, most in (
            ("burst", self.burst, 4096),
            ("interval", self.interval, 10.0),
            ("seconds", self.seconds, MAX_SECONDS),
            ("frames", self.frames, MAX_FRAMES),
        ):
            if not 0 < value <= most:
                raise ValueError(f"{name}: {value} is not in 0..{most}")

    @classmethod
    def at_rate(cls, per_second: float, *, seconds: float, frames: int) -> "Pace":
        """The pace of a rate: a burst a millisecond, or single frames where that is too few."""
        burst = min(max(round(per_second / 1000), 1), 4096)
        return cls(burst, burst / per_second, seconds, frames)


@dataclass(frozen=True)
class Sent:
    """What was sent: frames, when the first and the last burst began, by CLOCK_MONOTONIC.

    ``longest_pause_ns`` is the longest time from the beginning of a burst to that of the next.
    """

    frames: int = 0
    first_ns: int = 0
    last_ns: int = 0
    longest_pause_ns: int = 0


class Traffic:
    """Traffic under way; ``sent`` is there once it has ended."""

    def __init__(self, process: int, stop: int, result: int) -> None:
        self._process = process
        self._stop = stop
        self._result = result
        self._sent: Sent | None = None

    @property
    def ended(self) -> bool:
        """Whether it has come to its end by itself."""
        return self._sent is not None or bool(wait([self._result], 0))

    def has_begun(self) -> bool:
        """Wait for the first burst; whether there was one. To be asked once."""
        return bool(os.read(self._result, len(STARTED)))

    def wait(self, seconds: float | None = None) -> bool:
        """Until it ends by itself, or so long; whether it has."""
        return self._sent is not None or bool(wait([self._result], seconds))

    def stop(self) -> Sent:
        """End it, if it has not ended; twice is fine. CommandFailed if the sender failed."""
        if self._sent is None:
            os.close(self._stop)
            raw = os.read(self._result, RESULT.size)
            os.close(self._result)
            os.waitpid(self._process, 0)
            if len(raw) != RESULT.size:
                self._sent = Sent()
                raise CommandFailed("the generator failed: what it said is above")
            self._sent = Sent(*RESULT.unpack(raw))
        return self._sent

    @property
    def sent(self) -> Sent:
        """What was sent; ends it if it has not ended."""
        return self.stop()


@contextmanager
def running(
    generator: Generator, ifindex: int, pace: Pace, *, entry: Entry = "stack", pick: Pick = max
) -> Iterator[Traffic]:
    """Send what ``generator`` was loaded with into an interface while the block runs.

    In the calling thread's network namespace; on the core that ``pick`` chooses. The first burst is
    through when the block begins; it ends with the block, or by itself by its pace. Raises
    CommandFailed if the sender fails.
    """
    generator.prepare(entry)
    traffic = None
    try:
        with _blocked(SIGNALS):  # until the child ignores them
            traffic = _fork(partial(_send, generator, ifindex, pace, entry), pick)
        if not traffic.has_begun():
            traffic.stop()
        yield traffic
    except BaseException:
        with contextlib.suppress(CommandFailed):
            if traffic:
                traffic.stop()
        raise
    traffic.stop()


@contextmanager
def _blocked(numbers: Iterable[int]) -> Iterator[None]:
    """Let signals wait until the block ends; none stays blocked, whatever a handler raises.

    sigmask(2) blocks first, and Python handles what had come before only afterwards.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _fork(send: Callable[[tuple[int, int]], Sent], pick: Pick) -> Traffic:
    """Have ``send`` done by a process of its own, which gives it the ends of two pipes."""
    stop_here, stop = os.pipe()
    result, result_there = os.pipe()
    process = os.fork()
    if not process:
        os.close(stop)
        os.close(result)
        _serve(partial(send, (stop_here, result_there)), pick, result_there)
    os.close(stop_here)
    os.close(result_there)
    return Traffic(process, stop, result)


def _serve(send: Callable[[], Sent], pick: Pick, result: int) -> None:
    """Be the process that sends."""
    code = 1
    try:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # who started it decides
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        libc.prctl(libc.PR_SET_TIMERSLACK, 1)
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, NICE)
        with one_core(pick):
            sent = send()
        os.write(
            result, RESULT.pack(sent.frames, sent.first_ns, sent.last_ns, sent.longest_pause_ns)
        )
        code = 0
    except BaseException as error:  # noqa: BLE001  (nobody above would tell)
        sys.stderr.write(f"generator: {error}\n")
    finally:
        os._exit(code)


def _send(
    generator: Generator, ifindex: int, pace: Pace, entry: Entry, pipes: tuple[int, int]
) -> Sent:
    """Send until it is time, or the other end of the first pipe is closed."""
    stop, started = pipes
    interval, begin = round(pace.interval * 1e9), time.monotonic_ns()
    end, due = begin + round(pace.seconds * 1e9), begin
    sent, before = Sent(first_ns=begin, last_ns=begin), generator.sent()
    while sent.frames < pace.frames and due < end:
        if wait([stop], max(due - time.monotonic_ns(), 0) / 1e9):
            break
        now = time.monotonic_ns()
        burst = min(pace.burst, pace.frames - sent.frames)
        with contextlib.suppress(InterruptedError):  # stopped by Ctrl-Z, and going on
            generator.send(ifindex, burst, entry)
        if not sent.frames:
            os.write(started, STARTED)
        sent = replace(
            sent,
            frames=sent.frames + burst,
            last_ns=now,
            longest_pause_ns=max(sent.longest_pause_ns, now - sent.last_ns),
        )
        due = max(due + interval, now)
    return replace(sent, frames=generator.sent() - before)
