# SPDX-License-Identifier: BSD-2-Clause
"""What the model says, written into the maps the programs read.

The only writer of the control maps. Each call leaves every map whole; the programs act on it for
flows they have judged before once ``commit`` has raised the epoch.
"""

import ctypes
import socket
from ipaddress import IPv4Address, IPv6Address
from typing import cast

from ebpfmesh import _abi
from ebpfmesh.errors import MeshError
from ebpfmesh.kernel import maglev
from ebpfmesh.kernel.interface import Plugged
from ebpfmesh.kernel.maps import Maps, maglev_rows
from ebpfmesh.kernel.record import Kind, Record
from ebpfmesh.model import Address, Function, Identity, Policy, Service

PROTOCOL = {
    "any": 0,
    "icmp": socket.IPPROTO_ICMP,
    "tcp": socket.IPPROTO_TCP,
    "udp": socket.IPPROTO_UDP,
}
_IDENTITY = {
    "any": _abi.Identity.ANY,
    "function": _abi.Identity.FUNCTION,
    "tenant": _abi.Identity.TENANT,
    "service": _abi.Identity.SERVICE,
    "outside": _abi.Identity.OUTSIDE,
}
_SOURCE = {
    "function": _abi.ShapeSource.SELF,
    "outside": _abi.ShapeSource.SELF,
    "tenant": _abi.ShapeSource.TENANT,
    "any": _abi.ShapeSource.ANY,
}
_DESTINATION = {
    "function": _abi.ShapeDestination.SELF,
    "outside": _abi.ShapeDestination.SELF,
    "tenant": _abi.ShapeDestination.TENANT,
    "service": _abi.ShapeDestination.SERVICE,
    "any": _abi.ShapeDestination.ANY,
}


