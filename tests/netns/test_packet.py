# SPDX-License-Identifier: BSD-2-Clause
"""Packet functions: raw frames in and out by XDP at their own interface, beside functions at tc.

far echoes each frame by a program of its own; near has none, and its stack answers.
"""

import contextlib
import os
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyroute2.ethtool.ioctl import IoctlEthtool

from ebpfmesh import apply
from ebpfmesh._abi import Direction, Reason
from ebpfmesh.config.write import text
from ebpfmesh.errors import FunctionRefused, NotFound
from ebpfmesh.inject import whole
from ebpfmesh.kernel import bpf, netns, offload
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.kernel.programs import FROM_FN
from ebpfmesh.model import Mesh
from ebpfmesh.observe import counters, functions, health, objects
from ebpfmesh.observe.view import opened
from support.frames import ECHO, PACKET_VNET_HDR, SOL_PACKET, segments_of_tcp
from support.meshes import function, mesh_file, rule, service
from support.sockets import (
    BLOCKED_SECONDS,
    carries,
    connection,
    frames,
    made,
    moved_whole,
    ready,
    send_segments,
)
from support.topology import Meter, drops, mesh_of, meters, wait_until

MESH = mesh_file(
    "packet",
    function("client", "one"),
    function("stranger", "three"),
    function("far", "two", datapath="xdp"),
    function("near", "two", datapath="xdp"),
    service("echo", 7, "far", number=7, target_port=9, protocol="udp"),
    rule("function:client", "service:echo"),
    rule("function:client", "tenant:two"),
    rule("function:near", "service:echo"),
    rule("function:near", "function:client"),
)
SERVICE = "198.19.0.7", "2001:db8:1::7"


@contextlib.contextmanager
def echoing(mesh: Mesh, text: str = ECHO) -> Iterator[Callable[[], int]]:
    """far sends each frame back, as one does that brings its own program; how many it has."""
    with whole.built("echo.c", text) as (program, maps):
        with inside(mesh, "far"):
            index = socket.if_nametoindex("eth0")
            link = bpf.link_create(program, index, bpf.XDP, bpf.XDP_NATIVE)

        def count() -> int:
            found = bpf.map_lookup(maps["echoed"], bytes(4), 8 * bpf.possible_cpus()) or b""
            return sum(struct.unpack(f"={bpf.possible_cpus()}Q", found))

        with link:
            yield count


@pytest.fixture
def far(mesh: Mesh) -> Iterator[list[str]]:
    """Its addresses, while it echoes."""
    with echoing(mesh):
        yield addresses(mesh, "far")


def inside(mesh: Mesh, name: str) -> contextlib.AbstractContextManager[None]:
    return netns.entered(netns.RUN / netns.name_of(mesh.name, name))


def run_inside(mesh: Mesh, name: str, *words: str) -> None:
    space = netns.name_of(mesh.name, name)
    subprocess.run(["ip", "netns", "exec", space, *words], check=True)


def addresses(mesh: Mesh, name: str) -> list[str]:
    return [str(one) for one in mesh.function(name).addresses]


def udp(mesh: Mesh, address: str, function: str = "client") -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    one = made(mesh, function, family, socket.SOCK_DGRAM)
    one.connect((address, 7))
    return one


def echoed(one: socket.socket, size: int = 40) -> bool:
    text = os.urandom(size)
    one.send(text)
    return one.recv(size + 1) == text


def comes_back(one: socket.socket, size: int) -> bool:
    """Whether one of this size does, while others may not: a carrier is told of a little later."""
    one.send(bytes(size))
    return bool(ready([one], BLOCKED_SECONDS))


def redirected(mesh: Mesh, name: str) -> int:
    """Frames that XDP at its host side has sent on."""
    with apply.opened(mesh.name) as live:
        row = live.record.function(name)
    assert row is not None
    with contextlib.closing(IoctlEthtool(row.attachment.interface)) as ethtool:
        found = dict(ethtool.get_statistics())
    return int(found["rx_queue_0_xdp_redirect"])


def dropped(mesh: Mesh, name: str, reason: Reason, way: Direction = Direction.FROM_FN) -> int:
    return drops(mesh).get((name, way, reason), 0)


def ring_full(name: str) -> int:
    with opened("packet") as view:
        rows = counters.read_drops(view)
        (shown,) = (row for row in functions.read(view) if row.name == name)
    found = sum(row.packets for row in rows if (row.function, row.reason) == (name, "RING_FULL"))
    assert shown.drops.get("RING_FULL", 0) == found
    return found


