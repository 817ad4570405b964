# SPDX-License-Identifier: BSD-2-Clause
"""Operations on the commands of functions: they stop, start and roll, and are ready or not."""

from dataclasses import dataclass, replace
from typing import Self

from ebpfmesh.model import Function
from ebpfmesh.operation.base import Operation, shown
from ebpfmesh.operation.changes import Changes


@dataclass(frozen=True)
class SetReady(Operation):
    """A function gets new flows of services, or none for a reason; what it has stays.

    ``asked``: that is as somebody asked, and not by what was seen of it. It gets them if neither is
    a reason.
    """

    object: str
    old: None = None
    why: str = ""
    before: str = ""
    asked: bool = False
    kind = "set-ready"

    def do(self, to: Changes) -> None:
        """Each service in one update."""
        to.set_unready(self.object, self.why, asked=self.asked)

    def prepared(self, to: Changes) -> Self:
        """With what was."""
        return replace(self, before=to.unready(self.object, asked=self.asked))

    def inverse(self) -> Operation:
        """As before."""
        return replace(self, why=self.before, before=self.why)

    def describe(self) -> str:
        """One line for people."""
        return f"~ function {self.object}  {f'not ready: {self.why}' if self.why else 'ready'}"


@dataclass(frozen=True)
class StopFunction(Operation):
    """Its command ends, and is not started but by StartFunction; all else of it stays.

    It gets no new flows from before that on. ``stopped``: it was before.
    """

    object: Function
    old: None = None
    stopped: bool = False
    kind = "stop-function"

    def do(self, to: Changes) -> None:
        """Ask it to end; ``finish`` waits, for many at a time."""
        to.ask_to_stop(self.object)

    def finish(self, to: Changes) -> None:
        """Unless it was started again meanwhile, it has ended."""
        to.end_command(self.object)

    def inverse(self) -> Operation | None:
        """It runs, if it did."""
        return None if self.stopped else StartFunction(self.object)

    def prepared(self, to: Changes) -> Self:
        """With what it was."""
        return replace(self, stopped=to.is_stopped(self.object.name))

    def describe(self) -> str:
        """One line for people."""
        return f"~ function {self.name}  stopped"


@dataclass(frozen=True)
class StartFunction(Operation):
    """Its command runs from the beginning; what is left of the run before ends first.

    It gets new flows once it is ready, if that is waited for. ``stopped``: it was to be stopped
    before, ``unready``: why it got none. ``again``: nobody asked for it but its own end, and so
    many runs in a row were no good ones. ``was``: how it ended, for people.
    """

    object: Function
    old: None = None
    stopped: bool = False
    again: int = 0
    unready: str = ""
    was: str = ""
    kind = "start-function"

    def do(self, to: Changes) -> None:
        """In the sandbox that it had."""
        to.start_function(self.object, again=self.again)

    def inverse(self) -> Operation | None:
        """It is stopped, if it was: who has been started may run."""
        return StopFunction(self.object) if self.stopped else SetReady(self.name, why=self.unready)

    def prepared(self, to: Changes) -> Self:
        """With what it was."""
        name = self.object.name
        return replace(self, stopped=to.is_stopped(name), unready=to.unready(name))

    def describe(self) -> str:
        """One line for people."""
        return f"~ function {self.name}  {f'{self.was}, ' if self.was else ''}started"


@dataclass(frozen=True)
class RollFunction(Operation):
    """A function's command ends, and begins as it is now described; all else of it stays.

    The same as ``old``: it is started anew. ``alone``: services that have no other meanwhile.
    ``stopped``: it is to be stopped, so that it only changes. ``ran``, ``why``: whether it ran, and
    why it got no new flows, if it did not.
    """

    object: Function
    old: Function
    alone: tuple[str, ...] = ()
    stopped: bool = False
    ran: bool = True
    why: str = ""
    kind = "roll-function"

    def do(self, to: Changes) -> None:
        """All of it, when everything else of a change is in place: one after the other."""
        if self.stopped:
            to.change_function(self.object)
            to.limit_function(self.object)
        else:
            to.roll_function(self.object)

    def inverse(self) -> Operation:
        """It is as before."""
        return replace(self, object=self.old, old=self.object)

    def prepared(self, to: Changes) -> Self:
        """With what it was."""
        name = self.object.name
        stopped, ran, why = to.is_stopped(name), to.runs(name), to.unready(name)
        return replace(self, stopped=stopped, ran=ran, why=why)

    def undo(self, to: Changes) -> Operation:
        """As it is done, so that its services go on."""
        if self.stopped:
            to.change_function(self.old)
        else:
            to.roll_back(self.old, why=self.why, wait=self.ran)
        return self.inverse()

    def _text(self) -> str:
        before, after = (one.model_dump(mode="json") for one in (self.old, self.object))
        parts = [self.name]
        for key in (key for key in after if before[key] != after[key]):
            was, now = before[key], after[key]
            plain = not isinstance(was, dict) and not isinstance(now, dict)
            parts.append(f"{key} {shown(was)} → {shown(now)}" if plain else f"{key} changed")
        if self.old == self.object:
            parts.append("restarted")
        if self.alone:
            parts.append(f"(alone behind {', '.join(self.alone)}, which waits for it)")
        return "  ".join(parts)
