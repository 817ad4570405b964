# SPDX-License-Identifier: BSD-2-Clause
"""Services: nginx in several functions behind one address, and curl in front.

client ──▶ web:80 ──▶ web-0:8080 | web-1:8080 | web-2:8080
"""

import ctypes
import hashlib
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from ebpfmesh import apply
from ebpfmesh._abi import Direction, Reason
from ebpfmesh.config import edit
from ebpfmesh.kernel import maglev
from ebpfmesh.model import Mesh
from support.meshes import BALANCED
from support.sockets import (
    BLOCKED_SECONDS,
    SECONDS,
    connect,
    connects,
    datagrams,
    is_blocked,
    listener,
)
from support.topology import (
    background,
    drops,
    in_fn,
    listening,
    mesh_of,
    needs,
    running,
    wait_until,
)

BACKENDS = ("web-0", "web-1", "web-2")
MESH = (
    BALANCED
    + """
[[service]]
name = "mirror"
address = "198.19.0.3"
port = 53
target_port = 5353
protocol = "udp"
functions = ["web"]
"""
)
NGINX = """
user root; daemon off; worker_processes 1; pid {prefix}/nginx.pid; error_log stderr;
events {{ }}
http {{
  access_log off;
  server {{
    listen 8080; listen [::]:8080;
    location = / {{ return 200 "{name} $remote_addr $server_addr $server_port"; }}
    location / {{ root {prefix}; }}
  }}
}}
"""


@contextmanager
def nginx(mesh: Mesh, name: str, prefix: Path) -> Iterator[None]:
    prefix.mkdir()
    (prefix / "nginx.conf").write_text(NGINX.format(name=name, prefix=prefix))
    command = ["nginx", "-e", "stderr", "-p", prefix, "-c", prefix / "nginx.conf"]
    with background(mesh, name, command, ready=listening(8080)):
        yield


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    needs("nginx", "curl")
    top = tmp_path_factory.mktemp("nginx")
    with ExitStack() as stack:
        mesh = stack.enter_context(running(MESH))
        for name in BACKENDS:
            stack.enter_context(nginx(mesh, name, top / name))
            (top / name / "blob").write_bytes(blob())
        yield mesh


def blob() -> bytes:
    return random.Random(1).randbytes(8 << 20)


def url(version: int, path: str = "/") -> str:
    return f"http://{'198.19.0.1' if version == 4 else '[2001:db8:1::1]'}{path}"


def get(mesh: Mesh, *urls: str) -> str:
    """What curl in the client says, each URL by a connection of its own."""
    options = ["--silent", "--show-error", "--fail", "--max-time", 20, "--no-keepalive"]
    words = [word for url in urls for word in ("--write-out", "\n", url, "--next")]
    return in_fn(mesh, "client", ["curl", *options, "-H", "Connection: close", *words[:-1]]).stdout


@pytest.mark.parametrize("version", [4, 6])
def test_connections_spread_over_all_backends(mesh: Mesh, version: int) -> None:
    script = f"for i in $(seq 40); do curl -sS --fail -m 20 '{url(version)}'; echo; done"
    answers = in_fn(mesh, "client", ["sh", "-c", script]).stdout.split("\n")[:-1]
    client = mesh.function("client")
    expected = str(client.address4 if version == 4 else client.address6)
    seen = set()
    for answer in answers:
        name, remote, own, port = answer.split()
        backend = mesh.function(name)
        assert remote == expected  # the client's own address, not translated
        assert own == str(backend.address4 if version == 4 else backend.address6)
        assert port == "8080"
        seen.add(name)
    assert len(answers) == 40
    assert seen == set(BACKENDS)


@pytest.mark.parametrize("version", [4, 6])
def test_a_large_answer_is_whole(mesh: Mesh, version: int) -> None:
    script = f"curl -sS --fail -m 20 '{url(version, '/blob')}' | sha256sum"
    for _ in range(4):
        digest = in_fn(mesh, "client", ["sh", "-c", script]).stdout.split()[0]
        assert digest == hashlib.sha256(blob()).hexdigest()


def test_one_connection_keeps_its_backend(mesh: Mesh) -> None:
    """Many requests of one connection are answered by one backend."""
    done = in_fn(mesh, "client", ["curl", "-sS", "-m", 20, *[f"{url(4)}?[1-30]"]]).stdout
    answers = {line for line in done.replace("8080", "8080\n").split("\n") if line}
    assert len(answers) == 1


def test_only_the_services_own_port(mesh: Mesh) -> None:
    assert is_blocked(mesh, "client", mesh.service("web").address4, 8080)


def test_backends_are_reached_directly_too(mesh: Mesh) -> None:
    address = mesh.function("web-1").address4
    assert in_fn(
        mesh, "client", ["curl", "-sS", "-m", 20, f"http://{address}:8080/"]
    ).stdout.startswith("web-1 ")


def test_a_service_without_backends_refuses_and_says_so(mesh: Mesh) -> None:
    key = ("client", Direction.FROM_FN, Reason.NO_BACKEND)
    before = drops(mesh).get(key, 0)
    edit_backends(mesh, ())
    try:
        assert is_blocked(mesh, "client", mesh.service("web").address4, 80)
        assert drops(mesh)[key] > before
    finally:
        edit_backends(mesh, BACKENDS)
    assert connects(mesh, "client", mesh.service("web").address4, 80)


