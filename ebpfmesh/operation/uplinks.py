# SPDX-License-Identifier: BSD-2-Clause
"""Operations on uplinks."""

from dataclasses import dataclass

from ebpfmesh.model import Uplink
from ebpfmesh.operation.base import Operation, Removal
from ebpfmesh.operation.changes import Changes


@dataclass(frozen=True)
class AddUplink(Operation):
    """Packets that come in by an interface of the host's may be the mesh's.

    ``force``: beside programs of others.
    """

    object: Uplink
    old: None = None
    force: bool = False
    kind = "add-uplink"

    def do(self, to: Changes) -> None:
        """Attach the program."""
        to.add_uplink(self.object, force=self.force)

    def inverse(self) -> Operation:
        """It is the host's alone."""
        return RemoveUplink(self.object)


@dataclass(frozen=True)
class ChangeUplink(Operation):
    """Whether flows to the outside leave by it, and with which ports."""

    object: Uplink
    old: Uplink
    kind = "change-uplink"

    def do(self, to: Changes) -> None:
        """In one update; flows that have no place then begin anew."""
        to.change_uplink(self.object)

    def _text(self) -> str:
        old, new = self.old, self.object
        parts = [new.name]
        if old.masquerade != new.masquerade:
            parts.append(f"masquerade {'on' if new.masquerade else 'off'}")
        if old.masquerade_ports != new.masquerade_ports:
            parts.append(f"masquerade_ports {old.masquerade_ports} → {new.masquerade_ports}")
        return "  ".join(parts)


@dataclass(frozen=True)
class RemoveUplink(Removal):
    """An interface is the host's alone again; nothing is published on it any more."""

    object: Uplink
    old: None = None
    kind = "remove-uplink"

    def do(self, to: Changes) -> None:
        """Detach the program, as far as it is there."""
        to.remove_uplink(self.object.name)

    def inverse(self) -> Operation:
        """It is one again, with programs of others beside if they were."""
        return AddUplink(self.object, force=True)

    def undo(self, to: Changes) -> Operation | None:
        """Unless its removal had not begun."""
        if to.is_uplink(self.object.name):
            return None
        self.do(to)
        return super().undo(to)
