# SPDX-License-Identifier: BSD-2-Clause
"""Containers that are there already: attached by namespace or by interface, and left as they were.

box: eth0 (198.18.77.1, its own) ── boxhost: 198.18.77.254, on the host
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpfmesh import apply
from ebpfmesh._abi import Direction, Reason
from ebpfmesh.compile.build import build
from ebpfmesh.errors import ForeignProgram, MeshError, NotFound, Unsupported, UsageError
from ebpfmesh.kernel import bpf, cgroup, interface, links, netns, offload
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.kernel.programs import FROM_FN, Program
from ebpfmesh.model import Function, Mesh
from ebpfmesh.state.files import RUN
from support import topology
from support.killing import killed_at, steps_of
from support.meshes import function, mesh_file
from support.sockets import carries, connection, is_blocked, listener, moved_whole
from support.topology import collected, drops, in_fn, leftovers, mesh_of, poll, wait_until

MESH = mesh_file("adopt", function("a", "t"), function("stranger", "u"))
BOX = Function.model_validate_json(
    '{"name": "box", "tenant": "t", "address4": "198.18.77.1", "address6": "2001:db8:77::1"}'
)


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture
def box() -> Iterator[None]:
    """A container with a network of its own."""
    ip("netns", "add", "box")
    ip("link", "add", "boxhost", "type", "veth", "peer", "eth0", "netns", "box")
    ip("address", "add", "198.18.77.254/24", "dev", "boxhost")
    ip("address", "add", "2001:db8:77::fe/64", "dev", "boxhost", "nodad")
    ip("link", "set", "boxhost", "up")
    ip("-n", "box", "address", "add", "198.18.77.1/24", "dev", "eth0")
    ip("-n", "box", "address", "add", "2001:db8:77::1/64", "dev", "eth0", "nodad")
    ip("netns", "exec", "box", "sysctl", "-qw", "net.ipv6.conf.eth0.accept_dad=0")
    ip("-n", "box", "link", "set", "eth0", "up")
    ip("-n", "box", "route", "add", "default", "via", "198.18.77.254")
    ip("-n", "box", "route", "add", "default", "via", "2001:db8:77::fe")
    # What it looks like is compared: neither its state nor its own address may come later.
    wait_until(
        lambda: "state UP" in inside()[0] and "fe80::" in inside()[2], what="eth0 has settled"
    )
    yield
    if "boxhost" in ip("link"):
        ip("link", "del", "boxhost")
    ip("netns", "del", "box")


def inside() -> tuple[str, ...]:
    """The configuration a container gave itself."""
    shown = (("address", "show", "dev", "eth0"), ("route",), ("-6", "route"))
    return tuple(ip("-n", "box", *words) for words in shown)


def programs(name: str = "boxhost") -> list[str]:
    with netns.rtnetlink() as rtnl:
        index = interface.find(name)
        assert index is not None
        return sorted(f"{one.name} {one.hook}" for one in links.programs(rtnl, index))


@pytest.mark.usefixtures("box")
def test_an_interface_is_taken_over_as_it_is(mesh: Mesh) -> None:
    before = inside()
    apply.add_function(mesh.name, BOX, iface="boxhost")
    try:
        assert programs() == ["mesh_from_fn ingress", "mesh_to_fn egress"]
        for client, server in (("box", "a"), ("a", "box")):
            here, there = find(mesh, client), find(mesh, server)
            for address in there.addresses:
                with connection(mesh, here.name, there.name, address, 7000) as (one, other):
                    assert carries(one, other)
                    assert carries(other, one)
        with listener(mesh, "stranger", mesh.function("stranger").address4, 7000):
            assert is_blocked(mesh, "box", mesh.function("stranger").address4, 7000)
        assert inside() == before
    finally:
        apply.detach(mesh.name, "box")
    assert programs() == []
    assert inside() == before
    assert "198.18.77.254" in ip("address", "show", "dev", "boxhost")
    assert not [word for word in leftovers() if "adopt" in word and "box" in word]


def find(mesh: Mesh, name: str) -> Function:
    return BOX if name == "box" else mesh.function(name)


@pytest.mark.usefixtures("box")
def test_commands_run_inside_an_adopted_interface(mesh: Mesh) -> None:
    apply.add_function(mesh.name, BOX, iface="boxhost")
    try:
        in_fn(mesh, "box", ["ping", "-c", 1, "-W", 20, "a"])
    finally:
        apply.detach(mesh.name, "box")


@pytest.mark.usefixtures("box")
def test_an_interrupted_detach_gives_the_interface_back(mesh: Mesh) -> None:
    """Undone is adopted again, not made anew."""
    apply.add_function(mesh.name, BOX, iface="boxhost")
    before = inside()

    commits = 0

    def interrupt(step: str) -> None:
        nonlocal commits
        commits += step == "commit"
        if step == "commit" and commits == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apply.detach(mesh.name, "box", on_step=interrupt)
    assert programs() == ["mesh_from_fn ingress", "mesh_to_fn egress"]
    assert inside() == before
    with apply.opened(mesh.name) as live:
        row = live.record.function("box")
        assert row is not None
        assert (row.attachment.interface, row.attachment.made_interface) == ("boxhost", False)
    apply.detach(mesh.name, "box")
    assert programs() == []


@pytest.mark.usefixtures("box")
def test_an_adopted_interface_that_goes_is_noticed(mesh: Mesh) -> None:
    apply.add_function(mesh.name, BOX, iface="boxhost")
    ip("link", "del", "boxhost")
    with apply.opened(mesh.name) as live:
        assert live.functions.broken() == ["box"]
    assert collected("adopt") == ["function box of mesh adopt"]
    assert (netns.RUN / "box").exists()
    assert apply.plan(mesh) == ()


@pytest.mark.usefixtures("box")
@pytest.mark.parametrize("way", ["up", "gc"])
def test_with_the_record_lost_an_adopted_interface_is_set_down(mesh: Mesh, way: str) -> None:
    """Its programs go, and nobody asked for that: so nothing may pass."""
    apply.add_function(mesh.name, BOX, iface="boxhost")
    shutil.rmtree(RUN / mesh.name)
    told = [step.name for step in apply.up(mesh)] if way == "up" else apply.gc()
    assert any("boxhost is set down" in line for line in told)
    assert programs() == []
    assert "state DOWN" in ip("-o", "link", "show", "boxhost")
    apply.up(mesh)


FRAMES = BOX.model_copy(update={"datapath": "xdp"})
"""The same with raw frames."""


def offloads() -> str:
    with netns.rtnetlink() as rtnl:
        index = interface.find("boxhost")
        assert index is not None
        found = offload.pair(rtnl, index, netns.RUN / "box")
    return f"{found.host}, {found.inner}"


@pytest.fixture(params=["as made", "changed"])
def before(request: pytest.FixtureRequest, box: None) -> tuple[str, tuple[str, ...]]:
    """The offloads of a container, and how it looks inside."""
    del box
    if request.param == "changed":
        subprocess.run(["ethtool", "-K", "boxhost", "gro", "on", "tx", "off"], check=True)
    return offloads(), inside()


@pytest.fixture
def _unloaded() -> Iterator[None]:
    """What the first function with raw frames had loaded is not there."""
    yield
    (Pins("adopt").progs / FROM_FN.name).unlink(missing_ok=True)


@pytest.mark.usefixtures("_unloaded")
def test_raw_frames_leave_its_offloads_as_they_were(
    mesh: Mesh, before: tuple[str, tuple[str, ...]]
) -> None:
    """Also where detach is killed at any step; by gc, by detach, and by down."""
    apply.add_function(mesh.name, FRAMES, iface="boxhost")
    assert offloads() == "gro on tx off, gro on tx off"
    assert programs() == ["mesh_fn_xdp xdp", "mesh_from_fn ingress", "mesh_to_fn egress"]
    a = mesh.function("a")
    for client, server in ((FRAMES, a), (a, FRAMES)):
        for address in server.addresses:
            with connection(mesh, client.name, server.name, address, 7000) as (one, other):
                assert moved_whole(one, other, 1 << 20)
                assert carries(other, one)
    apply.down(mesh.name)
    assert (offloads(), inside()) == before
    apply.up(mesh)
    apply.add_function(mesh.name, FRAMES, iface="boxhost")
    steps = steps_of(lambda on_step: apply.detach(mesh.name, "box", on_step))
    for step in range(len(steps)):
        apply.add_function(mesh.name, FRAMES, iface="boxhost")
        assert killed_at(step, lambda on_step: apply.detach(mesh.name, "box", on_step))
        apply.gc()
        apply.detach(mesh.name, "box", missing_ok=True)
        assert (offloads(), inside(), programs()) == (*before, []), steps[step]
    assert not list(RUN.glob("adopt/*.offloads"))


@pytest.mark.usefixtures("_unloaded")
def test_raw_frames_killed_while_they_are_added(
    mesh: Mesh, before: tuple[str, tuple[str, ...]]
) -> None:
    def add(on_step: apply.OnStep) -> None:
        apply.add_function(mesh.name, FRAMES, iface="boxhost", on_step=on_step)

    add(lambda _step: None)  # what it takes is loaded
    apply.detach(mesh.name, "box")
    steps = steps_of(add)
    assert sum("offloads" in step or "XDP" in step for step in steps) == 3
    apply.detach(mesh.name, "box")
    for step in range(len(steps)):
        assert killed_at(step, add), steps[step]
        apply.gc()
        apply.detach(mesh.name, "box", missing_ok=True)
        assert (offloads(), inside(), programs()) == (*before, []), steps[step]
    assert apply.plan(mesh) == ()


@pytest.mark.usefixtures("box")
def test_down_gives_an_adopted_interface_back(mesh: Mesh) -> None:
    """Also where a kill came between: the second one knows that the first was asked for."""
    before = inside()
    apply.add_function(mesh.name, BOX, iface="boxhost")
    steps = steps_of(lambda on_step: apply.down(mesh.name, on_step))
    for step in range(1, len(steps)):
        apply.up(mesh)
        apply.add_function(mesh.name, BOX, iface="boxhost")
        assert killed_at(step, lambda on_step: apply.down(mesh.name, on_step)), steps[step]
        apply.gc()
        assert programs() == []
        assert "state UP" in ip("-o", "link", "show", "boxhost"), steps[step]
        assert inside() == before
    apply.up(mesh)


def test_what_cannot_be_adopted(mesh: Mesh) -> None:
    with pytest.raises(NotFound, match="nosuch"):
        apply.add_function(mesh.name, BOX, iface="nosuch")
    with pytest.raises(NotFound, match="lo is not a veth"):
        apply.add_function(mesh.name, BOX, iface="lo")
    ip("link", "add", "left", "type", "veth", "peer", "right")
    try:
        with pytest.raises(NotFound, match="left"):
            apply.add_function(mesh.name, BOX, iface="left")
    finally:
        ip("link", "del", "left")
    assert apply.plan(mesh) == ()


@pytest.mark.usefixtures("box")
def test_names_and_addresses_that_are_taken(mesh: Mesh) -> None:
    taken = BOX.model_copy(update={"name": "a"})
    with pytest.raises(UsageError, match="a already"):
        apply.add_function(mesh.name, taken, iface="boxhost")
    clash = BOX.model_copy(update={"address4": mesh.function("a").address4})
    with pytest.raises(UsageError, match=f"{clash.address4} is the address of a"):
        apply.add_function(mesh.name, clash, iface="boxhost")
    with pytest.raises(NotFound, match="there is no mesh nosuch"):
        apply.add_function("nosuch", BOX, iface="boxhost")
    assert programs() == []


# ---- programs of others


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Pins of programs: ``foreign_tc`` and ``foreign_xdp`` do nothing, ``foreign_ok`` decides."""
    source = tmp_path_factory.mktemp("foreign") / "foreign.c"
    source.write_text(
        "int foreign_tc(struct __sk_buff *ctx) { return -1; }\n"
        "int foreign_ok(struct __sk_buff *ctx) { return 0; }\n"
        "int foreign_xdp(struct xdp_md *ctx) { return 2; }\n"
    )
    pins = Path("/sys/fs/bpf/foreign")
    pins.mkdir()
    programs = [Program(name, "tc") for name in ("foreign_tc", "foreign_ok")]
    build(source, [*programs, Program("foreign_xdp", "xdp")], pin_to=pins)
    yield pins
    for path in pins.iterdir():
        path.unlink()
    pins.rmdir()


