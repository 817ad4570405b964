# SPDX-License-Identifier: BSD-2-Clause
"""The mesh that single packets are sent into, and what is seen of each.

                            ┌─ a   red    198.18.0.1  2001:db8::1
    the host's stack ─ mesh ┼─ b   red    198.18.0.2  2001:db8::2:0:0
                            ├─ c   blue   198.18.0.3  2001:db8::3
                            ├─ d   blue   198.18.0.4  2001:db8::4   in audit
                            └─ e   blue   198.18.0.5  (IPv4 alone)

Services: see SERVICES; policies: see POLICIES. The interfaces are down, so that nothing moves a
counter but the packet of a test.
"""

import ctypes
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from ebpfmesh import _abi, apply
from ebpfmesh._abi import Direction, Reason
from ebpfmesh.apply.programs import load_sources
from ebpfmesh.inject.compose import Tables
from ebpfmesh.kernel import bpf, interface, netns
from ebpfmesh.kernel.maps import Maps, tenant_ids
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.kernel.programs import AT_HOST, EARLY, OUT, by_file
from ebpfmesh.model import Function, Identity, Limits, Mesh, Policy, Service
from ebpfmesh.state.record import Record
from support.packets import Peer

NAME = "lab"
LIMITS = Limits(
    functions=15, tenants=3, services=63, rules=256, flows=512, half_open=256, fragments=64,
    prefixes=32, sockets=64,
)  # fmt: skip
SLOW = "mesh_slow_fn"
FLOWS = ("mesh_flow4", "mesh_flow6")
STATE = (*FLOWS, "mesh_fragment")


def _function(
    name: str,
    tenant: str,
    number: int,
    *,
    tail: str = "",
    both: bool = True,
    audit: bool = False,
    group: str | None = None,
) -> Function:
    return Function(
        name=name,
        tenant=tenant,
        address4=IPv4Address(f"198.18.0.{number}"),
        address6=IPv6Address(f"2001:db8::{number}{tail}") if both else None,
        audit=audit,
        group=group,
    )


def _service(
    name: str, number: int, protocol: str, port: int, target: int, *functions: str
) -> Service:
    return Service(
        name=name,
        address4=IPv4Address(f"198.19.0.{number}"),
        address6=IPv6Address(f"2001:db8:1::{number}"),
        protocol=protocol,
        port=port,
        target_port=target,
        functions=functions,
    )


def policy(
    source: str, destination: str, match: str = "any", action: str = "allow", **rest: int
) -> Policy:
    """A rule; ``match`` is any, a protocol, protocol/port, protocol/first-last, or icmp/type."""
    protocol, _, ports = match.partition("/")
    first, _, last = ports.partition("-")
    icmp = protocol == "icmp"
    return Policy(
        source=Identity.parse(source),
        destination=Identity.parse(destination),
        protocol=protocol,
        port=0 if icmp else int(first or 0),
        port_end=int(last or 0),
        icmp_type=int(ports) if icmp and ports else None,
        action=action,
        **rest,
    )


