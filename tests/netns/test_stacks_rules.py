# SPDX-License-Identifier: BSD-2-Clause
"""Rules on real traffic: ranges of ports, prefixes of the outside, types of ICMP, audit.

client (tenant c) ──▶ server (tenant s)        client ◀──▶ host ── router ── outside server
"""

import contextlib
import json
import socket
from ipaddress import ip_address

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6
from scapy.layers.l2 import Ether

from ebpfmesh import apply
from ebpfmesh._abi import Direction, Reason
from ebpfmesh.kernel import interface
from ebpfmesh.model import Address, Mesh
from support.meshes import function, mesh_file
from support.outside import Outside, beyond_router
from support.sockets import (
    BLOCKED_SECONDS,
    SECONDS,
    accepted,
    carries,
    connect,
    connects,
    datagrams,
    family_of,
    frames,
    hears,
    is_blocked,
    is_cut,
    listener,
    made,
)
from support.topology import drops, in_fn, mesh_of, needs

pytestmark = pytest.mark.usefixtures("restored")

MESH = mesh_file("rules", function("client", "c"), function("server", "s", audit=False))
OUTSIDE = beyond_router


def own(mesh: Mesh, function: str, version: int) -> Address:
    return mesh.function(function).addresses[0 if version == 4 else 1]


def policy(source: str, destination: str, **more: object) -> str:
    """A rule as in a mesh file."""
    fields = {"from": source, "to": destination} | more
    # JSON writes strings and numbers as TOML does.
    lines = [f"{key} = {json.dumps(value)}" for key, value in fields.items()]
    return "\n".join(["[[policy]]", *lines, ""])


def set_rules(*rules: str) -> None:
    apply.up(mesh_of(MESH + "".join(rules)))


def dropped(mesh: Mesh, function: str, reason: Reason = Reason.POLICY) -> int:
    return sum(n for (name, _, why), n in drops(mesh).items() if (name, why) == (function, reason))


# ---- ports


@pytest.mark.parametrize("version", [4, 6])
def test_a_range_of_ports(mesh: Mesh, version: int) -> None:
    set_rules(policy("tenant:c", "tenant:s", protocol="tcp", port="8000-8099"))
    to = own(mesh, "server", version)
    for port in (8000, 8031, 8064, 8099):
        with listener(mesh, "server", to, port):
            assert connects(mesh, "client", to, port)
    before = dropped(mesh, "client")
    for port in (7999, 8100):
        with listener(mesh, "server", to, port):
            assert is_blocked(mesh, "client", to, port)
    assert dropped(mesh, "client") >= before + 2
    assert not arrives(mesh, to, 8000, BLOCKED_SECONDS)


@pytest.mark.parametrize("version", [4, 6])
def test_one_port_denied_within_a_range(mesh: Mesh, version: int) -> None:
    set_rules(
        policy("tenant:c", "tenant:s", protocol="udp", port="8000-8099"),
        policy("tenant:c", "tenant:s", protocol="udp", port=8050, action="deny"),
    )
    to = own(mesh, "server", version)
    assert arrives(mesh, to, 8049)
    assert not arrives(mesh, to, 8050, BLOCKED_SECONDS)
    assert arrives(mesh, to, 8051)


def arrives(mesh: Mesh, to: Address, port: int, seconds: float = SECONDS) -> bool:
    """Whether a datagram of the client's gets to the server in this time."""
    with (
        datagrams(mesh, "server", to, port) as sink,
        datagrams(mesh, "client", own(mesh, "client", to.version)) as source,
    ):
        source.sendto(b"x", (str(to), port))
        sink.settimeout(seconds)
        try:
            return sink.recv(16) == b"x"
        except TimeoutError:
            return False


@pytest.mark.parametrize("version", [4, 6])
def test_ping_alone(mesh: Mesh, version: int) -> None:
    set_rules(policy("tenant:c", "tenant:s", protocol="icmp", icmp_type=8))
    to = own(mesh, "server", version)
    ping = ["ping", "-c", 2, "-i", 0.05, "-W", SECONDS]
    assert "2 received" in in_fn(mesh, "client", [*ping, to]).stdout
    assert in_fn(mesh, "client", ["ping", "-c", 1, "-W", SECONDS, "-s", 4000, to]).returncode == 0
    back = [*ping[:-1], BLOCKED_SECONDS, own(mesh, "client", version)]
    assert in_fn(mesh, "server", back, check=False).returncode == 1
    with listener(mesh, "server", to, 7000):
        assert is_blocked(mesh, "client", to, 7000)
    assert not arrives(mesh, to, 7000, BLOCKED_SECONDS)


