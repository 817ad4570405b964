# SPDX-License-Identifier: BSD-2-Clause
"""A port that nobody has: what becomes of packets meanwhile, and who tells of it.

client ── mesh ─┬─ inside   a network namespace with a port, for a process of the host
                └─ own      the mesh's command has its port
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpfmesh import apply
from ebpfmesh.kernel import netns
from ebpfmesh.model import Mesh
from ebpfmesh.observe import counters, functions, health
from ebpfmesh.observe.view import opened
from support.command import COMMAND, ebpfmesh
from support.sockets import SECONDS, datagrams, made
from support.topology import mesh_of, needs_ports, running, wait_until

TOOL = Path(__file__).parents[2] / "tests/support/port_tool.py"
MESH = """
[mesh]
name = "untaken"
[[function]]
name = "client"
[[function]]
name = "inside"
netns = "inside"
datapath = "af_xdp"
frames = 64
queues = 2
"""
OWN = """
[[function]]
name = "own"
datapath = "af_xdp"
frames = 64
command = ["sleep", "3600"]
"""
NOBODY = "nobody has its port: packets go to its own stack, as without one"


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    needs_ports()
    netns.create("inside")
    with running(MESH) as found:
        yield found
    netns.remove("inside")


def taken(name: str = "inside") -> bool | None:
    with opened("untaken") as view:
        return {row.name: row.port_taken for row in functions.read(view)}[name]


def told() -> list[tuple[str, str]]:
    """What doctor says of ports, and its hints."""
    found = [one for one in health.check("untaken") if "has its port" in one.text]
    assert all(one.status == "note" for one in found)
    return [(one.text, one.hint) for one in found]


def lost() -> int:
    with opened("untaken") as view:
        rows = counters.read_drops(view)
    return sum(row.packets for row in rows if (row.function, row.reason) == ("inside", "RING_FULL"))


def test_its_own_stack_has_the_packets_until_somebody_takes_it(mesh: Mesh, tmp_path: Path) -> None:
    address = mesh.function("inside").addresses[0]
    place = tmp_path / "sock"
    assert taken() is False
    assert taken("client") is None
    assert [text for text, _ in told()] == [f"function inside: {NOBODY}"]
    assert "ebpfmesh port inside SOCKET" in told()[0][1]
    shown = ebpfmesh("show", "functions").stdout
    assert "up, port free" in next(line for line in shown.splitlines() if "inside" in line)
    with (
        datagrams(mesh, "inside", address, 7000) as own,
        made(mesh, "client", socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        own.settimeout(SECONDS)
        for number in range(100):  # more than its memory would have room for
            client.sendto(b"%d" % number, (str(address), 7000))
            assert own.recv(100) == b"%d" % number
        client.connect((str(address), 7001))
        client.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            client.recv(100)
    assert lost() == 0
    hander = [*COMMAND, "port", "inside", str(place), "--mesh", "untaken", "--json"]
    asks = ["nsenter", f"--net={netns.RUN / 'inside'}", sys.executable, str(TOOL), "idle"]
    with subprocess.Popen(hander, stdout=subprocess.DEVNULL) as handing:
        wait_until(place.exists, what="it waits")
        env = os.environ | {"EBPFMESH_PORT": str(place)}
        with subprocess.Popen(asks, env=env, stdout=subprocess.PIPE, text=True) as taker:
            assert taker.stdout
            assert json.loads(taker.stdout.readline())["frames"] == 128
            assert taken() is True
            assert not told()
            taker.kill()
        handing.terminate()
    wait_until(lambda: taken() is False, what="the kernel has let go of it")
    assert [text for text, _ in told()] == [f"function inside: {NOBODY}"]


def test_a_command_has_it_from_the_beginning_until_it_ends(mesh: Mesh) -> None:
    apply.up(mesh_of(MESH + OWN))
    assert taken("own") is True
    assert f"function own: {NOBODY}" not in dict(told())
    with opened("untaken") as view:
        (row,) = (one for one in functions.read(view) if one.name == "own")
    (sleeper,) = (pid for pid in row.processes if "sleep" in named(pid))
    os.kill(sleeper, signal.SIGKILL)
    wait_until(lambda: taken("own") is False, what="its command has ended")
    found = dict(told())
    hint = "its command ended or closed it: ebpfmesh logs own; ebpfmesh restart own"
    assert found[f"function own: {NOBODY}"] == hint
    apply.stop("untaken", "own")
    assert f"function own: {NOBODY}" not in dict(told())
    apply.up(mesh)


def named(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text()
