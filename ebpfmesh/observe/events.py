# SPDX-License-Identifier: BSD-2-Clause
"""Events: what became of single packets, as the programs tell it while somebody listens.

Ids become names with what the record says when the event is read.
"""

import ctypes
import functools
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv6Address

from ebpfmesh import _abi
from ebpfmesh.errors import MeshError
from ebpfmesh.kernel.ring import Ring
from ebpfmesh.observe import rooms
from ebpfmesh.observe.counters import DIRECTIONS
from ebpfmesh.observe.flows import PROTOCOLS
from ebpfmesh.observe.view import OUTSIDE, View
from ebpfmesh.state.record import Record
from ebpfmesh.state.tables import Kind

KINDS = {kind.name.lower(): kind for kind in _abi.EventKind}
TICK = 0.5
"""Seconds after which a listener looks whether its mesh is still there."""


@dataclass(frozen=True)
class Event:
    """One packet and what became of it. ``time`` is UTC.

    ``kind``: ``drop`` (or it would have been, ``audited``), ``flow`` (it passed and opened a flow,
    or its flow was judged again), ``verdict`` (it passed; so does a flow's where only verdicts are
    asked for) or ``breaker``: the circuit breaker of what is ``injected`` by this name has opened
    with it, since packets took ``cost_ns`` there, in the median, of the ``limit_ns`` that they may,
    for so many ``seconds``; these four are empty in the others. ``function`` is the one at whose
    interface it was seen. Addresses are those of the packet, None where it has none; of an ICMP
    error they are those of an answer to what it quotes. Ports of ICMP are None, ``echo_id`` is
    theirs. ``rejected``: the sender is told that it was dropped. ``rule`` is the number of the rule
    that decided, None: no rule was asked, or none matched.
    """

    time: str
    kind: str
    reason: str
    number: int
    text: str
    audited: bool
    rejected: bool
    function: str
    direction: str
    sender: str
    receiver: str | None
    service: str
    protocol: str | None
    source: str | None
    source_port: int | None
    destination: str | None
    destination_port: int | None
    echo_id: int | None
    rule: int | None
    rule_text: str
    length: int
    injected: str
    cost_ns: int | None
    limit_ns: int | None
    seconds: float | None

    def concerns(self, function: str) -> bool:
        """Whether a function has a part in it."""
        return function in (self.function, self.sender, self.receiver)


class Names:
    """What the record says at one time: names of ids, owners of addresses, texts of rules."""

    def __init__(self, record: Record) -> None:
        self._record = record
        kinds: tuple[Kind, ...] = ("function", "service")
        self._names = {kind: record.names(kind) for kind in kinds}

    def name(self, kind: Kind, number: int) -> str:
        """Name of an id, ``#7`` if nothing has it any more; ``outside`` for 0."""
        return self._names[kind].get(number, f"#{number}") if number else OUTSIDE

    @functools.cached_property
    def owners(self) -> dict[str, str]:
        """Names of functions and services by address."""
        return dict(self._record.hosts())

    @functools.cached_property
    def interfaces(self) -> dict[int, str]:
        """Names of functions by the index of their host-side interface."""
        return {row.attachment.ifindex: row.function.name for row in self._record.functions()}

    @functools.cached_property
    def injected(self) -> dict[int, str]:
        """What is injected, by ids of its programs."""
        rows = self._record.injections()
        return {number: row.injection.name for row in rows for number in row.programs}

    @functools.cached_property
    def rules(self) -> dict[int, str]:
        """Rules by number."""
        return {number: str(rule) for number, rule in self._record.policies()}


