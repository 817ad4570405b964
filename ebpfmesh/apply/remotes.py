# SPDX-License-Identifier: BSD-2-Clause
"""Remotes, between the record and the maps: nothing else is made for them."""

from collections.abc import Collection
from dataclasses import replace

from ebpfmesh.apply.held import Held
from ebpfmesh.errors import NotFound, UsageError
from ebpfmesh.kernel import interface
from ebpfmesh.model import Remote
from ebpfmesh.state.rows import RemoteRow


class Remotes:
    """The remotes of a mesh."""

    def __init__(self, mesh: Held) -> None:
        self._mesh = mesh

    def add(self, remote: Remote) -> None:
        """Make one known; undone whole if a step fails.

        Raises NotFound without its uplink, UsageError for an address of this host's own.
        """
        uplink = self._mesh.record.uplink(remote.uplink)
        if uplink is None:
            raise NotFound(f"remote {remote.name}: there is no uplink {remote.uplink}")
        for address in interface.local(self._mesh.ip).intersection(remote.addresses):
            what = f"remote {remote.name}: {address} is this host's own address"
            raise UsageError(what, hint="a remote is another machine")
        self._mesh.control.make_room("function", remote.name)
        number = self._mesh.record.id_of("function", remote.name)
        self._mesh.step(f"remote {remote.name}")
        row = RemoteRow(number, remote, ready=False)
        self._mesh.record.put_remote(row)
        try:
            self._mesh.step(f"remote {remote.name}: maps")
            self._mesh.control.functions.set_remote(number, remote, uplink.ifindex)
        except BaseException:
            self.remove(remote.name)
            raise
        self._mesh.record.put_remote(replace(row, ready=True))

    def remove(self, name: str) -> None:
        """Forget one, as far as it is there. Twice is fine."""
        row = self._mesh.record.remote(name)
        if row is None:
            return
        self._mesh.step(f"remove remote {name}")
        self._mesh.record.put_remote(replace(row, ready=False))
        self._mesh.step(f"remove remote {name}: maps")
        self._mesh.control.functions.remove_remote(row.id, row.remote)
        self._mesh.record.delete_remote(name)

    def broken(self, without: Collection[str] = ()) -> list[str]:
        """Names of remotes that were cut short, or have no uplink but for these."""
        there = {row.name for row in self._mesh.record.uplinks()}.difference(without)
        rows = self._mesh.record.remotes()
        return [row.name for row in rows if not row.ready or row.remote.uplink not in there]
