# SPDX-License-Identifier: BSD-2-Clause
"""All control maps of a mesh: what changes in them together, and what a crash left of them."""

from collections.abc import Mapping

from ebpfmesh.apply.control.config import Config
from ebpfmesh.apply.control.functions import Functions
from ebpfmesh.apply.control.policies import Policies
from ebpfmesh.apply.control.services import Services
from ebpfmesh.kernel.interface import Plugged
from ebpfmesh.kernel.keys import frontends, packed
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.model import Function, OnFailure, Rights, Timeouts
from ebpfmesh.state.rates import of_tenants
from ebpfmesh.state.writer import Writer


class Control(Config):
    """The control maps of one mesh, with the record that knows the ids of its names."""

    def __init__(self, maps: Maps, record: Writer) -> None:
        super().__init__(maps, record)
        self.functions = Functions(maps, record, self)
        self.services = Services(maps, record, self)
        self.policies = Policies(maps, record, self)

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """Have flows live as long as ``timeouts`` says, from the next commit on."""
        self._change_base(timeouts=timeouts)

    def set_reject(self, reject: bool) -> None:
        """Have senders told that no rule allows what they send, or not, from the next commit on."""
        self._change_base(reject=reject)

    def set_host(self, host: bool) -> None:
        """Have processes of the host reach services, or not, once the change is finished."""
        self._change_base(host=host)

    def set_on_failure(self, on_failure: OnFailure) -> None:
        """Have changes undone, or kept, in which a function does not get ready."""
        self._change_base(on_failure=on_failure)

    def set_rights(self, rights: tuple[Rights, ...]) -> None:
        """Have tenants inject what ``rights`` says, and the room it says from the commit on.

        Their rates count from then on, too.
        """
        before = of_tenants(self.record)
        self._change_base(rights=rights)
        after = self.tenants.reread()
        changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
        for row in self.record.functions() if changed else ():
            if row.function.tenant in changed:
                self.functions.change(row.id, row.function)

    def _change_base(self, **settings: object) -> None:
        base = self.record.base().model_copy(update=settings)
        self.record.set_base(base)

    def resync(self, functions: Mapping[int, tuple[Function, Plugged]]) -> None:
        """Make all that the maps say exactly what the record does (after a crash)."""
        uplinks = {row.ifindex: row for row in self.record.uplinks()}
        indices = uplinks.keys() | {plugged.ifindex for _, plugged in functions.values()}
        for index, _ in list(self.maps["mesh_iface"].items()):
            if index.value not in indices:
                self.maps["mesh_iface"].delete(index)
        for index, _ in list(self.maps["mesh_masquerade"].items()):
            if index.value not in uplinks:
                self.maps["mesh_masquerade"].delete(index)
        for row in uplinks.values():
            self.functions.set_uplink(row)
        for number, (function, plugged) in functions.items():
            self.functions.set(number, function, plugged)
        remotes = self.record.remotes()
        for remote in remotes:
            index, _ = self.record.places()[remote.remote.uplink]
            self.functions.set_remote(remote.id, remote.remote, index)
        services = self.record.model().backed
        owners = [*services, *(function for function, _ in functions.values())]
        owners += [row.remote for row in remotes]
        addresses = {bytes(packed(address)) for owner in owners for address in owner.addresses}
        for address, _ in list(self.maps["mesh_address"].items()):
            if bytes(address) not in addresses:
                self.maps["mesh_address"].delete(address)
        places = self.record.places()
        known = {bytes(end.key) for service in services for end in frontends(service, places)}
        for key, _ in list(self.maps["mesh_service"].items()):
            if bytes(key) not in known:
                self.maps["mesh_service"].delete(key)
        self.services.free_all_rows()
        for service in services:
            self.services.set(service)
        self.policies.resync()
