# SPDX-License-Identifier: BSD-2-Clause
"""The scenarios that can be run by name. `ebpfmesh demo` is the one called demo."""

from ebpfmesh.bench.results import NO_SERVICES, Scenario

_TRAFFIC = {"pps": 0.5, "stream": 1.0, "rr": 1.0, "crr": 1.0}

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
        title="All paths at 1 and 1 000 services",
        paths={
            "redirect_peer": NO_SERVICES,
            "routed": NO_SERVICES,
            "iptables": (1, 1000),
            "iptables-each-packet": (1, 1000),
            "mesh": (1, 1000),
        },
        seconds={**_TRAFFIC, "pps-answered": 0.2, "stream-two-cores": 1.0},
        rounds=5,
        control=5,
    ),
)
SCENARIOS = {scenario.name: scenario for scenario in _ALL}
