# SPDX-License-Identifier: BSD-2-Clause
"""Remotes: where they are, and whether packets get there as the mesh sends them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ebpfmesh.kernel import interface
from ebpfmesh.model import Address
from ebpfmesh.observe.view import View
from ebpfmesh.state.place import UplinkProblem, uplink_problem
from ebpfmesh.state.rows import RemoteRow, UplinkRow


@dataclass(frozen=True)
class Remote:
    """A machine beyond an uplink. ``state``: ``up``, or what is wrong with it or its uplink.

    ``route`` tells of each address by which way the host sends there: ``direct``, a router, or
    ``none``. ``ready``: services send it new flows; ``unready`` why they do not.
    """

    id: int
    name: str
    tenant: str
    addresses: tuple[str, ...]
    uplink: str
    state: UplinkProblem | Literal["up"]
    route: tuple[str, ...]
    ready: bool
    unready: str
    services: tuple[str, ...]


def read_remotes(view: View) -> list[Remote]:
    """All remotes, by name."""
    services, uplinks = view.record.services(), {row.name: row for row in view.record.uplinks()}
    return [
        Remote(
            id=row.id,
            name=row.name,
            tenant=row.remote.tenant,
            addresses=tuple(map(str, row.remote.addresses)),
            uplink=row.remote.uplink,
            state=problem(view, row, uplinks.get(row.remote.uplink)) or "up",
            route=tuple(_route(view, one)[1] for one in row.remote.addresses),
            ready=row.name not in view.unready,
            unready=view.unready.get(row.name, ""),
            services=tuple(one.name for one in services if row.name in one.functions),
        )
        for row in view.remotes
    ]


def problem(view: View, row: RemoteRow, uplink: UplinkRow | None) -> UplinkProblem:
    """What is wrong with a remote or its uplink; empty if nothing is."""
    if not row.ready:
        return "unfinished"
    if uplink is None:
        return "interface gone"
    return uplink_problem(view.ip, view.pins, uplink)


def _route(view: View, address: Address) -> tuple[int, str]:
    """The interface by which the host sends there, and to whom."""
    found = interface.route_to(view.ip, address)
    if found is None:
        return 0, "none"
    return found[0], "direct" if found[1] is None else str(found[1])


def astray(view: View) -> Iterator[tuple[str, str]]:
    """Remotes that the host does not reach by their uplink, each with what is wrong."""
    uplinks = {row.name: row for row in view.record.uplinks()}
    for row in view.remotes:
        uplink = uplinks.get(row.remote.uplink)
        if uplink is None or problem(view, row, uplink):
            continue
        for address in row.remote.addresses:
            ifindex, _ = _route(view, address)
            if address in interface.local(view.ip):
                yield row.name, f"{address} is an address of this host's own"
            elif ifindex != uplink.ifindex:
                name = uplink.uplink.interface
                yield row.name, f"the host's route to {address} does not lead out of {name}"
