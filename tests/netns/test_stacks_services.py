# SPDX-License-Identifier: BSD-2-Clause
"""How services choose: by source, by weight, by port of a range; and what stays when they change.

source-0 … source-7 ──▶ plain, sticky, heavy, range ──▶ web-0 | web-1 | web-2
"""

import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest

from ebpfmesh import apply
from ebpfmesh._abi import Direction, Reason
from ebpfmesh.kernel import netns
from ebpfmesh.model import Address, Mesh
from support.sockets import (
    carries,
    connect,
    datagrams,
    family_of,
    home,
    is_blocked,
    listener,
    made,
)
from support.topology import drops, mesh_of, poll

pytestmark = pytest.mark.usefixtures("restored")

BACKENDS = ("web-0", "web-1", "web-2")
SOURCES = tuple(f"source-{number}" for number in range(8))
MESH = """
[mesh]
name = "services"
[[function]]
name = "source"
replicas = 8
[[function]]
name = "web"
replicas = 3
[[service]]
name = "plain"
address = ["198.19.0.1", "2001:db8:1::1"]
port = 80
functions = ["web"]
[[service]]
name = "sticky"
address = ["198.19.0.2", "2001:db8:1::2"]
port = 80
functions = ["web"]
affinity = "source"
[[service]]
name = "heavy"
address = ["198.19.0.3", "2001:db8:1::3"]
port = 80
protocol = "udp"
functions = ["web-0", "web-1"]
weights = { web-0 = 6, web-1 = 2 }
[[service]]
name = "range"
address = ["198.19.0.4", "2001:db8:1::4"]
port = "8000-8099"
target_port = "9000-9099"
functions = ["web-0"]
[[service]]
name = "range-udp"
address = ["198.19.0.4", "2001:db8:1::4"]
port = "8000-8099"
target_port = "9000-9099"
protocol = "udp"
functions = ["web-0"]
"""


def index(version: int) -> int:
    return 0 if version == 4 else 1


class Servers:
    """Listeners of all backends on one port, and who of them a connection came to."""

    def __init__(self, listeners: dict[str, socket.socket], stack: ExitStack) -> None:
        self._listeners = listeners
        self._stack = stack
        for server in listeners.values():
            server.setblocking(False)

    def accept(self) -> tuple[str, socket.socket]:
        """The backend that has a new connection, and its end of it."""
        found: list[tuple[str, socket.socket]] = []

        def came() -> bool:
            for name, server in self._listeners.items():
                try:
                    there, _ = server.accept()
                except BlockingIOError:
                    continue
                found.append((name, self._stack.enter_context(there)))
                return True
            return False

        assert poll(came)
        return found[0]


@contextmanager
def servers(mesh: Mesh, version: int, port: int = 80) -> Iterator[Servers]:
    with ExitStack() as stack:
        address = {name: mesh.function(name).addresses[index(version)] for name in BACKENDS}
        found = {
            name: stack.enter_context(listener(mesh, name, address[name], port))
            for name in BACKENDS
        }
        yield Servers(found, stack)


def chosen(mesh: Mesh, accepting: Servers, source: str, to: Address, count: int) -> Counter[str]:
    """To which backends so many connections of a source come, each closed before the next."""
    found: Counter[str] = Counter()
    for _ in range(count):
        with connect(mesh, source, to, 80):
            name, there = accepting.accept()
            there.close()
        found[name] += 1
    return found


def changed(mesh: Mesh, service: str, **fields: object) -> None:
    """Change fields of one service while the mesh is up."""

    def edit(now: Mesh) -> Mesh:
        services = [
            item.model_copy(update=fields) if item.name == service else item
            for item in now.services
        ]
        return now.model_copy(update={"services": tuple(services)})

    apply.edit(mesh.name, edit)


# ---- affinity


@pytest.mark.parametrize("version", [4, 6])
def test_a_source_meets_one_backend(mesh: Mesh, version: int) -> None:
    """All its connections do; those of other sources may meet others."""
    to = mesh.service("sticky").addresses[index(version)]
    with servers(mesh, version) as accepting:
        found = {source: chosen(mesh, accepting, source, to, 8) for source in SOURCES}
    assert all(len(names) == 1 for names in found.values())
    assert len({name for names in found.values() for name in names}) > 1


@pytest.mark.parametrize("version", [4, 6])
def test_without_affinity_it_meets_all(mesh: Mesh, version: int) -> None:
    to = mesh.service("plain").addresses[index(version)]
    with servers(mesh, version) as accepting:
        assert set(chosen(mesh, accepting, "source-0", to, 40)) == set(BACKENDS)


# ---- weights


@pytest.mark.parametrize("version", [4, 6])
def test_shares_are_by_weight(mesh: Mesh, version: int) -> None:
    """Of 240 flows about 6 in 8 meet the one of weight 6: within four standard deviations.

    Their ports are always the same, and so is who gets which.
    """
    to, flows = mesh.service("heavy").addresses[index(version)], 240
    with ExitStack() as stack:
        sinks = {
            name: stack.enter_context(
                datagrams(mesh, name, mesh.function(name).addresses[index(version)], 80)
            )
            for name in BACKENDS
        }
        with netns.entered(home(mesh, "source-0")):
            for number in range(flows):
                with socket.socket(family_of(to), socket.SOCK_DGRAM) as one:
                    one.bind(("", 20_000 + number))
                    one.sendto(b"x", (str(to), 80))
        found = {name: waiting(sink) for name, sink in sinks.items()}
    assert sum(found.values()) == flows
    assert 0.63 < found["web-0"] / flows < 0.87
    assert found["web-2"] == 0


