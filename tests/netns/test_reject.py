# SPDX-License-Identifier: BSD-2-Clause
"""What real stacks make of a rejection: who is denied waits, who is rejected knows at once.

client, host, outside ──▶ server: rejected, but :81 denied, :82 allowed
client ──▶ service shop:80 ─▶ server:80, empty:80 ─▶ nobody
"""

import errno
import socket

import pytest

from ebpfmesh import apply
from ebpfmesh._abi import Direction, Reason
from ebpfmesh.model import Address, Identity, Mesh, Policy
from support.meshes import function, mesh_file, rule, service
from support.outside import Outside, beyond_router
from support.serving import own as made_inside
from support.sockets import (
    BLOCKED_SECONDS,
    Place,
    accepted,
    connect,
    connection,
    datagrams,
    family_of,
    listener,
    made,
)
from support.topology import drops, in_fn, needs, poll

pytestmark = pytest.mark.usefixtures("restored")

MESH = mesh_file(
    "reject",
    function("client", "left"),
    function("server", "right"),
    service("shop", 80, "server"),
    service("empty", 80, "server", number=2, weights={"server": 0}),
    rule("any", "function:server", action="reject", priority=200),
    rule("any", "function:server", protocol="tcp", port=81, action="deny"),
    rule("any", "function:server", protocol="tcp", port=82),
)
OUTSIDE = beyond_router
PROHIBITED = {4: errno.EHOSTUNREACH, 6: errno.EACCES}
"""What a socket is told of ICMP (linux/net/ipv4/icmp.c, icmp_err_convert) and of ICMPv6."""


@pytest.fixture(params=["function", "host", "outside"])
def sender(request: pytest.FixtureRequest, outside: Outside) -> Place:
    """Where the packets come from."""
    return {"function": "client", "host": None, "outside": outside.home}[request.param]


def faulty(mesh: Mesh, name: str | None) -> dict[str, str]:
    """What a stack has counted of segments and messages with a wrong checksum, or none of it."""
    text = in_fn(mesh, name, ["cat", "/proc/net/snmp", "/proc/net/snmp6"]).stdout
    lines = [line.split() for line in text.splitlines()]
    found = dict(zip(*(line for line in lines if line[0] == "Tcp:"), strict=True))
    found |= {line[0]: line[1] for line in lines if line[0] == "Icmp6InCsumErrors"}
    return {key: found[key] for key in ("InErrs", "InCsumErrors", "Icmp6InCsumErrors")}


@pytest.fixture(scope="module", autouse=True)
def begun(mesh: Mesh) -> dict[str | None, dict[str, str]]:
    """What was counted before: the host's stack has met other meshes."""
    return {name: faulty(mesh, name) for name in ("client", None)}


def address(mesh: Mesh, name: str, version: int) -> Address:
    owner = mesh.function(name) if name in ("client", "server") else mesh.service(name)
    return owner.addresses[0 if version == 4 else 1]


def set_reject(mesh: Mesh, reject: bool) -> None:
    apply.edit(mesh.name, lambda now: now.model_copy(update={"reject": reject}))


BOTH = pytest.mark.parametrize("version", [4, 6])


@BOTH
def test_a_connection_is_refused_at_once(mesh: Mesh, sender: Place, version: int) -> None:
    to = address(mesh, "server", version)
    with listener(mesh, "server", to, 80), listener(mesh, "server", to, 81):
        with pytest.raises(ConnectionRefusedError):
            connect(mesh, sender, to, 80)
        with pytest.raises(TimeoutError):
            connect(mesh, sender, to, 81, seconds=BLOCKED_SECONDS)
    with connection(mesh, sender, "server", to, 82):
        pass


@BOTH
def test_a_datagram_is_told(mesh: Mesh, sender: Place, version: int) -> None:
    to = address(mesh, "server", version)
    with made(mesh, sender, family_of(to), socket.SOCK_DGRAM) as sock:
        sock.connect((str(to), 53))
        sock.send(b"anybody?")
        with pytest.raises(OSError, match=r"^\[Errno") as told:
            sock.recv(16)
    assert told.value.errno == PROHIBITED[version]


