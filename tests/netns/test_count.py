# SPDX-License-Identifier: BSD-2-Clause
"""A mesh that counts its flows: packets, bytes and age of each, and their sums are the meters'.

a (tenant a) ──▶ b (tenant b), by a rule; b is behind services for TCP and UDP, too. The host speaks
to a.
"""

import ctypes
import fcntl
import socket
import termios
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from ebpfmesh import _abi, apply
from ebpfmesh.errors import UsageError
from ebpfmesh.kernel import interface, netns
from ebpfmesh.kernel.maps import FLOWS, Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.model import Address, Mesh
from ebpfmesh.observe import flows, objects, view
from kernels import verifier
from kernels.matrix import series_of
from support.sockets import (
    accepted,
    carries,
    connect,
    connection,
    datagrams,
    listener,
    made,
    moved_whole,
)
from support.topology import mesh_of, meters, running, wait_until

MESH = """
[mesh]
name = "count"
count_flows = true
timeouts = { udp = 300 }
[[function]]
name = "a"
tenant = "a"
address = ["198.18.0.1", "2001:db8::1"]
[[function]]
name = "b"
tenant = "b"
address = ["198.18.0.2", "2001:db8::2"]
[[service]]
name = "web"
address = ["198.19.0.1", "2001:db8:1::1"]
port = 80
target_port = 8080
functions = ["b"]
[[service]]
name = "dns"
address = ["198.19.0.2", "2001:db8:1::2"]
port = 53
target_port = 5353
protocol = "udp"
functions = ["b"]
[[policy]]
from = "function:a"
to = "any"
[[policy]]
from = "outside"
to = "function:a"
"""
HEADERS = {4: 14 + 20, 6: 14 + 40}
HOST = "198.18.255.1"
FULL_FRAME = 14 + 1500


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    with running(MESH) as mesh:
        yield mesh


def rows(**wanted: object) -> dict[str, flows.Flow]:
    """The two entries of the one flow that is wanted, by direction."""
    with view.opened("count") as seen:
        found = list(flows.read(seen, flows.Wanted(**wanted)))  # type: ignore[arg-type]
    assert len(found) == 2, found
    return {row.direction: row for row in found}


def numbers(**wanted: object) -> dict[str, tuple[int | None, int | None]]:
    return {way: (row.packets, row.bytes) for way, row in rows(**wanted).items()}


def sums() -> Counter[tuple[str, str]]:
    """What functions and the outside sent and received, by their flows; no zeros."""
    found: Counter[tuple[str, str]] = Counter()
    with view.opened("count") as seen:
        for row in flows.read(seen):
            for word, value in (("packets", row.packets), ("bytes", row.bytes)):
                assert value is not None
                found[row.sender, f"tx_{word}"] += value
                found[row.receiver, f"rx_{word}"] += value
    return found


def metered(mesh: Mesh) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for (function, _), meter in meters(mesh).items():
        found.update({(function, field): value for field, value in meter._asdict().items()})
    return found


def equal(mesh: Mesh) -> None:
    """Acknowledgements may be on their way still; then nothing differs by a byte."""
    wait_until(lambda: sums() == metered(mesh), what=f"{sums()} are {metered(mesh)}")


def address_of(mesh: Mesh, name: str, version: int) -> Address:
    both = [*mesh.functions, *mesh.services]
    (found,) = (one for one in both if one.name == name)
    return found.addresses[0 if version == 4 else 1]


def made_at(port: int) -> list[int]:
    """When the entries with this port were made, in ticks."""
    maps = Maps(Pins("count"))
    return [
        entry.counts.made
        for name in FLOWS
        for key, entry in maps[name].items()
        if port in (key.source_port, key.destination_port)
    ]


def age(port: int, seconds: int) -> None:
    """Have the entries with this port be made, and last seen, so much earlier."""
    maps = Maps(Pins("count"))
    for name in FLOWS:
        for key, entry in list(maps[name].items()):
            if port in (key.source_port, key.destination_port):
                entry.counts.made = (entry.counts.made - seconds) & 0xFFFFFFFF
                entry.flow.seen = (entry.flow.seen - seconds) & 0xFFFFFFFF
                maps[name].set(key, entry)


def acknowledged(*socks: socket.socket) -> None:
    """Wait until all that these connections said was acknowledged: then they are silent."""
    for sock in socks:
        unacked = lambda sock=sock: fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4))  # noqa: E731
        wait_until(lambda unacked=unacked: not any(unacked()), what="all is acknowledged")