# ---- prefixes


@pytest.mark.parametrize("version", [4, 6])
def test_a_prefix_of_the_outside_is_closed(mesh: Mesh, outside: Outside, version: int) -> None:
    """And of it one address is open: the longest prefix has no say, the priority has."""
    near, far = (place[0 if version == 4 else 1] for place in (outside.near, outside.far))
    closed = policy(
        "tenant:c", f"outside:{outside.near_prefixes[0 if version == 4 else 1]}", action="deny"
    )
    assert reaches(mesh, outside, near)
    set_rules(closed)
    before = dropped(mesh, "client")
    assert not reaches(mesh, outside, near, BLOCKED_SECONDS)
    assert dropped(mesh, "client") > before
    assert reaches(mesh, outside, far)
    one = f"outside:{near}/{near.max_prefixlen}"
    set_rules(closed, policy("tenant:c", one, priority=10))
    assert reaches(mesh, outside, near)
    set_rules(closed, policy("tenant:c", one, priority=200))
    assert not reaches(mesh, outside, near, BLOCKED_SECONDS)


def reaches(mesh: Mesh, outside: Outside, address: Address, seconds: float = SECONDS) -> bool:
    with listener(mesh, outside.home, address, 7000):
        return connects(mesh, "client", address, 7000, seconds=seconds)


@pytest.mark.parametrize("version", [4, 6])
def test_a_prefix_of_the_outside_may_come_in(mesh: Mesh, outside: Outside, version: int) -> None:
    prefix = outside.near_prefixes[0 if version == 4 else 1]
    set_rules(policy(f"outside:{prefix}", "function:client", protocol="tcp", port="7000-7007"))
    to = own(mesh, "client", version)
    with listener(mesh, "client", to, 7005):
        before = dropped(mesh, "client")
        far = outside.far[0 if version == 4 else 1]
        assert not comes_in(mesh, outside, far, to, BLOCKED_SECONDS)
        assert dropped(mesh, "client") > before
        assert comes_in(mesh, outside, outside.near[0 if version == 4 else 1], to)


def comes_in(
    mesh: Mesh, outside: Outside, source: Address, to: Address, seconds: float = SECONDS
) -> bool:
    """Whether the outside server can connect to port 7005, speaking from this address."""
    with made(mesh, outside.home, family_of(to), socket.SOCK_STREAM) as client:
        client.settimeout(seconds)
        client.bind((str(source), 0))
        try:
            client.connect((str(to), 7005))
        except TimeoutError:
            return False
    return True


@pytest.mark.parametrize("version", [4, 6])
def test_an_error_goes_nowhere_its_flow_does_not(
    mesh: Mesh, outside: Outside, version: int
) -> None:
    """An ICMP error needs no rule, so it must not be a way to an address that rules forbid."""
    near, far = (place[0 if version == 4 else 1] for place in (outside.near, outside.far))
    set_rules(policy("tenant:c", f"outside:{near}/{near.max_prefixlen}", action="deny"))
    me, mark = own(mesh, "client", version), b"quoted by an error"
    network = IP if version == 4 else IPv6
    error = ICMP(type=3, code=3) if version == 4 else ICMPv6DestUnreach(code=4)
    quote = network(src=str(far), dst=str(me)) / UDP(sport=7000, dport=7001) / mark
    ethernet = Ether(src=interface.mac_of(mesh.name, "client"), dst=interface.GATEWAY_MAC)
    with (
        datagrams(mesh, "client", me, 7001) as client,
        frames(mesh, outside.home) as ear,
        frames(mesh, "client") as mouth,
    ):
        client.sendto(b"opens the flow", (str(far), 7000))
        assert hears(ear, b"opens the flow")
        mouth.send(bytes(ethernet / network(src=str(me), dst=str(far)) / error / quote))
        assert hears(ear, mark)
        mouth.send(bytes(ethernet / network(src=str(me), dst=str(near)) / error / quote))
        assert not hears(ear, mark, seconds=BLOCKED_SECONDS)


