# SPDX-License-Identifier: BSD-2-Clause
"""What ``up`` waits for: servers that listen late, die at once, or never get ready."""

import asyncio
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ebpfmesh import apply
from ebpfmesh.apply import ready
from ebpfmesh.apply.lookup import inside
from ebpfmesh.errors import MeshError
from ebpfmesh.model import Probe
from ebpfmesh.observe import health
from ebpfmesh.observe.view import left, opened
from ebpfmesh.runtime import probe
from ebpfmesh.state.place import cgroup_of, exit_file
from ebpfmesh.state.record import Record
from support.agreeing import is_well
from support.meshes import function, mesh_file, service
from support.sockets import connect
from support.topology import background, in_fn, leftovers, mesh_of, poll, wait_until

LATE = """
import http.server, os, sys, time
time.sleep({seconds})
while {gate!r} and not os.path.exists({gate!r}):
    time.sleep(0.02)
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        self.send_response(200)
        self.send_header('Content-Length', '2')
        self.end_headers()
        self.wfile.write(b'ok')
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer.request_queue_size = 128
http.server.ThreadingHTTPServer(('{address}', 8080), Answer).serve_forever()
"""
LOAD = """
import collections, socket, sys, time
found = collections.Counter()
print('begun', flush=True)
while True:
    try:
        with socket.create_connection(('198.19.0.1', 80), timeout=20) as sock:
            sock.sendall(b'GET / HTTP/1.1\\r\\nHost: web\\r\\nConnection: close\\r\\n\\r\\n')
            while part := sock.recv(4096):
                pass
        found['ok'] += 1
    except OSError as error:
        found[type(error).__name__] += 1
    print(dict(found), flush=True)
"""
MESH = """
[mesh]
name = "wait"
{settings}
[[function]]
name = "client"
[[function]]
name = "web"
replicas = {replicas}
command = {command}
{more}
[[service]]
name = "web"
address = "198.19.0.1"
port = 80
target_port = 8080
functions = ["web"]
"""
BEFORE = mesh_file("wait", function("client"), service("other", 80, "client", address="198.19.0.9"))
"""A mesh that has what every mesh with a service has."""


@pytest.fixture(autouse=True)
def _gone() -> Iterator[None]:
    yield
    apply.down("wait")


def late(seconds: float = 1, address: str = "0.0.0.0", gate: str = "") -> list[str]:
    """A server that comes after so long, and not before a file ``gate`` is there."""
    return ["python3", "-c", LATE.format(seconds=seconds, address=address, gate=gate)]


class Gate:
    """A file that functions see, as /gate/open, and that is not there before they are waited for.

    It is there once a step says so.
    """

    INSIDE = "/gate/open"

    def __init__(self, place: Path) -> None:
        self._open = place / "open"
        self.volume = f'volumes = ["{place}:/gate"]'
        self.steps: list[str] = []

    def step(self, step: str) -> None:
        self.steps.append(step)
        if step.startswith("waiting for "):
            self._open.touch()

    def shut(self) -> None:
        """Whoever comes now waits again."""
        self._open.unlink()
        self.steps.clear()


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    tmp_path.chmod(0o755)
    return Gate(tmp_path)


def text(command: list[str], more: str = "", settings: str = "", replicas: int = 1) -> str:
    words = json.dumps(command)
    return MESH.format(command=words, more=more, settings=settings, replicas=replicas)


def unready() -> dict[str, str]:
    with opened("wait") as view:
        return view.unready


def test_up_ends_when_what_listens_late_listens(gate: Gate) -> None:
    mesh = mesh_of(text(late(0, gate=gate.INSIDE), more=gate.volume, replicas=2))
    apply.up(mesh, gate.step)
    assert "waiting for web-0, web-1: port 8080" in gate.steps
    assert gate.steps.index("start web-1") < gate.steps.index("function web-0: ready")
    assert unready() == {}
    connect(mesh, "client", mesh.service("web").address4, 80).close()
    assert apply.up(mesh) == ()


def test_a_replica_that_comes_under_load_refuses_nobody() -> None:
    mesh = mesh_of(text(late(1)))
    apply.up(mesh)
    with background(mesh, "client", ["python3", "-u", "-c", LOAD]) as load:
        assert load.stdout
        said = iter(load.stdout.readline, "")
        assert next(said) == "begun\n"
        apply.up(mesh_of(text(late(1), replicas=3)))
        for _ in range(200):
            last = next(said)
        assert "Error" not in last, last


def test_all_made_anew_under_load_refuse_nobody() -> None:
    """Who comes while no backend is ready is answered later: the kernel sends its SYN again."""
    apply.up(mesh_of(text(late(0))))
    other = mesh_of(text(late(1)))
    with background(other, "client", ["python3", "-u", "-c", LOAD]) as load:
        assert load.stdout
        said = iter(load.stdout.readline, "")
        for _ in range(50):
            next(said)
        apply.up(other)
        for _ in range(200):
            last = next(said)
    assert "Refused" not in last, last
    assert "'ok'" in last


