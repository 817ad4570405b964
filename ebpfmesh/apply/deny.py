# SPDX-License-Identifier: BSD-2-Clause
"""The deny list, between the record and the kernel: the maps of it, for XDP at uplinks.

The record has the list, packets meet what was made of it. A change is made in the kernel first, in
one step, and then written down: if it fails, or is killed, the kernel gets again what is written.
"""

import contextlib
from collections.abc import Collection

from ebpfmesh.apply.early import Early
from ebpfmesh.apply.held import Held
from ebpfmesh.errors import MeshError
from ebpfmesh.kernel import deny
from ebpfmesh.kernel.deny import Entry
from ebpfmesh.state import denied
from ebpfmesh.state.tables import Denied


class Deny:
    """The deny list of a mesh. ``stale``: uplinks have come or gone since it was drawn."""

    def __init__(self, mesh: Held, early: Early) -> None:
        self._mesh = mesh
        self._early = early
        self._record = mesh.record
        self._maps = mesh.control.maps
        self.stale = False

    def change(self, gone: Collection[Denied], new: Collection[Denied]) -> None:
        """Deny some no more, and others from now on; all of it, or nothing.

        Raises ForeignProgram, Unsupported.
        """
        before = self._record.denied()
        self._record.reserve()
        self._record.doubt()
        try:
            counted = self._draw((before.keys() - gone) | set(new))
            self._mesh.step("deny list: record")
            with self._record.transaction():
                self._record.change_denied(gone, new)
                self._record.add_denied(counted)
        except BaseException:
            self._mesh.step("undo")
            self._draw(before)
            self._record.end_change()
            raise
        self._record.end_change()

    def draw(self) -> None:
        """Have packets meet what the record says. Raises ForeignProgram, Unsupported."""
        self._record.add_denied(self._draw(self._record.denied()))
        self.stale = False

    def repair(self) -> None:
        """The same as far as it can be had; ``doctor`` goes on telling of the rest."""
        with contextlib.suppress(MeshError):
            self._record.add_denied(self._draw(self._record.denied(), as_far_as_possible=True))
        self.stale = False

    def _draw(
        self, rows: Collection[Denied], *, as_far_as_possible: bool = False
    ) -> dict[Denied, int]:
        """Make it so; what was counted by the list of before.

        First XDP, where nothing is denied until there is a list; it goes before the list does.
        """
        names = {row.uplink for row in rows}
        self._early.draw(names, as_far_as_possible=as_far_as_possible)
        places = denied.places(self._record, names)
        return self._replace(denied.entries(self._record, rows) if places else [])

    def _replace(self, wanted: list[Entry]) -> dict[Denied, int]:
        runs = deny.current(self._maps)
        if runs == (deny.stamp(sorted(wanted)) if wanted else 0):
            return {}
        self._mesh.step("deny list: maps")
        found = deny.replace(self._maps, wanted)
        names = {ifindex: name for name, ifindex in denied.indices(self._record).items()}
        return {
            Denied(names[entry.ifindex], entry.block): packets
            for entry, packets in found.items()
            if entry.ifindex in names
        }
