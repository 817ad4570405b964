# SPDX-License-Identifier: BSD-2-Clause
"""Services at the socket: what a process of a function sees, and that verdicts are the same.

A socket belongs to the cgroup of the process that made it. ``own`` makes one as a command in a
function does, and a stream's packets carry a backend's address; ``made`` makes one in the same
namespace from outside of the cgroup, and its packets carry the service's, as all datagrams do. The
mesh is that of support/serving.py.
"""

import contextlib
import socket

import pytest

from ebpfmesh import apply
from ebpfmesh._abi import Direction, FlowFlag, Reason
from ebpfmesh.model import Mesh, Service
from support import serving
from support.serving import (
    ADDRESSES,
    BOTH,
    WEB,
    Maker,
    accepted,
    answered_by,
    at,
    backends,
    family,
    flows,
    listeners,
    only,
    own,
    peer,
    plain,
    rule,
    set_rules,
    told,
)
from support.sockets import BLOCKED_SECONDS, datagrams, listener, made
from support.topology import drops, poll

pytestmark = pytest.mark.usefixtures("at_sockets", "restored")
MESH = serving.MESH


# ---- what a process sees


@pytest.mark.parametrize("address", ADDRESSES["web"])
def test_a_stream_meets_a_backend_and_names_the_service(mesh: Mesh, address: str) -> None:
    version = plain(address).version
    with (
        listeners(mesh, version) as servers,
        own(mesh, "client", family(address), socket.SOCK_STREAM) as sock,
    ):
        sock.connect((address, 80))
        _, there, source = accepted(servers)
        with there:
            assert peer(sock) == (address, 80)
            assert source == (str(at(mesh, "client", version)), sock.getsockname()[1])
            sock.sendall(b"question")
            assert there.recv(64) == b"question"
            there.sendall(b"answer")
            assert sock.recv(64) == b"answer"
            assert flows(mesh, source[1])
            for flags in flows(mesh, source[1]):
                assert flags & FlowFlag.SOCKET
                assert not flags & (FlowFlag.NAT_DST | FlowFlag.NAT_SRC)


@pytest.mark.parametrize("address", ADDRESSES["names"])
def test_a_connected_datagram_socket(mesh: Mesh, address: str) -> None:
    with (
        backends(mesh, plain(address).version) as socks,
        own(mesh, "client", family(address), socket.SOCK_DGRAM) as sock,
    ):
        sock.connect((address, 53))
        assert peer(sock) == (address, 53)
        for _ in range(2):
            sock.send(b"question")
            assert answered_by(socks)
            text, source = sock.recvfrom(64)
            assert (text, source[:2]) == (b"answer", (address, 53))


@pytest.mark.parametrize("address", ADDRESSES["names"])
def test_an_unconnected_datagram_socket(mesh: Mesh, address: str) -> None:
    with (
        backends(mesh, plain(address).version) as socks,
        own(mesh, "client", family(address), socket.SOCK_DGRAM) as sock,
    ):
        for _ in range(3):
            sock.sendto(b"question", (address, 53))
            assert answered_by(socks)
            text, source = sock.recvfrom(64)
            assert (text, source[:2]) == (b"answer", (address, 53))