@pytest.fixture(params=["tcx ingress", "tcx egress", "clsact", "xdp"])
def occupied(request: pytest.FixtureRequest, box: None, foreign: Path) -> Iterator[str]:
    """The interface has a program of somebody else; gives its line in ``programs()``."""
    del box
    match request.param.split():
        case "tcx", direction:
            if not links.has_tcx():
                topology.unavailable("the kernel has no TCX")
            index = interface.find("boxhost")
            assert index is not None
            with (
                bpf.obj_get(foreign / "foreign_tc") as program,
                bpf.link_create(program, index, links.HOOK[direction]),
            ):
                yield f"foreign_tc {direction}"
        case ("clsact",):
            pinned = ("bpf", "direct-action", "object-pinned", str(foreign / "foreign_tc"))
            tc("qdisc", "add", "dev", "boxhost", "clsact")
            tc("filter", "add", "dev", "boxhost", "ingress", "prio", "7", *pinned)
            yield "foreign_tc ingress"
        case ("xdp",):
            pinned = ("xdpgeneric", "pinned", str(foreign / "foreign_xdp"))
            ip("link", "set", "boxhost", *pinned)
            yield "foreign_xdp xdp"


def tc(*words: str) -> None:
    subprocess.run(["tc", *words], check=True, capture_output=True)


