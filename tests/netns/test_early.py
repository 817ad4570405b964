# SPDX-License-Identifier: BSD-2-Clause
"""XDP in front of tc at an uplink: packets for a function that has its own by XDP, and all others.

client ═══ up0 ── host ─┬─ far    af_xdp: a mirror, or what records packets; service echo at up0:7
                        └─ web    a socket
"""

import contextlib
import itertools
import socket
import sys
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from ebpfmesh import _abi, apply
from ebpfmesh._abi import Direction, Reason
from ebpfmesh.apply import OnStep
from ebpfmesh.apply.programs import load_sources
from ebpfmesh.errors import ForeignProgram, Unsupported, UsageError
from ebpfmesh.kernel import bpf, interface
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.kernel.programs import BOTH, CARRY, DENY, EARLY, by_file
from ebpfmesh.model import Mesh
from ebpfmesh.observe import counters, health, uplinks
from ebpfmesh.observe.view import opened
from support.builds import build_with, early_tag
from support.killing import killed_at, steps_of
from support.meshes import function, mesh_file, rule, service, uplink
from support.outside import Outside, redirected, run
from support.sockets import (
    BLOCKED_SECONDS,
    SECONDS,
    accepted,
    connect,
    datagrams,
    home,
    listener,
    moved_whole,
    ready,
    send_segments,
)
from support.topology import collected, drops, mesh_of, meters, needs_ports, running, wait_until

ROOT = Path(__file__).parents[2]
TOOL, EXAMPLES = ROOT / "tests/support/port_tool.py", ROOT / "examples/port"
BEGIN = mesh_file("early", function("web", "one"))
WEB = service("shop", 80, "web", address="198.19.0.8", target_port=8080, publish=["u0:80"]) + rule(
    "outside", "service:shop"
)
_ports = itertools.count(20_000)
"""Of which the kernel chooses none by itself."""


@pytest.fixture(scope="module")
def empty(outside: Outside) -> Iterator[Mesh]:
    assert outside.interface == "up0"
    with running(BEGIN + uplink()) as mesh:
        load_sources(Pins(mesh.name), by_file(EARLY.values()))  # they stay
        yield mesh


def serving(name: str, one: str, more: str = "", **keys: object) -> Mesh:
    """The mesh with this function behind service echo at its uplink; ``keys`` are the uplink's."""
    echo = service("echo", 7, name, number=7, target_port=7, protocol="udp", publish=["u0:7"])
    return mesh_of(BEGIN + uplink(**keys) + one + echo + rule("outside", "service:echo") + more)


def far(command: list[str], frames: int = 4096, *, more: str = "", **keys: object) -> Mesh:
    """With a function that has its packets by XDP."""
    needs_ports()
    own = {"command": command, "volumes": [str(ROOT)], "memory": "256M", "frames": frames}
    return serving("far", function("far", "two", datapath="af_xdp", **own), more, **keys)


@pytest.fixture(scope="module")
def _echo(empty: Mesh) -> Iterator[Mesh]:
    mesh = far([sys.executable, str(EXAMPLES / "echo.py")], more=WEB)
    apply.up(mesh)
    yield mesh
    apply.up(empty)


@pytest.fixture
def echo(_echo: Mesh, outside: Outside) -> Iterator[Mesh]:
    """The function answers, and the client completes its checksums itself."""
    apply.up(_echo)
    offload(outside, "off")
    yield _echo
    offload(outside, "on")


def offload(outside: Outside, value: str) -> None:
    """Whether the client's interface leaves checksums to whoever takes its frames."""
    outside.run(f"ethtool -K eth0 tx {value}")


def seen() -> uplinks.Uplink:
    with opened("early") as view:
        (found,) = uplinks.read_uplinks(view)
    return found


@contextlib.contextmanager
def client(mesh: Mesh, outside: Outside, family: int = 0) -> Iterator[socket.socket]:
    """Of the service, by a new flow: the kernel may choose the port of one that is there."""
    with datagrams(mesh, outside.home, outside.near[family], next(_ports)) as one:
        one.connect((str(outside.host[family]), 7))
        yield one


def asks(mesh: Mesh, outside: Outside, family: int, count: int) -> None:
    """So many datagrams to the service at the uplink, each answered before the next."""
    with client(mesh, outside, family) as one:
        for number in range(count):
            one.send(b"%d" % number)
            assert one.recv(100) == b"%d" % number


