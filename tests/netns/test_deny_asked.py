# SPDX-License-Identifier: BSD-2-Clause
"""What `policy test` says of a source is what becomes of its packets at the uplink.

the test ═══ nic0 ── host ── shop   service web: published at nic0, port 80
"""

import json
import socket
from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from ebpfmesh import apply
from ebpfmesh._abi import Direction, Reason
from ebpfmesh.model import Mesh
from ebpfmesh.observe import dryrun
from ebpfmesh.observe.deny import read_denied
from ebpfmesh.observe.dryrun import Answer
from ebpfmesh.observe.view import opened
from support.command import ebpfmesh
from support.nic import HOST, NAME, Nic
from support.sockets import SECONDS
from support.topology import drops, mesh_of, running

MESH = f"""
[mesh]
name = "asked"
[[function]]
name = "shop"
[[service]]
name = "web"
address = "198.19.0.1"
port = 80
functions = ["shop"]
publish = ["u0:80"]
[[policy]]
from = "outside"
to = "service:web"
[[uplink]]
name = "u0"
interface = "{NAME}"
"""
FEW = ["100.64.0.0/24", "100.64.0.128/25", "100.65.1.1/32"]
MANY = [*FEW, "100.66.0.0/15", "100.68.0.0/14", "100.72.0.0/30"]
"""Of more lengths than hashes are for."""
SOURCES = [
    "100.64.0.1", "100.64.0.128", "100.64.0.255", "100.64.1.0", "100.65.1.1", "100.65.1.2",
    "100.66.0.0", "100.71.255.255", "100.72.0.3", "100.72.0.4",
]  # fmt: skip
KEY = ("outside", Direction.FROM_UPLINK, Reason.DENIED)


@pytest.fixture(scope="module")
def mesh(wire: Nic) -> Iterator[Mesh]:
    assert wire
    with running(MESH) as found:
        yield found


@pytest.fixture
def host() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind((HOST, 0))
        one.settimeout(SECONDS)
        yield one


def asked(source: str, to: str = "u0:9", protocol: dryrun.Protocol = "udp") -> Answer:
    with opened("asked") as view:
        ends = dryrun.party(view, f"outside:{source}"), dryrun.party(view, to)
        return dryrun.ask(view, *ends, protocol=protocol)


def counted() -> dict[str, int | None]:
    with opened("asked") as view:
        return {row.prefix: row.packets for row in read_denied(view, counters=True)}


def becomes(wire: Nic, host: socket.socket, source: str) -> str:
    """By which prefix a datagram from there was dropped; empty if it came."""
    before = counted()
    wire.send(source.encode(), host.getsockname()[1], source=source)
    wire.send(b"end", host.getsockname()[1])  # behind it
    came = host.recv(100)
    if came != b"end":
        assert (came, host.recv(100)) == (source.encode(), b"end")
        assert counted() == before
        return ""
    (prefix,) = {name for name, packets in counted().items() if packets != before[name]}
    return prefix


@pytest.mark.parametrize("prefixes", [FEW, MANY], ids=["hashes", "trie"])
@pytest.mark.parametrize("uplink", ["", "u0"], ids=["at all", "at one"])
def test_packets_meet_what_is_said(
    mesh: Mesh, wire: Nic, host: socket.socket, prefixes: list[str], uplink: str
) -> None:
    apply.allow("asked", None)
    apply.deny("asked", [ip_network(one) for one in prefixes], uplink=uplink)
    verdicts = set()
    for source in SOURCES:
        told, before = asked(source), drops(mesh).get(KEY, 0)
        assert told.denied == becomes(wire, host, source), source
        assert drops(mesh).get(KEY, 0) - before == bool(told.denied)
        verdicts.add((told.verdict, told.reason, told.number))
    assert verdicts == {("drop", "DENIED", int(Reason.DENIED)), ("host", "", 0)}


def test_it_comes_before_what_is_published_and_goes_with_xdp(
    mesh: Mesh, wire: Nic, host: socket.socket
) -> None:
    apply.allow("asked", None)
    apply.deny("asked", [ip_network(FEW[0])])
    words = ("policy", "test", f"outside:{SOURCES[0]}", "u0:80")
    told = json.loads(ebpfmesh(*words, "--json", code=1).stdout)
    assert (told["verdict"], told["reason"], told["denied"]) == ("drop", "DENIED", FEW[0])
    assert (told["receiver"], told["service"], told["rule"]) == ("", "", None)
    shown = ebpfmesh(*words, code=1).stdout
    assert f"denied    {FEW[0]}" in shown
    assert "DENIED" in shown
    passing = asked("100.64.1.0", "u0:80", "tcp")
    assert (passing.verdict, passing.denied, passing.receiver) == ("pass", "", "shop")
    apply.up(mesh_of(MESH + 'xdp = "off"\n'))
    assert asked(SOURCES[0], "u0:80", "tcp").verdict == "pass"
    assert (asked(SOURCES[0]).verdict, becomes(wire, host, SOURCES[0])) == ("host", "")
    apply.up(mesh)
    assert asked(SOURCES[0]).denied == FEW[0]
