# SPDX-License-Identifier: BSD-2-Clause
"""Who may talk to whom: between tenants, between function and host, and while rules change.

a1, a2: tenant a     b1: tenant b     the host's own stack: outside
"""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address

import pytest

from ebpfmesh import apply
from ebpfmesh._abi import Direction, Reason
from ebpfmesh.kernel import interface, netns, rtnl
from ebpfmesh.model import Mesh, Policy
from support import meshes
from support.sockets import (
    BLOCKED_SECONDS,
    SECONDS,
    carries,
    connect,
    connection,
    connects,
    datagrams,
    is_blocked,
    is_cut,
    listener,
    moved_whole,
)
from support.topology import (
    background,
    drops,
    in_fn,
    listening,
    mesh_of,
    meters,
    needs,
)

pytestmark = pytest.mark.usefixtures("restored")

MESH = meshes.mesh_file(
    "policy",
    meshes.function("a1", "a"),
    meshes.function("a2", "a"),
    meshes.function("b1", "b"),
    meshes.function("c1", "c"),
    meshes.function("c2", "c"),
)
HOST4, HOST6 = "198.18.255.1", "2001:db8::ffff"


@pytest.fixture
def host_addresses() -> Iterator[None]:
    """Addresses on the host's loopback, for its own stack to speak from."""
    with netns.rtnetlink() as ip:
        ip.addr("add", index=interface.LOOPBACK, address=HOST4, prefixlen=32)
        no_dad = rtnl.NO_DAD
        ip.addr("add", index=interface.LOOPBACK, address=HOST6, prefixlen=128, flags=no_dad)
        yield
        ip.addr("del", index=interface.LOOPBACK, address=HOST4, prefixlen=32)
        ip.addr("del", index=interface.LOOPBACK, address=HOST6, prefixlen=128)


def rule(source: str, destination: str, action: str = "allow", **more: object) -> Policy:
    return Policy.model_validate(
        {"source": source, "destination": destination, "action": action, **more}
    )


def set_rules(mesh: Mesh, *rules: Policy) -> None:
    """These rules and no others."""
    apply.edit(mesh.name, lambda now: now.model_copy(update={"policies": rules}))


def dropped(mesh: Mesh, function: str, reason: Reason = Reason.POLICY) -> int:
    return sum(n for (name, _, why), n in drops(mesh).items() if (name, why) == (function, reason))


def test_tenants_are_apart_until_a_rule_joins_them(mesh: Mesh) -> None:
    needs("curl", "busybox")
    server = mesh.function("b1")
    url = f"http://{server.address4}:8080/etc/hostname"
    httpd = ["busybox", "httpd", "-f", "-p", 8080, "-h", "/"]
    curl = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--max-time"]
    with background(mesh, "b1", httpd, ready=listening(8080)):
        before = dropped(mesh, "a1")
        refused = in_fn(mesh, "a1", [*curl, 1, url], check=False)
        assert (refused.returncode, refused.stdout) == (28, "000")  # 28: timed out
        assert dropped(mesh, "a1") > before
        set_rules(mesh, rule("function:a1", "function:b1", protocol="tcp", port=8080))
        assert in_fn(mesh, "a1", [*curl, SECONDS, url]).stdout == "200"
        assert in_fn(mesh, "a2", [*curl, 0.3, url], check=False).returncode == 28


def test_own_tenant_needs_no_rule(mesh: Mesh) -> None:
    with connection(mesh, "a1", "a2", mesh.function("a2").address4, 7000) as (here, there):
        assert carries(here, there)
        assert carries(there, here)


@pytest.mark.parametrize("version", [4, 6])
def test_a_rule_opens_one_way(mesh: Mesh, version: int) -> None:
    """Answers pass without a rule of their own; a flow the other way does not."""
    set_rules(mesh, rule("tenant:a", "tenant:b"))
    address = {n: mesh.function(n).addresses[0 if version == 4 else 1] for n in ("a1", "b1")}
    with connection(mesh, "a1", "b1", address["b1"], 7000) as (here, there):
        assert carries(there, here)
    before = dropped(mesh, "b1")
    with listener(mesh, "a1", address["a1"], 7001):
        assert is_blocked(mesh, "b1", address["a1"], 7001)
    assert dropped(mesh, "b1") > before
    ping = ["ping", "-c", 1, "-W"]
    assert in_fn(mesh, "a1", [*ping, SECONDS, address["b1"]]).returncode == 0
    assert in_fn(mesh, "b1", [*ping, 0.3, address["a1"]], check=False).returncode == 1


