# SPDX-License-Identifier: BSD-2-Clause
"""Flows that the programs remember: two entries for each, one a direction."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from ebpfmesh import _abi
from ebpfmesh.kernel.control import PROTOCOL
from ebpfmesh.observe.view import View

PROTOCOLS = {number: name for name, number in PROTOCOL.items() if number} | {
    socket.IPPROTO_ICMPV6: "icmp"
}


@dataclass(frozen=True)
class Flow:
    """An entry: a packet with this five-tuple from ``sender`` goes on to ``receiver``.

    Ports of ICMP are None, ``echo_id`` is theirs. ``nat`` is the address and port that replace
    the destination's in ``forward`` entries, the source's in ``reply`` entries; empty without.
    A flow that is not ``current`` was judged in an epoch before the last change of the mesh and
    is judged again with its next packet.
    """

    protocol: str
    source: str
    source_port: int | None
    destination: str
    destination_port: int | None
    echo_id: int | None
    sender: str
    receiver: str
    direction: str
    service: str
    nat: str
    epoch: int
    current: bool


def read(view: View) -> Iterator[Flow]:
    """All entries, IPv4 first."""
    for key, flow in view.maps["mesh_flow4"].items():
        yield _flow(view, key, flow, IPv4Address(key.source), IPv4Address(key.destination))
    for key, flow in view.maps["mesh_flow6"].items():
        source, destination = IPv6Address(bytes(key.source)), IPv6Address(bytes(key.destination))
        yield _flow(view, key, flow, source, destination)


def _flow(
    view: View,
    key: _abi.Flow4Key | _abi.Flow6Key,
    flow: _abi.Flow,
    source: IPv4Address | IPv6Address,
    destination: IPv4Address | IPv6Address,
) -> Flow:
    reply = bool(flow.flags & _abi.FlowFlag.REPLY)
    number = key.origin & 0xFF
    protocol = PROTOCOLS.get(number, str(number))
    has_ports = protocol != "icmp"
    return Flow(
        protocol=protocol,
        source=str(source),
        source_port=key.source_port if has_ports else None,
        destination=str(destination),
        destination_port=key.destination_port if has_ports else None,
        # parse.h: the identifier stands for the asking side's port.
        echo_id=None if has_ports else key.destination_port if reply else key.source_port,
        sender=view.function_at(key.origin >> 8),
        receiver=view.function_at(flow.ifindex),
        direction="reply" if reply else "forward",
        service=view.name_of("service", flow.service) if flow.service else "",
        nat=_nat(flow, source.version),
        epoch=flow.epoch,
        current=flow.epoch == view.config.judged,
    )


def _nat(flow: _abi.Flow, version: int) -> str:
    if not flow.flags & (_abi.FlowFlag.NAT_SRC | _abi.FlowFlag.NAT_DST):
        return ""
    raw = bytes(flow.address)
    return endpoint(str(ip_address(raw[12:] if version == 4 else raw)), flow.port)


def endpoint(address: str, port: int | None) -> str:
    """An address with its port, as people write it."""
    host = f"[{address}]" if ":" in address and port is not None else address
    return host if port is None else f"{host}:{port}"