FUNCTIONS = (
    _function("a", "red", 1, group="left"),
    _function("b", "red", 2, tail=":0:0"),
    _function("c", "blue", 3, group="right"),
    _function("d", "blue", 4, audit=True, group="right"),
    _function("e", "blue", 5, both=False),
)
SERVICES = (
    _service("web", 1, "tcp", 80, 8080, "b"),
    _service("same", 2, "tcp", 8080, 8080, "b"),
    _service("dns", 3, "udp", 53, 5353, "b"),
    _service("time", 4, "udp", 123, 123, "b"),
    _service("empty", 5, "tcp", 80, 80),
    _service("self", 6, "tcp", 80, 80, "a"),
    _service("shop", 7, "tcp", 80, 8080, "c"),
    _service("closed", 8, "tcp", 80, 8080, "c"),
    _service("mirror", 9, "udp", 53, 5353, "a"),
)
POLICIES = (
    policy("tenant:red", "service:shop", "tcp/80"),
    policy("function:a", "function:c", "tcp/443"),
    policy("function:a", "function:b", "udp/666", "deny"),
    policy("function:a", "function:c", "udp/1", "deny", priority=20),
    policy("tenant:red", "function:c", "udp/1", "allow", priority=30),
    policy("function:a", "function:c", "udp/2", "deny", priority=30),
    policy("tenant:red", "function:c", "udp/2", "allow", priority=20),
    policy("function:a", "function:c", "udp/3", "deny"),
    policy("tenant:red", "function:c", "udp/3", "allow"),
    policy("tenant:red", "outside", "tcp/25", "deny"),
    policy("outside", "function:a", "tcp/22"),
    policy("function:a", "function:c", "tcp/9", "reject"),
    policy("function:a", "function:c", "udp/9", "reject"),
    policy("function:a", "function:c", "udp/10", "deny"),
    policy("tenant:red", "function:c", "udp/10", "reject"),
    policy("function:a", "function:c", "udp/11", "reject"),
    policy("tenant:red", "function:c", "udp/11", "allow"),
    policy("function:a", "function:d", "udp/9", "reject"),
    policy("function:b", "function:c", "icmp/8", "reject"),
    policy("function:b", "service:closed", "tcp/80", "reject"),
    policy("tenant:red", "outside", "tcp/26", "reject"),
    policy("outside", "function:a", "tcp/9", "reject"),
    policy("outside", "function:a", "udp/9", "reject"),
)
MESH = Mesh(name=NAME, limits=LIMITS, functions=FUNCTIONS, services=SERVICES, policies=POLICIES)

HAIRPIN = Peer("hairpin", str(MESH.prefix4.network_address), str(MESH.prefix6.network_address))
"""What stands for a function that reaches itself through a service."""

NOBODY = Peer("outside", "203.0.113.9", "2001:db8:ffff::9", "02:00:00:00:00:99")
"""Somebody who is not in the mesh; as a sender: behind an interface that is no function's."""


def peer(name: str) -> Peer:
    """A function of the mesh; ``e`` has an IPv6 address here that is not its own."""
    function = MESH.function(name)
    six = str(function.address6 or IPv6Address("2001:db8::5"))
    return Peer(name, str(function.address4), six, interface.mac_of(NAME, name))


def service(name: str) -> Peer:
    """A service of the mesh, as destination of packets."""
    found = MESH.service(name)
    return Peer(name, str(found.address4), str(found.address6))


@dataclass(frozen=True)
class Hook:
    """A program and how it is run; its three answers are those of the kernel's header files."""

    program: str
    redirect: int
    drop: int
    ok: int
    direction: Direction = Direction.FROM_FN

    @property
    def is_xdp(self) -> bool:
        """Whether its context is a struct xdp_md."""
        return self is FN_XDP

    def context(self, ifindex: int, length: int, segments: int, segment: int = 0) -> bytes:
        """What the kernel takes as context: struct xdp_md, or struct __sk_buff up to gso_size."""
        if self.is_xdp:
            return struct.pack("=6I", 0, length, 0, ifindex, 0, 0)
        skb = bytearray(192)
        struct.pack_into("=I", skb, 40, ifindex)
        struct.pack_into("=I", skb, 164, segments)
        struct.pack_into("=I", skb, 176, segment)
        return bytes(skb)

    def word(self, verdict: int) -> str:
        """A program's answer in words that are the same for every hook."""
        words = {self.redirect: "forward", self.drop: "drop", self.ok: "pass"}
        return words.get(verdict, f"verdict {verdict}")


TC = Hook("mesh_from_fn", redirect=7, drop=2, ok=0)
FN_XDP = Hook("mesh_fn_xdp", redirect=4, drop=1, ok=2)
TO_FN = Hook("mesh_to_fn", redirect=7, drop=2, ok=0, direction=Direction.TO_FN)


@dataclass(frozen=True)
class Drop:
    """Where a drop is counted; ``audited``: the packet passed."""

    function: str
    direction: Direction
    reason: Reason
    audited: bool = False


