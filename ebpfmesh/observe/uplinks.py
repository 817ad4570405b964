# SPDX-License-Identifier: BSD-2-Clause
"""Uplinks: whether they work, what is published there, and who else listens at these ports."""

import contextlib
import ctypes
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Literal

from pyroute2 import IPRoute

from ebpfmesh.kernel import flows, interface, links, offload
from ebpfmesh.kernel.programs import BOTH, CARRY, UPLINK
from ebpfmesh.model import Mesh, Service
from ebpfmesh.model import Uplink as UplinkModel
from ebpfmesh.observe import listening
from ebpfmesh.observe.view import View, opened
from ebpfmesh.state import early
from ebpfmesh.state.place import UplinkProblem, uplink_problem
from ebpfmesh.state.rows import UplinkRow

AHEAD = "a NIC has it before anything needs it: attached under traffic it would cost packets"


@dataclass(frozen=True)
class Masquerade:
    """What flows to the outside have of an uplink: ``ports`` of its ``address`` (empty: none).

    ``flows`` are those of IPv4 that live, ``most`` those to the one peer that has most of them: no
    more than there are ports. ``exhausted`` is how often none was found for a new one.
    """

    address: str
    ports: str
    flows: int
    most: int
    exhausted: int


@dataclass(frozen=True)
class Uplink:
    """An uplink. ``state``: ``up``, ``down`` (the interface is), or what is broken.

    ``addresses`` are the host's there on which services are published; ``published`` these, such as
    ``tcp/80 portal``. ``how`` the mesh's program is attached; ``xdp`` is the name of the program at
    XDP in front of it, empty if there is none, and ``why`` that is so. ``denied`` are prefixes of
    which nothing comes in there. ``masquerade`` is what functions have by its address, None: it
    does not.
    """

    name: str
    interface: str
    ifindex: int
    state: UplinkProblem | Literal["up", "down"]
    addresses: tuple[str, ...]
    mtu: int | None
    how: str
    xdp: str
    why: str
    denied: int
    published: tuple[str, ...]
    masquerade: Masquerade | None = None


def read_uplinks(view: View) -> list[Uplink]:
    """All uplinks, by name."""
    services, numbers = view.record.services(), view.record.count_denied()
    return [
        _uplink(view, row, services, numbers.get("", 0) + numbers.get(row.name, 0))
        for row in view.record.uplinks()
    ]


def _uplink(view: View, row: UplinkRow, services: list[Service], denied: int) -> Uplink:
    problem = uplink_problem(view.ip, view.pins, row)
    there = problem in ("", "program missing")
    found = interface.outer(view.ip, row.ifindex) if there else None
    attached = list(links.programs(view.ip, row.ifindex)) if there else []
    xdp = next((one.name for one in attached if one.how == "XDP"), "")
    return Uplink(
        name=row.name,
        interface=row.uplink.interface,
        ifindex=row.ifindex,
        state=problem or ("up" if found and found.up else "down"),
        addresses=tuple(map(str, row.addresses)),
        mtu=found.mtu if found else None,
        how=next((one.how for one in attached if one.name == UPLINK), ""),
        xdp=xdp,
        why=_why(view, row, xdp, denied, "" if found is None else found.kind),
        denied=denied,
        published=tuple(
            f"{service.protocol}/{str(one).rpartition(':')[2]} {service.name}"
            for service in services
            for one in service.published
            if one.uplink == row.name
        ),
        masquerade=_masquerade(view, row) if row.uplink.masquerade else None,
    )


def _masquerade(view: View, row: UplinkRow) -> Masquerade:
    peers = flows.translated(view.maps).get(row.ifindex, Counter())
    value = view.maps["mesh_masquerade"].get(ctypes.c_uint32(row.ifindex))
    return Masquerade(
        address=next((str(one) for one in row.addresses if one.version == 4), ""),
        ports=row.uplink.masquerade_ports,
        flows=peers.total(),
        most=max(peers.values(), default=0),
        exhausted=value.exhausted if value else 0,
    )


def _why(view: View, row: UplinkRow, xdp: str, denied: int, kind: str) -> str:
    """Why XDP is there or not, and what that costs."""
    wanted = early.wanted(view.record).get(row.name)
    reasons = (
        [f"{denied} {'prefix is' if denied == 1 else 'prefixes are'} denied"]
        if denied and early.may_deny(row.uplink)
        else []
    )
    if wanted and wanted.program in (CARRY, BOTH):
        by_it = any(one.function.datapath != "tc" for one in view.functions)
        reasons += ["functions have their packets by it"] if by_it else []
        reasons += ["it sends on to remotes"] if view.remotes else []
    if xdp and not early.ours(xdp):
        return "somebody else's, in front of the mesh"
    if xdp:
        cost = ""
        if kind == "veth":
            cost = "; a veth's other end has no segmentation offload meanwhile"
        elif offload.merges(row.uplink.interface):
            cost = "; its driver hands on no merged segments meanwhile"
        asked = AHEAD if row.uplink.xdp == "auto" else f'xdp = "{row.uplink.xdp}"'
        return f"{' and '.join(reasons) or asked}{cost}"
    if denied and not early.may_deny(row.uplink):
        return f'xdp = "{row.uplink.xdp}": what is denied comes in'
    if wanted is None:
        return 'xdp = "off"' if row.uplink.xdp == "off" else "nothing needs it"
    if not row.without:
        return "it is missing"
    if wanted.needed_by:
        return f"tc carries all: {row.without}"
    return f"{row.without}; nothing needs it"


def without_xdp(mesh: str) -> dict[str, str]:
    """Uplinks of a mesh that cannot have XDP and do without, by name, and why."""
    with opened(mesh) as view:
        without = {row.name for row in view.record.uplinks() if row.without}
        found = read_uplinks(view) if without else []
        return {row.name: row.why for row in found if row.name in without and not row.xdp}


def taken(
    service: Service, uplink: UplinkModel, addresses: tuple[IPv4Address | IPv6Address, ...]
) -> Iterator[str]:
    """Published ports of a service at which a process of the host listens too, a line each."""
    for one in service.published:
        if one.uplink != uplink.name:
            continue
        for port in sorted(listening.ports(service.protocol, addresses)):
            if one.first <= port <= one.last:
                yield (
                    f"service {service.name} is published at {service.protocol} port {port} of "
                    f"{uplink.interface}, where a process of the host listens too"
                )


def taken_in(mesh: Mesh) -> Iterator[str]:
    """The same of a mesh that is not up yet, or is."""
    with contextlib.closing(IPRoute()) as ip:
        for uplink in mesh.uplinks:
            index = interface.find(uplink.interface)
            addresses = interface.outer(ip, index).addresses if index else ()
            for service in mesh.services:
                yield from taken(service, uplink, addresses)