def test_a_port_is_not_another(mesh: Mesh) -> None:
    server = mesh.function("b1").address4
    set_rules(mesh, rule("tenant:a", "tenant:b", protocol="tcp", port=7000))
    with listener(mesh, "b1", server, 7000), listener(mesh, "b1", server, 7001):
        assert connects(mesh, "a1", server, 7000)
        assert is_blocked(mesh, "a1", server, 7001)
    with (
        datagrams(mesh, "b1", server, 7000) as sink,
        datagrams(mesh, "a1", mesh.function("a1").address4) as source,
    ):
        source.sendto(b"x", (str(server), 7000))
        sink.settimeout(BLOCKED_SECONDS)
        with pytest.raises(TimeoutError):
            sink.recv(16)


def test_a_deny_cuts_what_is_established(mesh: Mesh) -> None:
    with connection(mesh, "a1", "a2", mesh.function("a2").address4, 7000) as (here, there):
        assert carries(here, there)
        set_rules(mesh, rule("function:a1", "function:a2", "deny"))
        before = dropped(mesh, "a1")
        assert is_cut(here, there)
        assert dropped(mesh, "a1") > before
        before = dropped(mesh, "a2")
        assert is_cut(there, here)
        assert dropped(mesh, "a2") > before
        set_rules(mesh)  # TCP sends again what was lost meanwhile
        there.settimeout(SECONDS)
        assert there.recv(64) == b"ping"


def test_removing_the_allow_cuts_what_is_established(mesh: Mesh) -> None:
    set_rules(mesh, rule("tenant:a", "tenant:b"))
    with connection(mesh, "a1", "b1", mesh.function("b1").address6, 7000) as (here, there):
        assert carries(here, there)
        set_rules(mesh)
        assert is_cut(here, there)


def test_lower_priority_number_decides_and_deny_wins_a_tie(mesh: Mesh) -> None:
    server = mesh.function("b1").address4
    with listener(mesh, "b1", server, 7000):
        set_rules(mesh, rule("tenant:a", "tenant:b"), rule("function:a1", "tenant:b", "deny"))
        assert is_blocked(mesh, "a1", server, 7000)
        assert connects(mesh, "a2", server, 7000)
        strong = rule("function:a1", "function:b1", priority=10)
        set_rules(
            mesh, rule("tenant:a", "tenant:b"), rule("function:a1", "tenant:b", "deny"), strong
        )
        assert connects(mesh, "a1", server, 7000)


def test_audit_passes_and_counts(mesh: Mesh) -> None:
    def audited(now: Mesh) -> Mesh:
        functions = tuple(f.model_copy(update={"audit": f.name == "b1"}) for f in now.functions)
        return now.model_copy(update={"functions": functions})

    apply.edit(mesh.name, audited)
    server, before = mesh.function("b1").address4, dropped(mesh, "a1")
    with listener(mesh, "b1", server, 7000):
        assert connects(mesh, "a1", server, 7000)
    shaking_hands = 3
    assert drops(mesh, audited=True)["b1", Direction.TO_FN, Reason.POLICY] >= shaking_hands
    assert dropped(mesh, "a1") == before


def test_changing_tenant_takes_a_function_along(mesh: Mesh) -> None:
    """The next packet of an open connection is judged by the new tenant."""
    with connection(mesh, "a1", "a2", mesh.function("a2").address4, 7000) as (here, there):

        def moved(now: Mesh) -> Mesh:
            functions = tuple(
                f.model_copy(update={"tenant": "b"}) if f.name == "a2" else f for f in now.functions
            )
            return now.model_copy(update={"functions": functions})

        assert carries(here, there)
        apply.edit(mesh.name, moved)
        assert is_cut(here, there)
    with connection(mesh, "b1", "a2", mesh.function("a2").address4, 7001) as (here, there):
        assert carries(here, there)


# ---- the host's own stack


