# SPDX-License-Identifier: BSD-2-Clause
"""Services from the host's own processes, with ``host = true``: by programs at the root cgroup.

host (this process, the sandbox's namespace) ──▶ web:80, names:53/udp ──▶ web-0, web-1, web-2

The root of the cgroups is the machine's, so that the programs run for all there is on it: what is
not of this namespace must not notice.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpfmesh import apply
from ebpfmesh._abi import Direction, FlowFlag, Reason
from ebpfmesh.errors import ForeignProgram, Unsupported
from ebpfmesh.kernel import bpf, host, sockets
from ebpfmesh.kernel.cgroup import Hierarchies
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.kernel.programs import AT_HOST
from ebpfmesh.model import Mesh
from ebpfmesh.observe import health
from ebpfmesh.observe.mesh import read_mesh
from ebpfmesh.observe.view import opened
from support import serving
from support.meshes import rule, table
from support.outside import Outside, addressed
from support.serving import (
    ADDRESSES,
    accepted,
    answered_by,
    at,
    backends,
    family,
    flows,
    listeners,
    own,
    peer,
    plain,
)
from support.sockets import SECONDS, connection, connects, datagrams, is_blocked, made, moved_whole
from support.topology import collected, drops, mesh_of, poll

pytestmark = pytest.mark.usefixtures("at_sockets", "restored")

UPLINK = (
    table("uplink", name="uplink0", interface="up0")
    + rule("outside", "service:web")
    + rule("outside", "service:names")
    + rule("outside", "service:pinned")
)
MESH = serving.MESH.replace('"sock"', '"hosts"\nhost = true') + UPLINK
for port in (80, 53):
    more = f'publish = ["uplink0:{port + 1000}"]'
    MESH = MESH.replace(f"port = {port}\n", f"port = {port}\n{more}\n", 1)
OFF = MESH.replace("host = true", "host = false")
OWN_PORT = 20_000
"""The first of those that no other flow of this module has: the kernel gives away higher ones."""


def published(outside: Outside, service: str) -> list[tuple[str, int]]:
    """Where a process of the host may ask for a service."""
    own_port = 80 if service == "web" else 53
    named = [(address, own_port) for address in ADDRESSES[service]]
    return named + [(str(address), own_port + 1000) for address in outside.host]


@contextlib.contextmanager
def stream(address: str) -> Iterator[socket.socket]:
    with socket.socket(family(address), socket.SOCK_STREAM) as sock:
        sock.settimeout(SECONDS)
        yield sock


@contextlib.contextmanager
def asking(kind: int = socket.AF_INET) -> Iterator[socket.socket]:
    with socket.socket(kind, socket.SOCK_DGRAM) as sock:
        sock.settimeout(SECONDS)
        yield sock


@pytest.mark.parametrize("place", range(5))
def test_a_stream_reaches_a_service_and_names_it(mesh: Mesh, outside: Outside, place: int) -> None:
    to = published(outside, "web")[place]
    with listeners(mesh, plain(to[0]).version) as servers, stream(to[0]) as sock:
        sock.bind(("", OWN_PORT + place))
        sock.connect(to)
        _, there, source = accepted(servers)
        with there:
            there.settimeout(SECONDS)
            assert peer(sock) == to
            assert (str(plain(source[0])), source[1]) == (
                str(plain(sock.getsockname()[0])),
                sock.getsockname()[1],
            )
            assert moved_whole(sock, there, 4 << 20)
            assert moved_whole(there, sock, 4 << 20)
            found = flows(mesh, source[1])
            assert len(found) == 2
            assert all(flags & FlowFlag.SOCKET for flags in found)
            sock.shutdown(socket.SHUT_WR)
            assert there.recv(1) == b""
            there.sendall(b"end")
        assert sock.recv(4) == b"end"
        assert sock.recv(1) == b""


@pytest.mark.parametrize("place", range(5))
def test_datagrams_reach_it_and_are_answered_by_it(
    mesh: Mesh, outside: Outside, place: int
) -> None:
    to = published(outside, "names")[place]
    with backends(mesh, plain(to[0]).version) as socks, asking(family(to[0])) as sock:
        for _ in range(2):
            sock.sendto(b"question", to)
            assert answered_by(socks)
            text, source = sock.recvfrom(64)
            assert (text, source[:2]) == (b"answer", to)
    with backends(mesh, plain(to[0]).version) as socks, asking(family(to[0])) as sock:
        sock.connect(to)
        assert peer(sock) == to
        sock.send(b"question")
        assert answered_by(socks)
        text, source = sock.recvfrom(64)
        assert (text, source[:2]) == (b"answer", to)


def test_one_datagram_socket_asks_several(mesh: Mesh, outside: Outside) -> None:
    """By turns a service, where it is published, and a backend itself, which stays itself."""
    apply.up(mesh_of(MESH + '[[policy]]\nfrom = "outside"\nto = "any"\nprotocol = "udp"\n'))
    service, port = ("198.19.0.2", 53), (str(outside.host[0]), 1053)
    with backends(mesh, 4) as socks, asking() as sock:
        for to in (service, port, service, port):
            sock.sendto(b"question", to)
            who = answered_by(socks)
            assert sock.recvfrom(64) == (b"answer", to)
        direct = (str(at(mesh, who, 4)), 5353)
        for to in (direct, port, direct):
            sock.sendto(b"question", to)
            assert answered_by(socks)
            assert sock.recvfrom(64) == (b"answer", to)


def test_sockets_spread_and_affinity_binds(mesh: Mesh) -> None:
    def asked(address: str) -> str:
        with stream(address) as sock:
            sock.connect((address, 80))
            who, there, _ = accepted(servers)
            there.close()
        return who

    with listeners(mesh, 4) as servers:
        assert len({asked("198.19.0.1") for _ in range(40)}) == 3
        assert len({asked("198.19.0.3") for _ in range(6)}) == 1


def test_nobody_to_answer_is_refused(mesh: Mesh) -> None:
    with listeners(mesh, 4) as servers:
        for name in ("web-0", "web-1"):
            apply.set_ready(mesh.name, name, False)
        for _ in range(4):
            with stream("198.19.0.1") as sock:
                sock.connect(("198.19.0.1", 80))
                who, there, _ = accepted(servers)
                there.close()
                assert who == "web-2"
        apply.set_ready(mesh.name, "web-2", False)
        for to in (("198.19.0.1", 80), ("198.19.0.1", 81), ("2001:db8:1::1", 80)):
            with stream(to[0]) as sock, pytest.raises(ConnectionRefusedError):
                sock.connect(to)
        for to in (("198.19.0.2", 53), ("198.19.0.2", 54)):
            with asking() as sock, pytest.raises(ConnectionRefusedError):
                sock.sendto(b"question", to)
        for name in ("web-0", "web-1", "web-2"):
            apply.set_ready(mesh.name, name, True)
        with stream("198.19.0.1") as sock:
            sock.connect(("198.19.0.1", 80))


def test_policy_is_that_for_the_outside(mesh: Mesh) -> None:
    """The host is outside, by the address it sends from; of the service, not of its backends."""
    with listeners(mesh, 4), stream("198.19.0.1") as sock:
        sock.connect(("198.19.0.1", 80))
        source = sock.getsockname()[0]
        assert is_blocked(mesh, None, at(mesh, "web-0", 4), 8080)
        denied = f'[[policy]]\nfrom = "outside:{source}/32"\nto = "service:web"\n'
        apply.up(mesh_of(f'{MESH}{denied}action = "deny"\npriority = 9\n'))
        before = dict(drops(mesh))
        assert is_blocked(mesh, None, plain("198.19.0.1"), 80)
        now = drops(mesh)
        assert any(
            now[key] > before.get(key, 0)
            for key in now
            if key[1:] == (Direction.TO_FN, Reason.POLICY)
        )


def test_a_connection_outlives_its_backends_readiness_and_a_change(mesh: Mesh) -> None:
    with listeners(mesh, 4) as servers, stream("198.19.0.1") as sock:
        sock.connect(("198.19.0.1", 80))
        who, there, _ = accepted(servers)
        with there:
            there.settimeout(SECONDS)
            apply.set_ready(mesh.name, who, False)
            sock.sendall(b"still")
            assert there.recv(5) == b"still"
            apply.up(mesh_of(OFF))
            there.sendall(b"here")
            assert sock.recv(4) == b"here"
            apply.set_ready(mesh.name, who, True)


def test_sockets_of_other_namespaces_are_left_alone(mesh: Mesh, outside: Outside) -> None:
    """A container with the very addresses of the service speaks with its own server there."""
    web, names = plain("198.19.0.1"), plain("198.19.0.2")
    with addressed(web, names, home=outside.home):
        with connection(mesh, outside.home, outside.home, web, 80) as (here, there):
            assert peer(here) == ("198.19.0.1", 80)
            assert moved_whole(here, there, 1 << 20)
        with (
            datagrams(mesh, outside.home, names, 53) as server,
            made(mesh, outside.home, socket.AF_INET, socket.SOCK_DGRAM) as asker,
        ):
            asker.sendto(b"x", ("198.19.0.2", 53))
            server.sendto(server.recvfrom(9)[0], asker.getsockname())
            assert asker.recvfrom(9)[1] == ("198.19.0.2", 53)


def test_functions_are_served_as_before(mesh: Mesh) -> None:
    """Their sockets meet the programs of both cgroups, in either order."""
    with listeners(mesh, 4) as servers:
        for sock in (
            own(mesh, "client", socket.AF_INET, socket.SOCK_STREAM),
            made(mesh, "client", socket.AF_INET, socket.SOCK_STREAM),
        ):
            with sock:
                sock.connect(("198.19.0.1", 80))
                _, there, source = accepted(servers)
                with there:
                    assert peer(sock) == ("198.19.0.1", 80)
                    assert source[0] == str(at(mesh, "client", 4))


# ---- what is attached, and goes


def at_root() -> list[int]:
    """Ids of our programs at the root."""
    found = []
    for one in AT_HOST:
        pin, unified = Pins("hosts").links / one.name, Hierarchies.mounted().unified
        with contextlib.suppress(FileNotFoundError), bpf.obj_get(pin) as link:
            assert unified
            assert bpf.link_cgroup(link) == unified.stat().st_ino
            found.append(bpf.link_program(link))
    return found


def test_off_again_and_down_leave_nothing(mesh: Mesh) -> None:
    assert len(at_root()) == len(AT_HOST)
    with opened("hosts") as view:
        assert read_mesh(view).host
    assert apply.up(mesh) == ()
    steps = apply.up(mesh_of(OFF))
    assert [one.describe() for one in steps] == ["~ host off"]
    assert at_root() == []
    with listeners(mesh, 4), pytest.raises(OSError, match="unreachable"):  # there is no route
        connects(mesh, None, plain("198.19.0.1"), 80)
    assert [one.kind for one in apply.up(mesh)] == ["set-host"]
    kept = at_root()
    apply.down("hosts")
    assert not Pins("hosts").links.exists()
    assert kept
    assert poll(lambda: not any(map(exists, kept)))


def exists(program: int) -> bool:
    try:
        bpf.prog_by_id(program).close()
    except FileNotFoundError:
        return False
    return True


def test_without_datagrams_those_of_nobody_are_met(mesh: Mesh) -> None:
    """What meets each datagram costs it a lock; it comes with the first service of UDP."""
    text, _, rest = MESH.partition('[[service]]\nname = "names"')
    less = text + '[[service]]\nname = "pinned"' + rest.partition('[[service]]\nname = "pinned"')[2]
    less = less.replace('[[policy]]\nfrom = "outside"\nto = "service:names"\n', "")
    before = at_root()
    apply.up(mesh_of(less))
    assert at_root() == [number for number, one in zip(before, AT_HOST, strict=True)
                         if one in host.STREAMS]  # fmt: skip
    apply.up(mesh)
    assert at_root() == before


@pytest.mark.usefixtures("mesh")
def test_what_somebody_took_away_is_told_and_put_back() -> None:
    pin = Pins("hosts").links / AT_HOST[-1].name
    with bpf.obj_get(pin) as link:
        bpf.link_detach(link)
    told = "programs at sockets of the host"
    assert any(told in one.text for one in health.check("hosts"))
    assert collected("hosts") == [f"what was wrong with {told} of mesh hosts"]
    assert not any(told in one.text for one in health.check("hosts"))


@pytest.fixture
def below(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cgroup in the place of the root, so that the machine's is not in danger."""
    unified = Hierarchies.mounted().unified
    assert unified
    place = unified / f"ebpfmesh-test-{os.getpid()}"
    place.mkdir()
    monkeypatch.setattr(host, "root", lambda: place)
    yield place
    place.rmdir()


