# SPDX-License-Identifier: BSD-2-Clause
"""Frames of two functions in one pool: handed on without a copy, and none lost with who dies."""

import itertools
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpfmesh import apply
from ebpfmesh.config import write
from ebpfmesh.model import Mesh
from ebpfmesh.observe import logs, pools
from ebpfmesh.observe.view import opened
from ebpfmesh.plan import told
from ebpfmesh.runtime.logs import read
from support import builds
from support.processes import workers
from support.sockets import made, ready
from support.topology import mesh_of, needs_ports, running, wait_until

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/port/shared.py"
SLOTS = 512
FILLED = SLOTS // 2 // 2  # of a member's part half waits for packets
MESH = f"""
[mesh]
name = "umem"
[[function]]
name = "client"
tenant = "one"
[[pool]]
name = "frames"
tenant = "one"
slots = {SLOTS}
bytes = 2048
functions = ["decode", "filter"]
"""
MEMBER = """
[[function]]
name = "{name}"
tenant = "one"
datapath = "af_xdp"
frames_in = "frames"
queues = 2
command = {command}
volumes = ["{root}"]
"""
TEXT = bytes(range(200))
FURTHER = itertools.count(1 << 20)  # numbers that no other datagram has


def member(name: str, *command: str) -> str:
    return MEMBER.format(name=name, command=json.dumps(command), root=ROOT)


def example(name: str, in_c: str = "") -> str:
    command = [in_c] if in_c else [sys.executable, str(EXAMPLE)]
    return member(name, *command, name)


@pytest.fixture(scope="module")
def in_c() -> Iterator[str]:
    """The example as a program."""
    with builds.in_c("shared") as compiled:
        yield str(compiled(EXAMPLE.with_suffix(".c")))


@pytest.fixture(scope="module")
def empty() -> Iterator[Mesh]:
    needs_ports()
    with running('[mesh]\nname = "umem"\n') as mesh:
        yield mesh


@pytest.fixture(autouse=True)
def _put_back(empty: Mesh) -> Iterator[None]:
    yield
    apply.up(empty)


@pytest.fixture(params=["decode", "filter"])
def mesh(in_c: str, request: pytest.FixtureRequest) -> Mesh:
    """With either of them in C, and the other in Python."""
    names = ("decode", "filter")
    members = [example(one, in_c if one == request.param else "") for one in names]
    wanted = mesh_of(MESH + "".join(members))
    apply.up(wanted)
    wait_until(is_quiet, what="both have their ports", seconds=20)
    return wanted


def held() -> dict[str, tuple[int, int, int]]:
    """Places that each member has and is sent, and messages to it that were none."""
    with opened("umem") as view:
        (row,) = pools.read(view)
    return {one.name: (one.holds, one.waiting, one.malformed) for one in row.members}


def is_quiet() -> bool:
    """All that is not there to be filled is free."""
    return held() == dict.fromkeys(("decode", "filter"), (FILLED, 0, 0))


@pytest.fixture
def client(mesh: Mesh) -> Iterator[socket.socket]:
    with made(mesh, "client", socket.AF_INET, socket.SOCK_DGRAM) as one:
        yield one


def send(client: socket.socket, mesh: Mesh, numbers: range) -> None:
    """Each to the port that is answered, and after it one to a port that is not."""
    for number in numbers:
        text = struct.pack(">I", number) + TEXT[: number % len(TEXT)]
        for port in (7, 8):
            client.sendto(text, (str(mesh.function("decode").address4), port))


def answers(client: socket.socket, mesh: Mesh, count: int | None = None) -> list[int]:
    """Numbers of what was answered, so many or what there is; each is what was sent."""
    found: list[int] = []
    while len(found) < count if count is not None else ready([client], 0):
        text, (address, _) = client.recvfrom(2000)
        (number,) = struct.unpack_from(">I", text)
        assert text[4:] == TEXT[: number % len(TEXT)]
        assert address == str(mesh.function("filter").address4)
        found.append(number)
    return found


