# SPDX-License-Identifier: BSD-2-Clause
"""The loop of ``ebpfmesh serve``: it looks at commands when something may have changed, or is due.

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
from collections.abc import Callable
from dataclasses import dataclass, field

from ebpfmesh.apply import restarts
from ebpfmesh.errors import Busy, MeshError, NotFound
from ebpfmesh.model import Function
from ebpfmesh.runtime import process
from ebpfmesh.serve import notify
from ebpfmesh.state import serving
from ebpfmesh.state.place import check_place, exit_file
from ebpfmesh.state.record import Record, all_records

LOOK_SECONDS = 0.5
BUSY_SECONDS = 0.1
CLAIM_SECONDS = 1.0


@dataclass(frozen=True)
class Event:
    """A command that was started again, after it ended by ``status``; or what went wrong."""

    mesh: str
    function: str
    status: int | None
    error: str = ""


@dataclass
class _Mesh:
    """A mesh that is served: its record, the claim, and what is waited for.

    ``keepers`` are descriptors of processes, ``due`` times of the monotonic clock.
    """

    record: Record
    claim: int
    version: int = -1
    functions: dict[str, Function] = field(default_factory=dict)
    keepers: dict[str, int] = field(default_factory=dict)
    due: dict[str, float] = field(default_factory=dict)


class Supervisor:
    """Serves one mesh, or all there are of this host namespace."""

    def __init__(self, mesh: str | None, tell: Callable[[Event], None]) -> None:
        self._only = mesh
        self._tell = tell
        self._meshes: dict[str, _Mesh] = {}
        self._loop = asyncio.new_event_loop()
        self._woken = asyncio.Event()
        self._ended = False

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
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._end)
        self._loop.add_signal_handler(signal.SIGHUP, self._woken.set)  # there is nothing to reload
        try:
            self._look()
            notify.tell(READY=1)
            while not self._ended:
                self._look()
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
        due = [moment for mesh in self._meshes.values() for moment in mesh.due.values()]
        wait = min([LOOK_SECONDS, *(moment - time.monotonic() for moment in due)])
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), max(0.0, wait))
        self._woken.clear()

    def _status(self) -> str:
        commands = sum(len(one.functions) for one in self._meshes.values())
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
        self._meshes[name] = _Mesh(record, claim)

    def _look_at(self, name: str, mesh: _Mesh) -> None:
        if not mesh.record.is_current:
            raise NotFound(f"mesh {name} is down")
        if (version := mesh.record.version()) != mesh.version:
            rows = [row.function for row in mesh.record.functions() if row.ready]
            mesh.functions = {one.name: one for one in rows if one.restart != "no"}
            mesh.version = version
            for gone in {*mesh.keepers, *mesh.due} - mesh.functions.keys():
                self._forget(mesh, gone)
        for function in mesh.functions.values():
            # What else is to be known of a function, its health, is looked at here.
            if function.name not in mesh.keepers or self._has_ended(mesh, function):
                self._look_at_command(mesh, function)

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
        command = restarts.look(mesh.record, function)
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

    def _start(self) -> None:
        """Start what is due. What another did meanwhile counts."""
        for name, mesh in self._meshes.items():
            for function in [one for one, due in mesh.due.items() if due <= time.monotonic()]:
                del mesh.due[function]
                error = ""
                try:
                    command = restarts.again(name, function)
                except Busy:
                    mesh.due[function] = time.monotonic() + BUSY_SECONDS
                    continue
                except MeshError as failed:
                    command, error = None, failed.message
                if command or error:
                    status = command.status if command else None
                    self._tell(Event(name, function, status, error))

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
        mesh.record.close()
        os.close(mesh.claim)


def _raise_limit() -> None:
    """A descriptor for each command, as many as there may be."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