@BOTH
def test_a_ping_is_told(mesh: Mesh, version: int) -> None:
    needs("ping")
    ping = ["ping", "-n", "-c", 1, "-W", 20, address(mesh, "server", version)]
    done = in_fn(mesh, "client", ping, check=False)
    assert done.returncode == 1
    words = "Packet filtered" if version == 4 else "Administratively prohibited"
    gateway = "169.254.1.1" if version == 4 else "fe80::1"
    assert words in done.stdout
    assert gateway in done.stdout


@BOTH
@pytest.mark.parametrize("maker", [made_inside, made], ids=["socket", "packets"])
def test_a_service_whose_backend_is_rejected(mesh: Mesh, maker: object, version: int) -> None:
    """Also a process of the function, whose socket would be connected to the backend itself."""
    to = address(mesh, "shop", version)
    with (
        listener(mesh, "server", address(mesh, "server", version), 80),
        maker(mesh, "client", family_of(to), socket.SOCK_STREAM) as sock,  # type: ignore[operator]
        pytest.raises(ConnectionRefusedError),
    ):
        sock.connect((str(to), 80))


@pytest.mark.usefixtures("outside")
@BOTH
def test_no_backend_no_service_no_rule(mesh: Mesh, version: int) -> None:
    """Silent, unless the mesh as a whole rejects."""
    empty, client = address(mesh, "empty", version), address(mesh, "client", version)
    closed = (
        ("client", empty, 80), ("client", empty, 81), ("server", client, 80), (None, client, 80)
    )  # fmt: skip
    for sender, to, port in closed:
        with pytest.raises(TimeoutError):
            connect(mesh, sender, to, port, seconds=BLOCKED_SECONDS)
    set_reject(mesh, True)
    for sender, to, port in closed:
        with pytest.raises(ConnectionRefusedError):
            connect(mesh, sender, to, port)
    with made(mesh, "client", family_of(empty), socket.SOCK_DGRAM) as sock:
        sock.connect((str(empty), 53))
        sock.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            sock.recv(16)


@BOTH
def test_an_open_connection_ends_at_both_ends(mesh: Mesh, version: int) -> None:
    """Whoever writes next is reset; large writes are segments that the stack has not cut yet."""
    to = address(mesh, "server", version)
    with connection(mesh, "client", "server", to, 82) as (here, there):
        here.sendall(b"x")
        assert there.recv(1) == b"x"
        rule = Policy(
            source=Identity("any"), destination=Identity("any"), action="reject", priority=1
        )
        apply.edit(
            mesh.name,
            lambda now: now.model_copy(update={"policies": (*now.policies, rule)}),
        )
        for end in (here, there):
            end.send(bytes(200_000))
            with pytest.raises(ConnectionResetError):
                end.recv(1)


def test_a_flood_of_datagrams_is_not_answered_one_by_one(mesh: Mesh) -> None:
    to = address(mesh, "server", 4)
    where = ("client", Direction.FROM_FN, Reason.POLICY)
    before = drops(mesh).get(where, 0)
    with datagrams(mesh, "client", address(mesh, "client", 4)) as sock:
        for _ in range(5000):
            sock.sendto(b"x", (str(to), 53))
    assert poll(lambda: drops(mesh).get(where, 0) == before + 5000)
    heard = in_fn(mesh, "client", ["cat", "/proc/net/snmp"]).stdout
    names, values = (line.split()[1:] for line in heard.splitlines() if line.startswith("Icmp:"))
    found = dict(zip(names, map(int, values), strict=True))
    assert 64 <= found["InDestUnreachs"] < 5000 / 4
    assert found["InCsumErrors"] == 0


@BOTH
def test_what_the_stacks_got_was_sound(
    mesh: Mesh, begun: dict[str | None, dict[str, str]], version: int
) -> None:
    """No checksum was wrong, and nothing was left for another's socket."""
    to = address(mesh, "server", version)
    with pytest.raises(ConnectionRefusedError):
        connect(mesh, "client", to, 80)
    with (
        listener(mesh, "server", to, 82) as server,
        connect(mesh, "client", to, 82) as here,
        accepted(server) as there,
    ):
        here.sendall(b"still")
        assert there.recv(5) == b"still"
    assert {name: faulty(mesh, name) for name in begun} == begun
