# SPDX-License-Identifier: BSD-2-Clause
"""A function writes what it likes into its rings: nothing leaves by it, and nobody else sees it.

client ── mesh ── far (AF_XDP: hostile, then an echo)
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpfmesh import apply
from ebpfmesh._abi import Reason
from ebpfmesh.model import Mesh
from ebpfmesh.observe import logs
from ebpfmesh.observe.view import opened
from ebpfmesh.runtime.logs import read
from support.sockets import datagrams
from support.topology import drops, mesh_of, running, wait_until

ROOT = Path(__file__).parents[2]
MESH = """
[mesh]
name = "rings"
[[function]]
name = "client"
[[function]]
name = "far"
datapath = "af_xdp"
command = {command}
volumes = ["{root}"]
frames = 64
"""
HOSTILE = """
import json, socket, time
import numpy as np
from ebpfmesh.port import Port
from ebpfmesh.port.batch import DESCRIPTOR

port = Port()
(queue,) = port._order
size, most = len(port.memory), (1 << 64) - 1
sent = [(size, 60, 0), (size - 1, 60, 0), (most, 60, 0), (1 << 63, 60, 0), (1 << 48, 60, 0),
        (0, most >> 32, 0), (0, 2049, 0), (2048 - 30, 60, 0), (0, 60, 0xFFFF), (most - 58, 60, 0)]
queue._tx.put(np.array(sent, DESCRIPTOR))
for _ in sent:
    queue.socket.send(b"", socket.MSG_DONTWAIT)
invalid = port.statistics.tx_invalid
queue._fill.put(np.array([size, size - 1, 1 << 63, most], np.uint64))
for ahead in (1 << 31, most >> 32, 65):  # indices that no ring has
    for ring in (queue._tx, queue._fill):
        ring._producer[0] = (ring._consumer[0] + ahead) & 0xFFFFFFFF
    try:
        queue.socket.send(b"", socket.MSG_DONTWAIT)
    except OSError:
        pass
queue._rx._consumer[0] = queue._rx._producer[0] + 1000 & 0xFFFFFFFF
queue._completion._consumer[0] = queue._completion._producer[0] + 1000 & 0xFFFFFFFF
print(json.dumps({"sent": len(sent), "invalid": invalid}), flush=True)
time.sleep(1000)
"""


@pytest.fixture(scope="module")
def empty() -> Iterator[Mesh]:
    with running('[mesh]\nname = "rings"\n') as mesh:
        yield mesh


@pytest.fixture(autouse=True)
def _put_back(empty: Mesh) -> Iterator[None]:
    yield
    apply.up(empty)


def up(*command: str) -> Mesh:
    wanted = mesh_of(MESH.format(command=json.dumps(command), root=ROOT))
    apply.up(wanted)
    return wanted


def said() -> list[str]:
    with opened("rings") as view:
        return [line.text for line in read([logs.log(view, "far")])]


def test_rubbish_in_its_rings_is_its_own_loss() -> None:
    mesh = up(sys.executable, "-c", HOSTILE)
    wait_until(said, what="it has written", seconds=20)
    (line,) = said()
    assert json.loads(line) == {"sent": 10, "invalid": 10}
    far = str(mesh.function("far").address4)
    with datagrams(mesh, "client", mesh.function("client").address4) as one:
        for _ in range(200):  # the kernel asks its rings for places
            one.sendto(b"x" * 1000, (far, 7))
    found = {key: n for key, n in drops(mesh).items() if key[2] != Reason.MULTICAST}
    assert not any(who == "far" and reason != Reason.RING_FULL for who, _, reason in found), found
    up(sys.executable, str(ROOT / "examples/port/echo.py"))
    with datagrams(mesh, "client", mesh.function("client").address4) as one:
        one.settimeout(0.5)

        def echoed() -> bool:
            one.sendto(b"again", (far, 7))
            try:
                return one.recv(100) == b"again"
            except (TimeoutError, ConnectionRefusedError):
                return False

        wait_until(echoed, what="its next command has the port", seconds=20)