def test_programs_of_others_stay_and_one_that_is_alone_is_refused(mesh: Mesh, below: Path) -> None:
    apply.up(mesh_of(OFF))
    with bpf.obj_get(Pins("hosts").progs / "mesh_connect4") as theirs:
        directory = os.open(below, os.O_RDONLY)
        kind = bpf.HOST_HOOK["connect4"]
        try:
            with bpf.link_create(theirs, directory, kind) as other:
                apply.up(mesh)
                assert bpf.link_cgroup(other) == below.stat().st_ino
                apply.up(mesh_of(OFF))
                assert bpf.link_cgroup(other) == below.stat().st_ino
            bpf.call("bpf_prog_attach", theirs.fileno(), directory, kind, 0)
            try:
                with pytest.raises(ForeignProgram) as refused:
                    apply.up(mesh)
                assert refused.value.exit_code == 6
                assert "connect4" in refused.value.message
                assert at_root() == []
                assert apply.snapshot("hosts")[0].host is False
            finally:
                bpf.call("bpf_prog_detach2", theirs.fileno(), directory, kind)
        finally:
            os.close(directory)


def test_a_kernel_without_it_is_named(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    apply.up(mesh_of(OFF))
    with monkeypatch.context() as patch:
        patch.setattr(sockets, "supported", lambda: False)
        with pytest.raises(Unsupported) as refused:
            apply.up(mesh)
    assert refused.value.exit_code == 5
    assert apply.snapshot("hosts")[0].host is False
