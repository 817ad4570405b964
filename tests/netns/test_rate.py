# SPDX-License-Identifier: BSD-2-Clause
"""Rates of functions, with real stacks: what waits, what is dropped, and who cannot get round it.

a ──▶ mesh ──▶ b. A slow machine makes everything slower, and nothing faster: that is what is
asserted. What passes is at most a bucket and as much as the rate gave in the time it took.
"""

import contextlib
import ctypes
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from ebpfmesh import _abi, apply
from ebpfmesh._abi import Direction, Reason
from ebpfmesh.config import edit
from ebpfmesh.kernel import netns, queue, rates, rtnl
from ebpfmesh.model import Mesh, Scope
from ebpfmesh.observe import health
from support.agreeing import disagreements
from support.meshes import function, mesh_file
from support.outside import beyond
from support.sockets import (
    accepted,
    carries,
    connect,
    connection,
    home,
    listener,
    made,
    moved_whole,
)
from support.topology import drops, in_fn, mesh_of, meters, wait_until

MESH = mesh_file("rates", function("a"), function("b"))
SO_RCVBUFFORCE = 33  # linux/asm-generic/socket.h
PORT = 7000
UPLINK = f"""
[[uplink]]
name = "uplink0"
interface = "up0"
[[service]]
name = "talk"
address = "198.19.0.2"
port = 5000
target_port = {PORT}
protocol = "udp"
functions = ["b"]
publish = ["uplink0:53"]
[[policy]]
from = "outside"
to = "service:talk"
"""
RATE, TO_FN = Reason.RATE, Direction.TO_FN
DATAGRAM = 1400
FRAME = DATAGRAM + 8 + 20 + 14


def with_rates(**functions: str) -> str:
    text = MESH
    for name, rate in functions.items():
        text = text.replace(f'name = "{name}"', f'name = "{name}"\nrate = {rate}')
    return text


def set_rate(name: str, rate: str | None) -> list[str]:
    steps = apply.edit(
        "rates", lambda mesh: edit.set_limits(mesh, name, rate=rate), scope=Scope(functions=(name,))
    )
    return [step.describe() for step in steps]


@contextlib.contextmanager
def receiver(mesh: Mesh) -> Iterator[socket.socket]:
    """A socket of b's with room for all that a test sends."""
    with made(mesh, "b", socket.AF_INET, socket.SOCK_DGRAM) as there:
        there.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        there.bind(("", PORT))
        yield there


@contextlib.contextmanager
def sender(mesh: Mesh) -> Iterator[socket.socket]:
    """A socket of a's that is connected to b's."""
    with made(mesh, "a", socket.AF_INET, socket.SOCK_DGRAM) as here:
        here.connect((str(mesh.function("b").address4), PORT))
        yield here


def read(there: socket.socket) -> int:
    """How many datagrams have come."""
    count = 0
    there.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while there.recv(2000):
            count += 1
    return count


def queued(mesh: Mesh, function: str) -> bool:
    """Whether a function has our queue at its interface."""
    index = int(in_fn(mesh, function, ["cat", "/sys/class/net/eth0/ifindex"]).stdout)
    with netns.entered(home(mesh, function)), rtnl.Socket() as raw:
        return rtnl.has_tbf(raw, index)


def dropped(mesh: Mesh, function: str, direction: Direction) -> int:
    return drops(mesh).get((function, direction, RATE), 0)


@pytest.mark.parametrize(
    ("rate", "who", "direction"),
    [
        ("{send_pps = 1}", "a", Direction.FROM_FN),
        ("{receive_pps = 1}", "b", TO_FN),
    ],
)
def test_packets(mesh_up: Callable[[str], Mesh], rate: str, who: str, direction: Direction) -> None:
    """Of many at once a bucket passes, and with each second that it takes one more."""
    mesh, many = mesh_up(with_rates(**{who: rate})), 3 * rates.LEAST_PACKETS
    with receiver(mesh) as there, sender(mesh) as here:
        began = time.monotonic()
        for _ in range(many):
            here.send(b"datagram")
        took = time.monotonic() - began
        passed_or_lost = lambda: (  # noqa: E731
            meters(mesh)["a", "default"].tx_packets + dropped(mesh, who, direction)
        )
        wait_until(lambda: passed_or_lost() == many, what="all are counted")
        lost = dropped(mesh, who, direction)
        passed = meters(mesh)["a", "default"].tx_packets
        assert read(there) == passed == many - lost
    assert rates.LEAST_PACKETS < passed <= rates.LEAST_PACKETS + 2 + took


