# SPDX-License-Identifier: BSD-2-Clause
"""Functions that are not ready: what services send them, and what survives that."""

import contextlib
import socket
from collections import Counter
from collections.abc import Iterator

import pytest

from ebpfmesh import apply
from ebpfmesh._abi import Direction, Reason
from ebpfmesh.errors import NotFound
from ebpfmesh.model import Mesh
from ebpfmesh.observe import functions, health
from ebpfmesh.observe.mesh import read_services
from ebpfmesh.observe.view import opened
from support.agreeing import is_well
from support.killing import killed_at, steps_of
from support.serving import MESH, WEB, answered_by, backends, listeners
from support.sockets import BLOCKED_SECONDS, carries, connect, is_blocked, made
from support.topology import collected, drops, mesh_of, running, wait_until

FLOWS = 40


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    with running(MESH) as made_mesh:
        yield made_mesh


def counted(mesh: Mesh, version: int = 4, number: int = FLOWS) -> Counter[str]:
    """Which backends so many new connections reach."""
    found: Counter[str] = Counter()
    with listeners(mesh, version) as servers, contextlib.ExitStack() as stack:
        to = mesh.service("web").addresses[0 if version == 4 else 1]
        for _ in range(number):
            stack.enter_context(connect(mesh, "client", to, 80))
        for name, server in servers.items():
            server.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                while True:
                    server.accept()[0].close()
                    found[name] += 1
    return found


@pytest.mark.parametrize("version", [4, 6])
def test_new_flows_go_elsewhere_and_come_back(mesh: Mesh, version: int) -> None:
    assert set(counted(mesh, version)) == set(WEB)
    assert apply.set_ready("sock", "web-1", False, why="port 8080")
    assert set(counted(mesh, version)) == {"web-0", "web-2"}
    assert apply.set_ready("sock", "web-1", False, why="port 8080") == ()
    assert apply.set_ready("sock", "web-1", True)
    assert set(counted(mesh, version)) == set(WEB)
    assert apply.set_ready("sock", "web-1", True) == ()