def test_a_foreign_program_is_named_and_left_alone(mesh: Mesh, occupied: str) -> None:
    before = programs()
    assert len(before) == 1
    with pytest.raises(ForeignProgram) as caught:
        apply.add_function(mesh.name, BOX, iface="boxhost")
    assert caught.value.exit_code == 6
    assert "boxhost" in caught.value.message
    assert occupied.split(maxsplit=1)[0] in caught.value.message
    assert programs() == before
    assert apply.plan(mesh) == ()


def test_by_force_beside_a_foreign_program(mesh: Mesh, occupied: str) -> None:
    before = programs()
    apply.add_function(mesh.name, BOX, iface="boxhost", force=True)
    try:
        assert set(programs()) == {*before, "mesh_from_fn ingress", "mesh_to_fn egress"}
        if "xdp" not in occupied:  # generic XDP does not see what a peer redirects
            with connection(mesh, "box", "a", mesh.function("a").address4, 7000) as (here, there):
                assert carries(here, there)
    finally:
        apply.detach(mesh.name, "box")
    assert programs() == before


@pytest.mark.usefixtures("_unloaded")
def test_raw_frames_where_there_is_no_native_xdp(mesh: Mesh) -> None:
    """As at a veth whose other end may send by more queues than come in there."""
    ip("netns", "add", "box")
    words = ("type", "veth", "peer", "eth0", "numtxqueues", "2", "netns", "box")
    ip("link", "add", "boxhost", "numrxqueues", "1", *words)
    subprocess.run(["ip", "netns", "exec", "box", "ethtool", "-L", "eth0", "tx", "2"], check=True)
    try:
        found = offloads()
        with pytest.raises(Unsupported, match="boxhost has no native XDP") as caught:
            apply.add_function(mesh.name, FRAMES, iface="boxhost")
        assert caught.value.exit_code == 5
        assert (offloads(), programs()) == (found, [])
        assert apply.plan(mesh) == ()
    finally:
        ip("netns", "del", "box")


