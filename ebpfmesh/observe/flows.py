# SPDX-License-Identifier: BSD-2-Clause
"""Flows that the programs remember: two entries for each, one a direction."""

import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from operator import attrgetter
from typing import Final, Literal

from ebpfmesh import _abi
from ebpfmesh.errors import UsageError
from ebpfmesh.kernel import clock
from ebpfmesh.kernel.flows import timeout_of
from ebpfmesh.kernel.keys import PROTOCOL
from ebpfmesh.observe.view import OUTSIDE, View

PROTOCOLS = {number: name for name, number in PROTOCOL.items() if number} | {
    socket.IPPROTO_ICMPV6: "icmp"
}
HOW_TO_COUNT: Final = "say count_flows = true under [mesh], then take it down and up again"


@dataclass(frozen=True)
class Flow:
    """An entry: a packet with this five-tuple from ``sender`` goes on to ``receiver``.

    Ports of ICMP are None, ``echo_id`` is theirs. ``nat`` is the address and port that replace
    the destination's in ``forward`` entries, the source's in ``reply`` entries; empty without.
    A flow that is not ``current`` was judged in an epoch before the last change of the mesh and
    is judged again with its next packet.

    ``state`` is TCP's, of this direction: ``opening`` until both sides were heard, ``established``,
    ``closing`` once this side has closed, ``closed`` once both have or one has reset; else empty.
    ``idle`` is the seconds since its last packet, ``timeout`` after how many it is forgotten.

    ``packets`` and ``bytes`` are what passed in this direction, counted as in `show meters`, in the
    ``age`` seconds since the flow was made; None in a mesh that does not count its flows.
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
    state: str
    idle: int
    timeout: int
    packets: int | None = None
    bytes: int | None = None
    age: int | None = None


@dataclass(frozen=True)
class Wanted:
    """Which flows to show; None: whichever. A port is that of either end, or a translated one."""

    function: str | None = None
    peer: str | None = None
    service: str | None = None
    protocol: str | None = None
    port: int | None = None

    def matches(self, flow: Flow, groups: Mapping[str, tuple[str, ...]] | None = None) -> bool:
        """Whether it is one of them; a name may be that of one of the ``groups``."""
        ends = [
            (groups or {}).get(name, (name,))
            for name in (self.function, self.peer)
            if name is not None
        ]
        parties = flow.sender, flow.receiver
        return (
            any(
                all(party in names for party, names in zip(order, ends, strict=False))
                for order in (parties, parties[::-1])
            )
            and self.service in (None, flow.service)
            and self.protocol in (None, flow.protocol)
            and self.port in (None, flow.source_port, flow.destination_port, _port_of(flow.nat))
        )


EVERY = Wanted()
Order = Literal["bytes", "age", "idle"]


def read(view: View, wanted: Wanted = EVERY, order: Order | None = None) -> Iterable[Flow]:
    """Entries, IPv4 first; or by ``order``: most bytes, oldest, or least idle first.

    NotFound if there is no such function, other than the outside, or no such service; UsageError
    for an order by what the mesh does not count.
    """
    if order in ("bytes", "age") and not view.maps.count_flows:
        what = f"mesh {view.name} does not count its flows: they have no {order}"
        raise UsageError(what, hint=HOW_TO_COUNT)
    for name in (wanted.function, wanted.peer):
        if name not in (None, OUTSIDE):
            view.named(str(name))
    if wanted.service is not None:
        view.check_service(wanted.service)
    groups = view.groups if wanted.function or wanted.peer else {}
    found = (flow for flow in _all(view) if wanted.matches(flow, groups))
    if order is None:
        return found
    return sorted(found, key=attrgetter(order), reverse=order != "idle")


def _all(view: View) -> Iterator[Flow]:
    for key, entry in view.maps["mesh_flow4"].items():
        yield _flow(view, key, entry, IPv4Address(key.source), IPv4Address(key.destination))
    for key, entry in view.maps["mesh_flow6"].items():
        source, destination = IPv6Address(bytes(key.source)), IPv6Address(bytes(key.destination))
        yield _flow(view, key, entry, source, destination)


def flow_of(entry: _abi.Flow | _abi.CountedFlow) -> _abi.Flow:
    """The flow of an entry, whether it is counted or not."""
    return entry.flow if isinstance(entry, _abi.CountedFlow) else entry


def _flow(
    view: View,
    key: _abi.Flow4Key | _abi.Flow6Key,
    entry: _abi.Flow | _abi.CountedFlow,
    source: IPv4Address | IPv6Address,
    destination: IPv4Address | IPv6Address,
) -> Flow:
    flow = flow_of(entry)
    counts = entry.counts if isinstance(entry, _abi.CountedFlow) else None
    reply = bool(flow.flags & _abi.FlowFlag.REPLY)
    number = key.origin & 0xFF
    protocol = PROTOCOLS.get(number, str(number))
    has_ports = protocol != "icmp"
    tick = (1 << _abi.TICK_SHIFT) / clock.hz()
    return Flow(
        protocol=protocol,
        source=str(source),
        source_port=key.source_port if has_ports else None,
        destination=str(destination),
        destination_port=key.destination_port if has_ports else None,
        # parse.h: the identifier stands for the asking side's port.
        echo_id=None if has_ports else key.destination_port if reply else key.source_port,
        sender=view.function_at(key.origin >> 8, source),
        receiver=view.function_at(
            flow.output & (1 << _abi.IFINDEX_BITS) - 1, _goes_to(flow, source, destination)
        ),
        direction="reply" if reply else "forward",
        service=view.name_of("service", flow.service) if flow.service else "",
        nat=_nat(flow, source.version),
        epoch=flow.epoch & ~_abi.EPOCH_SLOW,
        current=flow.epoch & ~_abi.EPOCH_SLOW == view.config.judged,
        state=_state(flow) if protocol == "tcp" else "",
        idle=round(clock.age(flow.seen) * tick),
        timeout=round(view.config.timeouts[timeout_of(number, flow)] * tick),
        packets=None if counts is None else counts.packets,
        bytes=None if counts is None else counts.bytes,
        age=None if counts is None else round(clock.age(counts.made) * tick),
    )


def _goes_to(
    flow: _abi.Flow, source: IPv4Address | IPv6Address, destination: IPv4Address | IPv6Address
) -> IPv4Address | IPv6Address:
    """Whose address its packets have for their destination as they leave."""
    if flow.flags & _abi.FlowFlag.HAIRPIN:
        return source
    if not flow.flags & _abi.FlowFlag.NAT_DST:
        return destination
    raw = bytes(flow.address)
    return IPv4Address(raw[12:]) if source.version == 4 else IPv6Address(raw)


def _state(flow: _abi.Flow) -> str:
    if flow.flags & _abi.FlowFlag.CLOSING:
        return "closed"
    if flow.flags & _abi.FlowFlag.HALF:
        return "opening"
    return "closing" if flow.flags & _abi.FlowFlag.FIN else "established"


def _nat(flow: _abi.Flow, version: int) -> str:
    if not flow.flags & (_abi.FlowFlag.NAT_SRC | _abi.FlowFlag.NAT_DST):
        return ""
    raw = bytes(flow.address)
    return endpoint(str(ip_address(raw[12:] if version == 4 else raw)), flow.port)


def _port_of(nat: str) -> int:
    return int(nat.rpartition(":")[2] or 0)


def endpoint(address: str, port: int | None) -> str:
    """An address with its port, as people write it."""
    host = f"[{address}]" if ":" in address and port is not None else address
    return host if port is None else f"{host}:{port}"
