# SPDX-License-Identifier: BSD-2-Clause
"""Waiting until new functions are ready, within a change that is undone if they do not get so.

The mesh's lock is held meanwhile: whoever changed it in between would have to be undone too.
"""

import time
from collections.abc import Collection

from ebpfmesh.apply.held import Held
from ebpfmesh.apply.lookup import inside
from ebpfmesh.errors import MeshError
from ebpfmesh.model import Ready
from ebpfmesh.operation import Operation
from ebpfmesh.runtime import probe
from ebpfmesh.runtime.logs import THIS_RUN, Log, read
from ebpfmesh.runtime.probe import Look
from ebpfmesh.state.place import exit_file, log_files

FAST, SLOW = 0.01, 0.1  # seconds between two looks, in the first second and later
WORDS = 2048
"""Characters that are told of what a command said last, in LINES lines."""
LINES = 5
SHOWN = 4
KEPT = "what was done stays: ebpfmesh start tries again, ebpfmesh logs has more of it"


class Unready(MeshError):
    """Functions did not get ready, and what was ``done`` is kept."""

    done: tuple[Operation, ...] = ()

    @property
    def function(self) -> str:
        """Which one."""
        return self.about[0] if self.about else ""


class Waits:
    """Functions that are waited for; ``seconds``: for all, instead of for each as it says."""

    def __init__(self, mesh: Held, seconds: float | None) -> None:
        probes = mesh.starting
        self._mesh = mesh
        self._left = {name: list(found) for name, found in probes.items()}
        self._seconds = seconds
        self._looks: dict[str, Look] = {}
        self._inside = {name: inside(mesh.record, name) for name in probes}
        self._faults: list[Unready] = []

    def run(self, *, needed: Collection[str] = ()) -> list[Unready]:
        """Wait until all are ready, or one that is ``needed`` cannot be; what went wrong."""
        begun, told = time.monotonic(), ""
        try:
            while self._left and not any(one.function in needed for one in self._faults):
                for name in tuple(self._left):
                    self._look(name)
                passed = time.monotonic() - begun
                self._give_up(passed)
                text = self._text()
                if text and text != told:
                    self._mesh.step(text)
                told = text
                if self._left:
                    time.sleep(FAST if passed < 1 else SLOW)
        finally:
            for look in self._looks.values():
                look.end()
        return self._faults

    def _look(self, name: str) -> None:
        """Find out what there is to know of a function now."""
        if (status := self._ended(name)) is not None:
            self._fail(name, f"its command {status} before it was ready", "command")
            return
        probes = self._left[name]
        while probes:
            look = self._looks.pop(name, None) or probe.begin(probes[0], self._inside[name])
            why = look if isinstance(look, str) else look.why()
            if why is None and isinstance(look, Look):
                self._looks[name] = look
            if why != "":
                return
            del probes[0]
        self._mesh.step(f"function {name}: ready")
        self._mesh.control.services.set_unready({name: ""})
        del self._left[name]

    def _ended(self, name: str) -> str | None:
        """How the command of a function ended; None if it runs, or there is none."""
        if not self._inside[name].function.command:
            return None
        runs = bool(self._inside[name].home.cgroup.processes())
        # Its keeper ends after it has written this.
        if status := exit_file(self._mesh.record, name).read_text():
            return f"exited {status}"
        return None if runs else "ended"

    def _fail(self, name: str, what: str, key: str) -> None:
        if look := self._looks.pop(name, None):
            look.end()
        del self._left[name]
        what = f'function "{name}": {what}'
        if words := self._last_words(name):
            what += f"; it said: {words}"
        self._mesh.control.services.set_unready({name: what[:200]})
        self._faults.append(Unready(what, about=(name, key)))

    def _last_words(self, name: str) -> str:
        lines = read([Log(name, log_files(self._mesh.record, name)[:THIS_RUN])])
        return " | ".join([one.text for one in lines if one.text.strip()][-LINES:])[-WORDS:]

    def _give_up(self, passed: float) -> None:
        for name in tuple(self._left):
            ready = self._inside[name].function.ready or Ready()
            seconds = ready.seconds if self._seconds is None else self._seconds
            if passed >= seconds:
                what = ", ".join(map(str, self._left[name]))
                self._fail(name, f"not ready after {seconds:g} s: {what}", "name")

    def _text(self) -> str:
        """What is waited for, such as ``waiting for web-0, web-1: port 8080``."""
        names = list(self._left)
        if not names:
            return ""
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        return f"waiting for {', '.join(names[:SHOWN])}{more}: {self._left[names[0]][0]}"


def together(faults: list[Unready], hint: str) -> Unready:
    """One to be raised, for all of them."""
    first, *others = faults
    first.others = tuple(others)
    first.hint = hint
    return first
