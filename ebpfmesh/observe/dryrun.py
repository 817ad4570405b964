# SPDX-License-Identifier: BSD-2-Clause
"""What would become of a packet: the loaded programs are asked, and remember nothing of it.

The packet is the first of a flow. It is run by BPF_PROG_TEST_RUN with a mark that makes the slow
path say what it decided instead of doing it. XDP in front of an uplink would count what it denies,
so its list is looked up in its place.
"""

import ctypes
import struct
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Literal

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether

from ebpfmesh import _abi
from ebpfmesh.errors import MeshError, NotFound, UsageError
from ebpfmesh.kernel import bpf, deny
from ebpfmesh.kernel.programs import CALLS
from ebpfmesh.model import Address, Service, suggest
from ebpfmesh.observe.view import OUTSIDE, View
from ebpfmesh.state import early
from ebpfmesh.state.place import problem, uplink_problem
from ebpfmesh.state.rows import FunctionRow, RemoteRow, UplinkRow

SOMEBODY: dict[int, Address] = {
    4: IPv4Address("203.0.113.1"),
    6: IPv6Address("2001:db8:ffff:ffff::1"),
}
"""Stands for the outside where no address is given."""
PROGRAM = CALLS[_abi.CALL_SLOW]
SOURCE_PORT = 49152  # the first ephemeral one (RFC 6335, 6)
NEXT = 0xFFFFFFFF
"""TC_ACT_UNSPEC: it is the host's, and goes on to its stack as it came (verdict_next())."""

# struct __sk_buff, linux/include/uapi/linux/bpf.h
SKB_SIZE, SKB_MARK, SKB_IFINDEX, SKB_CB = 192, 8, 40, 48

Protocol = Literal["tcp", "udp", "icmp"]


