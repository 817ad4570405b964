# SPDX-License-Identifier: BSD-2-Clause
"""Ports of functions that others started: handed over a Unix socket, to whom they belong.

client ── mesh ─┬─ box     a podman container, an echo in C
                └─ inside  a network namespace, processes of the host
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ebpfmesh import apply
from ebpfmesh.errors import NotFound
from ebpfmesh.kernel import netns
from ebpfmesh.model import Mesh
from support import containers
from support.builds import in_c
from support.command import COMMAND, complaint
from support.meshes import function, mesh_file
from support.sockets import made, ready
from support.topology import mesh_of, needs_ports, running, wait_until

ROOT = Path(__file__).parents[2]
EXAMPLES, TOOL = ROOT / "examples/port", ROOT / "tests/support/port_tool.py"
MESH = mesh_file("attached", function("client"), function("stranger"))


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    needs_ports()
    netns.create("inside")
    with running(MESH) as mesh:
        yield mesh
    netns.remove("inside")


@pytest.fixture
def inside(mesh: Mesh) -> Iterator[str]:
    """A namespace that is attached with a port; its address."""
    more = {"datapath": "af_xdp", "frames": 256, "queues": 2}
    row = apply.attach(
        apply.Request(mesh=mesh.name, name="inside", namespace="inside", settings=more)
    )
    yield str(row.function.addresses[0])
    with suppress(NotFound):
        apply.detach(mesh.name, "inside")


@contextmanager
def handing(name: str, place: Path, *words: str) -> Iterator["subprocess.Popen[str]"]:
    """`ebpfmesh port`, as it waits."""
    line = [*COMMAND, "port", name, str(place), "--mesh", "attached", "--json", *words]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        wait_until(place.exists, what="it waits")
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)


def heard(process: "subprocess.Popen[str]") -> dict[str, object]:
    assert process.stdout
    said: dict[str, object] = json.loads(process.stdout.readline())
    return said


@contextmanager
def process_in(where: Path, place: Path, *words: object) -> Iterator["subprocess.Popen[str]"]:
    """A process without any privilege in a network namespace; it ends with the block."""
    line = ["nsenter", f"--net={where}", "setpriv", "--reuid=65534", "--regid=65534"]
    line += ["--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
    env = os.environ | {"EBPFMESH_PORT": str(place), "PYTHONDONTWRITEBYTECODE": "1"}
    words = (*line, *map(str, words))
    with subprocess.Popen(
        words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/"
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def echoes(mesh: Mesh, address: str, function: str = "client") -> bool:
    with made(mesh, function, socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.connect((address, 7))
        many = [b"%d" % number for number in range(100)]
        for text in many:
            one.send(text)
            if one.recv(100) != text:
                return False
        return not ready([one], 0)


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that anybody gets to."""
    place = Path("/run/port-of-inside")
    place.mkdir(mode=0o755)
    yield place / "port.sock"
    shutil.rmtree(place)


def test_who_is_inside_gets_it_and_nobody_else(mesh: Mesh, inside: str, open_place: Path) -> None:
    """It has no privilege; the next has it when the one before has ended, and others have not."""
    echo = [sys.executable, EXAMPLES / "echo.py"]
    where = netns.RUN / "inside"
    with handing("inside", open_place) as hander:
        for other in (netns.RUN / "ebpfmesh.attached.stranger", Path("/proc/self/ns/net")):
            with process_in(other, open_place, *echo) as one:
                assert "not in the network namespace of inside" in one.communicate(timeout=60)[1]
            assert "not in the network namespace" in str(heard(hander)["why"])
        with process_in(where, open_place, *echo) as one:
            assert heard(hander)["why"] == ""
            assert echoes(mesh, inside)
            with process_in(where, open_place, *echo) as second:  # while the first has it
                assert "cannot be bound" in second.communicate(timeout=60)[1]
            assert "cannot be bound" in str(heard(hander)["why"])
            assert echoes(mesh, inside)
            one.kill()
        with process_in(where, open_place, sys.executable, TOOL, "idle") as next_one:
            assert heard(hander)["why"] == ""
            assert next_one.stdout
            said = json.loads(next_one.stdout.readline())
            assert said == {"clean": True, "frames": 512, "addresses": [0]}
            next_one.kill()
    assert not open_place.exists()


