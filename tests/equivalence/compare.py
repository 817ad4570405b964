# SPDX-License-Identifier: BSD-2-Clause
"""First packets: which there are, who lets them pass, and whether both sides agree."""

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

from ebpfmesh.model import Action, Mesh
from equivalence.network import (
    FRONTS,
    FUNCTIONS,
    OUTSIDERS,
    PAIRS,
    PEERS,
    UPLINK_PAIRS,
    Front,
    function,
)
from equivalence.shots import Shot, frames

if TYPE_CHECKING:
    from equivalence.world import World
from equivalence.wrapping import CUT, ETHERNET, FORMS, transport_bytes
from support.policy import decide

SHOWN = 5  # differences in the message of a failure

Packets = tuple[bytes, ...] | None


def openers(mesh: Mesh) -> list[Shot]:
    """First packets of everybody to everybody, on both sides of every edge of a rule.

    Of one port in every form, and with addresses that are not the sender's.
    """
    ports = _edges(mesh)
    return [
        shot
        for version in (4, 6)
        for one, other in PAIRS
        for shot in _openers(version, one, other, ports)
    ]


def _edges(mesh: Mesh) -> list[int]:
    """Ports on both sides of every edge of a rule."""
    edges = {80}
    for rule in mesh.policies:
        if rule.port:
            edges |= {rule.port - 1, rule.port, rule.last_port, rule.last_port + 1}
    return sorted(edges - {0, 65536})


def uplink_openers(mesh: Mesh) -> list[Shot]:
    """First packets of what meets an uplink; to what is published there, and beside it."""
    ports = _edges(mesh)
    direct = [
        shot
        for version in (4, 6)
        for one, other in UPLINK_PAIRS
        for shot in _openers(version, one, other, ports)
    ]
    published = [
        shot
        for version in (4, 6)
        for one in OUTSIDERS
        for name, front in FRONTS.items()
        for shot in _front_openers(version, one, name, front)
    ]
    return direct + published


def _front_openers(version: int, one: str, name: str, front: Front) -> Iterator[Shot]:
    flags = "S" if front.protocol == "tcp" else ""
    shot = Shot(version, front.protocol, one, name, 40002, front.port, flags)  # type: ignore[arg-type]
    for form in FORMS:
        yield replace(shot, form=form)
    yield replace(shot, sport=40003, claims="a1")
    yield replace(shot, kind="tcp", flags="S", dport=front.port + 1)  # nobody is told of a reset


def _openers(version: int, one: str, other: str, ports: list[int]) -> Iterator[Shot]:
    for form in FORMS:
        yield Shot(version, "request", one, other, 7000, form=form)
        for port in ports if form == "plain" else ports[-1:]:
            yield Shot(version, "udp", one, other, 40000, port, form=form)
            yield Shot(version, "tcp", one, other, 40000, port, "S", form=form)
    for claimed in FUNCTIONS if one in OUTSIDERS else sorted({*FUNCTIONS, "o1"} - {one, other}):
        yield Shot(version, "udp", one, other, 40001, ports[0], claims=claimed)


def allowed(mesh: Mesh, shot: Shot) -> bool:
    """What the model says of a packet that opens a flow; one with a false address has no chance."""
    return not shot.claims and decided(mesh, shot) == "allow"


def decided(mesh: Mesh, shot: Shot) -> Action:
    """What the model does about a packet that opens a flow."""
    protocol = "icmp" if shot.kind == "request" else shot.kind
    if front := FRONTS.get(shot.destination):
        if (shot.kind, shot.dport) != (front.protocol, front.port):
            return "deny"  # it is the host's
        source, service = ip_address(PEERS[shot.source].at(shot.version)), shot.destination
        to = function(front.function)
        return decide(
            mesh, source, to, mesh.service(service), front.protocol, front.own_port
        ).action
    ends = [
        function(party) or ip_address(PEERS[party].at(shot.version))
        for party in (shot.source, shot.destination)
    ]
    return decide(mesh, *ends, None, protocol, shot.dport).action  # type: ignore[arg-type]


def compare(world: "World", shots: list[Shot], mesh: Mesh) -> None:
    """Both sides let the same of these packets pass, as they are, and as the model says."""
    through_mesh, through_iptables = world.send(shots)
    wrong = []
    for shot in shots:
        here, there = through_mesh.get(shot), through_iptables.get(shot)
        expected = allowed(mesh, shot) and whole(shot)
        if not same(shot, here, there) or expected != arrived(shot, here):
            wrong.append(difference(shot, here, there))
    fail_if(wrong)


def same(shot: Shot, here: Packets, there: Packets) -> bool:
    """Whether a packet had the same fate, and is the same if it passed.

    conntrack puts fragments together and sends them on in its own way, or not at all; what has to
    be the same is whether the receiver gets all of the datagram.
    """
    return here == there if shot.form not in CUT else arrived(shot, here) == arrived(shot, there)


def whole(shot: Shot) -> bool:
    """Whether all of it was sent."""
    return shot.form not in ("first", "later")


def arrived(shot: Shot, packets: Packets) -> bool:
    """Whether a datagram arrived, all of it."""
    if packets is None or shot.form not in CUT:
        return packets is not None
    sent = sum(
        transport_bytes(frame[ETHERNET:]) for frame in frames(replace(shot, form="fragments"))
    )
    return sum(map(transport_bytes, packets)) == sent


def difference(shot: Shot, here: Packets, there: Packets) -> str:
    """What became of a packet, in words."""
    return f"{shot}\n  {_fate(here)} by the mesh, {_fate(there)} by iptables"


def fail_if(differences: list[str]) -> None:
    """Fail with the first few of them."""
    assert not differences, f"{len(differences)} differ:\n" + "\n".join(differences[:SHOWN])


def _fate(packets: Packets) -> str:
    if packets is None:
        return "dropped"
    return f"passed as {' and '.join(packet.hex() for packet in packets)}"