@dataclass(frozen=True)
class Party:
    """Who sends or gets the packet: a function, a service, or an address of the outside.

    Or the host's address at an ``uplink``, with the ``port`` there.
    """

    function: FunctionRow | None = None
    service: Service | None = None
    address: Address | None = None
    uplink: UplinkRow | None = None
    remote: RemoteRow | None = None
    port: int | None = None

    def __str__(self) -> str:
        if self.uplink:
            return f"{self.uplink.name}:{self.port}"
        if self.function or self.remote:
            return f"function:{self.name}"
        if self.service:
            return f"service:{self.service.name}"
        return f"{OUTSIDE}:{self.address}" if self.address else OUTSIDE

    @property
    def name(self) -> str:
        """Of a function or a remote what it is called; else the outside."""
        if self.remote:
            return self.remote.name
        return self.function.function.name if self.function else OUTSIDE

    def at(self, version: int) -> Address | None:
        """Its address of IP version 4 or 6."""
        if self.remote:
            return getattr(self.remote.remote, f"address{version}", None)
        if self.uplink:
            return next((one for one in self.uplink.addresses if one.version == version), None)
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

    ``uplink`` is where it comes in, empty: by the host's stack, or from a function. What is not for
    the mesh there has the verdict ``host``: the host's stack gets it as it came. ``denied`` is the
    prefix of the deny list for which it ends before either, empty if there is none.
    """

    verdict: Literal["pass", "drop", "host"]
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
    uplink: str
    denied: str = ""


def party(view: View, text: str) -> Party:
    """Who is meant by ``function:NAME``, ``service:NAME``, ``outside[:ADDRESS]``, or without kind.

    Without one it is whom ``View.identity`` finds. Of a group it is the first function.
    ``UPLINK:PORT`` is a port of the host's address at an uplink, as in ``publish``.
    """
    name, _, number = text.rpartition(":")
    row = view.record.uplink(name) if name and number.isdecimal() else None
    if row:
        if not 0 < int(number) < 1 << 16:
            raise UsageError(f"{number} is not a port", hint="1 to 65535")
        return Party(uplink=row, port=int(number))
    kind, _, name = view.identity(text).partition(":")
    if kind == OUTSIDE:
        return Party(address=_outside(view, name) if name else None)
    if kind in ("function", "group"):
        remote = view.record.remote(name)
        return Party(remote=remote) if remote else Party(function=_function(view, name))
    if kind == "service":
        return Party(service=_service(view, name))
    if number.isdecimal():
        known = [one.name for one in view.record.uplinks()]
        uplink = text.rpartition(":")[0]
        raise NotFound(f"there is no uplink {uplink}", hint=suggest(uplink, known))
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


@dataclass(frozen=True)
class _Flow:
    """Its first packet: addresses, and ports (None: ICMP)."""

    protocol: Protocol
    ends: tuple[Address, Address]
    ports: tuple[int | None, int | None]


def ask(
    view: View, source: Party, destination: Party, *, protocol: Protocol | None = None,
    port: int | None = None, source_port: int = SOURCE_PORT, version: int | None = None,
    uplink: str = "",
) -> Answer:  # fmt: skip
    """What would become of the first packet of a flow.

    Protocol and port are a service's own unless given, or those of what is published at the port of
    an uplink; else TCP if there is a port, and an echo request if not. The IP version is 4 unless
    only 6 will do. It comes in by the ``uplink`` of this name, or of the destination.
    """
    by = _by(view, source, destination, uplink)
    _check(view, source, destination, by)
    protocol, port = _asked(view, destination, protocol, port)
    ends = _ends(source, destination, version)
    flow = _Flow(protocol, ends, (source_port, port) if port is not None else (None, None))
    row = source.function or destination.function
    packet = _packet(view, row, flow, outgoing=source.function is not None)
    ifindex = by.ifindex if by else row.attachment.ifindex if row else 0
    direction = _abi.Direction.FROM_FN if source.function else _abi.Direction.TO_FN
    context = bytearray(SKB_SIZE)
    struct.pack_into("=I", context, SKB_MARK, _abi.DRY_RUN)
    struct.pack_into("=I", context, SKB_IFINDEX, ifindex)
    struct.pack_into("=I", context, SKB_CB, _abi.Direction.FROM_UPLINK if by else direction)
    with bpf.obj_get(view.pins.progs / PROGRAM) as program:
        run = bpf.prog_test_run(program, packet, context=bytes(context))
    answer = _answer(view, run.context, source.name, flow, by.name if by else "")
    if by and (prefix := _denying(view, by, ends[0])):
        return _denied(answer, prefix)
    return _hosts(answer) if run.verdict == NEXT else answer


def _denying(view: View, uplink: UplinkRow, source: Address) -> str:
    """The prefix for which XDP drops what comes from there; empty if it does not, or is not there.

    All programs of ours at XDP of an uplink ask the list for the first packet of a flow.
    """
    if not early.ours(early.has(view.pins, uplink)):
        return ""
    entry = deny.find(view.maps, uplink.ifindex, source)
    return str(entry.block.prefix) if entry else ""


def _by(view: View, source: Party, destination: Party, name: str) -> UplinkRow | None:
    """The uplink that the packet comes in by, if it does by one."""
    row = view.record.uplink(name) if name else None
    if name and not row:
        hint = suggest(name, [one.name for one in view.record.uplinks()])
        raise NotFound(f"there is no uplink {name} in mesh {view.name}", hint=hint)
    if source.function:
        if row:
            what = f"what function {source.function.function.name} sends comes in by no uplink"
            raise UsageError(what, hint="--uplink is for what outside sends")
        return None
    if source.remote:
        return view.record.uplink(source.remote.remote.uplink) if row is None else row
    return row or destination.uplink


def _asked(
    view: View, destination: Party, protocol: Protocol | None, port: int | None
) -> tuple[Protocol, int | None]:
    """Protocol and port, whatever of them was given."""
    served = destination.service
    if destination.uplink and destination.port is not None:
        if port not in (None, destination.port):
            raise UsageError(f"{destination} has a port already", hint="leave --port out")
        port = destination.port
        served = served or _published(view, destination.uplink.name, port)
    protocol = protocol or (served.protocol if served else "tcp" if port else "icmp")
    if protocol != "icmp" and port is None:
        if served is None:
            raise UsageError(f"{protocol} needs a port", hint="add --port, such as --port 80")
        port = served.port
    if protocol == "icmp" and port is not None:
        raise UsageError("icmp has no port", hint="leave --port out")
    return protocol, port


def _published(view: View, uplink: str, port: int) -> Service | None:
    """The service at a port of an uplink; of two the one of TCP."""
    found = [
        service
        for service in view.record.services()
        for one in service.published
        if one.uplink == uplink and one.first <= port <= one.last
    ]
    return min(found, key=lambda service: service.protocol, default=None)


def _check(view: View, source: Party, destination: Party, by: UplinkRow | None) -> None:
    if source.service:
        hint = f"name one of its functions: {', '.join(source.service.functions) or 'it has none'}"
        raise UsageError("a service opens no flows", hint=hint)
    if source.uplink:
        raise UsageError("an uplink opens no flows", hint="say outside, or outside:ADDRESS")
    if source.function is None and destination.function is None and by is None:
        what = f"from {source} to {destination} no packet meets the mesh"
        hint = "name a function for one of the two, or where it comes in: --uplink NAME"
        if destination.service:
            what = "a service's address is for functions: the outside does not reach it"
            hint = ", ".join(map(str, destination.service.published)) or "it is published nowhere"
            hint = f"name a port that it is published at: {hint}"
        raise UsageError(what, hint=hint)
    for row in (source.function, destination.function):
        if row and (what := problem(view.ip, row)):
            raise MeshError(f"function {row.function.name}: {what}", hint="ebpfmesh doctor")
    if by and (broken := uplink_problem(view.ip, view.pins, by)):
        raise MeshError(f"uplink {by.name}: {broken}", hint="ebpfmesh doctor")


def _ends(source: Party, destination: Party, version: int | None) -> tuple[Address, Address]:
    """Both addresses, of the version asked for or of the first that both have."""
    for one in (version,) if version else (4, 6):
        ends = source.at(one), destination.at(one)
        if ends[0] is not None and ends[1] is not None:
            return ends[0], ends[1]
    what = f"of version {version}" if version else "of the same IP version"
    raise UsageError(f"{source} and {destination} have no addresses {what}", hint="show functions")


def _packet(view: View, row: FunctionRow | None, flow: _Flow, *, outgoing: bool) -> bytes:
    """The frame as it is on the function's host-side interface, or at an uplink."""
    known = view.maps["mesh_function"].get(ctypes.c_uint32(row.id if row else 0))
    known = known or _abi.Function()
    own, gateway = (bytes(mac).hex(":") for mac in (known.mac, known.gateway))
    ethernet = Ether(src=own, dst=gateway) if outgoing else Ether(src=gateway, dst=own)
    source, destination = map(str, flow.ends)
    six = flow.ends[0].version == 6
    ip: Any = (IPv6 if six else IP)(src=source, dst=destination)
    if flow.protocol == "icmp":
        return bytes(ethernet / ip / (ICMPv6EchoRequest() if six else ICMP()))
    layer = TCP(flags="S") if flow.protocol == "tcp" else UDP()
    layer.sport, layer.dport = flow.ports
    return bytes(ethernet / ip / layer)


def _hosts(answer: Answer) -> Answer:
    """Of a packet that is none of the mesh's: nothing was judged."""
    return replace(
        answer, verdict="host", reason="", number=0, text="", audited=False, rejected=False,
        rule=None, rule_text="", service="", receiver="", target_port=None,
    )  # fmt: skip


def _denied(answer: Answer, prefix: str) -> Answer:
    """Of a packet that ends at XDP: nothing else was asked, whatever it is for."""
    reason = _abi.Reason.DENIED
    return replace(
        _hosts(answer), verdict="drop", reason=reason.name, number=int(reason),
        text=_abi.REASON_TEXT[reason], denied=prefix,
    )  # fmt: skip


def _answer(view: View, context: bytes, sender: str, flow: _Flow, uplink: str) -> Answer:
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
        protocol=flow.protocol,
        source=str(flow.ends[0]),
        source_port=flow.ports[0],
        destination=str(flow.ends[1]),
        destination_port=flow.ports[1],
        service=view.name_of("service", service) if service else "",
        sender=sender,
        receiver=view.name_of("function", receiver),
        target_port=target if flow.protocol != "icmp" and target else None,
        uplink=uplink,
    )
