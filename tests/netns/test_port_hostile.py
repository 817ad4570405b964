# SPDX-License-Identifier: BSD-2-Clause
"""Who can write where a port is asked for gets nothing else of the host's by it.

host ── mesh ── inside   a network namespace that is attached with a port
"""

import json
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from ebpfmesh.kernel import netns
from support.topology import mesh_of, needs_ports, running, wait_until

MESH = """
[mesh]
name = "hostile"
[[function]]
name = "inside"
netns = "inside"
datapath = "af_xdp"
frames = 64
"""
SERVE = """
import json, os, sys
from pathlib import Path
place, aim = sys.argv[1:]

def swapped(event, about):  # what somebody does who is quick enough
    if event == "os.chmod" and os.fspath(about[0]) == place:
        os.unlink(place)
        os.symlink(aim, place)

sys.addaudithook(swapped)
from ebpfmesh import apply
tell = lambda process, why: print(json.dumps(why), flush=True)
apply.serve_port("hostile", "inside", Path(place), tell)
"""


@pytest.fixture(scope="module", autouse=True)
def _mesh() -> Iterator[None]:
    needs_ports()
    netns.create("inside")
    with running(mesh_of(MESH)):
        yield
    netns.remove("inside")


@pytest.fixture
def place() -> Iterator[Path]:
    """A path in a directory that a container can write to."""
    where = Path("/run/port-of-hostile")
    where.mkdir(mode=0o755)
    yield where / "port.sock"
    shutil.rmtree(where)


@contextmanager
def serving(place: Path, aim: Path) -> Iterator["subprocess.Popen[str]"]:
    line = [sys.executable, "-c", SERVE, str(place), str(aim)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)


def asked(place: Path) -> socket.socket:
    """A connection that says nothing and has read nothing yet."""
    one = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def connected() -> bool:
        with suppress(FileNotFoundError, ConnectionRefusedError):
            one.connect(str(place))
            return True
        return False

    try:
        wait_until(connected, what="it is asked")
    except BaseException:
        one.close()
        raise
    return one


def test_a_link_in_the_place_of_the_socket_changes_no_file(place: Path, tmp_path: Path) -> None:
    (aim := tmp_path / "shadow").touch(mode=0o600)
    with serving(place, aim), asked(place) as one:
        assert one.recv(1024).startswith(b"no: it is not in the network namespace")
        assert stat.S_ISSOCK(place.lstat().st_mode)
        assert stat.S_IMODE(place.lstat().st_mode) == 0o666
        assert stat.S_IMODE(aim.stat().st_mode) == 0o600


def test_who_asks_and_says_nothing_keeps_nobody_waiting(place: Path, tmp_path: Path) -> None:
    """Neither many who are refused, nor who was handed it and does not read that."""
    with serving(place, tmp_path) as server, ExitStack() as stack:
        assert server.stdout
        for _ in range(100):
            stack.enter_context(asked(place))
            assert "not in the network namespace" in json.loads(server.stdout.readline())
        with netns.entered(netns.RUN / "inside"):
            stack.enter_context(asked(place))
        assert json.loads(server.stdout.readline()) == ""
        with netns.entered(netns.RUN / "inside"):
            stack.enter_context(asked(place))
        assert "cannot be bound" in json.loads(server.stdout.readline())


def test_who_has_ended_leaves_its_memory_to_nobody(place: Path, tmp_path: Path) -> None:
    """It asked by a socket that another has, whose memory would be charged to the mesh."""
    connect = "import socket, sys; socket.socket(fileno=int(sys.argv[1])).connect(sys.argv[2])"
    with serving(place, tmp_path) as server, ExitStack() as stack:
        assert server.stdout
        stack.enter_context(asked(place))
        assert "not in the network namespace" in json.loads(server.stdout.readline())
        with netns.entered(netns.RUN / "inside"):
            one = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.enter_context(one)
        server.send_signal(signal.SIGSTOP)
        try:
            line = [sys.executable, "-c", connect, str(one.fileno()), str(place)]
            subprocess.run(line, check=True, pass_fds=[one.fileno()])
        finally:
            server.send_signal(signal.SIGCONT)
        assert json.loads(server.stdout.readline()) == "who asked has ended"
        assert one.recv(1024) == b"no: who asked has ended"