@pytest.mark.usefixtures("host_addresses")
@pytest.mark.parametrize(("host", "version"), [(HOST4, 4), (HOST6, 6)])
def test_the_host_reaches_no_function_until_a_rule_says_so(
    mesh: Mesh, host: str, version: int
) -> None:
    address = mesh.function("a1").addresses[0 if version == 4 else 1]
    before = dropped(mesh, "a1")
    with listener(mesh, "a1", address, 7000):
        assert not from_host(host, str(address), BLOCKED_SECONDS)
        assert dropped(mesh, "a1") > before
        set_rules(mesh, rule("outside", "function:a1", protocol="tcp", port=7000))
        assert from_host(host, str(address))
    assert meters(mesh)["a1", "outside"].rx_packets > 0


def from_host(own: str, address: str, seconds: float = SECONDS) -> bool:
    """Whether the host's stack can connect to port 7000, speaking from an address of its own."""
    family = socket.AF_INET6 if ":" in own else socket.AF_INET
    with socket.socket(family) as client:
        client.settimeout(seconds)
        client.bind((own, 0))
        try:
            client.connect((address, 7000))
        except TimeoutError:
            return False
    return True


@pytest.mark.usefixtures("host_addresses")
@pytest.mark.parametrize(("host", "version"), [(HOST4, 4), (HOST6, 6)])
def test_a_function_reaches_the_host_unless_a_rule_forbids(
    mesh: Mesh, host: str, version: int
) -> None:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with socket.socket(family) as server:
        server.bind((host, 7000))
        server.listen(8)
        to = ip_address(host)
        with connect(mesh, "a1", to, 7000) as here:
            there, (peer, *_) = server.accept()
            with there:
                assert ip_address(peer) in mesh.function("a1").addresses
                assert carries(here, there)
                assert carries(there, here)
        set_rules(mesh, rule("tenant:a", "outside", "deny"))
        before = dropped(mesh, "a1")
        assert is_blocked(mesh, "a1", to, 7000)
        assert dropped(mesh, "a1") > before


@pytest.mark.usefixtures("host_addresses")
def test_the_host_cannot_pose_as_a_function(mesh: Mesh) -> None:
    """An address of a function, taken on by the host, opens nothing."""
    set_rules(mesh, rule("any", "any"))
    own, target = str(mesh.function("a2").address4), mesh.function("a1").address4
    with netns.rtnetlink() as ip:
        ip.addr("add", index=interface.LOOPBACK, address=own, prefixlen=32)
    try:
        with listener(mesh, "a1", target, 7000):
            assert not from_host(own, str(target), BLOCKED_SECONDS)
        assert dropped(mesh, "a1", Reason.SPOOF_IP) >= 1
    finally:
        with netns.rtnetlink() as ip:
            ip.addr("del", index=interface.LOOPBACK, address=own, prefixlen=32)


# ---- traffic while the mesh changes


def unexpected(mesh: Mesh) -> dict[tuple[str, Direction, Reason], int]:
    """What was dropped of c, besides the MLD reports that every new stack sends."""
    return {
        key: packets
        for key, packets in drops(mesh).items()
        if key[0] in ("c1", "c2") and key[2] != Reason.MULTICAST
    }


def test_open_connections_live_through_an_up_with_a_changed_file(mesh: Mesh) -> None:
    """Functions, services and rules come and go; not a byte is lost and not a packet dropped."""
    more = (
        MESH
        + """
    [[function]]
    name = "a3"
    tenant = "a"
    replicas = 2
    [[service]]
    name = "web"
    address = "198.19.0.1"
    port = 80
    functions = ["a3", "c2"]
    [[policy]]
    from = "tenant:a"
    to = "tenant:c"
    [[policy]]
    from = "tenant:b"
    to = "service:web"
    """
    )
    first, second = mesh, mesh_of(more)
    with connection(mesh, "c1", "c2", mesh.function("c2").address4, 7000) as (here, there):
        before = unexpected(mesh)
        for wanted in (second, first):
            seen = 0

            def probe(_step: str) -> None:
                nonlocal seen
                seen += 1
                assert carries(here, there, b"%8d" % seen)
                assert carries(there, here, b"%8d" % seen)

            apply.up(wanted, on_step=probe)
            assert seen > 10
        with ThreadPoolExecutor(1) as pool:
            bulk = pool.submit(moved_whole, here, there, 128 << 20)
            while not bulk.done():
                apply.up(second)
                apply.up(first)
            assert bulk.result()
        assert unexpected(mesh) == before
