# SPDX-License-Identifier: BSD-2-Clause
"""Uplinks that go, come, flap or are somebody else's; several of them; backends that are swapped.

client ═══ up0, up1 ── a, b: service web, published at port 80 of either
"""

import contextlib
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from ebpfmesh import apply
from ebpfmesh._abi import Direction, Reason
from ebpfmesh.errors import ForeignProgram, NotFound, UsageError
from ebpfmesh.kernel import bpf, interface, links, netns
from ebpfmesh.model import Mesh, Service
from ebpfmesh.observe import health, uplinks
from ebpfmesh.observe.view import opened
from support.meshes import function, mesh_file, rule, service, uplink
from support.outside import Outside, beyond, forward, run
from support.sockets import accepted, carries, connect, connection, listener, moved_whole
from support.topology import background, collected, drops, mesh_of, needs, poll, running

MESH = mesh_file(
    "faults",
    function("a"),
    function("b"),
    uplink(),
    service("web", 80, "a", target_port=8080, publish=["u0:80"]),
    rule("outside", "service:web"),
)


@pytest.fixture
def outside() -> Iterator[Outside]:
    with beyond() as found:
        yield found


@pytest.fixture
def mesh(outside: Outside) -> Iterator[Mesh]:
    assert outside.interface == "up0"
    with running(MESH) as found:
        yield found


def serves(mesh: Mesh, outside: Outside, function: str = "a", family: int = 0) -> bool:
    """Whether a client outside is served by a function."""
    address = mesh.function(function).addresses[family]
    with (
        listener(mesh, function, address, 8080) as server,
        connect(mesh, outside.home, outside.host[family], 80) as here,
        accepted(server) as there,
    ):
        return carries(here, there) and carries(there, here)


def state(mesh: Mesh) -> dict[str, str]:
    with opened(mesh.name) as view:
        return {row.name: row.state for row in uplinks.read_uplinks(view)}


def found(mesh: Mesh) -> list[str]:
    wrong = (check.text for check in health.check(mesh.name) if check.status != "ok")
    return [text for text in wrong if "uplink" in text]


def test_flows_outlive_a_flap(mesh: Mesh, outside: Outside) -> None:
    address = mesh.function("a").address4
    with (
        listener(mesh, "a", address, 8080) as server,
        connect(mesh, outside.home, outside.host[0], 80) as here,
        accepted(server) as there,
    ):
        assert carries(here, there)
        run("ip link set up0 down")
        assert poll(lambda: state(mesh) == {"u0": "down"})
        assert found(mesh) == ["uplink u0: interface up0 is down"]
        run("ip link set up0 up")
        run("ip route replace 198.19.210.128/25 via 198.19.210.2")
        here.sendall(b"still")
        assert there.recv(5) == b"still"
        there.sendall(b"here")
        assert here.recv(4) == b"here"


@pytest.mark.parametrize("denies", [False, True], ids=["tc", "behind XDP"])
def test_flows_outlive_another_number_of_queues(mesh: Mesh, outside: Outside, denies: bool) -> None:
    """At either end of the cable, while bytes are on their way, which XDP meets or does not."""
    needs("ethtool")
    answers = list[bool]()
    if denies:
        apply.deny(mesh.name, [ip_network(outside.far_prefixes[0])])
    with (
        listener(mesh, "a", mesh.function("a").address4, 8080) as server,
        connect(mesh, outside.home, outside.host[0], 80) as here,
        accepted(server) as there,
    ):
        # XDP wants as many queues to receive by as the other end has to send by.
        for steps in (("up0", 2), ("eth0", 2)), (("eth0", 1), ("up0", 1)):
            mover = threading.Thread(
                target=lambda: answers.append(moved_whole(here, there, 16 << 20))
            )
            mover.start()
            for name, count in steps:
                line = f"ethtool -L {name} rx {count} tx {count}"
                run(line, home=outside.home if name == "eth0" else None)
            mover.join()
            assert moved_whole(there, here, 4 << 20)
            assert state(mesh) == {"u0": "up"}
    assert answers == [True, True]
    assert serves(mesh, outside)
    assert not [line for line in found(mesh) if "XDP" not in line]