def asks_by_xdp(mesh: Mesh, outside: Outside, count: int = 8) -> None:
    """Such datagrams as are redirected, but for the first, and where nothing came for long."""
    before = redirected("up0")
    asks(mesh, outside, 0, count)
    assert count // 2 < redirected("up0") - before < count


def asks_again(mesh: Mesh, outside: Outside) -> None:
    """The same, once the kernel has noticed that an interface is up: until then it drops."""

    def answers() -> bool:
        with client(mesh, outside) as one:
            one.send(b"x")
            return bool(ready([one], BLOCKED_SECONDS))

    wait_until(answers, what="it answers", seconds=30)
    asks_by_xdp(mesh, outside)


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
def test_packets_of_established_flows_go_by_xdp(echo: Mesh, outside: Outside, family: int) -> None:
    asks(echo, outside, family, 1)
    before, taken = meters(echo)["far", "outside"], redirected("up0")
    asks(echo, outside, family, 50)
    assert 25 < redirected("up0") - taken < 50  # tc has judged the first
    counted = meters(echo)["far", "outside"]
    assert counted.rx_packets - before.rx_packets == counted.tx_packets - before.tx_packets == 50
    assert seen().why.startswith("functions have their packets by it; a veth's")
    assert not drops(echo).keys() & {("far", way, Reason.RING_FULL) for way in Direction}


def test_a_policy_holds_from_the_next_packet_on(echo: Mesh, outside: Outside) -> None:
    with client(echo, outside) as one:
        one.send(b"x")
        assert one.recv(10) == b"x"
        key = ("outside", Direction.FROM_UPLINK, Reason.POLICY)
        before, taken = meters(echo)["far", "outside"].rx_packets, drops(echo).get(key, 0)
        for turn in range(3):
            for number in range(20):
                one.send(b"%d" % number)
                assert one.recv(100) == b"%d" % number
            apply.edit(echo.name, lambda mesh: mesh.model_copy(update={"policies": ()}))
            for _ in range(20):
                one.send(b"no")
            wanted = taken + 20 * (turn + 1)
            wait_until(lambda wanted=wanted: drops(echo).get(key, 0) >= wanted, what="all are lost")
            assert not ready([one], 0)
            assert drops(echo)[key] == wanted
            apply.up(echo)
        assert meters(echo)["far", "outside"].rx_packets - before == 60


def test_while_every_packet_is_told_of_all_go_the_slow_way(echo: Mesh, outside: Outside) -> None:
    asks_by_xdp(echo, outside)
    with apply.traced(echo.name, events=_abi.EventKind.VERDICT):
        before = redirected("up0")
        asks(echo, outside, 0, 5)
        assert redirected("up0") == before
    asks_by_xdp(echo, outside)


def test_frames_of_every_kind_pass(echo: Mesh, outside: Outside) -> None:
    offload(outside, "on")  # partial checksums, and TCP in as large segments as it may
    taken = redirected("up0")
    asks(echo, outside, 0, 10)
    (address,) = (one.address4 for one in echo.functions if one.name == "web")
    assert address
    with (
        listener(echo, "web", address, 8080) as listening,
        connect(echo, outside.home, outside.host[0], 80) as here,
        accepted(listening) as there,
    ):
        assert moved_whole(here, there, 8 << 20)
        assert moved_whole(there, here, 8 << 20)
    with (
        datagrams(echo, None, outside.host[0], 5300) as server,
        datagrams(echo, outside.home, outside.near[0]) as one,
    ):
        one.sendto(b"x" * 8000, (str(outside.host[0]), 5300))  # fragments
        assert server.recv(9000) == b"x" * 8000
    assert redirected("up0") == taken
    offload(outside, "off")
    with client(echo, outside) as one:
        for _ in range(2):
            send_segments(one, b"".join(bytes([number]) * 100 for number in range(20)), 100)
            assert sorted(one.recv(200)[0] for _ in range(20)) == list(range(20))
    assert redirected("up0") > taken