def waiting(sink: socket.socket) -> int:
    """Datagrams that are at a socket."""
    sink.setblocking(False)
    count = 0
    try:
        while True:
            sink.recv(64)
            count += 1
    except BlockingIOError:
        return count


@pytest.mark.parametrize("version", [4, 6])
def test_a_drained_backend_keeps_what_it_has(mesh: Mesh, version: int) -> None:
    """Weight 0: its open connections go on, new ones go elsewhere; and it can come back."""
    to = mesh.service("plain").addresses[index(version)]
    with servers(mesh, version) as accepting, ExitStack() as stack:
        here = stack.enter_context(connect(mesh, "source-0", to, 80))
        name, there = accepting.accept()
        changed(mesh, "plain", weights={name: 0})
        assert carries(here, there)
        assert carries(there, here)
        assert set(chosen(mesh, accepting, "source-0", to, 30)) == set(BACKENDS) - {name}
        assert carries(here, there)
        changed(mesh, "plain", weights={})
        assert name in chosen(mesh, accepting, "source-0", to, 40)
        assert carries(here, there)


@pytest.mark.parametrize("version", [4, 6])
def test_a_port_that_is_used_again_is_not_sent_to_a_drained_backend(
    mesh: Mesh, version: int
) -> None:
    """What the mesh remembers of a closed connection says nothing about the next one."""
    to = mesh.service("plain").addresses[index(version)]
    own, port = str(mesh.function("source-0").addresses[index(version)]), 31_000 + version
    with servers(mesh, version) as accepting:
        drained = ""
        for _ in range(2):
            with made(mesh, "source-0", family_of(to), socket.SOCK_STREAM) as here:
                here.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                here.bind((own, port))
                here.connect((str(to), 80))
                name, there = accepting.accept()
                assert carries(here, there)
                there.shutdown(socket.SHUT_WR)  # first, so that the client's port is free at once
                assert here.recv(1) == b""
            assert name != drained
            drained = name
            changed(mesh, "plain", weights={name: 0})


def test_all_drained_is_no_backend(mesh: Mesh) -> None:
    to = mesh.service("plain").address4
    key = ("source-0", Direction.FROM_FN, Reason.NO_BACKEND)
    before = drops(mesh).get(key, 0)
    changed(mesh, "plain", weights=dict.fromkeys(BACKENDS, 0))
    assert is_blocked(mesh, "source-0", to, 80)
    assert drops(mesh)[key] > before


# ---- ranges of ports


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("offset", [0, 1, 31, 42, 63, 64, 99])
def test_each_port_of_a_range_is_its_own(mesh: Mesh, offset: int, version: int) -> None:
    to = mesh.service("range").addresses[index(version)]
    own = mesh.function("web-0").addresses[index(version)]
    source = mesh.function("source-0").addresses[index(version)]
    with (
        listener(mesh, "web-0", own, 9000 + offset) as server,
        connect(mesh, "source-0", to, 8000 + offset) as here,
    ):
        there, _ = server.accept()
        with there:
            assert here.getpeername()[1] == 8000 + offset
            assert carries(here, there)
            assert carries(there, here)
    with (
        datagrams(mesh, "web-0", own, 9000 + offset) as sink,
        datagrams(mesh, "source-0", source) as client,
    ):
        client.connect((str(to), 8000 + offset))
        client.send(b"question")
        data, peer = sink.recvfrom(64)
        assert data == b"question"
        sink.sendto(b"answer", peer)
        assert client.recv(64) == b"answer"


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("port", [7999, 8100, 9000])
def test_beside_a_range_is_nothing(mesh: Mesh, port: int, version: int) -> None:
    key = ("source-0", Direction.FROM_FN, Reason.NO_SERVICE)
    before = drops(mesh).get(key, 0)
    assert is_blocked(mesh, "source-0", mesh.service("range").addresses[index(version)], port)
    assert drops(mesh)[key] > before


# ---- connections that stay open while the file changes

CHANGED = (
    MESH.replace('functions = ["web"]', 'functions = ["web", "late"]')
    .replace("web-0 = 6", "web-0 = 1")
    .replace('port = "8000-8099"', 'port = "8000-8199"')
    .replace('target_port = "9000-9099"', 'target_port = "9000-9199"')
    + """
[[function]]
name = "late"
[[function]]
name = "stranger"
tenant = "u"
[[policy]]
from = "tenant:u"
to = "service:plain"
[[policy]]
from = "tenant:u"
to = "function:web-0"
protocol = "tcp"
port = "9000-9099"
action = "deny"
priority = 10
"""
)


@pytest.mark.parametrize("version", [4, 6])
def test_kept_connections_stay_while_the_file_changes(mesh: Mesh, version: int) -> None:
    """Each goes on, at the backend it has, whatever the tables become."""
    wanted = mesh_of(CHANGED)
    with ExitStack() as stack:
        pairs: list[Sequence[socket.socket]] = []
        accepting = stack.enter_context(servers(mesh, version))
        for service in ("plain", "sticky"):
            to = mesh.service(service).addresses[index(version)]
            for source in SOURCES:
                here = stack.enter_context(connect(mesh, source, to, 80))
                pairs.append((here, accepting.accept()[1]))
        for model in (wanted, mesh):
            apply.up(model)
            for number, (here, there) in enumerate(pairs):
                assert carries(here, there, b"%4d" % number)
                assert carries(there, here, b"%4d" % number)