COUNTERS = ("mesh_meter", "mesh_drops")
Snapshot = dict[tuple[str, bytes], bytes]
"""Of each counter, by its map and key, the value of all CPUs."""

Counters = dict[Drop | tuple[str, str], tuple[int, ...]]
"""Of a Drop (packets, bytes); of (function, tenant of its peer) the fields of a Meter."""


@dataclass(frozen=True)
class Seen:
    """What became of a packet: the verdict in a word, frame and mark after it, what was counted."""

    verdict: str
    frame: bytes
    counted: Counters = field(default_factory=dict)
    mark: int = 0


MARK, CB = 8, 48
"""Offsets in struct __sk_buff."""


@dataclass(frozen=True)
class Answer:
    """What a dry run says: the numbers are those of the record."""

    reason: Reason
    rule: int
    receiver: str
    service: int
    audited: bool
    port: int
    rejected: bool = False


class Lab:
    """The mesh MESH with its programs open; state of one test does not reach the next."""

    def __init__(self) -> None:
        self.maps = Maps(Pins(NAME))
        load_sources(Pins(NAME), by_file((*EARLY.values(), *AT_HOST, OUT)))
        names = (*(hook.program for hook in (TC, FN_XDP, TO_FN)), SLOW)
        self._programs = {name: bpf.obj_get(Pins(NAME).progs / name) for name in names}
        self._changed = self._moved = False
        self._refresh()

    @property
    def injected(self) -> Tables:
        """The maps that what is injected names."""
        names = ("mesh_injected", "mesh_breaker", "mesh_sampling")
        return Tables(*(self.maps[name].fd.fileno() for name in names))

    def close(self) -> None:
        """Close the programs."""
        for program in self._programs.values():
            program.close()

    def _refresh(self) -> None:
        """Read ids and interfaces, which another set of functions has changed; take links down."""
        record = Record(NAME)
        try:
            rows = record.functions()
            self._functions = {0: "outside"} | record.names("function")
            self.tenants = {0: "outside"} | record.names("tenant")
        finally:
            record.close()
        self.ids = {name: number for number, name in self._functions.items()}
        self.ifindex = {row.function.name: row.attachment.ifindex for row in rows}
        self.ifindex["outside"] = socket.if_nametoindex("lo")
        with netns.rtnetlink() as ip:
            for row in rows:
                ip.link("set", index=row.attachment.ifindex, state="down")

    def change(self, change: Callable[[Mesh], Mesh]) -> None:
        """Change the mesh as a user would; it is MESH again in the next test."""
        self._changed = True
        steps = {step.kind for step in apply.edit(NAME, change)}
        if steps & {"add-function", "remove-function"}:
            self._moved = True
            self._refresh()

    def set_policies(self, *policies: Policy) -> Mesh:
        """Replace all policies; the mesh as it is then."""
        mesh = MESH.model_copy(update={"policies": policies})
        self.change(lambda _: mesh)
        return mesh

    def rebuild(self) -> None:
        """Make everything again, with the ids and interfaces it had at first."""
        for mesh in (Mesh(name=NAME, limits=LIMITS), MESH):
            self.change(lambda _, mesh=mesh: mesh)
        self._changed = self._moved = False

    def reset(self) -> None:
        """Back to MESH, without a flow."""
        if self._moved:
            self.rebuild()
        elif self._changed:
            self.change(lambda _: MESH)
            self._changed = False
        self.forget_flows()

    def flows(self) -> dict[bytes, _abi.Flow]:
        """All flow entries."""
        return {bytes(key): flow for name in FLOWS for key, flow in self.maps[name].items()}

    def counts(self) -> dict[_abi.Count, int]:
        """What is counted for ``doctor``."""
        return {_abi.Count(key.value): row.value for key, row in self.maps["mesh_counts"].items()}

    def forget_flows(self) -> None:
        """Empty the maps that packets write, but for the counters."""
        self.forget_answers()
        for flows in (self.maps[name] for name in STATE):
            for key, _ in list(flows.items()):
                flows.delete(key)
        slots = self.maps["mesh_slot"]
        for key, _ in list(slots.filled()):
            slots.set(key, _abi.Slot())

    def forget_answers(self) -> None:
        """Nobody got an ICMP message in this tick."""
        for key, answers in self.maps["mesh_answers"].items():
            if any(answers.sent):
                self.maps["mesh_answers"].set(key, _abi.Answers())

    def run(
        self, hook: Hook, function: str, frame: bytes, *, segments: int = 0, mark: int = 0
    ) -> Seen:
        """Run a hook of a function's interface on a frame."""
        context = bytearray(hook.context(self.ifindex[function], len(frame), segments))
        if mark:
            struct.pack_into("=I", context, MARK, mark)
        before = self.snapshot()
        run = bpf.prog_test_run(self._programs[hook.program], frame, context=bytes(context))
        (marked,) = struct.unpack_from("=I", run.context, MARK) if not hook.is_xdp else (0,)
        return Seen(hook.word(run.verdict), run.packet, self.moved(before), marked)

    def try_run(self, hook: Hook, frame: bytes, context: bytes) -> bytes:
        """The frame as a hook leaves it; nothing else is looked at, so many can be tried."""
        return bpf.prog_test_run(self._programs[hook.program], frame, context=context).packet

    def ask(self, direction: Direction, function: str, frame: bytes) -> "Answer":
        """What would become of a packet (DRY_RUN)."""
        context = bytearray(TC.context(self.ifindex[function], len(frame), 0))
        struct.pack_into("=I", context, MARK, _abi.DRY_RUN)
        struct.pack_into("=I", context, CB, direction)
        run = bpf.prog_test_run(self._programs[SLOW], frame, context=bytes(context))
        assert run.packet == frame
        words = struct.unpack_from(f"={_abi.Dry.WORDS}I", run.context, CB)
        reason, rule, receiver, service, port = words
        assert TC.word(run.verdict) == ("drop" if reason else "pass")
        who = self._functions[receiver]
        audited, rejected = bool(service & _abi.DRY_AUDITED), bool(service & _abi.DRY_REJECTED)
        return Answer(Reason(reason), rule, who, service & 0xFFFF, audited, port, rejected)

    def snapshot(self) -> Snapshot:
        """Everything that is counted, as the kernel gives it; see ``moved``."""
        found: Snapshot = {}
        for name in COUNTERS:
            table = self.maps[name]
            sizes = ctypes.sizeof(table.spec.key), ctypes.sizeof(table.spec.value)
            items = bpf.map_items(table.fd, sizes[0], sizes[1] * bpf.possible_cpus())
            found |= {(name, key): value for key, value in items}
        return found

    def moved(self, before: Snapshot) -> Counters:
        """The counters that moved since a snapshot, and how far."""
        counted: Counters = {}
        for (name, key), value in self.snapshot().items():
            old = before.get((name, key), bytes(len(value)))
            if old != value:
                fields = len(self.maps[name].spec.value._fields_)
                numbers = zip(_sum(value, fields), _sum(old, fields), strict=True)
                counted[self._counter(name, key)] = tuple(now - then for now, then in numbers)
        return counted

    def _counter(self, name: str, key: bytes) -> Drop | tuple[str, str]:
        if name == "mesh_meter":
            slot = int.from_bytes(key, sys.byteorder)
            function, tenant = divmod(slot, tenant_ids(LIMITS))
            return self._functions[function], self.tenants[tenant]
        drop = _abi.DropKey.from_buffer_copy(key)
        return Drop(
            self._functions[drop.function],
            Direction(drop.direction),
            Reason(drop.reason),
            bool(drop.audited),
        )


def _sum(value: bytes, fields: int) -> list[int]:
    """A counter's fields, of all CPUs; each has eight bytes."""
    words = struct.unpack(f"={len(value) // 8}Q", value)
    return [sum(words[field::fields]) for field in range(fields)]