class Stream:
    """The events of a mesh while ``apply.traced`` has them sent; the frame comes with each.

    What was sent before, and nobody read, is forgotten. ``taken``: how many ``give`` has given
    away that counted.
    """

    def __init__(self, view: View, ring: Ring) -> None:
        self.taken = 0
        self._view = view
        self._ring = ring
        self._names = Names(view.record)
        self._version = view.record.version()
        self._lost_before = self._lost()
        self._whose_before = rooms.lost_events(view)
        self._since_boot = time.time_ns() - time.monotonic_ns()
        ring.skip()

    def give(
        self, take: Callable[[Event, bytes], bool], *, function: str | None = None,
        count: int | None = None, seconds: float | None = None,
    ) -> None:  # fmt: skip
        """Give ``take`` the events that concern a function or a group, with their frames.

        ``take`` says whether one counts. The end comes after ``count`` of these, after ``seconds``,
        or when the mesh goes down. NotFound if there is no such function.
        """
        wanted = self._view.named(function) if function is not None else ()
        for event, frame in self.read(seconds):
            if not wanted or any(map(event.concerns, wanted)):
                self.taken += take(event, frame)
            if self.taken == count:
                return

    def read(self, seconds: float | None = None) -> Iterator[tuple[Event, bytes]]:
        """Events until ``seconds`` are over (None: no end), or the mesh is down."""
        deadline = float("inf") if seconds is None else time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            records = self._ring.read(min(left, TICK))
            try:
                self._refresh()
                told = [self.event(record) for record in records]
            except MeshError:  # the record went while names were read
                if self._view.record.is_current:
                    raise
                return
            yield from told
            if not records and not self._view.record.is_current:
                return

    def _refresh(self) -> None:
        if self._version != (version := self._view.record.version()):
            self._names, self._version = Names(self._view.record), version

    @property
    def lost(self) -> int:
        """Number of events that found no room since this began."""
        return self._lost() - self._lost_before

    def whose(self) -> Counter[str]:
        """Of these, how many were about packets of each tenant's."""
        return rooms.lost_events(self._view) - self._whose_before

    def _lost(self) -> int:
        key = ctypes.c_uint32(_abi.Count.EVENT_LOST)
        return int((self._view.maps["mesh_counts"].get(key) or _abi.CountValue()).value)

    def event(self, record: bytes) -> tuple[Event, bytes]:
        """What a record of the ring buffer says, and the captured part of its frame."""
        raw, names = _abi.Event.from_buffer_copy(record), self._names
        size = ctypes.sizeof(_abi.Event)
        reason = _abi.Reason(raw.reason)
        slow = raw.kind == _abi.EventKind.BREAKER
        parsed = any(bytes(raw.tuple))
        source = _address(raw.tuple.source) if parsed else None
        destination = _address(raw.tuple.destination) if parsed else None
        ports = (raw.tuple.source_port, raw.tuple.destination_port)
        number = raw.tuple.protocol
        protocol = PROTOCOLS.get(number, str(number)) if parsed else None
        has_ports = protocol not in ("icmp", None)
        event = Event(
            time=_utc(raw.time + self._since_boot),
            kind=_abi.EventKind(raw.kind).name.lower(),
            reason=reason.name if reason else "",
            number=int(reason),
            text=_opened(raw) if slow else _abi.REASON_TEXT.get(reason, ""),
            audited=bool(raw.audited),
            rejected=bool(raw.rejected),
            function=names.interfaces.get(raw.ifindex, f"ifindex {raw.ifindex}"),
            direction=DIRECTIONS[_abi.Direction(raw.direction)],
            sender=names.name("function", raw.sender),
            receiver=_receiver(names, raw.receiver, destination),
            service=names.name("service", raw.service) if raw.service else "",
            protocol=protocol,
            source=source,
            source_port=ports[0] if has_ports else None,
            destination=destination,
            destination_port=ports[1] if has_ports else None,
            echo_id=_echo_id(*ports) if protocol == "icmp" else None,
            rule=raw.rule or None,
            rule_text=names.rules.get(raw.rule, "") if raw.rule else "",
            length=raw.length,
            injected=names.injected.get(raw.program, f"#{raw.program}") if slow else "",
            cost_ns=raw.cost if slow else None,
            limit_ns=raw.limit if slow else None,
            seconds=raw.lasted / 1000 if slow else None,
        )
        return event, record[size : size + raw.captured]


def _opened(raw: _abi.Event) -> str:
    seconds = raw.lasted // 1000
    return f"circuit breaker opened, median {raw.cost} ns over its {raw.limit} ns for {seconds} s"


def _receiver(names: Names, number: int, destination: str | None) -> str | None:
    """Who should get it: by id where it is known, else by address; None where neither is."""
    if number or destination is None:
        return names.name("function", number) if number else None
    return names.owners.get(destination, OUTSIDE)


def _address(raw: _abi.Address) -> str:
    address = IPv6Address(bytes(raw))
    return str(address.ipv4_mapped or address)


def _echo_id(source_port: int, destination_port: int) -> int:
    """parse.h: the identifier stands for the asking side's port, the next number for the other's.

    Next as the processor reads it, whatever the order in the packet.
    """
    after = (socket.htons(source_port) + 1) & 0xFFFF
    return source_port if socket.htons(destination_port) == after else destination_port


def _utc(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, 10**9)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