@pytest.mark.usefixtures("_unloaded")
@pytest.mark.parametrize("occupied", ["xdp"], indirect=True)
def test_no_force_puts_raw_frames_beside_a_foreign_program(mesh: Mesh, occupied: str) -> None:
    before, found = programs(), offloads()
    with pytest.raises(ForeignProgram, match=occupied.split(maxsplit=1)[0]) as caught:
        apply.add_function(mesh.name, FRAMES, iface="boxhost", force=True)
    assert caught.value.exit_code == 6
    assert (programs(), offloads()) == (before, found)
    assert apply.plan(mesh) == ()


@pytest.mark.usefixtures("box")
def test_a_foreign_verdict_does_not_pass_the_mesh_by(mesh: Mesh, foreign: Path) -> None:
    """TC_ACT_OK ends a TCX hook: ours runs before it, though it came after."""
    if not links.has_tcx():
        topology.unavailable("the kernel has no TCX")
    index = interface.find("boxhost")
    assert index is not None
    with (
        bpf.obj_get(foreign / "foreign_ok") as program,
        bpf.link_create(program, index, bpf.TCX_INGRESS),
        bpf.link_create(program, index, bpf.TCX_EGRESS),
    ):
        apply.add_function(mesh.name, BOX, iface="boxhost", force=True)
        try:
            with netns.rtnetlink() as rtnl:
                order = [one.name for one in links.programs(rtnl, index)]
            assert order == ["mesh_from_fn", "foreign_ok", "mesh_to_fn", "foreign_ok"]
            address = mesh.function("a").address4
            with connection(mesh, "box", "a", address, 7000) as (here, there):
                assert carries(here, there)
                assert carries(there, here)
            with listener(mesh, "stranger", mesh.function("stranger").address4, 7000):
                assert is_blocked(mesh, "box", mesh.function("stranger").address4, 7000)
            assert drops(mesh)["box", Direction.FROM_FN, Reason.POLICY] > 0
        finally:
            apply.detach(mesh.name, "box")
        assert programs() == ["foreign_ok egress", "foreign_ok ingress"]