def test_the_interface_goes_down_grows_and_has_more_queues(echo: Mesh, outside: Outside) -> None:
    asks_again(echo, outside)
    run("ip link set up0 down")
    run("ip link set up0 up")
    for address in (f"{outside.host[1]}/64", "fe80::1/64"):  # which went with the link
        run(f"ip addr add {address} dev up0 nodad")
    asks_again(echo, outside)
    run("ethtool -L up0 rx 2")
    asks_again(echo, outside)
    run("ethtool -L up0 rx 1")
    run("ip link set up0 mtu 9000")
    outside.run("ip link set eth0 mtu 9000")
    asks_again(echo, outside)
    with (
        datagrams(echo, None, outside.host[0], 5300) as server,
        datagrams(echo, outside.home, outside.near[0]) as one,
    ):
        one.sendto(b"x" * 8000, (str(outside.host[0]), 5300))
        assert server.recv(9000) == b"x" * 8000
    outside.run("ip link set eth0 mtu 1500")
    run("ip link set up0 mtu 1500")


def test_a_function_that_is_down_gets_nothing_and_the_rest_goes_on(
    echo: Mesh, outside: Outside
) -> None:
    inside = f"ip -n {home(echo, 'far').name} link set eth0"
    with client(echo, outside) as one:
        one.send(b"x")
        assert one.recv(10) == b"x"
        run(f"{inside} down")
        one.send(b"x")
        assert not ready([one], BLOCKED_SECONDS)
        run(f"{inside} up")
    asks_again(echo, outside)


def test_a_deny_list_comes_first_and_goes_alone(echo: Mesh, outside: Outside) -> None:
    with client(echo, outside) as one:
        for denied in (False, True, False):
            if denied:
                apply.deny(echo.name, [ip_network(outside.near[0])])
                assert seen().xdp == BOTH.name
            elif seen().denied:
                apply.allow(echo.name, None)
                assert seen().xdp == CARRY.name
            for _ in range(3):
                one.send(b"x")
                assert bool(ready([one], BLOCKED_SECONDS if denied else SECONDS)) == (not denied)
                if not denied:
                    one.recv(10)
    apply.deny(echo.name, [ip_network("192.0.2.0/24")])
    asks_by_xdp(echo, outside)
    apply.allow(echo.name, None)


def test_programs_of_another_build_take_its_place(
    echo: Mesh, outside: Outside, tmp_path: Path
) -> None:
    tags = [early_tag(echo)]
    with build_with(echo, CARRY, "early_carry(ctx, MESH_FROM_UPLINK);", tmp_path):
        apply.revert(echo.name)
        tags.append(early_tag(echo))
        asks_by_xdp(echo, outside)
        apply.up(echo)
        tags.append(early_tag(echo))
    assert tags[0] == tags[2] != tags[1]
    asks_by_xdp(echo, outside)


def test_a_function_that_is_a_program_answers(empty: Mesh, outside: Outside) -> None:
    """In by XDP at the uplink, out by XDP at its host side and tc."""
    program = f"{ROOT}/examples/packet/echo.c"
    mesh = serving("bare", function("bare", datapath="xdp", program=program))
    apply.up(mesh)
    assert seen().xdp == CARRY.name
    offload(outside, "off")
    for family in (0, 1):
        before = redirected("up0")
        asks(mesh, outside, family, 20)
        assert 10 < redirected("up0") - before < 20
    counted = meters(mesh)["bare", "outside"]
    assert (counted.rx_packets, counted.tx_packets) == (40, 40)
    offload(outside, "on")
    apply.up(empty)


def test_it_is_there_only_while_a_function_needs_it(empty: Mesh, outside: Outside) -> None:
    apply.up(empty)
    found = features(outside)
    assert seen().xdp == ""
    apply.up(far(["sleep", "60"]))
    assert seen().xdp == CARRY.name
    assert features(outside) != found
    apply.up(empty)
    assert (seen().xdp, features(outside)) == ("", found)
    assert seen().why == "nothing needs it"