def test_what_is_sent_waits(mesh_up: Callable[[str], Mesh]) -> None:
    """More than a rate, by TCP and UDP: it takes its time, and nothing is lost."""
    mesh, size = mesh_up(with_rates(a='"20M"')), 2 << 20
    address = mesh.function("b").address4
    assert address
    with connection(mesh, "a", "b", address, PORT) as (here, there):
        began = time.monotonic()
        assert moved_whole(here, there, size)
        took = time.monotonic() - began
    assert took > (size - queue.LEAST_BURST - (64 << 10)) * 8 / 20e6
    with receiver(mesh) as there, sender(mesh) as here:
        for _ in range(300):
            here.send(bytes(DATAGRAM))
        got = 0

        def all_come() -> bool:
            nonlocal got
            got += read(there)
            return got == 300

        wait_until(all_come, what="all datagrams come")
    assert dropped(mesh, "a", Direction.FROM_FN) == 0


def flood(here: socket.socket, enough: Callable[[], object]) -> None:
    """Send as fast as can be, until that is true."""

    def sent() -> object:
        for _ in range(200):
            here.send(bytes(DATAGRAM))
        return enough()

    wait_until(sent, what="more than the rate was sent")


def most(bits: float, seconds: float) -> float:
    """Bytes that can pass: a bucket, its last packet on each CPU, and the rate."""
    return max(rates.LEAST_BYTES, bits / 8 * rates.SECONDS) + bits / 8 * seconds + (128 << 10)


def test_who_takes_the_queue_away_is_held_all_the_same(mesh_up: Callable[[str], Mesh]) -> None:
    """As a function can that has NET_ADMIN."""
    mesh = mesh_up(with_rates(a='{send = "10M"}'))
    assert queued(mesh, "a")
    assert not queued(mesh, "b")
    with netns.entered(home(mesh, "a")), rtnl.Socket() as raw:
        raw.do(rtnl.delete_tbf(socket.if_nametoindex("eth0")))
    assert not queued(mesh, "a")
    with receiver(mesh), sender(mesh) as here:
        began = time.monotonic()
        flood(here, lambda: dropped(mesh, "a", Direction.FROM_FN))
        took = time.monotonic() - began
    assert meters(mesh)["a", "default"].tx_bytes <= most(10e6, took)


def test_what_is_received(mesh_up: Callable[[str], Mesh]) -> None:
    """By UDP and TCP no more than the rate; and TCP gets through."""
    mesh, bits = mesh_up(with_rates(b='{receive = "10M"}')), 10e6
    address = mesh.function("b").address4
    assert address
    began = time.monotonic()
    with receiver(mesh), sender(mesh) as here:
        flood(here, lambda: dropped(mesh, "b", TO_FN))
    with connection(mesh, "a", "b", address, PORT) as (here, there):
        assert carries(here, there)
        assert moved_whole(here, there, 1 << 20)
    took = time.monotonic() - began
    assert meters(mesh)["b", "default"].rx_bytes <= most(bits, took)