def exchange(client: socket.socket, mesh: Mesh, count: int, window: int = 16) -> None:
    """Each is answered once, of which so many are on their way at a time."""
    for begin in range(0, count, window):
        numbers = range(begin, min(count, begin + window))
        send(client, mesh, numbers)
        assert sorted(answers(client, mesh, len(numbers))) == list(numbers)
    assert not ready([client], 0)


def goes_on(client: socket.socket, mesh: Mesh) -> bool:
    """Whether a packet is answered, nothing more comes, and no place is with anybody then.

    Each packet has its receiver fill up what it has for others.
    """
    number = next(FURTHER)
    send(client, mesh, range(number, number + 1))
    came: list[int] = []
    while ready([client], 0.2) and number not in came:
        came += answers(client, mesh)
    return number in came and is_quiet() and not ready([client], 0)


def worker(name: str) -> int:
    return max(workers("umem", name))


def said(name: str) -> list[str]:
    with opened("umem") as view:
        return [line.text for line in read([logs.log(view, name)])]


def test_frames_are_handed_on_and_sent_by_another(mesh: Mesh, client: socket.socket) -> None:
    """Many times as many as there are places, which are all free in the end."""
    exchange(client, mesh, 2000)
    wait_until(lambda: goes_on(client, mesh), what="all is given back")
    assert not said("decode") + said("filter")
    with opened("umem") as view:
        (row,) = pools.read(view)
    decode, filter_ = row.members
    assert decode.sent == filter_.received > 2000
    assert decode.received + filter_.sent == 0


@pytest.mark.parametrize("name", ["decode", "filter"])
def test_no_place_is_lost_with_who_dies(mesh: Mesh, client: socket.socket, name: str) -> None:
    """With frames in its hands and with the kernel, while they come and when it is full."""
    for stopped in (False, True):
        if stopped:
            os.kill(worker(name), signal.SIGSTOP)
        send(client, mesh, range(SLOTS))
        os.kill(worker(name), signal.SIGKILL)
        send(client, mesh, range(SLOTS))
        apply.restart("umem", name)
        wait_until(lambda: goes_on(client, mesh), what="no place is lost", seconds=20)
        exchange(client, mesh, 500)


def test_a_port_is_told_where_its_frames_are() -> None:
    """And that a process before has used it: the kernel would still fill places that are free.

    What is with the kernel, or there twice, can be sent by neither.
    """
    script = """
import time
from ebpfmesh.port import NoPort, Pool, Port
pool, kept = Pool("frames"), []
for wanted in (None, pool, pool):
    try:
        kept.append(Port(pool=wanted))
    except NoPort as error:
        print(error, flush=True)
(port,) = kept
(one := port.take(2)).lengths[:] = 60
port.send(one[:1])
sends = (port.send, lambda batch: pool.send("filter", batch))
for send, batch in ((send, batch) for send in sends for batch in (one[:1], one[[1, 1]], one)):
    try:
        send(batch)
        print("sent", flush=True)
    except ValueError:
        pass
port.give_back(one[1:])
print("done", flush=True)
time.sleep(1000)
"""
    command = member("decode", "env", f"PYTHONPATH={ROOT}", sys.executable, "-c", script)
    wanted = MESH + command + example("filter")
    apply.up(mesh_of(wanted))
    wait_until(lambda: "done" in said("decode"), what="it has tried", seconds=20)
    assert said("decode") == [
        'its frames are in pool frames: Port(pool=Pool("frames"))',
        "a process of before has used it",
        "done",
    ]
    text = write.text(apply.snapshot("umem")[0])
    assert text.count('frames_in = "frames"') == 2
    assert apply.plan(mesh_of(text)) == ()
    own = wanted.replace('frames_in = "frames"\n', "", 1)
    assert [one.text for one in told(apply.plan(mesh_of(own)))] == [
        "~ function decode  frames_in frames → none"
    ]