def test_what_a_function_takes_too_slowly_is_counted(empty: Mesh, outside: Outside) -> None:
    """None of the frames that XDP sends on is lost without a word."""
    mesh = far([sys.executable, str(TOOL), "idle"], 64)
    apply.up(mesh)
    offload(outside, "off")
    before = redirected("up0")
    with client(mesh, outside) as one:
        for _ in range(100):
            one.send(b"x")
    received = lambda: meters(mesh)["far", "outside"].rx_packets  # noqa: E731
    wait_until(lambda: received() >= 100, what="all have come")
    assert received() == 100
    assert 50 < redirected("up0") - before < 100
    room = 32  # half of its frames wait to be filled
    with opened("early") as view:
        rows = {(row.function, row.reason): row.packets for row in counters.read_drops(view)}
    assert rows["far", "RING_FULL"] == 100 - room
    offload(outside, "on")
    apply.up(empty)


def test_where_it_cannot_be_had_tc_does_without(empty: Mesh) -> None:
    """But for who asks for it by name."""
    apply.up(empty)
    text = uplink(9).replace("up9", "br0")
    run("ip link add br0 type bridge")
    try:
        apply.up(far(["sleep", "60"], more=text))
        with opened("early") as view:
            rows = {row.name: row for row in uplinks.read_uplinks(view)}
        assert rows["u9"].xdp == ""
        assert "tc carries all: interface br0 has no native XDP" in rows["u9"].why
        assert not collected("early")
        texts = [check.text for check in health.check("early")]
        assert any(line.startswith("uplink u9: no XDP: tc carries all") for line in texts)
        with pytest.raises(Unsupported, match="br0 has no native XDP") as refused:
            apply.up(far(["sleep", "60"], more=text + 'xdp = "native"\n'))
        assert refused.value.exit_code == 5
        apply.up(far(["sleep", "60"], more=text + 'xdp = "generic"\n'))
        with opened("early") as view:
            rows = {row.name: row for row in uplinks.read_uplinks(view)}
        assert rows["u9"].xdp == CARRY.name
    finally:
        apply.up(empty)
        run("ip link del br0")


def test_a_program_of_others_is_left(empty: Mesh) -> None:
    apply.up(empty)
    index = interface.find("up0")
    assert index is not None
    with apply.opened("early") as live, live.program(DENY.name) as theirs:
        other = bpf.link_create(theirs, index, bpf.XDP, bpf.XDP_NATIVE)
    with other:
        apply.up(far(["sleep", "60"]))
        assert bpf.link_interface(other) == index
        assert not collected("early")
        with pytest.raises(ForeignProgram) as refused:
            apply.up(far(["sleep", "60"], xdp="native"))
        assert refused.value.exit_code == 6
        assert bpf.link_interface(other) == index
    apply.up(empty)


def test_asked_for_by_name_it_is_always_there(empty: Mesh) -> None:
    native = mesh_of(BEGIN + uplink(xdp="native"))
    apply.up(native)
    assert (seen().xdp, seen().why[:14]) == (DENY.name, 'xdp = "native"')
    generic = mesh_of(BEGIN + uplink(xdp="generic"))
    apply.up(generic)
    assert seen().xdp == ""
    with pytest.raises(UsageError, match="u0"):
        apply.deny("early", [ip_network("192.0.2.0/24")])
    apply.up(empty)


@pytest.mark.parametrize("goes", [False, True], ids=["comes", "goes"])
def test_killed_at_each_step(empty: Mesh, goes: bool) -> None:
    there, wanted = far(["sleep", "60"]), empty if goes else far(["sleep", "60"])
    before = there if goes else empty

    def change(on_step: OnStep) -> object:
        return apply.up(wanted, on_step=on_step)

    apply.up(before)
    steps = steps_of(change)
    apply.up(before)
    chosen = [n for n, step in enumerate(steps) if "XDP" in step or step == "commit"]
    assert len(chosen) > 1
    for number in chosen:
        assert killed_at(number, change), steps[number]
        assert collected("early"), steps[number]
        assert seen().xdp == (CARRY.name if goes else ""), steps[number]
        assert not collected("early"), steps[number]
    apply.up(empty)


def test_gc_puts_it_back(empty: Mesh) -> None:
    apply.up(far(["sleep", "60"]))
    with bpf.obj_get(Pins("early").links / "@u0-xdp") as link:
        bpf.link_detach(link)
    assert seen().xdp == ""
    assert collected("early") == ["what was wrong with XDP at uplink u0 of mesh early"]
    assert seen().xdp == CARRY.name
    apply.up(empty)


def features(outside: Outside) -> str:
    """What the other end of the uplink leaves to its interface."""
    return outside.run("ethtool -k eth0")