def test_a_backend_itself_is_itself(mesh: Mesh) -> None:
    """Asked directly it answers as itself, on a socket that knew it as a service too."""
    direct = (str(at(mesh, "web-0", 4)), 5353)
    only(mesh, "names", "web-0")
    with (
        backends(mesh, 4) as socks,
        own(mesh, "client", socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        for to in (("198.19.0.2", 53), direct):
            sock.connect(to)
            assert peer(sock) == to
            sock.send(b"question")
            assert answered_by(socks) == "web-0"
            assert sock.recvfrom(64) == (b"answer", to)


def test_sockets_spread_over_all_backends(mesh: Mesh) -> None:
    seen = set()
    with listeners(mesh, 4) as servers:
        for _ in range(40):
            with own(mesh, "client", socket.AF_INET, socket.SOCK_STREAM) as sock:
                sock.connect(("198.19.0.1", 80))
                name, there, _ = accepted(servers)
                there.close()
                seen.add(name)
    assert seen == set(WEB)


def test_affinity_is_that_of_packets(mesh: Mesh) -> None:
    """One source, one backend: whoever translates."""
    for function in ("client", "other"):
        seen = set()
        with listeners(mesh, 4) as servers:
            for maker in (own, made, own):
                with maker(mesh, function, socket.AF_INET, socket.SOCK_STREAM) as sock:
                    sock.connect(("198.19.0.3", 80))
                    name, there, _ = accepted(servers)
                    there.close()
                    seen.add(name)
        assert len(seen) == 1


@pytest.mark.parametrize("way", ["service", "itself"])
@BOTH
def test_a_port_that_was_used_the_other_way(mesh: Mesh, maker: Maker, way: str) -> None:
    """What is left of a connection that ended is not in the way of one to the same function."""
    only(mesh, "web", "web-0")
    targets = {"service": ("198.19.0.1", 80), "itself": (str(at(mesh, "web-0", 4)), 8080)}
    own_address, port = str(at(mesh, "client", 4)), 0
    with listeners(mesh, 4) as servers:
        for make, to in ((made, targets["service"]), (maker, targets[way])):
            with make(mesh, "client", socket.AF_INET, socket.SOCK_STREAM) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind((own_address, port))
                sock.connect(to)
                _, there, source = accepted(servers)
                port = source[1]
                there.close()
                assert sock.recv(1) == b""


# ---- changes


@pytest.mark.parametrize("way", ["service", "itself"])
@BOTH
def test_an_address_that_ends_in_zeros(mesh: Mesh, maker: Maker, way: str) -> None:
    """As a backend's, a receiver's and, in the answer, a sender's."""
    only(mesh, "web", "other")
    address = at(mesh, "other", 6)
    to = ("2001:db8:1::1", 80) if way == "service" else (str(address), 8080)
    with (
        listener(mesh, "other", address, 8080) as server,
        maker(mesh, "client", socket.AF_INET6, socket.SOCK_STREAM) as sock,
    ):
        sock.connect(to)
        with accepted({"other": server})[1] as there:
            there.sendall(b"answer")
            assert sock.recv(64) == b"answer"


@BOTH
def test_datagrams_keep_their_backend_while_the_list_changes(mesh: Mesh, maker: Maker) -> None:
    only(mesh, "names", "web-0")
    with (
        backends(mesh, 4) as socks,
        maker(mesh, "client", socket.AF_INET, socket.SOCK_DGRAM) as sock,
        maker(mesh, "client", socket.AF_INET, socket.SOCK_DGRAM) as new,
    ):
        sock.sendto(b"question", ("198.19.0.2", 53))
        assert answered_by(socks) == "web-0"
        only(mesh, "names", "web-1")
        sock.sendto(b"question", ("198.19.0.2", 53))
        assert answered_by(socks) == "web-0"
        new.sendto(b"question", ("198.19.0.2", 53))
        assert answered_by(socks) == "web-1"


@BOTH
@pytest.mark.parametrize("connected", [False, True])
def test_datagrams_find_another_backend_when_theirs_is_gone(
    mesh: Mesh, maker: Maker, connected: bool
) -> None:
    only(mesh, "names", "web-0")
    with maker(mesh, "client", socket.AF_INET, socket.SOCK_DGRAM) as sock:

        def ask() -> None:
            if connected:
                sock.send(b"question")
            else:
                sock.sendto(b"question", ("198.19.0.2", 53))

        if connected:
            sock.connect(("198.19.0.2", 53))
        with backends(mesh, 4) as socks:
            ask()
            assert answered_by(socks) == "web-0"
            assert sock.recv(64) == b"answer"
        apply.detach(mesh.name, "web-0")
        for name in ("web-1", "web-2"):  # where the first goes, and where it stays
            only(mesh, "names", name)
            with (
                datagrams(mesh, "web-1", at(mesh, "web-1", 4), 5353) as one,
                datagrams(mesh, "web-2", at(mesh, "web-2", 4), 5353) as two,
            ):
                ask()
                assert answered_by({"web-1": one, "web-2": two}) == "web-1"
                assert sock.recvfrom(64) == (b"answer", ("198.19.0.2", 53))


@BOTH
def test_a_stream_ends_when_its_backend_is_gone(mesh: Mesh, maker: Maker) -> None:
    """Another one answers, which does not know it; the service itself goes on."""
    only(mesh, "web", "web-0")
    with maker(mesh, "client", socket.AF_INET, socket.SOCK_STREAM) as sock:
        with listeners(mesh, 4) as servers:
            sock.connect(("198.19.0.1", 80))
            _, there, _ = accepted(servers)
        with there:
            apply.detach(mesh.name, "web-0")
            only(mesh, "web", "web-1")
            sock.sendall(b"question")
            with pytest.raises(ConnectionResetError):
                sock.recv(64)


@BOTH
def test_an_address_that_passed_to_another_is_not_the_services(mesh: Mesh, maker: Maker) -> None:
    """Who may use the service may not, by an old socket, reach whoever has that address now."""
    only(mesh, "names", "web-0", "web-1")
    heir = mesh.function("web-0").model_copy(update={"name": "heir", "tenant": "three"})
    with maker(mesh, "client", socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("198.19.0.2", 53))
        set_rules(mesh, rule("tenant:one", "service:names"))
        apply.detach(mesh.name, "web-0")
        apply.add_function(mesh.name, heir)
        with (
            datagrams(mesh, "heir", at(mesh, "web-0", 4), 5353) as wrong,
            datagrams(mesh, "web-1", at(mesh, "web-1", 4), 5353) as right,
        ):
            sock.send(b"question")
            assert answered_by({"heir": wrong, "web-1": right}) == "web-1"
        apply.detach(mesh.name, "heir")


@BOTH
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_service_taken_out_ends_what_went_through_it(mesh: Mesh, maker: Maker, kind: int) -> None:
    name = "web" if kind == socket.SOCK_STREAM else "names"
    service: Service = mesh.service(name)
    with (
        listeners(mesh, 4),
        backends(mesh, 4),
        maker(mesh, "client", socket.AF_INET, kind) as sock,
    ):
        sock.connect((str(service.address4), service.port))
        sock.send(b"question")
        key = ("client", Direction.FROM_FN, Reason.NO_SERVICE)
        before = drops(mesh).get(key, 0)
        left = tuple(one for one in mesh.services if one.name != name)
        apply.edit(mesh.name, lambda now: now.model_copy(update={"services": left}))
        sock.send(b"question")
        assert poll(lambda: drops(mesh).get(key, 0) > before)


# ---- what is left to the packets


@BOTH
def test_a_service_without_backends(mesh: Mesh, maker: Maker) -> None:
    key = ("client", Direction.FROM_FN, Reason.NO_BACKEND)
    only(mesh, "web")
    before = drops(mesh).get(key, 0)
    with maker(mesh, "client", socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(BLOCKED_SECONDS)
        with pytest.raises(TimeoutError):
            sock.connect(("198.19.0.1", 80))
    assert drops(mesh)[key] > before


@BOTH
def test_a_function_that_is_its_own_backend(mesh: Mesh, maker: Maker) -> None:
    """Its rules hold as well: nothing is said to it past the mesh."""
    only(mesh, "web", "client")
    with listener(mesh, "client", at(mesh, "client", 4), 8080) as server:
        with maker(mesh, "client", socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.connect(("198.19.0.1", 80))
            there, source = server.accept()
            there.close()
            assert source[0] != str(at(mesh, "client", 4))
        set_rules(mesh, rule("function:client", "service:web", "deny"))
        with maker(mesh, "client", socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.settimeout(BLOCKED_SECONDS)
            with pytest.raises(TimeoutError):
                sock.connect(("198.19.0.1", 80))


def test_a_socket_of_another_namespace(mesh: Mesh) -> None:
    """A process of the function's cgroup that is somewhere else is none of the function."""
    with (
        own(mesh, "client", socket.AF_INET, socket.SOCK_STREAM) as inside,
        own(mesh, "client", socket.AF_INET, socket.SOCK_STREAM, stays=False) as elsewhere,
    ):
        for sock in (inside, elsewhere):
            sock.setblocking(False)
            with contextlib.suppress(OSError):  # it takes a while, or there is no way
                sock.connect(("198.19.0.1", 80))
        assert told(mesh, inside)
        assert not told(mesh, elsewhere)
