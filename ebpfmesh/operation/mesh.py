# SPDX-License-Identifier: BSD-2-Clause
"""Operations on a mesh as a whole."""

from dataclasses import dataclass, replace
from typing import Self

from ebpfmesh.model import Mesh, Timeouts
from ebpfmesh.operation.base import Operation
from ebpfmesh.operation.changes import Changes


@dataclass(frozen=True)
class CreateMesh(Operation):
    """Of a mesh without functions, services and policies; made before there are operations."""

    object: Mesh
    kind = "create-mesh"

    def do(self, to: Changes) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Repair(Operation):
    """What was found wrong, and done about it before the others."""

    object: str
    kind = "repair"

    def do(self, to: Changes) -> None:
        """Nothing."""

    def describe(self) -> str:
        """One line for people."""
        return f"~ repaired {self.object}"


@dataclass(frozen=True)
class ReplacePrograms(Operation):
    """Programs of a build run where those of another did; each is put in place in one step.

    ``keep`` is the build that one can return to after it, ``kept`` the one before it.
    """

    object: str
    old: str
    keep: str = ""
    kept: str = ""
    kind = "replace-programs"

    def do(self, to: Changes) -> None:
        """Both stay pinned until the change is done."""
        to.hold_programs(self.object, self.old)
        to.switch_programs(self.object)

    def inverse(self) -> Operation:
        """The old ones run again."""
        return ReplacePrograms(self.old, self.object, keep=self.kept, kept=self.keep)

    def prepared(self, to: Changes) -> Self:
        """With what is kept."""
        return replace(self, keep=self.old, kept=to.kept_programs())

    def undo(self, to: Changes) -> Operation:
        """Where they are not pinned yet, nothing was replaced."""
        to.switch_programs(self.old)
        to.keep_programs(self.kept)
        return self.inverse()

    def finish(self, to: Changes) -> None:
        """Let go of what was kept before."""
        to.keep_programs(self.keep)

    def _text(self) -> str:
        return f"{self.old} → {self.object}"


@dataclass(frozen=True)
class SetTimeouts(Operation):
    """How long flows live."""

    object: Timeouts
    old: Timeouts
    kind = "set-timeouts"

    def do(self, to: Changes) -> None:
        """For all flows, from the end of the change on."""
        to.set_timeouts(self.object)

    def _text(self) -> str:
        pairs = zip(self.old, self.object, strict=True)
        return "  ".join(f"{key} {was} → {now} s" for (key, was), (_, now) in pairs if was != now)


@dataclass(frozen=True)
class SetReject(Operation):
    """Whether senders are told; of the two meshes that one setting counts."""

    object: Mesh
    old: Mesh
    kind = "set-reject"

    def do(self, to: Changes) -> None:
        """From the end of the change on."""
        to.set_reject(self.object.reject)

    def _text(self) -> str:
        return "on" if self.object.reject else "off"


@dataclass(frozen=True)
class SetHost(Operation):
    """Whether the host's own processes reach services; of the two meshes that alone counts."""

    object: Mesh
    old: Mesh
    kind = "set-host"

    def do(self, to: Changes) -> None:
        """For sockets that ask from the end of the change on."""
        to.set_host(self.object.host)

    def _text(self) -> str:
        if not self.object.host:
            return "off"
        return "on: its processes reach services, by programs at the root of the cgroup hierarchy"


@dataclass(frozen=True)
class SetRights(Operation):
    """What tenants may inject; of the two meshes that alone counts."""

    object: Mesh
    old: Mesh
    kind = "set-rights"

    def do(self, to: Changes) -> None:
        """For what is injected from now on."""
        to.set_rights(self.object.rights)

    def _text(self) -> str:
        before, after = ({one.name: one for one in mesh.rights} for mesh in (self.old, self.object))
        names = sorted({*before, *after})
        return ", ".join(name for name in names if before.get(name) != after.get(name))


@dataclass(frozen=True)
class SetOnFailure(Operation):
    """What becomes of changes that fail so; of the two meshes that one setting counts."""

    object: Mesh
    old: Mesh
    kind = "set-on-failure"

    def do(self, to: Changes) -> None:
        """For changes from now on."""
        to.set_on_failure(self.object.on_failure)

    def _text(self) -> str:
        return self.object.on_failure