@pytest.mark.parametrize("opener", ["client", "near"])
def test_each_packet_comes_back_through_a_service_and_straight(
    mesh: Mesh, far: list[str], opener: str
) -> None:
    """From a function at tc, and from another one with frames, whose stack sends."""
    peer = mesh.function(opener).tenant
    by_xdp = redirected(mesh, "far")
    before = meters(mesh).get(("far", peer), Meter(0, 0, 0, 0))
    for address in (*SERVICE, *far):
        with udp(mesh, address, opener) as one:
            assert all(echoed(one) for _ in range(100))
    after = meters(mesh)["far", peer]
    assert after.rx_packets - before.rx_packets == after.tx_packets - before.tx_packets == 400
    assert (redirected(mesh, "far") > by_xdp) == (opener == "near"), "established ones have no skb"


@pytest.mark.parametrize("opener", ["client", "near"])
@pytest.mark.parametrize("size", [1000, 1400])
def test_segments_of_udp_come_back_whole_and_right(
    mesh: Mesh, far: list[str], size: int, opener: str
) -> None:
    """What is GSO and has no checksum yet is cut and completed, or it would not be taken.

    In any order: one in a tick goes by tc, and may overtake those that XDP sends on together.
    """
    for address in far:
        with udp(mesh, address, opener) as one:
            text = os.urandom(20 * size)
            send_segments(one, text, size)
            pieces = sorted(text[at : at + size] for at in range(0, len(text), size))
            assert sorted(one.recv(2000) for _ in range(20)) == pieces


def test_fragments_come_back(mesh: Mesh, far: list[str]) -> None:
    for address in far:
        with udp(mesh, address) as one:
            assert echoed(one, 4000)