class Control:
    """The control maps of one mesh, with the record that knows the ids of its names."""

    def __init__(self, maps: Maps, record: Record) -> None:
        self.maps = maps
        self.record = record
        self._limits = record.limits()
        self._used_rows = bytearray()  # of mesh_maglev; read when first needed

    def commit(self) -> None:
        """Have every flow judged again with its next packet, by what the maps say now."""
        key = ctypes.c_uint32(0)
        config = self.maps.config.get(key) or _abi.Config()
        config.policy_shapes = self.record.shapes()
        config.epoch = (config.epoch + 1) & 0xFFFFFFFF
        config.tenants = self._limits.tenants + 1
        self.maps.config.set(key, config)

    def set_function(self, number: int, function: Function, plugged: Plugged) -> None:
        """Make a function known: by id, interface and addresses."""
        if plugged.ifindex >> _abi.IFINDEX_BITS:
            what = f"interface index {plugged.ifindex} has more than {_abi.IFINDEX_BITS} bits"
            raise MeshError(what, hint="make the mesh in a new network namespace")
        row = _abi.Function(
            ifindex=plugged.ifindex,
            tenant=self._tenant(function.tenant),
            flags=_abi.FunctionFlag.AUDIT if function.audit else 0,
            address4=int(function.address4 or 0),
        )
        row.mac[:] = [int(part, 16) for part in plugged.mac.split(":")]
        row.gateway[:] = [int(part, 16) for part in plugged.gateway.split(":")]
        if function.address6:
            row.address6[:] = list(packed(function.address6).word)
        self.maps["mesh_function"].set(ctypes.c_uint32(number), row)
        for address in function.addresses:
            self.maps["mesh_address"].set(packed(address), ctypes.c_uint32(number))
        self.maps["mesh_iface"].set(ctypes.c_uint32(plugged.ifindex), ctypes.c_uint32(number))

    def _tenant(self, name: str) -> int:
        number = self.record.id_of("tenant", name)
        if number > self._limits.tenants:
            raise MeshError(f"no room for tenant {name}", hint="raise limits.tenants under [mesh]")
        return number

    def change_function(self, number: int, function: Function) -> None:
        """Give a known function another tenant or audit setting, in one update."""
        key = ctypes.c_uint32(number)
        row = self.maps["mesh_function"].get(key) or _abi.Function()
        row.tenant = self._tenant(function.tenant)
        row.flags = _abi.FunctionFlag.AUDIT if function.audit else 0
        self.maps["mesh_function"].set(key, row)

    def remove_function(self, number: int, function: Function) -> None:
        """Forget a function and what was counted for its id. Twice is fine."""
        key = ctypes.c_uint32(number)
        row = self.maps["mesh_function"].get(key)
        if row and row.ifindex:
            self.maps["mesh_iface"].delete(ctypes.c_uint32(row.ifindex))
        for address in function.addresses:
            owner = self.maps["mesh_address"].get(packed(address))
            if owner and owner.value == number:
                self.maps["mesh_address"].delete(packed(address))
        self.maps["mesh_function"].set(key, _abi.Function())
        stride = self._limits.tenants + 1
        for slot in range(number * stride, (number + 1) * stride):
            self.maps["mesh_meter"].set(ctypes.c_uint32(slot), _abi.Meter())
        for drop, _ in list(self.maps["mesh_drops"].items()):
            if drop.function == number:
                self.maps["mesh_drops"].delete(drop)

    def forget_tenant(self, number: int) -> None:
        """Forget what functions sent to a tenant, before its id is given to another."""
        for function in range(self._limits.functions + 1):
            slot = function * (self._limits.tenants + 1) + number
            self.maps["mesh_meter"].set(ctypes.c_uint32(slot), _abi.Meter())

    def set_service(self, service: Service) -> None:
        """Write a service's table beside the one in use, then flip to it in one update."""
        old = self.record.table(service.name)
        rows = max(maglev.rows_for(len(service.functions)), old[1])
        size = maglev.size_of(rows) if service.functions else 0
        row = self._take_rows(rows)
        self._write_table(service, row, size)
        value = _abi.Service(
            id=self.record.id_of("service", service.name),
            row=row,
            size=size,
            target_port=service.target_port,
        )
        for key in service_keys(service):
            self.maps["mesh_service"].set(key, value)
        self._claim_addresses(service)
        self.record.put_service(service, row, rows)
        self._return_rows(*old)

    def _claim_addresses(self, service: Service) -> None:
        """What a service does not answer at its address must not go to the host instead."""
        for address in service.addresses:
            self.maps["mesh_address"].set(packed(address), ctypes.c_uint32(_abi.SERVICE_ADDRESS))

    def _write_table(self, service: Service, row: int, size: int) -> None:
        ids = [self.record.id_of("function", name) for name in service.functions]
        slots: list[ctypes.c_uint16 | int] = [
            ids[backend] for backend in maglev.table(service.functions, size)
        ]
        for start in range(0, len(slots), _abi.MAGLEV_ROW):
            value = _abi.MaglevRow()
            part = slots[start : start + _abi.MAGLEV_ROW]
            value.function[: len(part)] = part
            number = row + start // _abi.MAGLEV_ROW
            self.maps["mesh_maglev"].set(ctypes.c_uint32(number), value)

    def _take_rows(self, rows: int) -> int:
        """First of ``rows`` neighbouring rows that no service uses; they are taken now."""
        used = self._used_rows
        if not used:
            used.extend(bytes(maglev_rows(self._limits)))
            for row, count in self.record.tables():
                used[row : row + count] = b"\1" * count
        first = used.find(bytes(rows))
        if first < 0:
            raise MeshError(
                "no room for another service table", hint="raise limits.services under [mesh]"
            )
        used[first : first + rows] = b"\1" * rows
        return first

    def _return_rows(self, row: int, rows: int) -> None:
        self._used_rows[row : row + rows] = bytes(rows) if self._used_rows else b""

    def remove_service(self, service: Service) -> None:
        """Take a service out; flows through it end with their next packet. Twice is fine."""
        for key in service_keys(service):
            self.maps["mesh_service"].delete(key)
        rows = self.record.table(service.name)
        self.record.delete_service(service.name)
        self._return_rows(*rows)
        for address in service.addresses:
            if self.record.address_owner(str(address)) is None:
                self.maps["mesh_address"].delete(packed(address))

    def set_policy(self, policy: Policy) -> None:
        """Write a rule, over the one with the same match if there is one."""
        number = self.record.put_policy(policy, shape_of(policy))
        value = _abi.Policy(
            rule=number,
            priority=policy.priority,
            action=_abi.Action.ALLOW if policy.action == "allow" else _abi.Action.DENY,
        )
        self.maps["mesh_policy"].set(self.policy_key(policy), value)

    def remove_policy(self, policy: Policy) -> None:
        """Take a rule out. Twice is fine."""
        self.maps["mesh_policy"].delete(self.policy_key(policy))
        self.record.delete_policy(policy)

    def policy_key(self, policy: Policy) -> _abi.PolicyKey:
        """The key of a rule in mesh_policy."""
        return _abi.PolicyKey(
            source=self._identity(policy.source),
            destination=self._identity(policy.destination),
            port=policy.port,
            protocol=PROTOCOL[policy.protocol],
        )

    def _identity(self, identity: Identity) -> int:
        kind = _IDENTITY[identity.kind] << 24
        if not identity.name:  # any, outside
            return kind
        named = cast(Kind, identity.kind)
        return kind | self.record.id_of(named, identity.name)

    def resync(self) -> None:
        """Make services and rules in the maps exactly those of the record (after a crash)."""
        services = self.record.services()
        known = {bytes(key) for service in services for key in service_keys(service)}
        for key, _ in list(self.maps["mesh_service"].items()):
            if bytes(key) not in known:
                self.maps["mesh_service"].delete(key)
        for address, owner in list(self.maps["mesh_address"].items()):
            if owner.value == _abi.SERVICE_ADDRESS:
                self.maps["mesh_address"].delete(address)
        for service in services:
            self.set_service(service)
        policies = [policy for _, policy in self.record.policies()]
        known = {bytes(self.policy_key(policy)) for policy in policies}
        for key, _ in list(self.maps["mesh_policy"].items()):
            if bytes(key) not in known:
                self.maps["mesh_policy"].delete(key)
        for policy in policies:
            self.set_policy(policy)


def packed(address: Address) -> _abi.Address:
    """An address as the programs have it: IPv4 as ::ffff:a.b.c.d."""
    if isinstance(address, IPv4Address):
        address = IPv6Address(f"::ffff:{address}")
    return _abi.Address.from_buffer_copy(address.packed)


def service_keys(service: Service) -> list[_abi.ServiceKey]:
    """Keys of a service in mesh_service, one for each of its addresses."""
    return [
        _abi.ServiceKey(address=packed(address), port=port, protocol=PROTOCOL[protocol])
        for address, port, protocol in service.frontends
    ]


def shape_of(policy: Policy) -> int:
    """The bit of mesh_config.policy_shapes that says a rule like this exists."""
    depth = _abi.ShapeDepth.ALL
    if policy.protocol != "any":
        depth = _abi.ShapeDepth.PORT if policy.port else _abi.ShapeDepth.PROTOCOL
    source, destination = _SOURCE[policy.source.kind], _DESTINATION[policy.destination.kind]
    return (source * 4 + destination) * 3 + depth
