# SPDX-License-Identifier: BSD-2-Clause
"""What the daemon makes of functions that end, are not ready yet, or are not well."""

import contextlib
import json
import os
import signal
from pathlib import Path

import pytest

from ebpfmesh import apply
from ebpfmesh.observe import functions, health
from ebpfmesh.observe.functions import Function
from ebpfmesh.observe.mesh import read_services
from ebpfmesh.observe.view import opened
from ebpfmesh.runtime import enter
from support.agreeing import is_well
from support.command import data, ebpfmesh
from support.daemon import SECONDS, served
from support.sockets import connect
from support.topology import running, wait_until

ECHO = """
import os, socket, socketserver, time
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(4096):
            self.request.sendall(data)
class Server(socketserver.ThreadingTCPServer):
    address_family, request_queue_size = socket.AF_INET6, 128
while not os.path.exists('/tmp/go'):
    time.sleep(0.05)
Server(('::', 8080), Echo).serve_forever()
"""
"""It listens once somebody has made /tmp/go."""
MESH = """
[mesh]
name = "well"
reject = true
[[function]]
name = "client"
[[function]]
name = "web"
replicas = 2
command = {command}
{more}
[[service]]
name = "site"
address = "198.19.0.1"
port = 80
target_port = 8080
functions = ["web"]
"""
PAIR = ("web-0", "web-1")
HEALTH = 'health = {file = "/tmp/well", interval = 1, failures = 2}'
ILL = "unhealthy: file /tmp/well"
KILLED = f"exited {128 + signal.SIGKILL}"


def text(more: str = "", *, late: bool = False) -> str:
    before = "" if late else "touch /tmp/go /tmp/well; "
    command = ["sh", "-c", f'{before}exec /usr/bin/python3 -c "$0"', ECHO]
    return MESH.format(command=json.dumps(command), more=more)


def row(name: str) -> Function:
    with opened("well") as view:
        return next(one for one in functions.read(view) if one.name == name)


def becomes(name: str, why: str) -> None:
    """A function is not ready for a reason, or is ready."""
    wait_until(lambda: row(name).unready == why, what=f"{name}: {why or 'ready'}", seconds=SECONDS)


def runs(name: str, *, but: object = ()) -> tuple[int, ...]:
    """The processes of a command, once it is another run."""
    wait_until(lambda: row(name).processes not in ((), but), what=f"{name} runs", seconds=SECONDS)
    return row(name).processes


def inside(name: str, *command: str) -> None:
    """Run a command beside a function's own, in its sandbox, once that is there."""
    home, sandbox = apply.home("well", name), apply.sandbox("well", name)
    assert sandbox
    there = lambda: enter.first_of(home.cgroup.processes())  # noqa: E731
    wait_until(there, what=f"{name} has a sandbox", seconds=SECONDS)
    if not (child := os.fork()):
        try:
            enter.enter(sandbox, home, command)
        finally:
            os._exit(126)
    assert os.waitpid(child, 0)[1] == 0


def kill(name: str) -> tuple[int, ...]:
    """Its command ends; what ran."""
    before = runs(name)
    os.kill(before[0], signal.SIGKILL)
    return before


def shares() -> dict[str, float]:
    with opened("well") as view:
        (service,) = read_services(view)
    return {one.function: one.share for one in service.backends}


def test_who_is_not_well_gets_nothing_new_until_it_is() -> None:
    """What it has goes on; with none left there is no backend."""
    with running(text(HEALTH)) as mesh, served(), contextlib.ExitStack() as stack:
        address = mesh.service("site").address4
        old = [stack.enter_context(connect(mesh, "client", address, 80)) for _ in range(20)]
        inside("web-0", "rm", "/tmp/well")
        becomes("web-0", ILL)
        assert shares() == {"web-1": 1.0, "web-0": 0.0}
        for sock in old:
            sock.sendall(b"ping")
            assert sock.recv(4) == b"ping"
        inside("web-1", "rm", "/tmp/well")
        becomes("web-1", ILL)
        with pytest.raises(ConnectionRefusedError):
            connect(mesh, "client", address, 80)
        inside("web-0", "touch", "/tmp/well")
        becomes("web-0", "")
        assert shares() == {"web-0": 1.0, "web-1": 0.0}
        connect(mesh, "client", address, 80).close()
        inside("web-1", "touch", "/tmp/well")
        becomes("web-1", "")
        assert is_well("well")


def test_who_ended_gets_nothing_until_it_is_ready_again() -> None:
    """By itself if it shall be started again, else with ``start`` and ``up``, which wait for it."""
    with running(text()) as mesh, served():
        address = mesh.service("site").address4
        for name in PAIR:
            kill(name)
            becomes(name, KILLED)
        with pytest.raises(ConnectionRefusedError):
            connect(mesh, "client", address, 80)
        assert [one.describe() for one in apply.plan(mesh)] == [
            f"~ function {name}  {KILLED}, started" for name in PAIR
        ]
        apply.start("well", "web-0")
        becomes("web-0", "")
        assert shares() == {"web-0": 1.0, "web-1": 0.0}
        connect(mesh, "client", address, 80).close()
        apply.up(mesh)
        assert {row(name).unready for name in PAIR} == {""}
        assert apply.plan(mesh) == ()


