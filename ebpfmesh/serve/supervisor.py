# SPDX-License-Identifier: BSD-2-Clause
"""The loop of ``ebpfmesh serve``: it looks at functions when something may have changed, or is due.

A command that ended is started again, if it shall; while it does not run, is not ready or not well,
services send it nothing (``checks.py``).

Level-triggered: the end of a keeper, a write to a record or half a second that passed only say
"look again". asyncio waits; what is done then is done between two waits, since pyroute2 has a loop
of its own. Changes are those of ``apply``, which take the mesh's lock: while another has that they
are tried again later, and all else goes on.
"""

import asyncio
import contextlib
import os
import resource
import select
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from ebpfmesh.apply import marks, restarts
from ebpfmesh.apply.marks import Seen
from ebpfmesh.errors import Busy, MeshError, NotFound
from ebpfmesh.model import Function, Probe
from ebpfmesh.runtime import process
from ebpfmesh.serve import notify
from ebpfmesh.serve.checks import Check, Checks
from ebpfmesh.state import serving
from ebpfmesh.state.files import all_records
from ebpfmesh.state.place import check_place, exit_file
from ebpfmesh.state.record import Record

LOOK_SECONDS = 0.5
BUSY_SECONDS = 0.1
CLAIM_SECONDS = 1.0


@dataclass(frozen=True)
class Event:
    """What was done about a function.

    Its command was ``started`` again, after it ended by ``status``; or it is ``ready`` for new
    flows, or ``unready``, and ``why``; or that ``failed``, by an ``error``.
    """

    mesh: str
    function: str
    what: Literal["started", "ready", "unready", "failed"]
    status: int | None = None
    why: str = ""
    error: str = ""


@dataclass
class _Mesh:
    """A mesh that is served: its record, the claim, and what is waited for.

    ``asked`` are the probes of functions, ``serving`` those that services send to, ``seen`` as the
    record had them last. ``keepers`` are descriptors of processes, ``due`` times of the monotonic
    clock, ``marks`` what functions should have. Nothing is changed before ``busy_until``.
    """

    record: Record
    claim: int
    checks: Checks
    version: int = -1
    asked: dict[str, tuple[Probe, ...]] = field(default_factory=dict)
    serving: set[str] = field(default_factory=set)
    seen: dict[str, Seen] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)
    keepers: dict[str, int] = field(default_factory=dict)
    due: dict[str, float] = field(default_factory=dict)
    marks: dict[str, tuple[Seen, str]] = field(default_factory=dict)
    busy_until: float = 0.0