def test_another_mtu_costs_no_flow(mesh: Mesh, outside: Outside) -> None:
    with (
        listener(mesh, "a", mesh.function("a").address4, 8080) as server,
        connect(mesh, outside.home, outside.host[0], 80) as here,
        accepted(server) as there,
    ):
        for mtu in (9000, 1500, 1300, 1500):
            run(f"ip link set up0 mtu {mtu}")
            assert moved_whole(there, here, 1 << 20)
            assert state(mesh) == {"u0": "up"}
    assert serves(mesh, outside)


@pytest.mark.parametrize("how", ["deleted", "renamed", "moved"])
def test_an_interface_that_goes_is_told_and_collected(
    mesh: Mesh, outside: Outside, how: str
) -> None:
    words = {
        "deleted": "del up0",
        "renamed": "set up0 name other0",
        "moved": f"set up0 netns {outside.home.name}",
    }
    run(f"ip link {words[how]}")
    assert poll(lambda: state(mesh) == {"u0": "interface gone"})
    assert found(mesh) == ["uplink u0: interface gone"]
    with pytest.raises(NotFound, match="there is no interface up0"):
        apply.plan(mesh)
    assert collected(mesh.name) == ["uplink u0 of mesh faults"]
    left = apply.snapshot(mesh.name)[0]
    assert (left.uplinks, left.service("web").publish) == ((), ())
    if how == "moved":  # it is somebody else's now, and has nothing of ours
        with netns.entered(outside.home):
            index = interface.find("up0")
            assert index is not None
            assert interface.exists(index)
            with netns.rtnetlink() as ip:
                assert not list(links.programs(ip, index))
    if how == "renamed":
        index = interface.find("other0")
        with opened(mesh.name) as view:
            assert index is not None
            assert not list(links.programs(view.ip, index))
        run("ip link set other0 name up0")
        assert {step.kind for step in apply.up(mesh)} == {"add-uplink", "set-service"}
        assert serves(mesh, outside)


def test_an_interface_made_anew_gets_the_program_by_up(mesh: Mesh) -> None:
    run("ip link del up0")
    run("ip netns del beyond0")
    with beyond() as again:
        assert "add-uplink" in {step.kind for step in apply.up(mesh)}
        assert serves(mesh, again)
        assert serves(mesh, again, family=1)


def test_an_address_that_changes_is_followed(mesh: Mesh, outside: Outside) -> None:
    run(f"ip addr del {outside.host[0]}/25 dev up0")
    run("ip addr add 198.19.210.9/25 dev up0")
    assert found(mesh) == ["addresses of uplink u0 is not as it was made"]
    assert collected(mesh.name) == ["what was wrong with addresses of uplink u0 of mesh faults"]
    moved = replace(outside, host=(ip_address("198.19.210.9"), outside.host[1]))
    assert serves(mesh, moved)
    assert serves(mesh, moved, family=1)
    assert not found(mesh)


def test_what_is_published_at_one_uplink_is_not_at_another(mesh: Mesh, outside: Outside) -> None:
    with beyond(1) as other:
        row = apply.attach_uplink(mesh.name, "u1", "up1")
        assert row.addresses == other.host
        assert serves(mesh, outside)
        with listener(mesh, "a", mesh.function("a").address4, 8080):
            for address in (other.host[0], outside.host[0]):  # the host's own, as from anywhere
                with pytest.raises(ConnectionRefusedError):
                    connect(mesh, other.home, address, 80)
        both = mesh_of(MESH.replace('["u0:80"]', '["u0:80", "u1:80"]') + uplink(1))
        assert [step.kind for step in apply.up(both)] == ["set-service"]
        for one in (outside, other):
            for family in (0, 1):
                assert serves(mesh, one, family=family)
        gone = [step.kind for step in apply.detach_uplink(mesh.name, "u1")]
        assert gone == ["set-service", "remove-uplink"]
        with pytest.raises(ConnectionRefusedError):
            connect(mesh, other.home, other.host[0], 80)
        assert serves(mesh, outside)


@pytest.mark.usefixtures("outside")
def test_programs_of_others_are_refused_and_left() -> None:
    wanted = mesh_of(MESH)
    apply.up(wanted.model_copy(update={"uplinks": (), "services": (), "policies": ()}))
    index = interface.find("up0")
    assert index is not None
    with apply.opened("faults") as live, live.program("mesh_event_fn") as theirs:
        other = bpf.link_create(theirs, index, bpf.TCX_INGRESS)
    with other:
        with pytest.raises(ForeignProgram) as refused:
            apply.up(wanted)
        assert refused.value.exit_code == 6
        assert apply.snapshot("faults")[0].uplinks == ()
        apply.attach_uplink("faults", "u0", "up0", force=True)
        apply.down("faults")
        assert bpf.link_interface(other) == index