def is_answered(place: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking:
        return asking.connect_ex(str(place)) == 0


@pytest.mark.usefixtures("inside")
def test_who_hands_it_may_be_killed(open_place: Path) -> None:
    """The next one takes the place of the socket that was left; a place in use is not taken."""
    with handing("inside", open_place) as hander:
        wait_until(lambda: is_answered(open_place), what="it listens")
        error, _ = complaint("--mesh", "attached", "port", "inside", open_place, code=2)
        assert "in use" in error
        hander.kill()
        hander.wait()
    assert open_place.exists()
    with handing("inside", open_place):
        wait_until(lambda: is_answered(open_place), what="the next one listens")
    assert not open_place.exists()
    open_place.write_text("somebody's")
    complaint("--mesh", "attached", "port", "inside", open_place, code=2)
    assert open_place.read_text() == "somebody's"


def test_it_is_told_when_its_interface_goes(mesh: Mesh, inside: str, open_place: Path) -> None:
    """And what was handed over is nobody's by then; the function can be attached again."""
    where, echo = netns.RUN / "inside", [sys.executable, EXAMPLES / "echo.py"]
    with (
        handing("inside", open_place, "--once") as hander,
        process_in(where, open_place, *echo) as one,
    ):
        assert heard(hander)["why"] == ""
        assert hander.wait(60) == 0
        assert echoes(mesh, inside)
        apply.detach(mesh.name, "inside")
        assert "its interface is gone" in one.communicate(timeout=60)[1]


def test_a_mesh_file_may_say_so(mesh: Mesh, open_place: Path) -> None:
    """A function without a command, where a namespace is."""
    keys = 'name = "inside"\nnetns = "inside"\ndatapath = "af_xdp"\nframes = 64\n'
    apply.up(wanted := mesh_of(f"{MESH}[[function]]\n{keys}"))
    where, echo = netns.RUN / "inside", [sys.executable, EXAMPLES / "echo.py"]
    with handing("inside", open_place) as hander, process_in(where, open_place, *echo) as one:
        assert heard(hander)["why"] == ""
        assert echoes(mesh, str(wanted.function("inside").addresses[0]))
        one.kill()
    apply.up(mesh)


@pytest.mark.usefixtures("mesh")
def test_who_has_no_port_cannot_be_handed_one(tmp_path: Path) -> None:
    for name, code in (("client", 2), ("nobody", 3)):
        line = [*COMMAND, "port", name, str(tmp_path / "sock"), "--mesh", "attached"]
        done = subprocess.run(line, check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == code, done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("inside")
def test_a_path_of_others_is_left_alone(tmp_path: Path) -> None:
    (taken := tmp_path / "taken").touch()
    line = [*COMMAND, "port", "inside", str(taken), "--mesh", "attached"]
    done = subprocess.run(line, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "in use" in done.stderr
    assert taken.is_file()


@pytest.fixture(scope="module")
def static_echo() -> Iterator[Path]:
    """The example in C, as it runs in any container."""
    with in_c("attached", "-static") as compiled:
        yield compiled(EXAMPLES / "echo.c").parent


def test_a_container_of_podman(mesh: Mesh, static_echo: Path, tmp_path: Path) -> None:
    """It begins before it is attached, and asks as its own user, without capabilities."""
    options = [
        "--volume", f"{static_echo}:/app:ro", "--volume", f"{tmp_path}:/port",
        "--env", "EBPFMESH_PORT=/port/port.sock", "--user", "1000", "--cap-drop", "all",
    ]  # fmt: skip
    tmp_path.chmod(0o755)
    with containers.engine():
        containers.start("box", "/app/echo", options=options)
        words = ["attach", "box", "--container", "box", "--datapath", "af_xdp", "--frames", "256"]
        line = [*COMMAND, *words, "--mesh", "attached", "--json"]
        done = subprocess.run(line, check=True, capture_output=True, text=True)
        address = json.loads(done.stdout)["addresses"][0]
        with handing("box", tmp_path / "port.sock") as hander:
            assert heard(hander)["why"] == ""
            assert echoes(mesh, address)
        containers.stop("box")
        assert any("box" in line for line in apply.gc())
