# SPDX-License-Identifier: BSD-2-Clause
"""Operations on services and policies."""

from dataclasses import dataclass

from ebpfmesh.model import Policy, Service
from ebpfmesh.operation.base import Operation, Removal
from ebpfmesh.operation.changes import Changes


@dataclass(frozen=True)
class SetService(Operation):
    """A service, with the backends its groups have."""

    object: Service
    old: Service | None = None
    kind = "set-service"

    def do(self, to: Changes) -> None:
        """In one update."""
        to.set_service(self.object)

    def inverse(self) -> Operation:
        """What was there, or nothing."""
        return super().inverse() or RemoveService(self.object)


@dataclass(frozen=True)
class RemoveService(Removal):
    """A service goes."""

    object: Service
    old: None = None
    kind = "remove-service"

    def do(self, to: Changes) -> None:
        """Flows through it end."""
        to.remove_service(self.object)

    def inverse(self) -> Operation:
        """It is there again."""
        return SetService(self.object)


@dataclass(frozen=True)
class AddPolicy(Operation):
    """A rule, in the place of the one with the same ``match``."""

    object: Policy
    old: Policy | None = None
    kind = "add-policy"

    def do(self, to: Changes) -> None:
        """From the end of the change on."""
        to.set_policy(self.object)

    def inverse(self) -> Operation:
        """What was there, or nothing."""
        return super().inverse() or RemovePolicy(self.object)


@dataclass(frozen=True)
class RemovePolicy(Removal):
    """A rule goes."""

    object: Policy
    old: None = None
    kind = "remove-policy"

    def do(self, to: Changes) -> None:
        """From the end of the change on."""
        to.remove_policy(self.object)

    def inverse(self) -> Operation:
        """It is there again."""
        return AddPolicy(self.object)
