# SPDX-License-Identifier: BSD-2-Clause
"""SIGKILL at random for commands, for keepers and for the daemon, while a service is asked.

The others answer, what became of each is told rightly, all comes back and is counted, and nothing
is left over. EBPFMESH_CHAOS is the number of kills of each kind; a few, unless it says otherwise
(``make chaos``).
"""

import json
import logging
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

from ebpfmesh.kernel import netns
from ebpfmesh.kernel.cgroup import Cgroup
from ebpfmesh.runtime import process
from ebpfmesh.state import serving
from ebpfmesh.state.place import exit_status
from ebpfmesh.state.record import Record
from ebpfmesh.state.rows import CommandRow
from support.agreeing import disagreements, is_well
from support.daemon import SECONDS, served
from support.topology import background, leftovers, running, wait_until

KILLS = int(os.environ.get("EBPFMESH_CHAOS", "4"))
REPLICAS = 8
SHARE = 4
"""Of the replicas those that ran longest are killed: no run is so short that the next one waits."""
GROWTH = 8 << 20
"""Bytes that the daemon may grow by, besides what it began with."""
BUSY = ("chaos.lock", "net", "tcp", "tcp6")
"""Files that the daemon has open while it changes the mesh, or looks at a function."""
SERVER = """
import socket, threading
def answer(sock):
    with sock:
        while data := sock.recv(4096):
            sock.sendall(data)
server = socket.create_server(('', 8080), backlog=128)
while True:
    threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()
"""
CLIENT = """
import collections, json, socket, threading, time
found, last, gap = collections.Counter(), time.monotonic(), 0.0
def ask():
    global last, gap
    while True:
        at = 'connect'
        try:
            with socket.create_connection(('198.19.0.1', 80), timeout=60) as sock:
                at = 'request'
                for _ in range(20):
                    sock.sendall(b'x' * 64)
                    if not sock.recv(4096):
                        raise EOFError
                    found['answers'] += 1
                    now = time.monotonic()
                    gap, last = max(gap, now - last), now
        except (OSError, EOFError) as error:
            found[f'{at} {type(error).__name__}'] += 1
for _ in range(4):
    threading.Thread(target=ask, daemon=True).start()
while True:
    time.sleep(0.05)
    print(json.dumps({**found, 'gap': gap}), flush=True)
"""
MESH = f"""
[mesh]
name = "chaos"
[[function]]
name = "client"
[[function]]
name = "web"
replicas = {REPLICAS}
restart = "always"
command = ["/usr/bin/python3", "-I", "-S", "-c", {json.dumps(SERVER)}]
health = {{interval = 1}}
[[service]]
name = "site"
address = "198.19.0.1"
port = 80
target_port = 8080
functions = ["web"]
"""
NAMES = [f"web-{number}" for number in range(REPLICAS)]
log = logging.getLogger(__name__)


class Chaos:
    """A mesh that is asked all the time, and those who are killed."""

    def __init__(self, record: Record, said: Callable[[], str]) -> None:
        self.record = record
        self.drawn = random.Random(KILLS)
        self.kills = Counter[str]()
        self._said = said

    def command(self, name: str) -> CommandRow:
        return self.record.command(name)

    def processes(self, name: str) -> set[int]:
        return set(Cgroup(f"chaos.{netns.current()}", name).processes())

    def keepers(self, name: str) -> set[int]:
        return process.keepers(self.processes(name))

    def asked(self) -> dict[str, Any]:
        """What became of all requests so far."""
        found: dict[str, Any] = json.loads(self._said())
        return found

    def answers(self) -> None:
        """The service does, after this."""
        before = self.asked()["answers"]
        wait_until(lambda: self.asked()["answers"] > before + 50, what="it answers",
                   seconds=SECONDS)  # fmt: skip

    def is_served(self) -> None:
        """A daemon has come."""
        wait_until(lambda: serving.is_served(self.record), what="it is served", seconds=SECONDS)

    def victim(self) -> str:
        """One of those that run, and have for a while."""
        wait_until(lambda: sum(map(self.runs, NAMES)) >= SHARE, what="some run", seconds=SECONDS)
        some = sorted(filter(self.runs, NAMES), key=lambda name: self.command(name).started)
        return self.drawn.choice(some[:SHARE])

    def runs(self, name: str) -> bool:
        """Whether it does, and gets flows."""
        return len(self.processes(name)) == 4 and not self.record.mark(name)

    def kill(self, name: str, kind: str) -> None:
        found = self.keepers(name)
        own = self.processes(name) - found
        one = process.keeper(found) if kind == "keeper" else min(own, default=None)
        assert one
        os.kill(one, signal.SIGKILL)
        self.kills[kind] += 1

    def comes_back(self, name: str, before: CommandRow, status: int | None) -> None:
        """It does, and how it ended is told."""
        self.runs_anew(name, before)
        assert self.command(name).last_exit == status
        assert self.command(name).restarts == before.restarts + 1
        assert exit_status(self.record, name) is None

    def runs_anew(self, name: str, before: CommandRow) -> None:
        """Another run is there, and gets flows."""
        wait_until(lambda: self.command(name).started > before.started and self.runs(name),
                   what=f"{name} comes back", seconds=SECONDS)  # fmt: skip

    def restarts(self) -> int:
        return sum(self.command(name).restarts for name in NAMES)


