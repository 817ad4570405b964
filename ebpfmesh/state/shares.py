# SPDX-License-Identifier: BSD-2-Clause
"""What the tenants of a mesh have of what all share, by their ids."""

from ebpfmesh._abi import RoomKind
from ebpfmesh.kernel import rooms
from ebpfmesh.model import Shares
from ebpfmesh.state.record import Record


def by_tenant(record: Record) -> dict[int, Shares]:
    """The shares of each tenant there is; nothing is said in those of most."""
    said = {rights.name: rights for rights in record.base().rights}
    return {number: said.get(name, Shares()) for number, name in record.names("tenant").items()}


def drawn(record: Record) -> dict[tuple[RoomKind, int], rooms.Room]:
    """The room that each has by that, the outside too."""
    shares = by_tenant(record)
    return rooms.draw(record.limits(), shares, shares)


def events_drawn(record: Record) -> dict[int, rooms.EventRoom]:
    """What each may have of events that are not read yet."""
    shares = by_tenant(record)
    return rooms.draw_events(shares, shares)
