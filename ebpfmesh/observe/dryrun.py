# SPDX-License-Identifier: BSD-2-Clause
"""What would become of a packet: the loaded programs are asked, and remember nothing of it.

The packet is the first of a flow. It is run by BPF_PROG_TEST_RUN with a mark that makes the slow
path say what it decided instead of doing it.
"""

import ctypes
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Literal

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether

from ebpfmesh import _abi
from ebpfmesh.errors import MeshError, UsageError
from ebpfmesh.kernel import bpf
from ebpfmesh.kernel.programs import CALLS
from ebpfmesh.model import Address, Service
from ebpfmesh.observe.view import OUTSIDE, View
from ebpfmesh.state.place import problem
from ebpfmesh.state.record import FunctionRow

SOMEBODY: dict[int, Address] = {
    4: IPv4Address("203.0.113.1"),
    6: IPv6Address("2001:db8:ffff:ffff::1"),
}
"""Stands for the outside where no address is given."""
PROGRAM = CALLS[_abi.CALL_SLOW]
SOURCE_PORT = 49152  # the first ephemeral one (RFC 6335, 6)

# struct __sk_buff, linux/include/uapi/linux/bpf.h
SKB_SIZE, SKB_MARK, SKB_IFINDEX, SKB_CB = 192, 8, 40, 48

Protocol = Literal["tcp", "udp", "icmp"]


@dataclass(frozen=True)
class Party:
    """Who sends or gets the packet: a function, a service, or an address of the outside."""

    function: FunctionRow | None = None
    service: Service | None = None
    address: Address | None = None

    def __str__(self) -> str:
        if self.function:
            return f"function:{self.function.function.name}"
        if self.service:
            return f"service:{self.service.name}"
        return f"{OUTSIDE}:{self.address}" if self.address else OUTSIDE

    def at(self, version: int) -> Address | None:
        """Its address of IP version 4 or 6."""
        if self.function is None and self.service is None and self.address is None:
            return SOMEBODY[version]
        if self.address:
            return self.address if self.address.version == version else None
        owner = self.function.function if self.function else self.service
        return getattr(owner, f"address{version}", None)


@dataclass(frozen=True)
class Answer:
    """What the programs decided of a packet; ``audited``: it passes, but would be dropped.

    ``sender`` is the function that sends it, or the outside.
    ``rejected``: it is dropped, and its sender is told (by a TCP reset, or ICMP unreachable).
    ``rule`` is the number of the rule that decided, None: none matched, or none was asked.
    ``receiver`` is the function (a service's backend), or the outside. ``target_port`` is the
    receiver's own. The ports of ICMP are None.
    """

    verdict: Literal["pass", "drop"]
    reason: str
    number: int
    text: str
    audited: bool
    rejected: bool
    rule: int | None
    rule_text: str
    protocol: str
    source: str
    source_port: int | None
    destination: str
    destination_port: int | None
    service: str
    sender: str
    receiver: str
    target_port: int | None


def party(view: View, text: str) -> Party:
    """Who is meant by ``function:NAME``, ``service:NAME``, ``outside[:ADDRESS]``, or without kind.

    Without one it is whom ``View.identity`` finds. Of a group it is the first function.
    """
    kind, _, name = view.identity(text).partition(":")
    if kind == OUTSIDE:
        return Party(address=_outside(view, name) if name else None)
    if kind in ("function", "group"):
        return Party(function=_function(view, name))
    if kind == "service":
        return Party(service=_service(view, name))
    hint = "name a function, a service or an address, or say outside"
    raise UsageError(f"no packet is sent by or to {text}", hint=hint)


def _function(view: View, name: str) -> FunctionRow:
    first = view.named(name)[0]
    return next(row for row in view.functions if row.function.name == first)


def _service(view: View, name: str) -> Service:
    view.check_service(name)
    return next(service for service in view.record.services() if service.name == name)


def _outside(view: View, text: str) -> Address:
    try:
        address = ip_address(text)
    except ValueError:
        hint = "such as outside:192.0.2.1"
        raise UsageError(f"{text} is not an address", hint=hint) from None
    if owner := view.record.address_owner(address):
        raise UsageError(f"{address} is the address of {owner}", hint="it is not outside")
    return address


