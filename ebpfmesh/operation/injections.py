# SPDX-License-Identifier: BSD-2-Clause
"""Operations on what is injected."""

import re
from dataclasses import dataclass

from ebpfmesh.model import Injection
from ebpfmesh.operation.base import Operation, Removal
from ebpfmesh.operation.changes import Changes

_MIGRATION = re.compile(r"\bMESH_MIGRATE\s*\(\s*(\w+)\s*,([^,]*)")


@dataclass(frozen=True)
class SetInjection(Operation):
    """A program is injected, or swapped for another, or gets other parameters."""

    object: Injection
    old: Injection | None = None
    kind = "set-injection"

    def do(self, to: Changes) -> None:
        """Compiled and checked now, met by packets from the end of the change on."""
        to.set_injection(self.object)

    def inverse(self) -> Operation:
        """What was there, or nothing."""
        return super().inverse() or RemoveInjection(self.object)

    def _text(self) -> str:
        old, new = self.old, self.object
        if old is None:
            return str(new)
        parts = [new.name]
        parts += [f"at {old.at} → {new.at}"] if old.at != new.at else []
        parts += [f"{old.file} → {new.file}"] if old.file != new.file else []
        parts += ["text changed"] if old.source != new.source else []
        parts += _migrations(old, new)
        parts += [f"place {old.rank + 1} → {new.rank + 1}"] if old.rank != new.rank else []
        if old.canary != new.canary:
            parts.append(f"canary {_share(old)} → {_share(new)}")
        names = sorted({*old.parameters, *new.parameters})
        pairs = ((name, old.parameters.get(name), new.parameters.get(name)) for name in names)
        parts += [f"{name} {_or_own(a)} → {_or_own(b)}" for name, a, b in pairs if a != b]
        return "  ".join(parts)


def _share(injection: Injection) -> str:
    canary = injection.canary
    return f"{canary.share} % {canary.file}" if canary else "none"


def _migrations(old: Injection, new: Injection) -> list[str]:
    """The maps of which a text says how they migrate, where the one that runs does not."""
    before, after = (set(_MIGRATION.findall(text)) for text in (old.source, _latest(new)))
    return [f"MESH_MIGRATE of {name}" for name, _ in sorted(after - before)]


def _latest(injection: Injection) -> str:
    return injection.canary.source if injection.canary else injection.source


def _or_own(value: int | None) -> str:
    return "its own" if value is None else str(value)


@dataclass(frozen=True)
class RemoveInjection(Removal):
    """A program goes."""

    object: Injection
    old: None = None
    kind = "remove-injection"

    def do(self, to: Changes) -> None:
        """From the end of the change on."""
        to.remove_injection(self.object.name)

    def inverse(self) -> Operation:
        """It is there again."""
        return SetInjection(self.object)
