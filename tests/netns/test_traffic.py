# SPDX-License-Identifier: BSD-2-Clause
"""Bulk and ping between functions, directly and through a service, and what the mesh counts of it.

client ──▶ mesh ──▶ server:5201
            └ service bulk:80 ─┘
"""

import json
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from ebpfmesh._abi import Reason
from ebpfmesh.model import Mesh
from support.meshes import function, mesh_file, rule, service
from support.sockets import connect, datagrams, listener, moved_whole
from support.topology import (
    Meter,
    background,
    drops,
    in_fn,
    listening,
    meters,
    needs,
    poll,
    running,
    wait_until,
)

HEADERS = {4: 14 + 20, 6: 14 + 40}
DATAGRAMS, DATAGRAM, AT_ONCE = 3000, 1400, 30
SILENT = ("06", "0A")  # TCP_TIME_WAIT, TCP_LISTEN of linux/include/net/tcp_states.h
CONTROL_BYTES = 64 << 10  # more than iperf3 says about a test on its second connection
MESH = mesh_file(
    "traffic",
    function("client", "left"),
    function("server", "right"),
    service("bulk", 80, "server", target_port=5201),
    service("bulk-udp", 80, "server", target_port=5201, protocol="udp"),
    service("copy", 81, "server", target_port=5301),
    rule("function:client", "function:server"),
)


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    needs("iperf3", "ping", "ethtool", "tcpdump", "iptables")
    with (
        running(MESH) as mesh,
        background(mesh, "server", ["iperf3", "-s"], ready=listening(5201)),
    ):
        yield mesh


def target(mesh: Mesh, through: str, version: int) -> tuple[str, int]:
    """Where to send: (address, port)."""
    if through == "service":
        service = mesh.service("bulk")
        return str(service.address4 if version == 4 else service.address6), service.port
    server = mesh.function("server")
    return str(server.address4 if version == 4 else server.address6), 5201


def unexpected(mesh: Mesh) -> dict[Any, int]:
    """What was dropped besides the MLD reports that every stack sends."""
    return {key: packets for key, packets in drops(mesh).items() if key[2] != Reason.MULTICAST}


def iperf(mesh: Mesh, where: tuple[str, int], *options: object) -> dict[str, Any]:
    """What iperf3 in the client says at the end of a test."""
    command = ["iperf3", "--json", "--client", where[0], "--port", where[1], *options]
    report = json.loads(in_fn(mesh, "client", command).stdout)
    return dict(report["end"])


def moved(
    before: dict[tuple[str, str], Meter], after: dict[tuple[str, str], Meter]
) -> dict[Any, Meter]:
    """What was counted between two readings."""
    none = Meter(0, 0, 0, 0)
    return {
        key: Meter(*(new - old for new, old in zip(value, before.get(key, none), strict=True)))
        for key, value in after.items()
    }


def settled(mesh: Mesh, before: dict[tuple[str, str], Meter]) -> Meter:
    """What the client moved, once both ends say the same: the server may still hang up."""
    found: list[Meter] = []

    def agree() -> bool:
        counted = moved(before, meters(mesh))
        client, server = counted["client", "right"], counted["server", "left"]
        found.append(client)
        return client == Meter(*server[2:], *server[:2])

    wait_until(agree, what="both ends say the same")
    return found[-1]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("through", ["direct", "service"])
def test_tcp_bulk_is_counted(mesh: Mesh, through: str, version: int) -> None:
    before = meters(mesh)
    end = iperf(mesh, target(mesh, through, version), "--bytes", "100M")
    # The server hangs up once the client has written all: less arrives than was written.
    sent, received = end["sum_sent"]["bytes"], end["sum_received"]["bytes"]
    client = settled(mesh, before)
    again = end["sum_sent"]["retransmits"] * 65536
    header = HEADERS[version] + 60
    assert received > 50 << 20
    assert received <= client.tx_bytes
    assert client.tx_bytes <= sent + client.tx_packets * header + again + CONTROL_BYTES
    segment = 1500 - HEADERS[version] + 14 - 32  # TCP with the timestamp option
    assert received // segment <= client.tx_packets <= (sent + again) // segment * 1.1 + 1000
    assert not unexpected(mesh)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("through", ["direct", "service"])
def test_udp_arrives_whole_and_is_counted(mesh: Mesh, through: str, version: int) -> None:
    """Never more at once than the server's socket has room for."""
    own, to = (mesh.function(name).addresses[version == 6] for name in ("client", "server"))
    said = [number.to_bytes(4) + bytes(DATAGRAM - 4) for number in range(DATAGRAMS)]
    silent(mesh)
    before = meters(mesh)
    with datagrams(mesh, "server", to, 5201) as sink, datagrams(mesh, "client", own) as source:
        source.connect(target(mesh, through, version))
        for some in (said[n : n + AT_ONCE] for n in range(0, DATAGRAMS, AT_ONCE)):
            for one in some:
                source.send(one)
            assert [sink.recv(2 * DATAGRAM) for _ in some] == some
    size = DATAGRAMS * (HEADERS[version] + 8 + DATAGRAM)
    assert moved(before, meters(mesh))["client", "right"] == Meter(DATAGRAMS, size, 0, 0)
    assert not unexpected(mesh)