def test_what_ended_is_told_by_all(tmp_path: Path) -> None:
    """Without the daemon too: by tables, JSON and exit codes; and the next up mends it."""
    path = tmp_path / "well.toml"
    path.write_text(text())
    with running(text()):
        ebpfmesh("doctor")
        for name in PAIR:
            kill(name)
            wait_until(lambda name=name: row(name).exit_status, what="it ended", seconds=SECONDS)
        assert ebpfmesh("plan", path, "--exit-code", code=8).stdout.splitlines() == [
            f"~ function {name}  {KILLED}, started" for name in PAIR
        ]
        (service,) = data("show", "services")["services"]
        assert {one["ended"] for one in service["backends"]} == {KILLED}
        assert KILLED in ebpfmesh("show", "services").stdout
        assert KILLED in ebpfmesh("show", "functions").stdout
        told = ebpfmesh("doctor", code=1).stdout
        assert f"function web-0: its command {KILLED}" in told
        assert "service site: none of its 2 functions is ready" in told
        out = ebpfmesh("--json", "top", "--count", 1).stdout
        rows = {one["name"]: one for one in json.loads(out.splitlines()[-1])["functions"]}
        assert [(rows[name]["command_state"], rows[name]["exit_status"]) for name in PAIR] == [
            ("exited", 128 + signal.SIGKILL)
        ] * 2
        assert ebpfmesh("up", path).stdout.count("started") == 2
        ebpfmesh("plan", path, "--exit-code")
        ebpfmesh("doctor")


def test_what_is_started_again_gets_nothing_until_it_listens() -> None:
    with running(text('restart = "always"', late=True), wait=0) as mesh, served():
        address = mesh.service("site").address4
        for name in PAIR:
            inside(name, "touch", "/tmp/go")
        before = kill("web-0")
        runs("web-0", but=before)
        becomes("web-0", "port 8080")
        assert shares() == {"web-1": 1.0, "web-0": 0.0}
        assert row("web-0").restarts == 1
        inside("web-0", "touch", "/tmp/go")
        becomes("web-0", "")
        connect(mesh, "client", address, 80).close()


def test_what_somebody_asked_for_stays() -> None:
    """Also while it is ill, and is well again; it ends when they say so."""
    with running(text(HEALTH)), served():
        apply.set_ready("well", "web", False, why="by hand")
        assert shares() == {"web-0": 0.0, "web-1": 0.0}
        inside("web-0", "rm", "/tmp/well")
        with opened("well") as view:
            wait_until(lambda: view.record.mark("web-0") == ILL, what="it is ill", seconds=SECONDS)
            inside("web-0", "touch", "/tmp/well")
            wait_until(lambda: view.record.mark("web-0") == "", what="it is well", seconds=SECONDS)
        assert {row(name).unready for name in PAIR} == {"by hand"}
        apply.set_ready("well", "web-0", True)
        assert shares() == {"web-0": 1.0, "web-1": 0.0}
        apply.set_ready("well", "web", True)
        assert min(shares().values()) > 0


def test_kill_9_of_the_daemon_while_one_is_ill() -> None:
    """The next one goes on from there; what was detached and came again is new to it."""
    with running(text(HEALTH)) as mesh:
        with served() as daemon:
            inside("web-0", "rm", "/tmp/well")
            becomes("web-0", ILL)
            before = row("web-0").processes
            daemon.kill()
            daemon.wait()
        inside("web-0", "touch", "/tmp/well")
        assert row("web-0").unready == ILL
        told = [one.text for one in health.check("well")]
        assert "nobody looks at the health of web-0, web-1" in told
        with served():
            becomes("web-0", "")
            assert (row("web-0").processes, row("web-0").restarts) == (before, 0)
            inside("web-0", "rm", "/tmp/well")
            becomes("web-0", ILL)
            apply.detach("well", "web-0")
            apply.up(mesh)
            assert row("web-0").unready == ""
            inside("web-1", "rm", "/tmp/well")
            becomes("web-1", ILL)
            assert row("web-0").unready == ""


def test_a_look_that_hangs_and_a_mesh_that_is_changed_hold_nobody_up() -> None:
    """The ill one is told though looks at the other take for ever; and once the change is done."""
    slow = text(
        'health = {command = ["sh", "-c", "test -e /tmp/well || sleep 1000"], interval = 1}'
    )
    more = '[[function]]\nname = "ends"\nrestart = "always"\ncommand = ["false"]\n'
    with running(slow + more), served():
        for name in PAIR:
            inside(name, "rm", "/tmp/well")
        count = row("ends").restarts
        wait_until(lambda: row("ends").restarts > count + 1, what="it goes on", seconds=SECONDS)
        with apply.opened("well") as live:
            kill("web-0")
            wait_until(lambda: row("web-0").command_state == "exited", what="it ends")
            assert live.record.mark("web-0") != KILLED
        becomes("web-0", KILLED)