def raise_epoch() -> None:
    """A change that no flow of these tests is about."""
    reject = lambda now: now.model_copy(update={"reject": not now.reject})  # noqa: E731
    assert apply.edit("count", reject)


def say(here: socket.socket, there: socket.socket, to: tuple[str, int], *sizes: int) -> None:
    """Datagrams of these sizes arrive, and each is answered by as many bytes."""
    for size in sizes:
        here.sendto(bytes(size), to)
        data, back = there.recvfrom(1500)
        assert len(data) == size
        there.sendto(data, back)
        assert here.recv(1500) == data


# ---- what is counted


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("service", [True, False], ids=["service", "function"])
def test_datagrams_of_known_sizes(mesh: Mesh, version: int, service: bool) -> None:
    own, other = (address_of(mesh, name, version) for name in "ab")
    to = str(address_of(mesh, "dns", version)) if service else str(other)
    with datagrams(mesh, "a", own) as here, datagrams(mesh, "b", other, 5353) as there:
        say(here, there, (to, 53 if service else 5353), 1, 100, 1000, 0, 7)
        each = HEADERS[version] + 8
        expected = (5, 1108 + 5 * each)
        assert numbers(port=5353) == {"forward": expected, "reply": expected}
    equal(mesh)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("service", [True, False], ids=["service", "function"])
def test_a_handshake_and_bulk_both_ways(mesh: Mesh, version: int, service: bool) -> None:
    """A half-open flow becomes an established one and counts on; GSO packets are segments."""
    other, size = address_of(mesh, "b", version), 8 << 20
    to = address_of(mesh, "web" if service else "b", version)
    with (
        listener(mesh, "b", other, 8080) as server,
        connect(mesh, "a", to, 80 if service else 8080) as here,
        accepted(server) as there,
    ):
        found = numbers(port=8080)
        assert (found["forward"][0], found["reply"][0]) == (2, 1)
        assert carries(here, there)
        assert carries(there, here)
        assert moved_whole(here, there, size)
        assert moved_whole(there, here, size)
        equal(mesh)
        for packets, length in numbers(port=8080).values():
            assert packets is not None
            assert length is not None
            assert size < length <= packets * FULL_FRAME
    equal(mesh)


@pytest.fixture
def host_address() -> Iterator[Address]:
    with netns.rtnetlink() as ip:
        ip.addr("add", index=interface.LOOPBACK, address=HOST, prefixlen=32)
        yield ip_address(HOST)
        ip.addr("del", index=interface.LOOPBACK, address=HOST, prefixlen=32)


def test_what_the_host_says_to_a_function(mesh: Mesh, host_address: Address) -> None:
    """All of it goes the slow way; the function's answers are not redirected."""
    own = address_of(mesh, "a", 4)
    with datagrams(mesh, None, host_address) as here, datagrams(mesh, "a", own, 7000) as there:
        say(here, there, (str(own), 7000), 5, 50, 500)
        expected = (3, 555 + 3 * 42)
        assert numbers(port=7000) == {"forward": expected, "reply": expected}
    equal(mesh)


def test_what_is_dropped_is_not_counted(mesh: Mesh) -> None:
    own, other = (address_of(mesh, name, 4) for name in "ab")
    with datagrams(mesh, "a", own, 7000) as here, datagrams(mesh, "b", other, 5353) as there:
        say(here, there, (str(other), 5353), 10)
        before = numbers(port=5353)
        deny = mesh_of(MESH.replace('to = "any"', 'to = "any"\naction = "deny"'))
        apply.up(deny)
        for _ in range(3):
            here.sendto(b"denied", (str(other), 5353))
        assert numbers(port=5353) == before
        apply.up(mesh)
        say(here, there, (str(other), 5353), 10)
        assert numbers(port=5353) == dict.fromkeys(before, (2, 104))
    equal(mesh)


# ---- how long a flow is the same