def test_an_old_flow_keeps_its_backend(mesh: Mesh) -> None:
    """Of TCP, and of UDP, where each datagram could go elsewhere."""
    to = mesh.service("web").address4
    with listeners(mesh, 4) as servers, connect(mesh, "client", to, 80) as here:
        [(name, there)] = _accepted(servers)
        apply.set_ready("sock", name, False)
        assert carries(here, there)
        assert carries(there, here)
        others = set()
        for _ in range(FLOWS):
            with connect(mesh, "client", to, 80):
                others |= {one for one, _ in _accepted(servers)}
        assert others == set(WEB) - {name}
        there.close()
    with (
        backends(mesh, 4) as socks,
        made(mesh, "client", socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        sock.connect((str(mesh.service("names").address4), 53))
        sock.send(b"question")
        first = answered_by(socks)
        apply.set_ready("sock", first, False)
        sock.send(b"question")
        assert answered_by(socks) == first


def _accepted(servers: dict[str, socket.socket]) -> list[tuple[str, socket.socket]]:
    found: list[tuple[str, socket.socket]] = []

    def look() -> bool:
        for name, server in servers.items():
            server.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                found.append((name, server.accept()[0]))
        return bool(found)

    wait_until(look, what="a backend is connected to")
    return found


def test_with_none_left_there_is_no_backend(mesh: Mesh) -> None:
    key = ("client", Direction.FROM_FN, Reason.NO_BACKEND)
    to = mesh.service("web").address4
    for name in WEB:
        apply.set_ready("sock", name, False)
    with listeners(mesh, 4):
        assert is_blocked(mesh, "client", to, 80)
        assert drops(mesh)[key] > 0
        apply.edit("sock", lambda now: now.model_copy(update={"reject": True}))
        with pytest.raises(ConnectionRefusedError):
            connect(mesh, "client", to, 80)
        apply.set_ready("sock", "web-2", True)
        connect(mesh, "client", to, 80).close()
    assert set(counted(mesh)) == {"web-2"}


def test_who_waits_for_an_answer_gets_one_when_a_backend_is_ready(mesh: Mesh) -> None:
    """The kernel sends its SYN again."""
    for name in WEB:
        apply.set_ready("sock", name, False)
    with listeners(mesh, 4), made(mesh, "client", socket.AF_INET, socket.SOCK_STREAM) as client:
        client.setblocking(False)
        assert client.connect_ex((str(mesh.service("web").address4), 80))
        apply.set_ready("sock", "web-0", True)
        client.settimeout(BLOCKED_SECONDS + 30)
        wait_until(lambda: client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\1",
                   what="connected", seconds=30)  # fmt: skip


def test_it_survives_other_changes(mesh: Mesh) -> None:
    apply.set_ready("sock", "web-1", False, why="port 8080")
    assert apply.plan(mesh) == ()
    assert apply.up(mesh) == ()
    weights = [(one.name, one.backends) for one in apply.snapshot("sock")[0].backed]
    assert weights == sorted((one.name, one.backends) for one in mesh.backed)
    weighted = mesh_of(
        MESH.replace('protocol = "udp"', 'protocol = "udp"\nweights = {web-1 = 9}').replace(
            "target_port = 8080", "target_port = 8080\nweights = {web = 2}", 1
        )
    )
    apply.up(weighted)
    assert set(counted(mesh)) == {"web-0", "web-2"}
    apply.up(mesh_of(MESH.replace("replicas = 3", "replicas = 4")))
    assert services()["web"]["web-1"] == (False, 0.0)
    assert services()["web"]["web-3"][1] > 0
    with apply.opened("sock") as live:
        live.record.doubt()
    assert collected("sock")
    assert services()["web"]["web-1"] == (False, 0.0)
    assert is_well("sock")
    apply.set_ready("sock", "web-1", True)
    assert services()["web"]["web-1"][1] > 0


def services() -> dict[str, dict[str, tuple[bool, float]]]:
    """Whether each backend is ready, and what share it has."""
    with opened("sock") as view:
        return {
            row.name: {one.function: (one.ready, one.share) for one in row.backends}
            for row in read_services(view)
        }


def test_a_function_that_goes_is_ready_when_it_comes_again(mesh: Mesh) -> None:
    apply.set_ready("sock", "web-1", False)
    apply.detach("sock", "web-1")
    with opened("sock") as view:
        assert view.unready == {}
    apply.up(mesh)
    assert set(counted(mesh)) == set(WEB)


def test_it_is_told(mesh: Mesh) -> None:
    apply.set_ready("sock", "web-1", False, why="port 8080")
    with opened("sock") as view:
        rows = {row.name: (row.ready, row.unready) for row in functions.read(view)}
    assert rows["web-1"] == (False, "port 8080")
    assert rows["web-0"] == (True, "")
    assert services()["pinned"]["web-1"] == (False, 0.0)
    notes = [check.text for check in health.check("sock") if check.status == "note"]
    assert "function web-1 is not ready: port 8080" in notes
    assert is_well("sock")
    assert mesh.function("web-1")


def test_a_reason_is_bounded_and_a_name_must_be_known(mesh: Mesh) -> None:
    apply.set_ready(mesh.name, "web-1", False, why="x" * 5000)
    with opened("sock") as view:
        assert len(view.unready["web-1"]) == 200
    with pytest.raises(NotFound):
        apply.set_ready(mesh.name, "nobody", False)


def test_killed_at_each_step(mesh: Mesh) -> None:
    """Whatever is left is undone: the function is as ready as it was, or as it was to be."""
    for ready in (False, True):
        apply.set_ready("sock", "web-1", not ready)
        steps = steps_of(
            lambda step, ready=ready: apply.set_ready("sock", "web-1", ready, on_step=step)
        )
        for number in range(len(steps)):
            apply.set_ready("sock", "web-1", not ready)
            assert killed_at(
                number,
                lambda step, ready=ready: apply.set_ready("sock", "web-1", ready, on_step=step),
            )
            apply.gc()
            assert is_well("sock")
            rows = services()
            for name in ("web", "pinned", "names"):
                now, share = rows[name]["web-1"]
                assert now == bool(share), steps[number]
    assert apply.plan(mesh) == ()