def silent(mesh: Mesh) -> None:
    """Wait until no connection has anything more to say, such as that its server hangs up."""

    def quiet() -> bool:
        rows = [
            line.split()
            for name in ("client", "server")
            for table in ("tcp", "tcp6")
            for line in in_fn(mesh, name, ["cat", f"/proc/net/{table}"]).stdout.splitlines()[1:]
        ]
        return all(row[3] in SILENT for row in rows)

    wait_until(quiet, what="no connection is open")


@pytest.mark.parametrize("version", [4, 6])
def test_ping(mesh: Mesh, version: int) -> None:
    silent(mesh)
    before = meters(mesh)
    address, _ = target(mesh, "direct", version)
    done = in_fn(mesh, "client", ["ping", "-c", 5, "-i", 0.01, "-W", 20, address])
    assert "5 received, 0% packet loss" in done.stdout
    size = 5 * (HEADERS[version] + 8 + 56)
    assert moved(before, meters(mesh))["client", "right"] == Meter(5, size, 5, size)


def test_ping_is_routed_once(mesh: Mesh) -> None:
    """One hop: the TTL that arrives is one less than the one sent."""
    address, _ = target(mesh, "direct", 4)
    assert "ttl=63 " in in_fn(mesh, "client", ["ping", "-c", 1, address]).stdout


def test_the_largest_packet_passes(mesh: Mesh) -> None:
    address, _ = target(mesh, "direct", 4)
    in_fn(mesh, "client", ["ping", "-c", 1, "-M", "do", "-s", 1500 - 28, "-W", 20, address])


def features(mesh: Mesh, function: str) -> dict[str, str]:
    lines = in_fn(mesh, function, ["ethtool", "-k", "eth0"]).stdout.splitlines()[1:]
    return {name: state for name, _, state in (line.strip().partition(": ") for line in lines)}


def test_offloads_are_those_of_a_plain_veth(mesh: Mesh) -> None:
    subprocess.run(["ip", "link", "add", "plain0", "type", "veth", "peer", "plain1"], check=True)
    try:
        listing = subprocess.run(
            ["ethtool", "-k", "plain0"], check=True, capture_output=True, text=True
        ).stdout.splitlines()[1:]
    finally:
        subprocess.run(["ip", "link", "del", "plain0"], check=True)
    plain = dict(line.strip().split(": ", 1) for line in listing)
    for name in ("client", "server"):
        found = features(mesh, name)
        assert found == plain
        wanted = ("tcp-segmentation-offload", "generic-segmentation-offload", "tx-checksumming")
        assert [found[name] for name in wanted] == ["on"] * 3


@pytest.mark.parametrize("through", ["direct", "service"])
def test_packets_stay_large_all_the_way(mesh: Mesh, through: str) -> None:
    """The server's interface sees segments that were never cut: GSO passed through."""
    capture = ["tcpdump", "-i", "eth0", "-n", "-c", 3, "-Q", "in", "greater 16000"]
    with background(mesh, "server", capture, ready=captures) as tcpdump:
        iperf(mesh, target(mesh, through, 4), "--bytes", "50M")
        assert poll(lambda: tcpdump.poll() is not None), "no packet above 16000 bytes"


def captures(pid: int) -> bool:
    """Whether the process listens to an interface by a packet socket."""
    return any(
        " 0003 " in line for line in Path(f"/proc/{pid}/net/packet").read_text().splitlines()
    )


def test_no_netfilter_of_the_host_on_the_way(mesh: Mesh) -> None:
    """The host drops all it could see of a forwarded packet, and sees none."""
    rules = [("raw", "PREROUTING"), ("mangle", "FORWARD"), ("filter", "FORWARD")]
    tools = ("iptables", "ip6tables")
    try:
        for tool in tools:
            for table, chain in rules:
                subprocess.run([tool, "-t", table, "-A", chain, "-j", "DROP"], check=True)
        for version in (4, 6):
            for through in ("direct", "service"):
                assert iperf(mesh, target(mesh, through, version), "--bytes", "5M")
        for tool in tools:
            for table, chain in rules:
                listing = [tool, "-t", table, "-L", chain, "-n", "-v", "-x"]
                rows = subprocess.run(listing, check=True, capture_output=True, text=True).stdout
                assert rows.splitlines()[2].split()[:2] == ["0", "0"], rows
    finally:
        for tool in tools:
            for table, _ in rules:
                subprocess.run([tool, "-t", table, "-F"], check=True)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("through", ["direct", "service"])
def test_tcp_delivers_every_byte_both_ways(mesh: Mesh, through: str, version: int) -> None:
    server, service = mesh.function("server"), mesh.service("copy")
    own = server.address4 if version == 4 else server.address6
    front = service.address4 if version == 4 else service.address6
    to = (front, 81) if through == "service" else (own, 5301)
    with listener(mesh, "server", own, 5301) as listening, connect(mesh, "client", *to) as here:
        there, (peer, *_) = listening.accept()
        with there:
            assert ip_address(peer) in mesh.function("client").addresses
            assert moved_whole(here, there)
            assert moved_whole(there, here)


def test_a_function_says_nothing_by_itself(mesh: Mesh) -> None:
    """No router solicitation, no DAD; MLD for its address goes nowhere, and is counted."""
    for name in ("client", "server"):
        conf = "/proc/sys/net/ipv6/conf/eth0/addr_gen_mode"
        assert in_fn(mesh, name, ["cat", conf]).stdout == "1\n"
    assert not unexpected(mesh)
