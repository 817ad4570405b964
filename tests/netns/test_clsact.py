# SPDX-License-Identifier: BSD-2-Clause
"""The mesh over clsact filters: by its setting, and on a kernel without TCX."""

import subprocess
from collections.abc import Iterator

import pytest

from ebpfmesh import apply
from ebpfmesh._abi import Direction, Reason
from ebpfmesh.errors import ForeignProgram, Unsupported, UsageError
from ebpfmesh.kernel import bpf, interface, links, netns
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.model import Function, Mesh
from ebpfmesh.observe import view
from ebpfmesh.observe.mesh import read_mesh
from support import topology
from support.meshes import function, mesh_file, service
from support.sockets import carries, connect, is_blocked, listener
from support.topology import drops, in_fn, leftovers, mesh_of, poll, running

MESH = mesh_file(
    "clsact",
    function("a", "t"),
    function("b", "t"),
    function("c", "u"),
    service("web", 80, "b", target_port=8080),
    hook="clsact",
)


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    with running(MESH) as mesh:
        yield mesh


def filters(name: str) -> str:
    shown = [
        subprocess.run(
            ["tc", "filter", "show", "dev", name, hook], check=True, capture_output=True, text=True
        ).stdout
        for hook in ("ingress", "egress")
    ]
    return "".join(shown)


def host_link(function: str) -> str:
    with apply.opened("clsact") as live:
        row = live.record.function(function)
        assert row is not None
        return row.attachment.interface


def test_it_carries_and_blocks(mesh: Mesh) -> None:
    shown = filters(host_link("a"))
    assert "mesh_from_fn" in shown
    assert "mesh_to_fn" in shown
    for address in mesh.function("b").addresses:
        in_fn(mesh, "a", ["ping", "-c", 2, "-i", 0.01, "-W", 20, address])
        assert in_fn(mesh, "c", ["ping", "-c", 1, "-W", 0.2, address], check=False).returncode == 1
    assert drops(mesh)["c", Direction.FROM_FN, Reason.POLICY] >= 2
    for own, front in zip(mesh.function("b").addresses, mesh.service("web").addresses, strict=True):
        with listener(mesh, "b", own, 8080) as server, connect(mesh, "a", front, 80) as here:
            there, _ = server.accept()
            with there:
                assert carries(here, there)
                assert carries(there, here)
            assert is_blocked(mesh, "c", front, 80)


def test_up_again_down_and_nothing_left() -> None:
    before = leftovers()
    mesh = mesh_of(MESH)
    assert apply.up(mesh)
    assert apply.up(mesh) == ()
    more = mesh_of(MESH + '[[function]]\nname = "d"\ntenant = "t"\n')
    assert apply.up(more)
    in_fn(more, "d", ["ping", "-c", 1, "-W", 20, "b"])
    assert apply.up(mesh)
    assert apply.down("clsact")
    assert poll(lambda: leftovers() == before), leftovers() ^ before


def test_a_filter_that_was_taken_away_is_noticed_and_repaired(mesh: Mesh) -> None:
    subprocess.run(["tc", "filter", "del", "dev", host_link("b"), "ingress"], check=True)
    with apply.opened("clsact") as live:
        assert live.functions.broken() == ["b"]
    apply.up(mesh)
    in_fn(mesh, "a", ["ping", "-c", 1, "-W", 20, "b"])


def test_the_hook_is_fixed_while_the_mesh_is_up(mesh: Mesh) -> None:
    other = mesh_of(MESH.replace('hook = "clsact"', 'hook = "auto"'))
    with pytest.raises(UsageError, match="the hook cannot change") as caught:
        apply.up(other)
    assert "down" in caught.value.hint
    assert apply.plan(mesh) == ()
    with view.opened(mesh.name) as seen:
        assert read_mesh(seen).hook == "clsact filter"


def test_what_the_kernel_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """TCX by name is refused before anything is made; by itself the mesh takes clsact."""
    before = leftovers()
    with monkeypatch.context() as patch:
        patch.setattr(links, "has_tcx", lambda: False)
        with pytest.raises(Unsupported, match="TCX") as caught:
            apply.up(mesh_of(MESH.replace('hook = "clsact"', 'hook = "tcx"')))
        assert (caught.value.exit_code, bool(caught.value.hint)) == (5, True)
        assert poll(lambda: leftovers() == before), leftovers() ^ before
        with running(MESH.replace('hook = "clsact"', "")) as mesh:
            assert "mesh_from_fn" in filters(host_link("a"))
            in_fn(mesh, "a", ["ping", "-c", 1, "-W", 20, "b"])