@pytest.mark.parametrize("new", [True, False])
def test_a_command_that_ends_at_once_is_told_and_undone(new: bool) -> None:
    dying = mesh_of(text(["sh", "-c", "echo one; echo bind: in use >&2; exit 3"], replicas=2))
    before = mesh_of(BEFORE)
    if not new:
        apply.up(before)
    there = leftovers()
    with pytest.raises(MeshError) as caught:
        apply.up(dying)
    assert re.sub(r"web-\d", "web-N", caught.value.message) == (  # whichever ended first
        'function "web-N": its command exited 3 before it was ready; it said: one | bind: in use'
    )
    assert caught.value.exit_code == 1
    assert "on_failure" in caught.value.hint
    assert poll(lambda: leftovers() == there)
    assert ("wait" in left()) != new
    if not new:
        assert apply.plan(before) == ()
        assert is_well("wait")


def test_what_ends_while_it_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """How it did is told, and not that nobody knows."""

    class Read:
        """How a command ended, of which nobody is left once that was read."""

        def __init__(self, record: Record, name: str) -> None:
            self._file, self._group = exit_file(record, name), cgroup_of(record, name)

        def read_text(self) -> str:
            text = self._file.read_text()
            wait_until(lambda: not self._group.processes(), what="it ended")
            return text

    monkeypatch.setattr(ready, "exit_file", Read)
    with pytest.raises(apply.Unready, match=r'"web-0": its command exited 3 before'):
        apply.up(mesh_of(text(["sh", "-c", "sleep 0.5; exit 3"])))


def test_it_may_be_kept() -> None:
    mesh = mesh_of(text(["sh", "-c", "exit 3"], settings='on_failure = "keep"', replicas=2))
    with pytest.raises(apply.Unready) as caught:
        apply.up(mesh)
    faults = [caught.value, *caught.value.others]
    assert sorted(fault.about for fault in faults) == [("web-0", "command"), ("web-1", "command")]
    assert {step.kind for step in caught.value.done} >= {"add-function", "set-service"}
    assert unready().keys() == {"web-0", "web-1"}
    assert [one.text for one in health.check("wait") if one.status == "missing"] == [
        "function web-0: its command exited 3", "function web-1: its command exited 3",
        "service web: none of its 2 functions is ready",
    ]  # fmt: skip


@pytest.mark.parametrize("wait", [None, 0.5])
def test_a_deadline_is_kept(wait: float | None) -> None:
    mesh = mesh_of(text(["sleep", "1000"], more="ready = {seconds = 1}"))
    with pytest.raises(apply.Unready, match=r'"web-0": not ready after (1|0.5) s: port 8080'):
        apply.up(mesh, wait=wait)
    assert "wait" not in left()


def test_who_does_not_wait_gets_flows_at_once() -> None:
    mesh = mesh_of(text(["sleep", "1000"]))
    apply.up(mesh, wait=0)
    assert unready() == {}
    with pytest.raises(ConnectionRefusedError):
        connect(mesh, "client", mesh.service("web").address4, 80)


@pytest.mark.parametrize(
    "ready", ['{command = ["test", "-e", "/run/done"]}', '{file = "/run/done"}', "{port = 9}"]
)
def test_what_a_function_is_asked(ready: str, gate: Gate) -> None:
    """Its own word counts, and the target port does not."""
    server = "import socket, time; s = socket.create_server((str(), 9)); time.sleep(1000)"
    waits = f"until [ -e {gate.INSIDE} ]; do sleep 0.02; done"
    wakes = f"{waits}; touch /run/done; exec python3 -c '{server}'"
    mesh = mesh_of(text(["sh", "-c", wakes], more=f"{gate.volume}\nready = {ready}"))
    apply.up(mesh, gate.step)
    assert any(step.startswith("waiting for web-0: ") for step in gate.steps)
    assert unready() == {}


def test_a_port_of_the_loopback_is_nothing_to_others() -> None:
    mesh = mesh_of(text(late(0, "127.0.0.1")))
    apply.up(mesh, wait=0)
    asked = Probe(port=8080)
    with apply.opened("wait") as live:
        at = inside(live.record, "web-0")
    wait_until(lambda: probe.check(asked, at) == "port 8080 is bound to 127.0.0.1 alone",
               what="it listens", seconds=20)  # fmt: skip