# ---- a namespace with a network of its own


@pytest.mark.usefixtures("box")
def test_a_namespace_keeps_what_it_has(mesh: Mesh) -> None:
    """The mesh comes beside: an interface of another name, and a route to the mesh alone."""
    before = inside()
    guest = BOX.model_copy(
        update={
            "netns": "box",
            "address4": mesh.prefix4.network_address + 9,
            "address6": mesh.prefix6.network_address + 9,
        }
    )
    apply.add_function(mesh.name, guest)
    try:
        listing = ip("-n", "box", "-o", "link")
        assert "mesh0" in listing
        assert ip("-n", "box", "route", "show", "default") in before[1]
        for address in mesh.function("a").addresses:
            in_fn(mesh, "box", ["ping", "-c", 1, "-W", 20, address])
        in_fn(mesh, "box", ["ping", "-c", 1, "-W", 20, "198.18.77.254"])
    finally:
        apply.detach(mesh.name, "box")
    assert inside() == before
    assert "mesh0" not in ip("-n", "box", "-o", "link")


@pytest.mark.usefixtures("box")
def test_what_cannot_be_set_undoes_everything(mesh: Mesh) -> None:
    """A namespace without IPv6 refuses the address; it is left as it was."""
    subprocess.run(
        ["ip", "netns", "exec", "box", "sysctl", "-q", "-w", "net.ipv6.conf.all.disable_ipv6=1",
         "net.ipv6.conf.default.disable_ipv6=1"],
        check=True,
    )  # fmt: skip
    before, left = inside(), leftovers()
    guest = BOX.model_copy(
        update={
            "netns": "box",
            "address4": mesh.prefix4.network_address + 9,
            "address6": mesh.prefix6.network_address + 9,
        }
    )
    with pytest.raises(MeshError, match=f"{guest.address6}") as caught:
        apply.add_function(mesh.name, guest)
    assert caught.value.exit_code == 1
    assert "IPv6" in caught.value.hint
    assert inside() == before
    assert poll(lambda: leftovers() == left), leftovers() ^ left
    assert apply.plan(mesh) == ()


def test_a_function_that_cannot_be_made_undoes_everything(mesh: Mesh) -> None:
    """What comes before it in the same up is undone too."""
    left = leftovers()
    more = '[[function]]\nname = "fine"\n[[function]]\nname = "big"\nnetns = "nosuch"\n'
    with pytest.raises(NotFound, match="nosuch"):
        apply.up(mesh_of(MESH + more))
    assert poll(lambda: leftovers() == left), leftovers() ^ left
    assert apply.plan(mesh) == ()


def test_a_limit_the_kernel_refuses_undoes_everything(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function whose cgroup cannot be made is not there at all."""
    monkeypatch.setattr(cgroup, "PERIOD_US", 100)  # quotas below a millisecond are refused
    left = leftovers()
    with pytest.raises(MeshError, match="cpu") as caught:
        apply.up(mesh_of(MESH + '[[function]]\nname = "big"\ncpu = 2\n'))
    assert (caught.value.exit_code, bool(caught.value.hint)) == (1, True)
    monkeypatch.undo()
    assert poll(lambda: leftovers() == left), leftovers() ^ left
    assert apply.plan(mesh) == ()