# ---- change


@pytest.mark.parametrize("version", [4, 6])
def test_the_next_packet_obeys_a_changed_rule(mesh: Mesh, version: int) -> None:
    """Of an open flow, both ways; and again when the rule is back."""
    rule = policy("tenant:c", "tenant:s")
    to = own(mesh, "server", version)
    set_rules(rule)
    with (
        datagrams(mesh, "server", to, 7000) as server,
        datagrams(mesh, "client", own(mesh, "client", version)) as client,
    ):
        client.connect((str(to), 7000))
        client.send(b"one")
        _, peer = server.recvfrom(64)
        set_rules()
        before = dropped(mesh, "client"), dropped(mesh, "server")
        client.send(b"two")
        server.sendto(b"two", peer)
        assert (dropped(mesh, "client"), dropped(mesh, "server")) == (before[0] + 1, before[1] + 1)
        set_rules(rule)
        client.send(b"three")
        assert server.recv(64) == b"three"
        server.sendto(b"three", peer)
        assert client.recv(64) == b"three"


@pytest.mark.parametrize("version", [4, 6])
def test_another_rule_leaves_a_connection_alone(mesh: Mesh, version: int) -> None:
    rule, to = (
        policy("tenant:c", "tenant:s", protocol="tcp", port=7000),
        own(mesh, "server", version),
    )
    set_rules(rule)
    with (
        listener(mesh, "server", to, 7000) as server,
        connect(mesh, "client", to, 7000) as here,
        accepted(server) as there,
    ):
        for other in ("7001-7999", 53, "1024-65535"):
            set_rules(rule, policy("tenant:c", "tenant:s", protocol="udp", port=other))
            assert carries(here, there)
            assert carries(there, here)


# ---- audit


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", ["udp", "icmp"])
def test_what_audit_counts_is_what_policy_drops(mesh: Mesh, protocol: str, version: int) -> None:
    """Every packet of a forbidden flow is counted and passes; when audit ends, as many are lost.

    Answers are of the same flow: they are counted as well, and when audit ends there are none.
    """
    to, packets = own(mesh, "server", version), 7
    needs("ping")
    counted = packets if protocol == "udp" else 2 * packets

    def sent(seconds: float) -> int:
        """How many of the client's packets arrive, each after so long at most."""
        if protocol == "icmp":
            ping = ["ping", "-c", packets, "-i", 0.01, "-W", seconds, to]
            said = in_fn(mesh, "client", ping, check=False).stdout
            return int(said.partition(" received")[0].rpartition(" ")[2])
        with (
            datagrams(mesh, "server", to, 7000) as sink,
            datagrams(mesh, "client", own(mesh, "client", version)) as source,
        ):
            for _ in range(packets):
                source.sendto(b"x", (str(to), 7000))
            sink.settimeout(seconds)
            arrived = 0
            with contextlib.suppress(TimeoutError):
                while arrived < packets and sink.recv(16):
                    arrived += 1
            return arrived

    key = ("server", Direction.TO_FN, Reason.POLICY)
    apply.up(mesh_of(MESH.replace("audit = false", "audit = true")))
    before, lost = drops(mesh, audited=True).get(key, 0), dropped(mesh, "client")
    assert sent(SECONDS) == packets
    assert drops(mesh, audited=True)[key] == before + counted
    assert dropped(mesh, "client") == lost
    apply.up(mesh)
    assert sent(BLOCKED_SECONDS) == 0
    assert drops(mesh, audited=True)[key] == before + counted
    assert dropped(mesh, "client") == lost + packets


@pytest.mark.parametrize("version", [4, 6])
def test_a_connection_in_audit_ends_when_audit_does(mesh: Mesh, version: int) -> None:
    to = own(mesh, "server", version)
    apply.up(mesh_of(MESH.replace("audit = false", "audit = true")))
    with (
        listener(mesh, "server", to, 7000) as server,
        connect(mesh, "client", to, 7000) as here,
        accepted(server) as there,
    ):
        assert ip_address(there.getpeername()[0]) == own(mesh, "client", version)
        assert carries(here, there)
        assert carries(there, here)
        apply.up(mesh)
        assert is_cut(here, there)
        assert is_cut(there, here)