@pytest.mark.parametrize("version", [4, 6])
def test_a_flow_that_is_judged_again_counts_on(mesh: Mesh, version: int) -> None:
    """An established one of TCP, and one of UDP; whoever speaks first afterwards."""
    own, other = (address_of(mesh, name, version) for name in "ab")
    with (
        connection(mesh, "a", "b", other, 8080) as (here, there),
        datagrams(mesh, "a", own, 7000) as ask,
        datagrams(mesh, "b", other, 5353) as answer,
    ):
        for first, second in ((here, there), (there, here)):
            assert moved_whole(here, there, 1 << 20)
            say(ask, answer, (str(other), 5353), 10)
            acknowledged(here, there)
            equal(mesh)
            before = {port: numbers(port=port) for port in (8080, 5353)}
            made_before = made_at(8080)
            raise_epoch()
            assert not any(row.current for row in rows(port=8080).values())
            assert {port: numbers(port=port) for port in before} == before
            assert carries(first, second)
            say(ask, answer, (str(other), 5353), 10)
            assert all(row.current for row in rows(port=8080).values())
            assert made_at(8080) == made_before
            equal(mesh)


def test_a_half_open_flow_that_is_judged_again_counts_on(mesh: Mesh) -> None:
    """Its SYN comes again in another epoch: who listens has no room for it."""
    other = address_of(mesh, "b", 4)
    with listener(mesh, "b", other, 8080) as server:
        server.listen(0)
        with (
            connect(mesh, "a", other, 8080),
            made(mesh, "a", socket.AF_INET, socket.SOCK_STREAM) as late,
        ):
            late.setblocking(False)
            late.connect_ex((str(other), 8080))
            port = late.getsockname()[1]
            syns = lambda: numbers(port=port)["forward"][0] or 0  # noqa: E731
            wait_until(lambda: syns() >= 1, what="a SYN was counted")
            made_before = made_at(port)
            raise_epoch()
            before = syns()  # it may have come again while the epoch was raised
            wait_until(lambda: syns() > before, what="it came again")
            row = rows(port=port)["forward"]
            assert (row.state, row.current, made_at(port)) == ("opening", True, made_before)
    equal(mesh)


def test_a_flow_whose_time_was_over_begins_at_nothing(mesh: Mesh) -> None:
    own, other = (address_of(mesh, name, 4) for name in "ab")
    with datagrams(mesh, "a", own, 7000) as here, datagrams(mesh, "b", other, 5353) as there:
        say(here, there, (str(other), 5353), *[10] * 4)
        assert numbers(port=5353)["forward"] == (4, 4 * 52)
        age(5353, 400)
        before = made_at(5353)
        assert all(row.idle > row.timeout + 1 for row in rows(port=5353).values())
        assert all((row.age or 0) >= row.idle for row in rows(port=5353).values())
        say(here, there, (str(other), 5353), 10)
        assert numbers(port=5353) == {"forward": (1, 52), "reply": (1, 52)}
        assert min(made_at(5353)) > max(before)
        assert all((row.age or 0) < 300 for row in rows(port=5353).values())


# ---- what goes with it


def test_it_is_fixed_while_the_mesh_is_up(mesh: Mesh) -> None:
    plain = mesh_of(MESH.replace("count_flows = true\n", ""))
    for change in (apply.plan, apply.up):
        with pytest.raises(UsageError, match="the count_flows cannot change"):
            change(plain)
    assert apply.plan(mesh) == ()
    assert apply.up(mesh) == ()


def test_a_repaired_mesh_still_counts(mesh: Mesh) -> None:
    """A map and programs that went are made anew as the mesh has them, not as others do."""
    pins = Pins("count")
    for gone in (pins.maps / "mesh_flow4", pins.progs / "mesh_from_fn"):
        gone.unlink()
    apply.up(mesh)
    test_datagrams_of_known_sizes(mesh, 4, service=True)


def test_the_programs_are_within_their_budgets(mesh: Mesh) -> None:
    with view.opened(mesh.name) as seen:
        measured = verifier.figures(objects.read_programs(seen))
    series = series_of()
    allowed = {name: row for name, row in verifier.budgets(series).items() if name in measured}
    assert verifier.overruns(measured, allowed, series) == []


@pytest.mark.parametrize("count_flows", [True, False])
def test_entries_are_wider_only_where_they_count(count_flows: bool) -> None:
    text = MESH if count_flows else MESH.replace("count_flows = true\n", "")
    with running(text), view.opened("count") as seen:
        shape = _abi.CountedFlow if count_flows else _abi.Flow
        assert {seen.maps[name].spec.value for name in FLOWS} == {shape}
        assert ctypes.sizeof(shape) == (88 if count_flows else 64)
        if not count_flows:
            with pytest.raises(UsageError, match="does not count its flows"):
                flows.read(seen, order="bytes")
