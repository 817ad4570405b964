# SPDX-License-Identifier: BSD-2-Clause
"""What can be measured, and along what it can be varied: names, units, and which way is better."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from ebpfmesh.bench.workload import MAX_FUNCTIONS, MAX_RULES, MAX_SERVICES, MIN_FUNCTIONS

MANY_FLOWS = 100_000
NEW_FLOWS = 1_000_000
"""So many that a table of ``workload.LIMITS`` has forgotten a flow when it comes again."""
BY_CPU = "-cpu"
"""End of a kind's name that tells another once more, by CPU time."""
NET = "-net"
"""The same, of CPU time without the generator's part."""
Source = Literal[
    "frames", "verdicts", "sockets", "connections", "changes", "swaps",
    "wire", "consumers", "floods", "itself", "",
]  # fmt: skip
"""What a path must carry (``paths.DataPath.carries``); empty for what comes along with another."""


@dataclass(frozen=True)
class Kind:
    """A kind of figure. ``take`` names what measures it, ``settings`` are passed to that.

    One that is not ``compared`` belongs to another, or is taken ``once``: it does not say by itself
    who is better. One that is ``by_cpu`` tells another once more, by the CPU time that it took.
    """

    title: str
    unit: str
    more_is_better: bool
    take: str = ""
    source: Source = ""
    settings: Mapping[str, object] = field(default_factory=dict)
    compared: bool = True
    by_cpu: bool = False
    once: bool = False


def _pps(title: str, **settings: object) -> Kind:
    return Kind(f"packets per second{title}", "Mpps", True, "pps", "frames", settings)


def _refused(what: str, why: str) -> Kind:
    title = f"packets per second that {what}, refused"
    return Kind(title, "Mpps", True, "refused", "verdicts", {"why": why})


def _changes(what: str, do: str, how: str = "") -> Kind:
    title = f"{what} added per second{how and ', ' + how}"
    return Kind(title, "1/s", True, "change", "changes", {"kind": do})


def _by_cpu(kinds: Mapping[str, Kind], unit: str = "M/CPU s") -> Iterator[tuple[str, Kind]]:
    """Each kind, and what it is by CPU time."""
    for name, kind in kinds.items():
        yield name, kind
        title = kind.title.replace("per second", "per CPU second")
        title += "" if title != kind.title else ", per CPU second"
        yield name + BY_CPU, Kind(title, unit, kind.more_is_better, by_cpu=True)


_FRAMES = {
    "pps": _pps(", UDP"),
    "pps-answered": _pps(", answered flow", answered=True),
    "pps-syn": _pps(", TCP SYN", protocol="syn"),
    "pps-100000-flows": _pps(", 100\N{NARROW NO-BREAK SPACE}000 flows", flows=MANY_FLOWS),
    "pps-new-flows": _pps(", each the first of a flow", flows=NEW_FLOWS),
    "pps-spoofed": _refused("claim another's address", "spoofed"),
    "pps-denied": _refused("no policy allows", "denied"),
    "pps-ipv6": _pps(", IPv6", version=6),
    "pps-events": _pps(", `events` on", listener="events"),
    "pps-capture": _pps(", `capture` on", listener="capture"),
}
_WIRE = {
    "wire": Kind("packets per second from a wire", "Mpps", True, "wire", "wire"),
    "taken": Kind(
        "packets per second from a wire that a program takes", "Mpps", True, "taken", "consumers"
    ),
    "flood": Kind(
        "packets per second beside 32 times as many denied", "Mpps", True, "flood", "floods"
    ),
}
_TCP = {
    "tcp": Kind("TCP bulk from outside", "Gb/s", True, "tcp", "sockets"),
    "tcp-two-cores": Kind(
        "TCP bulk from outside, two cores", "Gb/s", True, "tcp", "sockets", {"two_cores": True}
    ),
}
_ITSELF = {"itself": Kind("packets per second of testpmd alone", "Mpps", True, "itself", "itself")}


