# SPDX-License-Identifier: BSD-2-Clause
"""Looks at functions: whether those that are not ready are so by now, and the others still well.

A look may take seconds, so that it is a task of asyncio; a tenant has a few at a time, whatever
others have. What comes of it is a mark that the function should have.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ebpfmesh.apply.lookup import inside
from ebpfmesh.apply.marks import Seen
from ebpfmesh.errors import MeshError
from ebpfmesh.model import Function, Health, Probe
from ebpfmesh.runtime import probe
from ebpfmesh.state.record import Record

AT_ONCE = 8
"""Looks of a tenant that go on at a time."""
FIRST_SECONDS, LAST_SECONDS = 0.1, 1.0
"""Between looks at a function that is not ready: longer each time, up to the last."""


@dataclass
class Check:
    """What is asked of a function that is as it was ``seen``, and what came of it so far.

    ``due`` is a time of the monotonic clock, ``failures`` how many looks in a row were in vain.
    """

    seen: Seen
    function: Function
    probes: tuple[Probe, ...]
    due: float = 0.0
    failures: int = 0
    task: "asyncio.Task[str] | None" = None

    def take(self) -> str | None:
        """The mark it should have, by what the look that ended came to; None: as it is."""
        if self.task is None or not self.task.done():
            return None
        why, self.task = self.task.result(), None
        self.failures = self.failures + 1 if why else 0
        health = self.function.health or Health()
        if self.seen.mark:
            self.due = time.monotonic() + min(LAST_SECONDS, FIRST_SECONDS * self.failures)
            return None if why else ""
        self.due = time.monotonic() + health.interval
        return f"unhealthy: {why}" if self.failures >= health.failures else None


class Checks:
    """The functions of a mesh that are looked at."""

    def __init__(self, loop: asyncio.AbstractEventLoop, woken: asyncio.Event) -> None:
        self._loop = loop
        self._woken = woken
        self._room: dict[str, asyncio.Semaphore] = {}
        self._checks: dict[str, Check] = {}
        self._ending: set[asyncio.Task[str]] = set()

    def renew(self, wanted: Mapping[str, Check]) -> None:
        """Look at these from now on; at those that are as they were it goes on."""
        for name, old in self._checks.items():
            if name not in wanted or wanted[name].seen != old.seen:
                self._end(old)
        self._checks = {name: self._newer(self._checks.get(name), one)
                        for name, one in wanted.items()}  # fmt: skip

    @staticmethod
    def _newer(old: Check | None, new: Check) -> Check:
        if old and old.seen == new.seen:
            old.probes = new.probes
            return old
        if old and not new.seen.mark:  # it has just been found to be well
            new.due = time.monotonic() + (new.function.health or Health()).interval
        return new

    def _end(self, check: Check) -> None:
        if check.task:
            check.task.cancel()
            self._ending.add(check.task)
            check.task.add_done_callback(self._ending.discard)

    def close(self) -> None:
        """Look at nothing any more, and wait until what goes on has ended."""
        self.renew({})
        if self._ending:
            self._loop.run_until_complete(asyncio.wait(tuple(self._ending)))

    @property
    def due(self) -> Iterator[float]:
        """When there is something to look at."""
        return (one.due for one in self._checks.values() if one.task is None)

    def look(self, record: Record) -> dict[str, tuple[Seen, str]]:
        """Begin the looks that are due; marks that functions should have by those that ended."""
        marks = {}
        now = time.monotonic()
        for name, check in self._checks.items():
            if (why := check.take()) is not None:
                marks[name] = check.seen, why
            if check.task is None and check.due <= now:
                tenant = check.function.tenant
                room = self._room.setdefault(tenant, asyncio.Semaphore(AT_ONCE))
                check.task = self._loop.create_task(_ask(room, record, check))
                check.task.add_done_callback(lambda _: self._woken.set())
        return marks


async def _ask(room: asyncio.Semaphore, record: Record, check: Check) -> str:
    """Why a function is not well; empty: it is."""
    async with room:
        for one in check.probes:
            try:
                why = await probe.checked(one, inside(record, check.function.name))
            except (MeshError, OSError) as error:
                why = str(error)
            if why:
                return why
    return ""