def test_looks_are_bounded_and_end(tmp_path: Path) -> None:
    """Of each kind, also by asyncio; a command that takes too long is killed with its children."""
    mesh = mesh_of(text(["sleep", "1000"], more=f'volumes = ["{tmp_path}"]'))
    apply.up(mesh, wait=0)
    (tmp_path / "here").touch()
    (tmp_path.parent / "x").touch()
    (tmp_path / "in").symlink_to(f"{tmp_path}/here")
    (tmp_path / "out").symlink_to(tmp_path.parent)  # where the host has something
    with apply.opened("wait") as live:
        at = inside(live.record, "web-0")
    wait_until(at.process, what="its command runs")
    looks = {
        Probe(command=("true",)): "", Probe(command=("sh", "-c", "exit 7")): "sh exited 7",
        Probe(command=("nowhere",)): "nowhere exited 127",
        Probe(file=f"{tmp_path}/here"): "", Probe(file="/nowhere"): "file /nowhere",
        Probe(file=f"{tmp_path}/in"): "",
        Probe(file=f"{tmp_path}/out/x"): f"file {tmp_path}/out/x",
        Probe(port=53, protocol="udp"): "port 53/udp",
    }  # fmt: skip
    for asked, answer in looks.items():
        assert probe.check(asked, at) == answer
        assert asyncio.run(probe.checked(asked, at)) == answer
    before = at.home.cgroup.processes()
    endless = Probe(command=("sh", "-c", "sleep 1000 & sleep 1000"))
    begun = time.monotonic()
    assert probe.check(endless, at) == "sh takes longer than 5 s"
    assert time.monotonic() - begun >= probe.SECONDS
    assert poll(lambda: at.home.cgroup.processes() == before)


def kill(name: str) -> None:
    """Its command ends, and that is known."""
    with apply.opened("wait") as live:
        at = inside(live.record, name)
    wait_until(at.process, what="its command runs")
    found = at.process()
    assert found
    os.kill(found, signal.SIGKILL)
    wait_until(lambda: not at.home.cgroup.processes(), what="it ended")


@pytest.mark.parametrize("by", [apply.start, apply.restart])
def test_what_is_started_by_hand_is_waited_for(by: Callable[..., object], gate: Gate) -> None:
    mesh = mesh_of(text(late(0, gate=gate.INSIDE), more=gate.volume, replicas=2))
    apply.up(mesh, gate.step)
    kill("web-0")
    gate.shut()
    by("wait", "web-0", gate.step)
    steps = gate.steps
    assert steps.index("waiting for web-0: port 8080") < steps.index("function web-0: ready")
    assert unready() == {}


def test_a_restart_that_does_not_get_ready_is_told_and_stays() -> None:
    mesh = mesh_of(text(["sleep", "1000"], replicas=2))
    apply.up(mesh, wait=0)
    with pytest.raises(apply.Unready, match=r"not ready after 0\.1 s: port 8080") as caught:
        apply.restart("wait", "web", wait=0.1)
    assert [fault.about for fault in (caught.value, *caught.value.others)] == [("web-0", "name")]
    assert {one.kind for one in caught.value.done} == {"roll-function"}
    assert unready().keys() == {"web-0"}  # the other was not touched
    with pytest.raises(apply.Unready):  # it runs, and is waited for though
        apply.start("wait", "web-0", wait=0.1)
    apply.restart("wait", "web", wait=0)
    assert unready() == {}
    assert is_well("wait")


def test_up_starts_what_ended_and_does_the_rest_if_that_fails() -> None:
    """A change of something else goes through, and the exit code tells."""
    mesh = mesh_of(text(["sleep", "1000"], replicas=2))
    apply.up(mesh, wait=0)
    kill("web-1")
    (step,) = apply.plan(mesh)
    assert step.describe() == "~ function web-1  exited 137, started"
    other = mesh_of(text(["sleep", "1000"], settings="reject = true", replicas=2))
    with pytest.raises(apply.Unready, match=r'"web-1": not ready after 0\.1 s') as caught:
        apply.up(other, wait=0.1)
    assert [one.kind for one in caught.value.done] == ["set-reject", "start-function"]
    assert apply.plan(other) == ()
    assert unready().keys() == {"web-1"}


def test_killed_while_it_waits() -> None:
    """A mesh that was there is as before; what was started has ended."""
    before = mesh_of(BEFORE)
    apply.up(before)
    there = leftovers()
    child = os.fork()
    if child == 0:

        def die(step: str) -> None:
            if step.startswith("waiting"):
                os.kill(os.getpid(), signal.SIGKILL)

        apply.up(mesh_of(text(["sleep", "1000"], replicas=2)), die)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert not is_well("wait")
    apply.gc()
    assert is_well("wait")
    assert apply.plan(before) == ()
    assert poll(lambda: leftovers() == there)


def test_a_function_that_is_looked_at_by_hand() -> None:
    """One without a command is ready, unless it says what it needs: then somebody starts it."""
    plain = MESH.replace("command = {command}\n", "")
    apply.up(mesh_of(plain.format(settings="", replicas=2, more="")))
    assert unready() == {}
    apply.down("wait")
    mesh = mesh_of(plain.format(settings="", replicas=1, more="ready = {port = 8080}"))
    waits = threading.Event()

    def told(step: str) -> None:
        if step.startswith("waiting"):
            waits.set()

    failed: list[BaseException] = []

    def bring_up() -> None:
        try:
            apply.up(mesh, told, wait=60)
        except BaseException as error:  # noqa: BLE001  (of a thread)
            failed.append(error)

    thread = threading.Thread(target=bring_up)
    thread.start()
    assert waits.wait(60)
    server = ["ip", "netns", "exec", "ebpfmesh.wait.web-0", *late(0)]
    with background(mesh, None, server):
        thread.join(60)
        assert not failed
        assert in_fn(mesh, "client", ["true"]).returncode == 0