def test_what_cannot_be_an_uplink_is_refused(mesh: Mesh) -> None:
    with apply.opened(mesh.name) as live:
        row = live.record.function("a")
    assert row is not None
    for name, wrong, text in (
        ("lo", UsageError, "no Ethernet frames"),
        (row.attachment.interface, UsageError, "the host side of a function|of this mesh already"),
        ("up0", UsageError, "two uplinks at interface"),
        ("none", NotFound, "there is no interface none"),
    ):
        with pytest.raises(wrong, match=text):
            apply.attach_uplink(mesh.name, "u9", name)
    with pytest.raises(UsageError, match='there is an uplink "u0" already'):
        apply.attach_uplink(mesh.name, "u0", "up1")
    assert state(mesh) == {"u0": "up"}


def test_a_connection_stays_where_it_is_and_new_ones_go_elsewhere(
    mesh: Mesh, outside: Outside
) -> None:
    with (
        listener(mesh, "a", mesh.function("a").address4, 8080) as server,
        connect(mesh, outside.home, outside.host[0], 80) as here,
        accepted(server) as there,
    ):
        assert carries(here, there)
        apply.edit(mesh.name, _served_by_b)
        assert carries(here, there)
        assert carries(there, here)
        assert serves(mesh, outside, "b")
        assert carries(here, there)


def _served_by_b(mesh: Mesh) -> Mesh:
    new = Service.model_validate(mesh.service("web").model_dump() | {"functions": ("b",)})
    return mesh.model_copy(update={"services": (new,)})


@pytest.mark.parametrize("family", [0, 1])
def test_who_is_rejected_outside_is_told(mesh: Mesh, outside: Outside, family: int) -> None:
    rejecting = MESH.replace('"faults"', '"faults"\nreject = true')
    apply.up(mesh_of(rejecting))
    with pytest.raises(ConnectionRefusedError):  # a reset from the function's own address
        connect(mesh, outside.home, mesh.function("b").addresses[family], 7)
    assert drops(mesh)["outside", Direction.FROM_UPLINK, Reason.POLICY]


@pytest.mark.parametrize("family", [0, 1])
def test_a_hop_too_many_is_told_to_the_outside(mesh: Mesh, outside: Outside, family: int) -> None:
    apply.up(mesh_of(MESH + rule("outside", "function:a")))
    with pytest.raises(subprocess.CalledProcessError) as failed:
        outside.run(f"ping -c 1 -W 20 -t 1 {mesh.function('a').addresses[family]}")
    assert "Time" in failed.value.stdout
    assert drops(mesh)["outside", Direction.FROM_UPLINK, Reason.TTL] == 1


def test_a_port_that_the_host_has_too_is_told(mesh: Mesh, outside: Outside) -> None:
    assert not list(uplinks.taken_in(mesh))
    with listener(mesh, None, outside.host[0], 80):
        (line,) = uplinks.taken_in(mesh)
        assert line == (
            "service web is published at tcp port 80 of up0, "
            "where a process of the host listens too"
        )
        assert line in [check.text for check in health.check(mesh.name)]


def test_answers_of_flows_that_go_by_the_stack_still_do(mesh: Mesh, outside: Outside) -> None:
    """A function asks outside, by the host's routes; the answers come in by the uplink."""
    forward(1)
    try:
        with connection(mesh, "a", outside.home, outside.near[0], 7777) as (here, there):
            assert carries(here, there)
            assert carries(there, here)
        with opened(mesh.name):
            assert not [key for key in drops(mesh) if key[0] == "outside"]
    finally:
        forward(0)


def test_a_server_of_debian_is_reached(mesh: Mesh, outside: Outside) -> None:
    words = ["python3", "-m", "http.server", "8080"]
    url = f"http://{outside.host[0]}/"

    def served() -> bool:
        with contextlib.suppress(subprocess.CalledProcessError):
            return bool(outside.run(f"curl -s -m 5 -f {url}"))
        return False

    with background(mesh, "a", words):
        assert poll(served, seconds=20)