@pytest.fixture
def box() -> Iterator[None]:
    netns.create("box")
    subprocess.run(
        ["ip", "link", "add", "boxhost", "type", "veth", "peer", "eth0", "netns", "box"],
        check=True,
    )
    with netns.rtnetlink() as ip:
        ip.link("set", index=interface.find("boxhost"), state="up")
    yield
    subprocess.run(["ip", "link", "del", "boxhost"], check=True)
    netns.remove("box")


def qdiscs() -> str:
    command = ["tc", "qdisc", "show", "dev", "boxhost"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.usefixtures("box")
@pytest.mark.parametrize("pinned", [True, False])
def test_an_adopted_interface_is_given_back_as_it_was(mesh: Mesh, pinned: bool) -> None:
    """The qdisc that the filters need goes with the last of them; also where no pin names them."""
    before = qdiscs()
    guest = Function(name="box", address4=mesh.prefix4.network_address + 9)
    apply.add_function("clsact", guest, iface="boxhost")
    assert "mesh_from_fn" in filters("boxhost")
    if not pinned:  # as after a crash just before it was
        for hook in ("ingress", "egress"):
            (Pins("clsact").links / f"box-{hook}").unlink()
    apply.detach("clsact", "box")
    assert (filters("boxhost"), qdiscs()) == ("", before)


@pytest.mark.usefixtures("box")
def test_a_qdisc_of_others_stays(mesh: Mesh) -> None:
    subprocess.run(["tc", "qdisc", "add", "dev", "boxhost", "clsact"], check=True)
    match = ["protocol", "ip", "prio", "7", "u32", "match", "u32", "0", "0", "classid", "1:1"]
    subprocess.run(["tc", "filter", "add", "dev", "boxhost", "ingress", *match], check=True)
    before = filters("boxhost"), qdiscs()
    guest = Function(name="box", address4=mesh.prefix4.network_address + 9)
    apply.add_function("clsact", guest, iface="boxhost")
    apply.detach("clsact", "box")
    assert (filters("boxhost"), qdiscs()) == before


@pytest.mark.usefixtures("box")
def test_a_filter_of_others_is_not_replaced(mesh: Mesh) -> None:
    """One at the very priority and handle that ours would have."""
    with apply.opened("clsact") as live, live.program("mesh_to_fn") as program:
        index = interface.find("boxhost")
        live.ip.tc("add", "clsact", index)
        live.ip.tc(
            "add-filter", "bpf", index, links.HANDLE, fd=program.fileno(), direct_action=True,
            name="somebody", parent=links.CLSACT_PARENT["ingress"], prio=links.PRIORITY,
            protocol=links.ETH_P_ALL,
        )  # fmt: skip
    before = filters("boxhost")
    guest = Function(name="box", address4=mesh.prefix4.network_address + 9)
    with pytest.raises(ForeignProgram, match="somebody"):
        apply.add_function("clsact", guest, iface="boxhost")
    with pytest.raises(ForeignProgram):
        apply.add_function("clsact", guest, iface="boxhost", force=True)
    assert filters("boxhost") == before


@pytest.mark.usefixtures("box")
def test_no_filter_behind_a_tcx_program_of_others(mesh: Mesh) -> None:
    """It would run first, and what it lets pass would never come to the mesh."""
    if not links.has_tcx():
        topology.unavailable("the kernel has no TCX")
    index = interface.find("boxhost")
    assert index is not None
    with apply.opened("clsact") as live, live.program("mesh_to_fn") as program:
        others = bpf.link_create(program, index, bpf.TCX_EGRESS)
    guest = Function(name="box", address4=mesh.prefix4.network_address + 9)
    with others, pytest.raises(ForeignProgram, match="before any clsact filter"):
        apply.add_function("clsact", guest, iface="boxhost", force=True)
    assert filters("boxhost") == ""
    assert apply.plan(mesh) == ()
