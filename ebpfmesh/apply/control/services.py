# SPDX-License-Identifier: BSD-2-Clause
"""Services in the maps: where they answer, and the tables of their backends."""

import ctypes
import functools
from collections.abc import Mapping

from ebpfmesh import _abi
from ebpfmesh.apply.control.config import Config
from ebpfmesh.errors import MeshError
from ebpfmesh.kernel import maglev
from ebpfmesh.kernel.keys import frontends, packed
from ebpfmesh.kernel.maps import Maps, maglev_rows
from ebpfmesh.model import Service
from ebpfmesh.state.writer import Writer


class Services:
    """The services of one mesh."""

    def __init__(self, maps: Maps, record: Writer, config: Config) -> None:
        self._maps = maps
        self._record = record
        self._limits = record.limits()
        self._config = config

    def set(self, service: Service) -> None:
        """Write a service's table beside the one in use, then flip to it in one update.

        Backends that are not ready are in it as if they had no weight.
        """
        service = self._record.only_ready(service)
        old = self._record.table(service.name)
        weights = tuple(service.backends.values())
        rows = max(maglev.rows_for(weights), old[1])
        size = maglev.size_of(rows) if any(weights) else 0
        row = self._take_rows(rows)
        self._write_table(row, self._new_table(service, size, *old))
        value = _abi.Service(
            id=self._record.id_of("service", service.name),
            row=row,
            size=size,
            shift=service.shift & 0xFFFF,
            flags=_abi.ServiceFlag.AFFINITY if service.affinity == "source" else 0,
        )
        ends = frontends(service, self._record.places())
        depths = functools.reduce(lambda found, end: found | 1 << end.key.depth, ends, 0)
        self._config.look_deeper(depths, [])
        for key, own, uplink in ends:
            value.own, value.uplink = own, uplink
            self._maps["mesh_service"].set(key, value)
        self._withdraw(service)
        self._claim_addresses(service)
        with self._record.transaction():
            self._record.put_service(service, row, rows, depths)
            self._record.return_rows(*old)

    def remove(self, service: Service) -> None:
        """Take a service out; flows through it end with their next packet. Twice is fine."""
        for end in frontends(service, self._record.places()):
            self._maps["mesh_service"].delete(end.key)
        with self._record.transaction():
            self._record.return_rows(*self._record.table(service.name))
            self._record.delete_service(service.name)
        for address in service.addresses:
            if self._record.address_owner(address) is None:
                self._maps["mesh_address"].delete(packed(address))

    def set_unready(self, reasons: Mapping[str, str], *, asked: bool = False) -> None:
        """Have functions get new flows of services, or not, if there is a reason why not."""
        before = self._record.unready().keys()
        with self._record.transaction():
            for name, why in reasons.items():
                self._record.set_unready(name, why, asked=asked)
        after = self._record.unready().keys()
        for service in self._record.services_of(before ^ after):
            self.set(service)

    def _withdraw(self, service: Service) -> None:
        """Have it answer no more where it does as it is written down, and shall not."""
        before, places = self._record.service(service.name), self._record.places()
        kept = {bytes(end.key) for end in frontends(service, places)}
        for end in frontends(before, places) if before else []:
            if bytes(end.key) not in kept:
                self._maps["mesh_service"].delete(end.key)

    def _claim_addresses(self, service: Service) -> None:
        """What a service does not answer at its address must not go to the host instead."""
        for address in service.addresses:
            self._maps["mesh_address"].set(packed(address), ctypes.c_uint32(_abi.SERVICE_ADDRESS))

    def _new_table(self, service: Service, size: int, row: int, rows: int) -> list[int]:
        """Ids of functions for so many slots, as near as can be to those in the rows in use."""
        names, weights = tuple(service.backends), tuple(service.backends.values())
        ids = [self._record.id_of("function", name) for name in names]
        table = maglev.table(names, weights, size)
        if table and rows and maglev.size_of(rows) == size:
            backends = {number: backend for backend, number in enumerate(ids)}
            values = [self._maps["mesh_maglev"].get(ctypes.c_uint32(row + n)) for n in range(rows)]
            used = [number for value in values if value for number in value.function]
            old = [backends.get(number, -1) for number in used[:size]]
            table = maglev.nearest(old, table, weights)
        return [ids[backend] for backend in table]

    def _write_table(self, row: int, table: list[int]) -> None:
        slots: list[ctypes.c_uint16 | int] = [*table]
        for start in range(0, len(slots), _abi.MAGLEV_ROW):
            value = _abi.MaglevRow()
            part = slots[start : start + _abi.MAGLEV_ROW]
            value.function[: len(part)] = part
            number = row + start // _abi.MAGLEV_ROW
            self._maps["mesh_maglev"].set(ctypes.c_uint32(number), value)

    def _take_rows(self, rows: int) -> int:
        """First of ``rows`` neighbouring rows that no service uses; they are taken now."""
        if not self._record.has_free_rows:
            self.free_all_rows()
        first = self._record.take_rows(rows)
        if first is None:
            raise MeshError(
                "no room for another service table", hint="raise limits.services under [mesh]"
            )
        return first

    def free_all_rows(self) -> None:
        """Reckon anew which rows of mesh_maglev are free."""
        total = maglev_rows(self._limits)
        self._record.free_all_rows(total)
