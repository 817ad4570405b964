# SPDX-License-Identifier: BSD-2-Clause
"""What doctor says of a mesh whose maps are too small, and of rules that its packets never meet."""

import ctypes
import subprocess
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from ebpfmesh import _abi
from ebpfmesh.kernel import clock
from ebpfmesh.kernel.interface import GATEWAY_MAC, mac_of
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.model import Mesh
from ebpfmesh.observe import functions, health, rooms
from ebpfmesh.observe.view import opened
from support.meshes import function, mesh_file
from support.sockets import datagrams, frames
from support.topology import background, in_fn, needs, running, wait_until

MESH = mesh_file(
    "health",
    function("client", address="198.18.0.1"),
    function("server", address="198.18.0.2"),
    limits={"flows": 512, "half_open": 256},
)
CLIENT, SERVER = IPv4Address("198.18.0.1"), IPv4Address("198.18.0.2")


@pytest.fixture(autouse=True)
def mesh() -> Iterator[Mesh]:
    with running(MESH) as mesh:
        yield mesh


def said() -> dict[str, tuple[str, str]]:
    """What doctor has to say, and not only that all is well: status and hint by text."""
    found = {check.text: (check.status, check.hint) for check in health.check("health")}
    assert found.pop("2 functions work") == ("ok", "")
    return found


@pytest.mark.parametrize("end", ["eth0", "host"])
def test_an_interface_that_is_down(mesh: Mesh, end: str) -> None:
    with opened("health") as view:
        server = next(row for row in functions.read(view) if row.name == "server")
    inside, device = ("server", "eth0") if end == "eth0" else (None, server.interface)
    in_fn(mesh, inside, ["ip", "link", "set", device, "down"])
    with opened("health") as view:
        states = {row.name: row.state for row in functions.read(view)}
        found = [check for check in health.check("health") if check.status == "note"]
    assert states == {"client": "up", "server": "down"}
    text = f"function server: {server.interface} or its other end is down"
    assert text in [check.text for check in found]


def counted(count: _abi.Count) -> int:
    value = Maps(Pins("health"))["mesh_counts"].get(ctypes.c_uint32(count))
    assert value is not None
    return value.value


def evicted(what: str) -> tuple[int, str]:
    """How many of the only tenant's made room, as doctor says it, and its hint."""
    ((text, (status, hint)),) = said().items()
    number, rest = text.removeprefix("tenant default: ").split(" ", 1)
    assert (status, rest) == ("note", f"{what} made room for newer ones of it")
    return int(number), hint


def test_flows_that_live_are_pushed_out(mesh: Mesh) -> None:
    def send(ports: range) -> int:
        with datagrams(mesh, "client", CLIENT) as client:
            for port in ports:
                client.sendto(b"x", (str(SERVER), port))
        return counted(_abi.Count.FLOW_MADE)

    begun = time.monotonic()
    made = send(range(1, 2001))
    flows = Maps(Pins("health"))["mesh_flow4"]
    ages = [clock.age(flow.seen) for _, flow in flows.items()]
    assert max(ages) <= time.monotonic() - begun + 3  # both clocks agree
    assert made >= 2000
    assert evicted("flows") == (made - 480, "raise limits.flows under [mesh], then down and up")
    with opened("health") as view:
        found = {(row.tenant, row.what): row for row in rooms.read_rooms(view)}
    room = found["default", "flows"]
    assert (room.used, room.own, room.common) == (480, 224, 256)
    assert found["outside", "flows"].used == 0
    for key, flow in list(flows.items()):  # long ago
        flow.seen = (flow.seen - 1_000_000) & 0xFFFFFFFF
        flows.set(key, flow)
    assert send(range(3001, 3401)) >= made + 400
    assert evicted("flows")[0] == made - 480


def test_half_open_connections_are_pushed_out(mesh: Mesh) -> None:
    ethernet = Ether(src=mac_of("health", "client"), dst=GATEWAY_MAC)

    def send() -> None:
        before = counted(_abi.Count.HALF_MADE)
        with frames(mesh, "client") as raw:
            for port in range(1024, 2024):
                syn = IP(src=str(CLIENT), dst=str(SERVER)) / TCP(sport=port, dport=9, flags="S")
                raw.send(bytes(ethernet / syn))
        wait_until(lambda: counted(_abi.Count.HALF_MADE) >= before + 1000, what="all were judged")

    send()
    assert said() == {}  # nobody listens there: they were refused, and may go at once
    in_fn(mesh, "server", ["ip", "route", "replace", "blackhole", str(CLIENT)])
    send()
    number, hint = evicted("half-open connections")
    assert 500 < number < 1000
    assert hint == "raise limits.half_open under [mesh], then down and up"


def test_a_container_that_administers_the_hosts_network(mesh: Mesh) -> None:
    """One with a user namespace of its own does not, nor does one that gave it up."""
    for prefix in (["unshare", "-Ur"], ["setpriv", "--bounding-set=-net_admin"]):
        with background(mesh, "server", [*prefix, "sleep", "100"], ready=is_sleep):
            assert said() == {}
    with background(mesh, "server", ["sleep", "100"], ready=is_sleep) as sleep:
        what = f"CAP_NET_ADMIN reaches the host's interfaces from process {sleep.pid}"
        hint = "start the container without it, or with a user namespace of its own"
        assert said() == {f"function server: {what}": ("note", hint)}


def is_sleep(pid: int) -> bool:
    return Path(f"/proc/{pid}/comm").read_text() == "sleep\n"


def test_rules_of_the_host_that_would_have_matched() -> None:
    """And a mesh that is well, without them."""
    needs("nft")
    assert said() == {}
    lines = [
        "add table ip guard",
        "add chain ip guard forward { type filter hook forward priority 0; }",
        "add rule ip guard forward ip saddr 10.0.0.0/8 drop",
        *(f"add rule ip guard forward ip saddr 198.18.0.1 tcp dport {n} drop" for n in range(25)),
    ]
    subprocess.run(["nft", "-f", "-"], input="\n".join(lines), text=True, check=True)
    try:
        found = list(said())
    finally:
        subprocess.run(["nft", "flush", "ruleset"], check=True)
    assert (
        found[0] == "25 rules of the host would match traffic between functions, and never see it"
    )
    assert found[1] == "ip guard forward: ip saddr 198.18.0.1 tcp dport 0 drop"
    assert len(found) == 22
    assert found[-1] == "… and 5 more"