class Supervisor:
    """Serves one mesh, or all there are of this host namespace."""

    def __init__(self, mesh: str | None, tell: Callable[[Event], None]) -> None:
        self._only = mesh
        self._tell = tell
        self._meshes: dict[str, _Mesh] = {}
        self._loop = asyncio.new_event_loop()
        self._woken = asyncio.Event()
        self._ended = False
        for number in (signal.SIGTERM, signal.SIGINT):  # before anybody can see that it serves
            self._loop.add_signal_handler(number, self._end)

    def enter_or_fail(self) -> None:
        """Begin with the one mesh, which may come later; Busy if another process serves it."""
        deadline = time.monotonic() + CLAIM_SECONDS
        while self._only and not self._meshes:
            try:
                self._enter(self._only)
            except NotFound:
                return
            except Busy:
                if time.monotonic() > deadline:
                    raise
                time.sleep(BUSY_SECONDS)  # it may be somebody who only asks whether it is served

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; functions run on."""
        _raise_limit()
        self._loop.add_signal_handler(signal.SIGHUP, self._woken.set)  # there is nothing to reload
        try:
            self._look()
            notify.tell(READY=1)
            while not self._ended:
                self._look()
                self._mark()
                self._start()
                notify.tell(WATCHDOG=1, STATUS=self._status())
                self._loop.run_until_complete(self._wait())
        finally:
            notify.tell(STOPPING=1)
            for name in list(self._meshes):
                self._leave(name)
            self._loop.close()

    def _end(self) -> None:
        self._ended = True
        self._woken.set()

    async def _wait(self) -> None:
        """Until something may have changed, or is due."""
        now = time.monotonic()
        due = [now + LOOK_SECONDS]
        for mesh in self._meshes.values():
            changes = [now] if mesh.marks else [*mesh.due.values()]
            due += [*mesh.checks.due, *(max(one, mesh.busy_until) for one in changes)]
        wait = min(due) - now
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), max(0.0, wait))
        self._woken.clear()

    def _status(self) -> str:
        functions = (one for mesh in self._meshes.values() for one in mesh.functions.values())
        commands = sum(bool(one.command) for one in functions)
        return f"{len(self._meshes)} meshes, {commands} commands"

    def _look(self) -> None:
        """At all: meshes that came or went, and their functions."""
        names = [self._only] if self._only else all_records()
        for name in set(names) - self._meshes.keys():
            with contextlib.suppress(MeshError):  # not ours, not up yet, or another's to serve
                self._enter(name)
        for name, mesh in list(self._meshes.items()):
            try:
                self._look_at(name, mesh)
            except MeshError:
                self._leave(name)

    def _enter(self, name: str) -> None:
        record = Record(name)
        try:
            check_place(record)
            claim = serving.claim(record)
            if claim is None:
                raise Busy(f"another process serves mesh {name}", hint="end it first")
        except BaseException:
            record.close()
            raise
        self._meshes[name] = _Mesh(record, claim, Checks(self._loop, self._woken))

    def _look_at(self, name: str, mesh: _Mesh) -> None:
        if not mesh.record.is_current:
            raise NotFound(f"mesh {name} is down")
        if (version := mesh.record.version()) != mesh.version:
            self._read(mesh)
            mesh.version = version
        for function in mesh.functions.values():
            if function.command and (
                function.name not in mesh.keepers or self._has_ended(mesh, function)
            ):
                self._look_at_command(mesh, function)
        mesh.checks.renew(dict(self._to_check(mesh)))
        mesh.marks |= mesh.checks.look(mesh.record)

    def _read(self, mesh: _Mesh) -> None:
        """What the record says by now."""
        model = mesh.record.model()
        mesh.asked = model.probes()
        mesh.serving = {name for service in model.backed for name in service.backends}
        mesh.seen = marks.all_seen(mesh.record)
        some = {*mesh.asked, *mesh.serving}
        mesh.functions = {
            one.name: one
            for one in model.functions
            if (seen := mesh.seen.get(one.name))  # else it has just gone
            and (one.restart != "no" or one.health or one.name in some or seen.mark)
        }
        for gone in {*mesh.keepers, *mesh.due} - mesh.functions.keys():
            self._forget(mesh, gone)

    @staticmethod
    def _to_check(mesh: _Mesh) -> Iterator[tuple[str, Check]]:
        """Functions that run and are not ready, or whose health is looked at."""
        for name, function in mesh.functions.items():
            seen, asked = mesh.seen[name], mesh.asked.get(name, ())
            if seen.command.stopped or (function.command and name not in mesh.keepers):
                continue
            health = (function.health,) if function.health and function.health.kind else ()
            if seen.mark:
                yield name, Check(seen, function, (*asked, *health))
            elif function.health:
                yield name, Check(seen, function, health or asked)

    @staticmethod
    def _has_ended(mesh: _Mesh, function: Function) -> bool:
        """Whether its keeper has, or goes on for others but wrote down how the command ended."""
        poll = select.poll()
        poll.register(mesh.keepers[function.name], select.POLLIN)
        if poll.poll(0):
            return True
        with contextlib.suppress(FileNotFoundError):
            return exit_file(mesh.record, function.name).stat().st_size > 0
        return False

    def _look_at_command(self, mesh: _Mesh, function: Function) -> None:
        self._forget(mesh, function.name)
        command, seen = restarts.look(mesh.record, function), mesh.seen[function.name]
        told = f"{command.ended} " in f"{seen.mark} " or seen.command.stopped
        if command.ended and not told and seen.command.started and function.name in mesh.serving:
            mesh.marks[function.name] = seen, command.ended
        if command.keeper is not None:
            self._wait_for(mesh, function, command.keeper)
        elif command.due is not None:
            wait = min(command.due - time.time(), restarts.LAST_SECONDS)
            mesh.due[function.name] = time.monotonic() + wait

    def _wait_for(self, mesh: _Mesh, function: Function, keeper: int) -> None:
        """Look again when the keeper ends."""
        try:
            descriptor = os.pidfd_open(keeper)
        except ProcessLookupError:
            return  # the next look finds out
        if process.keeper({keeper}) != keeper:  # the number is another's by now
            os.close(descriptor)
            return
        mesh.keepers[function.name] = descriptor
        self._loop.add_reader(descriptor, self._woken.set)

    def _mark(self) -> None:
        """Have the kernel know which functions are ready, and which are not any more."""
        for name, mesh in self._meshes.items():
            if not mesh.marks or mesh.busy_until > time.monotonic():
                continue
            try:
                done = marks.mark(name, mesh.marks)
            except Busy:
                mesh.busy_until = time.monotonic() + BUSY_SECONDS
                continue
            except MeshError as failed:
                mesh.busy_until = time.monotonic() + LOOK_SECONDS
                for function in mesh.marks:
                    self._tell(Event(name, function, "failed", error=failed.message))
                continue
            for function in done:
                why = mesh.marks[function][1]
                self._tell(Event(name, function, "unready" if why else "ready", why=why))
            mesh.marks.clear()

    def _start(self) -> None:
        """Start what is due. What another did meanwhile counts."""
        for name, mesh in self._meshes.items():
            now = time.monotonic()
            due = [one for one, due in mesh.due.items() if max(due, mesh.busy_until) <= now]
            for function in due:
                error = ""
                try:
                    command = restarts.again(name, function)
                except Busy:
                    mesh.busy_until = time.monotonic() + BUSY_SECONDS
                    break
                except MeshError as failed:
                    command, error = None, failed.message
                del mesh.due[function]
                if error:
                    self._tell(Event(name, function, "failed", error=error))
                elif command:
                    self._tell(Event(name, function, "started", command.status))

    def _forget(self, mesh: _Mesh, function: str) -> None:
        """Wait no longer for a function."""
        mesh.due.pop(function, None)
        descriptor = mesh.keepers.pop(function, None)
        if descriptor is not None:
            self._loop.remove_reader(descriptor)
            os.close(descriptor)

    def _leave(self, name: str) -> None:
        mesh = self._meshes.pop(name)
        for function in list(mesh.keepers):
            self._forget(mesh, function)
        mesh.checks.close()
        mesh.record.close()
        os.close(mesh.claim)


def _raise_limit() -> None:
    """A descriptor for each command, as many as there may be."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