@pytest.mark.parametrize(
    ("version", "protocol", "request_type", "answer"), [(4, 1, 8, 0), (6, 58, 128, 129)]
)
def test_pings_come_back(
    mesh: Mesh, far: list[str], version: int, protocol: int, request_type: int, answer: int
) -> None:
    """Their checksums with them: a stack drops what is wrong before any socket hears of it."""
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    with made(mesh, "client", family, socket.SOCK_RAW, protocol) as one:
        one.connect((far[version == 6], 0))
        ping = struct.pack(">BBHHH", request_type, 0, 0, 77, 1) + b"mesh"
        if version == 4:
            ping = ping[:2] + struct.pack(">H", checksum(ping)) + ping[4:]
        one.send(ping)
        got = one.recv(100)[-len(ping) :]
    assert (got[0], got[4:]) == (answer, ping[4:])
    assert version == 6 or checksum(got) == 0


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def test_segments_of_tcp_are_cut_for_it_and_come_back_right(mesh: Mesh, far: list[str]) -> None:
    with made(mesh, "client", socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as raw:
        raw.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        raw.bind(("eth0", 3))
        sent = segments_of_tcp(mesh, "client", far[0], 1000, 10)
        raw.send(sent)
        came = b""
        while len(came) < 10 * 1000:
            frame, where = raw.recvfrom(65536)
            if where[2] != socket.PACKET_OUTGOING and frame[22:24] == b"\x08\x00":
                came += payload(frame)
    assert came == sent[10 + 54 :]


def payload(frame: bytes) -> bytes:
    """Of a frame whose checksum is right; where GRO has merged several, it has looked at theirs."""
    merged, part = frame[0] & 1, frame[10:]
    pseudo = part[26:34] + struct.pack(">HH", 6, len(part) - 34)
    assert merged or checksum(pseudo + part[34:]) == 0
    return part[54:]


def test_streams_to_and_from_its_stack(mesh: Mesh) -> None:
    """While nobody runs at its interface; what the other way sends is GSO, too."""
    for client, server in (("client", "near"), ("near", "client")):
        for address in mesh.function(server).addresses:
            with connection(mesh, client, server, address, 7000) as (here, there):
                assert moved_whole(here, there, 1 << 20)
                assert moved_whole(there, here, 1 << 20)


def test_what_is_denied_reaches_neither(mesh: Mesh, far: list[str]) -> None:
    """Neither comes to it what is for it, nor goes out what it opens."""
    before = dropped(mesh, "stranger", Reason.POLICY), dropped(mesh, "far", Reason.POLICY)
    with udp(mesh, far[0], "stranger") as one, frames(mesh, "client") as heard:
        one.send(b"let me in")
        assert not ready([one], BLOCKED_SECONDS)
        with udp(mesh, addresses(mesh, "client")[0], "far") as out:
            out.send(b"let me out")
        assert dropped(mesh, "stranger", Reason.POLICY) == before[0] + 1
        wait_until(lambda: dropped(mesh, "far", Reason.POLICY) == before[1] + 1, what="dropped")
        heard.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while b"let me out" not in heard.recv(2000):
                pass
            pytest.fail("it came")


SPOOFS = {
    Reason.SPOOF_IP: ("SWAP(ip4->saddr, ip4->daddr);", "ip4->daddr = ip4->saddr;"),
    Reason.SPOOF_MAC: ("SWAP(*(u16 *)(eth->h_dest + 4), *(u16 *)(eth->h_source + 4));", ""),
}


@pytest.mark.parametrize("reason", SPOOFS)
@pytest.mark.parametrize("opener", ["client", "near"])
def test_what_it_sends_in_the_name_of_others_is_dropped(
    mesh: Mesh, reason: Reason, opener: str
) -> None:
    """By XDP_TX, of an established flow too, which XDP carries to another one with frames."""
    with udp(mesh, addresses(mesh, "far")[0], opener) as one:
        with echoing(mesh):
            assert echoed(one)
            assert echoed(one)
        before = dropped(mesh, "far", reason)
        assert ECHO.count(SPOOFS[reason][0]) == 1
        with echoing(mesh, ECHO.replace(*SPOOFS[reason])):
            for _ in range(10):
                one.send(b"who is it?")
            wait_until(lambda: dropped(mesh, "far", reason) == before + 10, what="all are dropped")
            assert not ready([one], 0)


def test_its_rate_holds_for_what_xdp_sends(mesh: Mesh) -> None:
    """The queue at its own interface holds what a stack sends, and no frame of XDP."""
    limited = MESH.replace('name = "far"\n', 'name = "far"\nrate = {send_pps = 10}\n')
    try:
        assert [step.kind for step in apply.up(mesh_of(limited))] == ["change-function"]
        with echoing(mesh):
            for opener in ("client", "near"):
                assert came_or_held(mesh, opener, 300) < 300
    finally:
        apply.up(mesh)


def came_or_held(mesh: Mesh, opener: str, count: int) -> int:
    """How many of so many are echoed; all others are dropped for far's rate."""
    came, before = 0, dropped(mesh, "far", Reason.RATE)
    with udp(mesh, addresses(mesh, "far")[0], opener) as one:

        def told() -> bool:
            nonlocal came
            while ready([one], 0):
                came += len(one.recv(100)) == 40
            return came + dropped(mesh, "far", Reason.RATE) - before == sent

        for sent in range(1, count + 1):
            one.send(bytes(40))
            if sent % 25 == 0:  # a frame fills a page of the socket's buffer, which takes 50
                wait_until(told, what="each is echoed or dropped")
    return came


@pytest.mark.usefixtures("mesh")
def test_what_is_at_the_host_side_is_shown() -> None:
    with opened("packet") as view:
        (found,) = (one for one in objects.read_programs(view) if one.name == FROM_FN.name)
    places = {(one.function, one.hook, one.how) for one in found.attached}
    assert places == {(name, "xdp", "XDP") for name in ("far", "near")}


def test_what_comes_faster_than_it_is_taken_is_counted(mesh: Mesh) -> None:
    """Six hundred segments at once, of which the ring has room for 256."""
    before, address = ring_full("far"), addresses(mesh, "far")[0]
    assert SINK != ECHO
    with echoing(mesh, SINK) as count:
        with made(mesh, "client", socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            raw.bind(("eth0", 0x0800))
            raw.send(segments_of_tcp(mesh, "client", address, 100, 600))
        wait_until(lambda: count() + ring_full("far") - before == 600, what="each is told of")
    assert ring_full("far") > before


def test_a_link_that_flaps_and_other_mtus(mesh: Mesh, far: list[str]) -> None:
    for changes in (("down", "up"), ("mtu", "1300"), ("mtu", "1500")):
        for words in [["mtu", changes[1]]] if changes[0] == "mtu" else [[one] for one in changes]:
            run_inside(mesh, "far", "ip", "link", "set", "eth0", *words)
        with udp(mesh, far[0]) as one:
            wait_until(lambda one=one: comes_back(one, 1000), what=f"an echo after {changes}")
    with udp(mesh, far[0]) as one:
        assert echoed(one, 1470)


def said(name: str) -> list[str]:
    return [one.text for one in health.check("packet") if f"{name}: offloads" in one.text]


def test_an_interface_that_its_root_has_moved_is_left_alone(mesh: Mesh) -> None:
    """What is at its number in the old place is another's."""
    with opened("packet") as view:
        (row,) = (one for one in view.functions if one.function.name == "near")
        place, other = Path(row.attachment.netns), netns.name_of(mesh.name, "stranger")
        run_inside(mesh, "near", "ip", "link", "set", "eth0", "down")
        run_inside(mesh, "near", "ip", "link", "set", "eth0", "netns", other, "name", "moved")
        run_inside(mesh, "near", "ip", "link", "add", "same", "index", "2", "type", "veth")
        try:
            with pytest.raises(NotFound, match="is not in"):
                offload.set_pair(view.ip, row.attachment.ifindex, place, offload.RIGHT)
            assert said("near") == []
        finally:
            run_inside(mesh, "near", "ip", "link", "del", "same")
    apply.detach(mesh.name, "near")
    apply.up(mesh)


@pytest.mark.parametrize("feature", ["gro", "tx"])
def test_a_function_that_changes_its_offloads_is_told_of(mesh: Mesh, feature: str) -> None:
    """What its stack sends is right nevertheless; others are not harmed."""
    assert said("near") == []
    right, wrong = ("on", "off") if feature == "gro" else ("off", "on")
    run_inside(mesh, "near", "ethtool", "-K", "eth0", feature, wrong)
    try:
        assert len(said("near")) == 1
        address = mesh.function("client").address4
        with connection(mesh, "near", "client", address, 7000) as (here, there):
            assert carries(here, there)
            assert carries(there, here)
    finally:
        run_inside(mesh, "near", "ethtool", "-K", "eth0", feature, right)
    assert said("near") == []


PROGRAM = """
[[function]]
name = "near"
tenant = "two"
datapath = "xdp"
source = '''
{}'''
"""


def with_program(text: str) -> Mesh:
    """The mesh, near being this program and no more."""
    before = MESH.index('[[function]]\nname = "near"')
    return mesh_of(MESH[:before] + PROGRAM.format(text) + MESH[MESH.index("[[service]]") :])


SINK = ECHO.replace("+= 1;\n\treturn XDP_TX;", "+= 1;\n\treturn XDP_DROP;")


def test_a_function_that_is_a_program_of_the_mesh_file(mesh: Mesh) -> None:
    """It comes, becomes another and goes where the function is; what is exported means the same."""
    wanted = with_program(ECHO)
    assert mesh_of(text(wanted)) == wanted
    near = addresses(mesh, "near")
    try:
        assert [step.kind for step in apply.up(wanted)] == ["change-function"]
        with udp(mesh, near[0]) as one, udp(mesh, near[1]) as six:
            assert all(echoed(one) and echoed(six) for _ in range(50))
            assert [step.kind for step in apply.up(with_program(SINK))] == ["change-function"]
            one.send(b"lost")
            assert not ready([one], BLOCKED_SECONDS)
            apply.up(wanted)
            assert echoed(one)
        (Pins("packet").ports / "near/link").unlink()
        with opened("packet") as view:
            assert {row.state for row in functions.read(view) if row.name == "near"} == {
                "programs missing"
            }
        apply.up(wanted)
        with udp(mesh, near[0]) as one:
            assert echoed(one)
    finally:
        apply.up(mesh)
    with made(mesh, "near", socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((near[0], 7))
        with udp(mesh, near[0]) as one:
            one.send(b"its stack has it again")
            assert server.recv(100) == b"its stack has it again"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("return XDP_TX;\n}\n", "return bpf_get_current_pid_tgid() & 2;\n}\n"), "may not"),
        (("*count += 1", "*count += *(u64 *)(data + 1400)"), "the verifier"),
        (("int echo(", "static int echo("), "no function gets"),
        (("u32 first = 0;", "u32 first = nothing;"), "nothing"),
    ],
)
def test_a_program_that_is_refused_changes_nothing(
    mesh: Mesh, wrong: tuple[str, str], message: str
) -> None:
    head, found, tail = ECHO.rpartition(wrong[0])
    assert found
    with pytest.raises(FunctionRefused, match=message) as refused:
        apply.up(with_program(head + wrong[1] + tail))
    assert refused.value.line in (None, head.count("\n") + 1)
    assert refused.value.line or "no function" in message
    assert apply.plan(mesh) == ()
    with opened("packet") as view:
        assert {row.state for row in functions.read(view)} == {"up"}