def _of_wire(kinds: Mapping[str, Kind]) -> Iterator[tuple[str, Kind]]:
    """Each by CPU time as well, and without what making the frames takes."""
    for name, kind in _by_cpu(kinds):
        yield name, kind
        if name.endswith(BY_CPU):
            title = f"{kind.title}, without the generator"
            yield name.removesuffix(BY_CPU) + NET, replace(kind, title=title)


def _idle(what: str) -> Kind:
    title = f"CPU used while nothing {what}"
    return Kind(title, "% of a core", False, compared=False)


KINDS = {
    **dict(_by_cpu(_FRAMES)),
    **dict(_of_wire(_WIRE)),
    "wire-idle": _idle("comes"),
    "taken-idle": _idle("comes to a program"),
    **dict(_by_cpu(_ITSELF)),
    **dict(_by_cpu(_TCP, "Gb/CPU s")),
    "stream": Kind("TCP bulk", "Gb/s", True, "stream", "sockets"),
    "stream-two-cores": Kind(
        "TCP bulk, two cores", "Gb/s", True, "stream", "sockets", {"two_cores": True}
    ),
    "rr": Kind("half round trip", "µs", False, "rr", "sockets"),
    "rr-p99": Kind("half round trip, 99\N{NARROW NO-BREAK SPACE}%", "µs", False),
    "rr-p999": Kind("half round trip, 99.9\N{NARROW NO-BREAK SPACE}%", "µs", False),
    "connect": Kind("new connections per second", "1/s", True, "connect", "connections"),
    "http": Kind("HTTP requests per second, kept alive", "1/s", True, "http", "sockets"),
    "http-short": Kind(
        "HTTP requests per second, one a connection", "1/s", True, "http", "sockets",
        {"close": True},
    ),
    "load": Kind("CPU used at a load", "% of a core", False, "load", "sockets"),
    "load-idle": Kind("CPU used while nothing is sent", "% of a core", False, compared=False),
    "load-received": Kind("received of a load", "b/s", True, compared=False),
    "load-machine": Kind(
        "CPU used at a load, the whole machine", "% of a core", False, compared=False
    ),
    "add-service": _changes("services", "add-service"),
    "add-rule": _changes("rules", "add-rule"),
    "add-service-command": _changes("services", "add-service-command", "command line"),
    "add-rule-command": _changes("rules", "add-rule-command", "command line"),
    "attach-one": Kind("one function more", "ms", False, "attach", "sockets"),
    "build": Kind("all of the path built", "s", False, compared=False, once=True),
    "build-memory": Kind(
        "memory that building it took, roughly", "MiB", False, compared=False, once=True
    ),
    "update-service": Kind(
        "a service added under traffic", "ms", False, "update", "changes", {"kind": "add-service"}
    ),
    "update-rule": Kind(
        "a rule added under traffic", "ms", False, "update", "changes", {"kind": "add-rule"}
    ),
    "update-programs": Kind(
        "all programs replaced under traffic", "ms", False, "update", "changes",
        {"kind": "replace-programs"},
    ),
    "update-swap": Kind(
        "a program exchanged under traffic", "ms", False, "update", "swaps",
        {"kind": "swap", "rate": 500_000},
    ),
    "update-lost": Kind("packets lost during changes", "packets", False),
    "update-reordered": Kind("packets out of order during changes", "packets", False),
    "update-gap": Kind("longest time without a packet, during changes", "µs", False),
    "update-gap-without": Kind(
        "longest time without a packet, no change", "µs", False, compared=False
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Axis:
    """Something a figure is drawn over, within bounds.

    A path is ``built`` at a place on it, or else the traffic is of it. To a path without services
    some mean nothing.
    """

    title: str
    least: int
    most: int
    built: bool = False
    needs_services: bool = False


AXES = {
    "services": Axis("services", 1, MAX_SERVICES, built=True, needs_services=True),
    "rules": Axis("rules besides", 0, MAX_RULES, built=True, needs_services=True),
    "functions": Axis("functions", MIN_FUNCTIONS, MAX_FUNCTIONS, built=True),
    "flows": Axis("flows", 1, 1_000_000),
    "size": Axis("bytes a frame", 64, 1514),
    "load": Axis("b/s offered", 1000, 100_000_000_000),
}
