# SPDX-License-Identifier: BSD-2-Clause
"""Events while somebody listens, and nothing of it once nobody does."""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from ebpfmesh import _abi, apply
from ebpfmesh.config import edit
from ebpfmesh.errors import MeshError
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.kernel.ring import Ring
from ebpfmesh.model import Mesh
from ebpfmesh.observe import health, view
from ebpfmesh.observe.events import KINDS, Event, Stream
from ebpfmesh.state.files import RUN
from support.meshes import function, mesh_file
from support.sockets import connection, datagrams, is_blocked
from support.topology import collected, running, wait_until

MESH = mesh_file(
    "trace",
    function("client", "one", address="198.18.0.1"),
    function("server", "one", address="198.18.0.2"),
    function("other", "two", address="198.18.0.3"),
    function("audited", "three", address="198.18.0.4", audit=True),
)
SERVER, OTHER = IPv4Address("198.18.0.2"), IPv4Address("198.18.0.3")
AUDITED = IPv4Address("198.18.0.4")
ALL = KINDS["drop"] | KINDS["flow"] | KINDS["verdict"]
TWO = KINDS["drop"] | KINDS["flow"]


@pytest.fixture(scope="module", autouse=True)
def mesh() -> Iterator[Mesh]:
    with running(MESH) as mesh:
        yield mesh


def config() -> _abi.Config:
    found = Maps(Pins("trace")).config.get(ctypes.c_uint32(0))
    assert found is not None
    return found


def is_off() -> bool:
    now = config()
    return now.events == 0 and now.snap == 0 and now.epoch == now.judged != 0


@contextlib.contextmanager
def listening(events: int, *, snap: int = 0) -> Iterator[Stream]:
    with view.opened("trace") as seen, Ring(seen.maps["mesh_events"].fd) as ring:
        stream = Stream(seen, ring)
        with apply.traced("trace", events=events, snap=snap):
            yield stream


def some(stream: Stream, count: int, **wanted: object) -> list[tuple[Event, bytes]]:
    """So many events whose fields are as wanted, and no others."""
    found: list[tuple[Event, bytes]] = []

    def take(event: Event, frame: bytes) -> bool:
        if any(getattr(event, name) != value for name, value in wanted.items()):
            return False
        found.append((event, frame))
        return True

    stream.give(take, count=count, seconds=20)
    assert len(found) == count
    return found


def test_nothing_is_sent_while_nobody_listens(mesh: Mesh) -> None:
    assert is_off()
    assert is_blocked(mesh, "client", OTHER, 80)
    with view.opened("trace") as seen, Ring(seen.maps["mesh_events"].fd) as ring:
        assert ring.read() == []


def test_a_drop_tells_who_and_why(mesh: Mesh) -> None:
    with listening(TWO) as stream:
        assert is_blocked(mesh, "client", OTHER, 80)
        ((event, frame),) = some(stream, 1, kind="drop", protocol="tcp")
    assert (event.reason, event.sender, event.receiver) == ("POLICY", "client", "other")
    assert (event.function, event.direction) == ("client", "from function")
    assert (event.source, event.destination, event.destination_port) == (
        "198.18.0.1",
        "198.18.0.3",
        80,
    )
    assert (frame, event.rule) == (b"", None)
    assert is_off()


def test_a_rule_is_named(mesh: Mesh) -> None:
    rule = edit.rule("function:client", "function:server", 7, protocol="udp", action="deny")
    apply.edit("trace", lambda model: edit.add_policy(model, rule))
    with listening(TWO) as stream, datagrams(mesh, "client", IPv4Address("198.18.0.1")) as out:
        out.sendto(b"x", (str(SERVER), 7))
        ((event, _),) = some(stream, 1, kind="drop", protocol="udp")
    assert event.rule_text == str(rule)
    apply.edit("trace", lambda model: edit.delete_policy(model, rule))


@pytest.mark.parametrize(("kinds", "first"), [(ALL, "flow"), (KINDS["verdict"], "verdict")])
def test_every_packet_is_told_once(mesh: Mesh, kinds: int, first: str) -> None:
    with (
        listening(kinds) as stream,
        datagrams(mesh, "server", SERVER, 5353) as server,
        datagrams(mesh, "client", IPv4Address("198.18.0.1")) as client,
    ):
        for _ in range(3):
            client.sendto(b"hello", (str(SERVER), 5353))
            server.recvfrom(64)
        events = [event for event, _ in some(stream, 3, destination="198.18.0.2", protocol="udp")]
    assert [event.kind for event in events] == [first, "verdict", "verdict"]
    assert {event.receiver for event in events} == {"server"}


def test_a_frame_is_captured_as_far_as_wanted(mesh: Mesh) -> None:
    for snap in (20, 60, 2048):
        with (
            listening(ALL, snap=snap) as stream,
            datagrams(mesh, "server", SERVER, 5353),
            datagrams(mesh, "client", IPv4Address("198.18.0.1")) as client,
        ):
            client.sendto(b"x" * 1000, (str(SERVER), 5353))
            ((event, frame),) = some(stream, 1, protocol="udp", destination_port=5353)
        assert event.length == 14 + 20 + 8 + 1000
        assert len(frame) == min(snap, event.length)
        assert frame[12:14] == b"\x08\x00"