def test_a_datagram_is_answered_from_the_services_address(mesh: Mesh) -> None:
    """A connected UDP socket takes answers from no other address."""
    service, client = mesh.service("mirror"), mesh.function("client")
    with ExitStack() as stack:
        backends = [
            stack.enter_context(datagrams(mesh, name, mesh.function(name).address4, 5353))
            for name in BACKENDS
        ]
        sock = stack.enter_context(datagrams(mesh, "client", client.address4))
        sock.connect((str(service.address4), 53))
        for backend in backends:
            backend.setblocking(False)
        sock.send(b"question")
        answered = 0
        while not answered:
            for backend in backends:
                try:
                    text, peer = backend.recvfrom(64)
                except BlockingIOError:
                    continue
                assert text == b"question"
                backend.sendto(b"answer", peer)
                answered += 1
        assert sock.recv(64) == b"answer"


def test_a_function_may_be_its_own_client(mesh: Mesh) -> None:
    """A backend that calls its service is answered by any backend, at times by itself."""
    script = "for i in $(seq 96); do curl -s -m 20 http://198.19.0.1/; echo; done"
    answers = in_fn(mesh, "web-0", ["sh", "-c", script]).stdout.split("\n")
    assert {answer.split()[0] for answer in answers if answer} == {"web-0", "web-1", "web-2"}


def test_connections_keep_their_backend_while_the_list_grows(mesh: Mesh) -> None:
    """What is open stays where it is, whatever the new table says."""
    front = mesh.service("web").address4
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(mesh, "client", front, 80)) for _ in range(24)]
        request = b"GET / HTTP/1.1\r\nHost: web\r\n\r\n"

        def answers() -> list[str]:
            found = []
            for client in clients:
                client.sendall(request)
                found.append(client.recv(4096).rpartition(b"\r\n\r\n")[2].decode())
            return found

        before = answers()
        try:
            shrunk = ("web-0", "web-1")
            for backends in (shrunk, BACKENDS):
                edit_backends(mesh, backends)
                assert answers() == before
        finally:
            edit_backends(mesh, BACKENDS)


def edit_backends(mesh: Mesh, names: tuple[str, ...]) -> None:
    def change(current: Mesh) -> Mesh:
        services = tuple(
            service.model_copy(update={"functions": names}) if service.name == "web" else service
            for service in current.services
        )
        return current.model_copy(update={"services": services})

    apply.edit(mesh.name, change)


def test_new_connections_leave_out_a_backend_that_was_taken_out(mesh: Mesh) -> None:
    front = mesh.service("web").address4
    try:
        edit_backends(mesh, ("web-2",))
        script = f"for i in $(seq 20); do curl -sS --fail -m 20 http://{front}/; echo; done"
        answers = in_fn(mesh, "client", ["sh", "-c", script]).stdout.split("\n")[:-1]
        assert {answer.split()[0] for answer in answers} == {"web-2"}
    finally:
        edit_backends(mesh, BACKENDS)


def test_a_service_taken_out_ends_its_connections(mesh: Mesh) -> None:
    front, original = mesh.service("mirror").address4, mesh.service("mirror")
    client = mesh.function("client")
    with datagrams(mesh, "client", client.address4) as sock:
        sock.connect((str(front), 53))
        sock.settimeout(SECONDS)
        sock.send(b"question")
        with pytest.raises(ConnectionRefusedError):  # nobody listens there, says a backend
            sock.recv(1)
        key = ("client", Direction.FROM_FN, Reason.NO_SERVICE)
        before = drops(mesh).get(key, 0)
        without = tuple(s for s in mesh.services if s.name != "mirror")
        apply.edit(mesh.name, lambda now: now.model_copy(update={"services": without}))
        try:
            sock.send(b"question")
            wait_until(lambda: drops(mesh).get(key, 0) == before + 1, what="it is dropped")
        finally:
            apply.edit(
                mesh.name, lambda now: now.model_copy(update={"services": (*without, original)})
            )


def test_listener_only_sees_the_target_port(mesh: Mesh) -> None:
    """The port a client asked for does not exist at a backend."""
    name = "web-0"
    with listener(mesh, name, mesh.function(name).address4, 80) as server:
        server.settimeout(BLOCKED_SECONDS)
        assert get(mesh, url(4), url(4)).count("8080") == 2
        with pytest.raises(TimeoutError):
            server.accept()


SLOTS = """
[mesh]
name = "slots"
[[function]]
name = "web"
replicas = {replicas}
[[service]]
name = "web"
address = "198.19.0.1"
port = 80
functions = ["web"]
"""


def test_a_backend_that_goes_takes_no_slot_of_the_others() -> None:
    """Nor does one that comes take more than its part; and nothing moves without a reason."""
    with running(SLOTS.format(replicas=7)):
        before = owners()
        apply.up(mesh_of(SLOTS.format(replicas=6)))
        after = owners()
        pairs = zip(before, after, strict=True)
        assert [pair for pair in pairs if pair[0] not in (pair[1], "web-6")] == []
        apply.edit(
            "slots", lambda mesh: edit.set_service(mesh, "web", addresses=[], affinity="source")
        )
        assert owners() == after
        apply.up(mesh_of(SLOTS.format(replicas=7)))
        pairs = zip(after, owners(), strict=True)
        assert {new for old, new in pairs if old != new} == {"web-6"}


def owners() -> list[str]:
    """Who has each slot of the service's table."""
    with apply.opened("slots") as live:
        row, rows = live.record.table("web")
        names = live.record.names("function")
        table = live.control.maps["mesh_maglev"]
        values = [table.get(ctypes.c_uint32(row + number)) for number in range(rows)]
    numbers = [number for value in values if value for number in value.function]
    return [names[number] for number in numbers[: maglev.size_of(rows)]]