def ask(
    view: View, source: Party, destination: Party, *, protocol: Protocol | None = None,
    port: int | None = None, source_port: int = SOURCE_PORT, version: int | None = None,
) -> Answer:  # fmt: skip
    """What would become of the first packet of a flow.

    Protocol and port are a service's own unless given; else TCP if there is a port, and an echo
    request if not. The IP version is 4 unless only 6 will do.
    """
    _check(view, source, destination)
    served = destination.service
    protocol = protocol or (served.protocol if served else "tcp" if port else "icmp")
    if protocol != "icmp" and port is None:
        if served is None:
            raise UsageError(f"{protocol} needs a port", hint="add --port, such as --port 80")
        port = served.port
    if protocol == "icmp" and port is not None:
        raise UsageError("icmp has no port", hint="leave --port out")
    ends = _ends(source, destination, version)
    ports = (source_port, port) if port is not None else (None, None)
    row = source.function or destination.function
    if row is None:  # _check() has seen to it
        raise AssertionError
    packet = _packet(view, row, ends, protocol, ports, outgoing=source.function is not None)
    direction = _abi.Direction.FROM_FN if source.function else _abi.Direction.TO_FN
    context = bytearray(SKB_SIZE)
    struct.pack_into("=I", context, SKB_MARK, _abi.DRY_RUN)
    struct.pack_into("=I", context, SKB_IFINDEX, row.attachment.ifindex)
    struct.pack_into("=I", context, SKB_CB, direction)
    with bpf.obj_get(view.pins.progs / PROGRAM) as program:
        run = bpf.prog_test_run(program, packet, context=bytes(context))
    sender = row.function.name if source.function else OUTSIDE
    return _answer(view, run.context, sender, ends, protocol, ports)


def _check(view: View, source: Party, destination: Party) -> None:
    if source.service:
        hint = f"name one of its functions: {', '.join(source.service.functions) or 'it has none'}"
        raise UsageError("a service opens no flows", hint=hint)
    if source.function is None and destination.function is None:
        what = f"from {source} to {destination} no packet meets the mesh"
        if destination.service:
            what = "services are for functions: the outside does not reach them"
        raise UsageError(what, hint="name a function for one of the two")
    for row in (source.function, destination.function):
        if row and (what := problem(view.ip, row)):
            raise MeshError(f"function {row.function.name}: {what}", hint="ebpfmesh doctor")


def _ends(source: Party, destination: Party, version: int | None) -> tuple[Address, Address]:
    """Both addresses, of the version asked for or of the first that both have."""
    for one in (version,) if version else (4, 6):
        ends = source.at(one), destination.at(one)
        if ends[0] is not None and ends[1] is not None:
            return ends[0], ends[1]
    what = f"of version {version}" if version else "of the same IP version"
    raise UsageError(f"{source} and {destination} have no addresses {what}", hint="show functions")


def _packet(
    view: View, row: FunctionRow, ends: tuple[Address, Address], protocol: Protocol,
    ports: tuple[int | None, int | None], outgoing: bool,
) -> bytes:  # fmt: skip
    """The frame as it is on the function's host-side interface."""
    known = view.maps["mesh_function"].get(ctypes.c_uint32(row.id)) or _abi.Function()
    own, gateway = (bytes(mac).hex(":") for mac in (known.mac, known.gateway))
    ethernet = Ether(src=own, dst=gateway) if outgoing else Ether(src=gateway, dst=own)
    source, destination = map(str, ends)
    six = ends[0].version == 6
    ip: Any = (IPv6 if six else IP)(src=source, dst=destination)
    if protocol == "icmp":
        return bytes(ethernet / ip / (ICMPv6EchoRequest() if six else ICMP()))
    layer = TCP(flags="S") if protocol == "tcp" else UDP()
    layer.sport, layer.dport = ports
    return bytes(ethernet / ip / layer)


def _answer(
    view: View, context: bytes, sender: str, ends: tuple[Address, Address], protocol: Protocol,
    ports: tuple[int | None, int | None],
) -> Answer:  # fmt: skip
    """What verdict.h wrote into the control block."""
    words = struct.unpack_from(f"={_abi.Dry.WORDS}I", context, SKB_CB)
    rule, receiver, target = (words[at] for at in (_abi.Dry.RULE, _abi.Dry.RECEIVER, _abi.Dry.PORT))
    service = words[_abi.Dry.SERVICE] & 0xFFFF
    audited = bool(words[_abi.Dry.SERVICE] & _abi.DRY_AUDITED)
    rejected = bool(words[_abi.Dry.SERVICE] & _abi.DRY_REJECTED)
    reason = _abi.Reason(words[_abi.Dry.REASON])
    passes = audited or reason == _abi.Reason.OK
    if audited:
        reason = _abi.Reason.POLICY
    rules = dict(view.record.policies())
    return Answer(
        verdict="pass" if passes else "drop",
        reason=reason.name if reason else "",
        number=int(reason),
        text=_abi.REASON_TEXT.get(reason, ""),
        audited=audited,
        rejected=rejected,
        rule=rule or None,
        rule_text=str(rules.get(rule, "")),
        protocol=protocol,
        source=str(ends[0]),
        source_port=ports[0],
        destination=str(ends[1]),
        destination_port=ports[1],
        service=view.name_of("service", service) if service else "",
        sender=sender,
        receiver=view.name_of("function", receiver),
        target_port=target if protocol != "icmp" and target else None,
    )
