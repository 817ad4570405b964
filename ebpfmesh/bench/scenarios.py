# SPDX-License-Identifier: BSD-2-Clause
"""The scenarios that can be run by name. `ebpfmesh demo` is the one called demo."""

from ebpfmesh.bench.results import NO_SERVICES, Scenario
from ebpfmesh.bench.workload import MAX_SERVICES

_TRAFFIC = {"pps": 0.5, "stream": 1.0, "rr": 1.0, "connect": 0.4}
_CHANGED = dict.fromkeys(("iptables", "iptables-append", "mesh"), (MAX_SERVICES,))
_QUICK: dict[str, tuple[int, ...]] = {
    "redirect_peer": NO_SERVICES,
    "routed": NO_SERVICES,
    "iptables": (1, 1000),
    "iptables-each-packet": (1000,),
    "mesh": (1, 1000, MAX_SERVICES),
}
_UNROUTED = {name: sizes for name, sizes in _QUICK.items() if name != "routed"}  # to save time
_COMMANDS = {"mesh": (MAX_SERVICES,)}

_ALL = (
    Scenario(
        name="demo",
        title="The mesh beside iptables at 1, 100 and 1 000 services",
        paths={
            "iptables": (1, 100, 1000),
            "iptables-each-packet": (1000,),  # with one service there is no difference
            "mesh": (1, 100, 1000),
        },
        seconds=_TRAFFIC,
        rounds=3,
    ),
    Scenario(
        name="quick",
        title="All paths at 1 and 1 000 services, the mesh at 10 000 as well",
        paths=_QUICK,
        seconds={
            **_TRAFFIC,
            "stream-two-cores": 1.0,
            "crr": 1.0,
            "pps-answered": 0.2,
            "pps-100000-flows": 0.5,
            "pps-ipv6": 0.5,
            "pps-events": 0.5,
            "pps-capture": 0.5,
            "add-service": 0.1,
            "add-rule": 0.1,
            "add-service-command": 0.1,
            "add-rule-command": 0.1,
        },
        only={
            "rr": _UNROUTED,
            "crr": _UNROUTED,
            "pps-100000-flows": {"redirect_peer": NO_SERVICES, "mesh": (1, MAX_SERVICES)},
            "pps-ipv6": {"mesh": (1, MAX_SERVICES)},
            "pps-events": {"mesh": (1,)},
            "pps-capture": {"mesh": (1,)},
            "add-service": _CHANGED,
            "add-rule": _CHANGED,
            "add-service-command": _COMMANDS,
            "add-rule-command": _COMMANDS,
        },
        rounds=5,
        control=5,
    ),
)
SCENARIOS = {scenario.name: scenario for scenario in _ALL}