def test_kills_at_random_under_load(tmp_path: Path) -> None:
    with ExitStack() as stack:
        mesh = stack.enter_context(running(MESH))
        record = stack.enter_context(closing(Record("chaos")))
        out = tmp_path / "said"
        words = ["sh", "-c", 'exec "$0" -u -c "$1" >"$2"', "/usr/bin/python3", CLIENT, out]
        stack.enter_context(background(mesh, "client", words))
        chaos = Chaos(record, lambda: _last_line(out))
        wait_until(lambda: out.exists() and '"answers"' in _last_line(out), what="it is answered")
        chaos.answers()
        things = {word for word in leftovers() if not word.startswith("process")}
        _of_functions(chaos)
        _of_the_daemon(chaos)
        assert {word for word in leftovers() if not word.startswith("process")} == things
        for name in NAMES:
            assert len(chaos.processes(name)) == 4
        assert is_well("chaos")
        assert disagreements(mesh) == []
        found = chaos.asked()
        assert not any("Timeout" in word for word in found), found
        log.info("kills %s, restarts %d, requests %s", dict(chaos.kills), chaos.restarts(), found)


def _last_line(path: Path) -> str:
    """The last that is whole, of a file that is written."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        return file.read().rpartition(b"\n")[0].rpartition(b"\n")[2].decode()


def _files(place: Path) -> Counter[str]:
    """What a process has open: pipes, sockets, descriptors of processes, and files by name."""
    found = Counter[str]()
    for one in place.iterdir():
        with suppress(FileNotFoundError):
            name = one.readlink().name
            found["pidfd" if "pidfd" in name else name.partition(":")[0]] += 1
    return found


def _files_at_rest(place: Path) -> Counter[str]:
    """The same once a daemon does nothing, and watches all there are."""
    found = Counter[str]()

    def at_rest() -> bool:
        found.clear()
        found.update(_files(place))
        return found["pidfd"] == REPLICAS and found.keys().isdisjoint(BUSY)

    wait_until(at_rest, what="it has nothing to do", seconds=SECONDS)
    return found


def _of_functions(chaos: Chaos) -> None:
    """Commands and keepers, while one daemon sees all of it."""
    with served() as daemon:
        about = Path(f"/proc/{daemon.pid}")
        rests = lambda: _files_at_rest(about / "fd")  # noqa: E731
        memory = lambda: int((about / "statm").read_text().split()[1]) * 4096  # noqa: E731
        chaos.is_served()
        kinds = ["command", "keeper"] * KILLS
        chaos.drawn.shuffle(kinds)
        begun: tuple[Counter[str], int] | None = None
        for number, kind in enumerate(kinds):
            name = chaos.victim()
            before = chaos.command(name)
            chaos.kill(name, kind)
            chaos.answers()
            chaos.comes_back(name, before, 128 + signal.SIGKILL if kind == "command" else None)
            if number == 3:  # it has done all that it does
                begun = rests(), memory()
        assert chaos.restarts() == 2 * KILLS
        assert begun
        wait_until(lambda: rests() == begun[0], what="files are closed", seconds=SECONDS)
        assert memory() < begun[1] + GROWTH
        log.info("daemon: %s, %d → %d KiB", dict(begun[0]), begun[1] >> 10, memory() >> 10)
        log.info("kills %s, requests %s", dict(chaos.kills), chaos.asked())


def _of_the_daemon(chaos: Chaos) -> None:
    """While it does something about a command that ended, or about to, or nothing."""
    restarts = chaos.restarts()
    for _ in range(KILLS):
        with served() as daemon:
            chaos.is_served()
            name = chaos.victim()
            others = {one: chaos.processes(one) for one in NAMES if one != name}
            row = chaos.command(name)
            chaos.kill(name, "command")
            time.sleep(chaos.drawn.uniform(0, 0.5))  # anywhere in what it does then
            daemon.kill()
            daemon.wait()
            chaos.kills["serve"] += 1
            chaos.answers()
        with served():
            chaos.is_served()  # it may run anew already, and a daemon that begins is just killed
            chaos.runs_anew(name, row)
            assert {one: chaos.processes(one) for one in others} == others
    # One that was killed between counting and starting has counted, and the next one does.
    assert KILLS <= chaos.restarts() - restarts <= 2 * KILLS
