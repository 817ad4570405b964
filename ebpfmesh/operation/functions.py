# SPDX-License-Identifier: BSD-2-Clause
"""Operations on functions: they come, change and go."""

from dataclasses import dataclass, replace
from typing import Self

from ebpfmesh.model import LIFE, SANDBOX, Function, memory_text
from ebpfmesh.operation.base import Operation, Removal
from ebpfmesh.operation.changes import Changes

AT_ONCE = ("tenant", "audit", "group", "cpu", "memory", "rate", "pids")
"""What of a function changes while its command runs, and counts from then on."""
IN_PLACE = (*AT_ONCE, "ready", "health", *LIFE, "env", "program", "source")
"""What changes without its command being started anew; the variables count when it is."""
ROLLED = (*IN_PLACE, "command", "pools", "frames_in", *SANDBOX)
"""What changes where the function is, if its command is started anew."""


@dataclass(frozen=True)
class AddFunction(Operation):
    """``adopt``: the interface that a container keeps; ``force``: beside programs of others.

    ``stopped``: its command is not started.
    """

    object: Function
    old: None = None
    adopt: str = ""
    force: bool = False
    stopped: bool = False
    kind = "add-function"

    def do(self, to: Changes) -> None:
        """Make it, or take what is there."""
        to.add_function(self.object, adopt=self.adopt, force=self.force)
        if self.stopped:
            to.keep_stopped(self.object.name)

    def inverse(self) -> Operation:
        """It is removed."""
        return RemoveFunction(self.object)

    def finish(self, to: Changes) -> None:
        """Start its command."""
        if not self.stopped:
            to.start_function(self.object)


@dataclass(frozen=True)
class ChangeFunction(Operation):
    """What is ``IN_PLACE`` of a function changes where it is, while its processes run.

    Limits become lower at once, which may be refused, and higher when all else is in place: what is
    given back when a change is undone was not used meanwhile.
    """

    object: Function
    old: Function
    kind = "change-function"

    def do(self, to: Changes) -> None:
        """In one update."""
        to.change_function(self.object)

    def finish(self, to: Changes) -> None:
        """Limits that become higher."""
        if (self.old.cpu, self.old.memory) != (self.object.cpu, self.object.memory):
            to.limit_function(self.object)

    def _text(self) -> str:
        old, new = self.old, self.object
        parts = [new.name]
        if old.tenant != new.tenant:
            parts.append(f"tenant {old.tenant} → {new.tenant}")
        if old.group != new.group:
            parts.append(f"of group {new.group}" if new.group else "of no group")
        if old.audit != new.audit:
            parts.append(f"audit {'on' if new.audit else 'off'}")
        if old.cpu != new.cpu:
            parts.append(f"cpu {_cpu(old)} → {_cpu(new)}")
        if old.memory != new.memory:
            parts.append(f"memory {_memory(old)} → {_memory(new)}")
        if old.rate != new.rate:
            parts.append(f"rate {old.rate or 'none'} → {new.rate or 'none'}")
        parts += [
            f"{key} changed"
            for key in ("ready", "health")
            if getattr(old, key) != getattr(new, key)
        ]
        for key in LIFE:
            if (was := getattr(old, key)) != (now := getattr(new, key)):
                parts.append(f"{key} {was} → {now}")
        if (old.program, old.source) != (new.program, new.source):
            parts.append(f"program {new.program or 'none'}")
        if old.env != new.env:
            parts.append("env changed, at the next start")
        return "  ".join(parts)


def _cpu(function: Function) -> str:
    return "none" if function.cpu is None else f"{function.cpu:g}"


def _memory(function: Function) -> str:
    return "none" if function.memory is None else memory_text(function.memory)


@dataclass(frozen=True)
class RemoveFunction(Removal):
    """``adopt``: the interface of others that is given back, and that undoing it takes again.

    ``stopped``: its command was, and is when it is undone.
    """

    object: Function
    old: None = None
    adopt: str = ""
    stopped: bool = False
    kind = "remove-function"

    def do(self, to: Changes) -> None:
        """Remove it, as far as it is there."""
        to.remove_function(self.object.name)

    def inverse(self) -> Operation:
        """It is there again, with programs of others beside if they were."""
        return AddFunction(self.object, adopt=self.adopt, force=True, stopped=self.stopped)

    def prepared(self, to: Changes) -> Self:
        """With the interface."""
        name = self.object.name
        return replace(self, adopt=to.adopted(name), stopped=to.is_stopped(name))

    def undo(self, to: Changes) -> Operation | None:
        """Unless its removal had not begun."""
        if to.is_whole(self.object.name):
            return None
        self.do(to)
        return super().undo(to)
