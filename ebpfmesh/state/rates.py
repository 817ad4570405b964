# SPDX-License-Identifier: BSD-2-Clause
"""The rates of functions and tenants as the programs are to have them."""

from ebpfmesh import _abi
from ebpfmesh.kernel import rates
from ebpfmesh.model import Rate
from ebpfmesh.state.record import Record


def of_tenants(record: Record) -> dict[str, Rate]:
    """Those that the mesh says."""
    return {one.name: one.rate for one in record.base().rights if one.rate}


def flags(record: Record) -> dict[int, int]:
    """The flags of each function's record, by its id."""
    shared = of_tenants(record)
    return {
        row.id: rates.flags(row.function, shared.get(row.function.tenant))
        for row in record.functions()
    }


def drawn(record: Record) -> dict[int, _abi.Rate]:
    """What is in mesh_rate, but for how full the buckets are, by its key."""
    limits, shared, found = record.limits(), of_tenants(record), dict[int, _abi.Rate]()
    tenants = {name: number for number, name in record.names("tenant").items()}
    for name, number in tenants.items():
        first = rates.tenant_slot(limits, number)
        found |= {first + one: rates.row(shared.get(name), one) for one in rates.WAYS}
    for row in record.functions():
        name = row.function.tenant
        place = rates.tenant_slot(limits, tenants.get(name, 0))
        rows = rates.rows(row.function, shared.get(name), place)
        found |= {rates.slot(row.id) + one: rate for one, rate in rows.items()}
    return found
