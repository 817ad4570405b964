# SPDX-License-Identifier: BSD-2-Clause
"""Operations on remotes."""

from dataclasses import dataclass

from ebpfmesh.model import Remote
from ebpfmesh.operation.base import Operation, Removal
from ebpfmesh.operation.changes import Changes


@dataclass(frozen=True)
class AddRemote(Operation):
    """Somebody beyond an uplink may be a backend. One that changes is removed before."""

    object: Remote
    old: None = None
    kind = "add-remote"

    def do(self, to: Changes) -> None:
        """Its uplink is there."""
        to.add_remote(self.object)

    def inverse(self) -> Operation:
        """It is one of the outside."""
        return RemoveRemote(self.object)


@dataclass(frozen=True)
class RemoveRemote(Removal):
    """It is one of the outside again; flows that services sent there end."""

    object: Remote
    old: None = None
    kind = "remove-remote"

    def do(self, to: Changes) -> None:
        """As far as it is there."""
        to.remove_remote(self.object.name)

    def inverse(self) -> Operation:
        """It is one again."""
        return AddRemote(self.object)

    def undo(self, to: Changes) -> Operation | None:
        """Unless its removal had not begun."""
        if to.is_remote(self.object.name):
            return None
        self.do(to)
        return super().undo(to)