def test_an_audited_drop_passes_and_is_told(mesh: Mesh) -> None:
    with listening(ALL) as stream, datagrams(mesh, "audited", AUDITED, 7) as server:
        with datagrams(mesh, "client", IPv4Address("198.18.0.1")) as client:
            client.sendto(b"x", (str(AUDITED), 7))
            assert server.recvfrom(64)[0] == b"x"
        ((drop, _),) = some(stream, 1, destination="198.18.0.4")
    assert (drop.kind, drop.reason, drop.audited) == ("drop", "POLICY", True)
    assert drop.receiver == "audited"


def test_a_change_keeps_the_listener_and_every_packet_slow(mesh: Mesh) -> None:
    rule = edit.rule("function:client", "function:other", 80, protocol="tcp")
    with listening(ALL) as stream:
        assert config().epoch == 0
        apply.edit("trace", lambda model: edit.add_policy(model, rule))
        assert (config().epoch, config().events) == (0, ALL)
        with connection(mesh, "client", "other", OTHER, 80):
            ((event, _),) = some(stream, 1, kind="flow", protocol="tcp")
        assert event.rule_text == str(rule)  # the names are read again
        apply.edit("trace", lambda model: edit.delete_policy(model, rule))
    assert is_off()


def test_only_one_listens() -> None:
    with listening(TWO):
        with pytest.raises(MeshError, match=f"process {os.getpid()} listens"), listening(ALL):
            pass
        assert config().events == TWO
    assert is_off()


def test_an_exception_stops_it() -> None:
    for kind in (KeyboardInterrupt, SystemExit, MeshError):
        with pytest.raises(kind), listening(ALL):
            raise kind("enough")
        assert is_off()


@contextlib.contextmanager
def command(*words: str) -> "Iterator[subprocess.Popen[str]]":
    """A listener that is a process of its own, once it listens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ebpfmesh", "--mesh", "trace", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_until(lambda: process.poll() is not None or config().events, what="it listens")
        assert process.poll() is None
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_it_and_leaves_nothing(number: int, code: int) -> None:
    with command("events", "--kind", "verdict") as process:
        assert config().epoch == 0
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == code
    assert is_off()


EARLY = """
import os, signal, sys
from ebpfmesh.apply import listen
from ebpfmesh.cli.main import main
start = listen.start
def started(*words, **more):
    start(*words, **more)
    os.kill(os.getpid(), signal.SIGINT)
listen.start = started
sys.argv = ["ebpfmesh", "--mesh", "trace", "events"]
main()
"""


def test_ctrl_c_before_anybody_hears_is_the_end_too() -> None:
    done = subprocess.run(
        [sys.executable, "-c", EARLY], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "0 events\n")
    assert is_off()


@pytest.mark.parametrize("who", ["gc", "up", "edit", "listener"])
def test_what_a_killed_listener_left_is_found(mesh: Mesh, who: str) -> None:
    with command("events", "--kind", "verdict") as process:
        process.kill()
        process.wait()
    assert config().events == KINDS["verdict"]
    told = [check.text for check in health.check("trace") if check.status == "note"]
    assert f"events are sent to process {process.pid}, which is gone" in told
    if who == "gc":
        assert collected("trace") == [f"events of mesh trace for process {process.pid}"]
    elif who == "up":
        apply.up(mesh)
    elif who == "edit":
        apply.edit("trace", lambda model: model)
    else:
        with listening(TWO):
            assert config().events == TWO
    assert is_off()


def test_it_ends_when_the_mesh_goes_down() -> None:
    small = '[mesh]\nname = "short"\n[[function]]\nname = "one"\n'
    for again in (False, True):
        with (
            running(small) as mesh,
            view.opened("short") as seen,
            Ring(seen.maps["mesh_events"].fd) as ring,
        ):
            stream = Stream(seen, ring)
            with apply.traced("short", events=TWO):
                own = mesh.functions[0].address4
                assert own
                with datagrams(mesh, "one", own) as here:
                    here.sendto(b"to nobody", (str(OTHER), 7))
                apply.down("short")  # with an event that nobody has read yet
                if again:
                    apply.up(mesh)
                stream.give(lambda *_: True)


def test_a_record_that_goes_while_names_are_read_is_the_end() -> None:
    small = '[mesh]\nname = "short"\n[[function]]\nname = "one"\n'
    with (
        running(small) as mesh,
        view.opened("short") as seen,
        Ring(seen.maps["mesh_events"].fd) as ring,
    ):
        stream, record = Stream(seen, ring), RUN / "short/record.db"
        with apply.traced("short", events=TWO):
            own = mesh.functions[0].address4
            assert own
            with datagrams(mesh, "one", own) as here:
                here.sendto(b"to nobody", (str(OTHER), 7))
        kept = record.read_bytes()
        record.rename(RUN / "short/other")
        (RUN / "short/other").write_bytes(b"")  # as whoever has it open sees a file that goes
        stream.give(lambda *_: True, seconds=10)
        (RUN / "short/other").write_bytes(kept)
        (RUN / "short/other").rename(record)


def test_what_finds_no_room_is_counted(mesh: Mesh) -> None:
    with (
        listening(ALL, snap=2048) as stream,
        datagrams(mesh, "server", SERVER, 5353) as server,
        datagrams(mesh, "client", IPv4Address("198.18.0.1")) as client,
    ):
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for _ in range(2000):
            client.sendto(b"x" * 1400, (str(SERVER), 5353))
        assert stream.lost > 0

        def all_told() -> bool:
            stream.give(lambda *_: True, seconds=0.1)
            return stream.taken + stream.lost >= 2000

        wait_until(all_told, what="each is taken or lost")
        assert 300 < stream.taken < 2001
    told = [check.text for check in health.check("trace") if check.status == "note"]
    assert any("events were lost" in text for text in told)