def test_in_place(mesh_up: Callable[[str], Mesh]) -> None:
    """By `set` and by `up`; the connection lives, and what waits comes."""
    mesh = mesh_up(MESH)
    address = mesh.function("b").address4
    assert address
    with (
        listener(mesh, "b", address, PORT) as server,
        connect(mesh, "a", address, PORT) as here,
        accepted(server) as there,
        receiver(mesh) as datagrams,
        sender(mesh) as sends,
    ):
        assert set_rate("a", "2M") == ["~ function a  rate none → 2M"]
        assert queued(mesh, "a")
        assert set_rate("a", "2M") == []
        assert disagreements(mesh_of(with_rates(a='"2M"'))) == []
        sent = 0
        for rate in ("1M", "3M", None):
            for _ in range(40):
                sends.send(bytes(DATAGRAM))
                sent += 1
            set_rate("a", rate)
        assert not queued(mesh, "a")
        got = 0

        def all_come() -> bool:
            nonlocal got
            got += read(datagrams)
            return got == sent

        wait_until(all_come, what="all datagrams come")
        assert carries(here, there)
        new = mesh_of(with_rates(a='"1G"', b='{receive = "500M", receive_pps = "1M"}'))
        assert [step.describe() for step in apply.up(new)] == [
            "~ function a  rate none → 1G",
            "~ function b  rate none → receive=500M,receive_pps=1M",
        ]
        assert carries(here, there)
        assert disagreements(new) == []
        apply.up(mesh)
        assert disagreements(mesh) == []
        assert carries(here, there)
    assert dropped(mesh, "a", Direction.FROM_FN) == dropped(mesh, "b", TO_FN) == 0


def test_what_a_crash_leaves(mesh_up: Callable[[str], Mesh]) -> None:
    """Somebody empties the map: `up` finds it, and writes it anew."""
    mesh = mesh_up(with_rates(a='"10M"'))
    with apply.opened("rates") as live:
        slot = rates.slot(live.record.id_of("function", "a"))
        live.control.maps["mesh_rate"].set(ctypes.c_uint32(slot), _abi.Rate())
    assert "mesh_rate" in disagreements(mesh)
    assert [step.describe() for step in apply.up(mesh)] == ["~ repaired map mesh_rate"]
    assert disagreements(mesh) == []
    assert queued(mesh, "a")


def test_of_a_tenant(mesh_up: Callable[[str], Mesh]) -> None:
    """In place, by `up`: what both have is one bucket, and what each loses is told of it."""
    mesh, many = mesh_up(MESH), 2 * rates.LEAST_PACKETS
    new = mesh_of(MESH + '[[tenant]]\nname = "default"\nrate = {receive_pps = 1}\n')
    address = mesh.function("b").address4
    assert address
    with connection(mesh, "a", "b", address, PORT) as (here, there):
        assert [step.describe() for step in apply.up(new)] == ["~ rights default"]
        assert disagreements(new) == []
        assert carries(here, there)
        with receiver(mesh), sender(mesh) as sends:
            for _ in range(many):
                sends.send(b"datagram")
            lost = drops(mesh)["b", TO_FN, Reason.TENANT_RATE]
            assert 0 < lost < many
        apply.up(mesh)
        assert disagreements(mesh) == []
        assert carries(here, there)
        with receiver(mesh), sender(mesh) as sends:
            for _ in range(many):
                sends.send(b"datagram")
    assert drops(mesh)["b", TO_FN, Reason.TENANT_RATE] == lost


def test_doctor_tells_who_is_held(mesh_up: Callable[[str], Mesh]) -> None:
    mesh, many = mesh_up(with_rates(b="{receive_pps = 1}")), 4 * rates.LEAST_PACKETS

    def told() -> list[str]:
        return [one.text for one in health.check("rates") if "over a rate" in one.text]

    assert told() == []
    with receiver(mesh), sender(mesh) as here:
        for _ in range(many):
            here.send(b"datagram")
    lost = dropped(mesh, "b", TO_FN)
    assert told() == [f"function b: of {many} packets it got, {lost} were over a rate"]


def test_from_outside_by_an_uplink(mesh_up: Callable[[str], Mesh]) -> None:
    """Which is no function's interface: the rate is the receiver's all the same."""
    with beyond() as outside:
        mesh, many = mesh_up(with_rates(b="{receive_pps = 1}") + UPLINK), 2 * rates.LEAST_PACKETS
        with (
            receiver(mesh) as there,
            made(mesh, outside.home, socket.AF_INET, socket.SOCK_DGRAM) as here,
        ):
            here.connect((str(outside.host[0]), 53))
            for _ in range(many):
                here.send(b"datagram")
            wait_until(
                lambda: meters(mesh)["b", "outside"].rx_packets + dropped(mesh, "b", TO_FN) == many,
                what="all are counted",
            )
            assert dropped(mesh, "b", TO_FN) > 0
            assert read(there) == many - dropped(mesh, "b", TO_FN)
        apply.down(mesh.name)
