# SPDX-License-Identifier: BSD-2-Clause
"""Functions, remotes and uplinks in the maps: by id, interface and address."""

import ctypes
from collections.abc import Iterable

from ebpfmesh import _abi
from ebpfmesh.apply.control.config import Config
from ebpfmesh.errors import MeshError
from ebpfmesh.kernel import rates
from ebpfmesh.kernel.interface import Plugged
from ebpfmesh.kernel.keys import masquerade, packed
from ebpfmesh.kernel.maps import Maps, tenant_ids
from ebpfmesh.model import Address, Function, Remote
from ebpfmesh.state.rows import UplinkRow
from ebpfmesh.state.writer import Writer


class Functions:
    """Who can send and receive in one mesh, and the interfaces to the outside."""

    def __init__(self, maps: Maps, record: Writer, config: Config) -> None:
        self._maps = maps
        self._record = record
        self._limits = record.limits()
        self._config = config
        self._tenants = config.tenants

    def set(self, number: int, function: Function, plugged: Plugged) -> None:
        """Make a function known: by id, interface and addresses."""
        check_ifindex(plugged.ifindex)
        tenant = self._config.tenant(function.tenant)
        flags = self._tenants.set_rates(number, function, tenant)
        row = _abi.Function(
            ifindex=plugged.ifindex,
            tenant=tenant,
            flags=flags,
            group=self._group(function),
            address4=int(function.address4 or 0),
        )
        row.mac[:] = [int(part, 16) for part in plugged.mac.split(":")]
        row.gateway[:] = [int(part, 16) for part in plugged.gateway.split(":")]
        if function.address6:
            row.address6[:] = list(packed(function.address6).word)
        self._maps["mesh_function"].set(ctypes.c_uint32(number), row)
        for address in function.addresses:
            self._maps["mesh_address"].set(packed(address), ctypes.c_uint32(number))
        port = _abi.Iface(id=number, kind=_abi.IfaceKind.FUNCTION)
        self._maps["mesh_iface"].set(ctypes.c_uint32(plugged.ifindex), port)

    def change(self, number: int, function: Function) -> None:
        """Give a known function another rate; then tenant, group and audit, in one update."""
        tenant = self._config.tenant(function.tenant)
        flags = self._tenants.set_rates(number, function, tenant)
        key = ctypes.c_uint32(number)
        row = self._maps["mesh_function"].get(key) or _abi.Function()
        row.tenant = tenant
        row.flags = flags
        row.group = self._group(function)
        self._maps["mesh_function"].set(key, row)

    def remove(self, number: int, function: Function) -> None:
        """Forget a function and what was counted for its id. Twice is fine."""
        key = ctypes.c_uint32(number)
        row = self._maps["mesh_function"].get(key)
        if row and row.ifindex:
            self._maps["mesh_iface"].delete(ctypes.c_uint32(row.ifindex))
        self._forget_addresses(number, function.addresses)
        self._maps["mesh_function"].set(key, _abi.Function())
        self._tenants.write_rates(rates.slot(number), rates.rows(None))
        self._maps["mesh_chain"].set(key, _abi.Chain())
        self._forget_counts(number)

    def set_remote(self, number: int, remote: Remote, uplink: int) -> None:
        """Make a remote known: by id and addresses, beyond the interface of its uplink."""
        row = _abi.Function(
            ifindex=uplink,
            tenant=self._config.tenant(remote.tenant),
            flags=_abi.FunctionFlag.REMOTE,
            address4=int(remote.address4 or 0),
        )
        if remote.address6:
            row.address6[:] = list(packed(remote.address6).word)
        self._maps["mesh_function"].set(ctypes.c_uint32(number), row)
        for address in remote.addresses:
            self._maps["mesh_address"].set(packed(address), ctypes.c_uint32(number))

    def remove_remote(self, number: int, remote: Remote) -> None:
        """Forget a remote and what was counted for its id. Twice is fine."""
        self._forget_addresses(number, remote.addresses)
        self._maps["mesh_function"].set(ctypes.c_uint32(number), _abi.Function())
        self._forget_counts(number)

    def set_uplink(self, row: UplinkRow) -> None:
        """Make an uplink known, and what flows that leave by it are translated to."""
        key, table = ctypes.c_uint32(row.ifindex), self._maps["mesh_masquerade"]
        self.set_takes_frames(row.ifindex, False)
        if row.uplink.masquerade:
            value = masquerade(row.uplink, row.addresses)
            value.exhausted = (table.get(key) or value).exhausted
            table.set(key, value)
        else:
            table.delete(key)

    def set_takes_frames(self, ifindex: int, takes: bool) -> None:
        """Write down of an uplink whether XDP of other interfaces may send there."""
        flags = _abi.IfaceFlag.TAKES_FRAMES if takes else 0
        row = _abi.Iface(kind=_abi.IfaceKind.UPLINK, flags=flags)
        self._maps["mesh_iface"].set(ctypes.c_uint32(ifindex), row)

    def remove_uplink(self, ifindex: int) -> None:
        """Forget an uplink. Twice is fine."""
        self._maps["mesh_masquerade"].delete(ctypes.c_uint32(ifindex))
        self._maps["mesh_iface"].delete(ctypes.c_uint32(ifindex))

    def _group(self, function: Function) -> int:
        return self._record.id_of("group", function.group) if function.group else 0

    def _forget_addresses(self, number: int, addresses: Iterable[Address]) -> None:
        for address in addresses:
            owner = self._maps["mesh_address"].get(packed(address))
            if owner and owner.value == number:
                self._maps["mesh_address"].delete(packed(address))

    def _forget_counts(self, number: int) -> None:
        stride = tenant_ids(self._limits)
        for slot in range(number * stride, (number + 1) * stride):
            self._maps["mesh_meter"].set(ctypes.c_uint32(slot), _abi.Meter())
        for drop, _ in list(self._maps["mesh_drops"].items()):
            if drop.function == number:
                self._maps["mesh_drops"].delete(drop)


def check_ifindex(ifindex: int) -> None:
    """Raise MeshError for an interface whose index is no part of a flow's key."""
    if ifindex >> _abi.IFINDEX_BITS:
        what = f"interface index {ifindex} has more than {_abi.IFINDEX_BITS} bits"
        raise MeshError(what, hint="make the mesh in a new network namespace")
