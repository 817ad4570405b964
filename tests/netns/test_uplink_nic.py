# SPDX-License-Identifier: BSD-2-Clause
"""XDP at an uplink that is no veth: there from the beginning, if its driver has it.

the test ═══ nic0, a tap ── host       br0: a bridge, which has no native XDP
"""

import json
import socket
import subprocess
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from ebpfmesh import apply
from ebpfmesh._abi import Direction, Reason
from ebpfmesh.apply import OnStep
from ebpfmesh.errors import ForeignProgram, Unsupported
from ebpfmesh.kernel import bpf, interface, links, netns
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.kernel.programs import BOTH, CARRY, DENY
from ebpfmesh.observe import health, uplinks
from ebpfmesh.observe.view import opened
from ebpfmesh.state import early
from support.command import ebpfmesh
from support.killing import killed_at, steps_of
from support.nic import HOST, NAME, Nic
from support.topology import SLOWER, collected, drops, mesh_of, running

BEGIN = '[mesh]\nname = "nic"\n'
UPLINK = f'[[uplink]]\nname = "u0"\ninterface = "{NAME}"\n'
FRAMES = '[[function]]\nname = "frames"\ndatapath = "xdp"\n'
BRIDGE = '[[uplink]]\nname = "u9"\ninterface = "br0"\n'
LIST = [ip_network("100.64.1.0/24")]
DENIED = "100.64.1.1"
AROUND = ("uplink u0: XDP", "remove uplink u0: program")
"""Steps that begin with a program at XDP or without, and end otherwise."""


@pytest.fixture
def bridge() -> Iterator[None]:
    subprocess.run(["ip", "link", "add", "br0", "type", "bridge"], check=True)
    yield
    subprocess.run(["ip", "link", "del", "br0"], check=True)


@pytest.fixture
def host() -> Iterator[socket.socket]:
    """A socket of the host's, whose address is the uplink's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind((HOST, 0))
        one.settimeout(10 * SLOWER)
        yield one


def xdp(name: str = NAME) -> list[str]:
    """What is at XDP of an interface, and that it is native."""
    index = interface.find(name)
    assert index is not None
    with netns.rtnetlink() as ip:
        shown = ip.link("get", index=index)[0].get_attr("IFLA_XDP")
        found = [one.name for one in links.programs(ip, index) if one.how == "XDP"]
    assert not found or shown.get_attr("IFLA_XDP_ATTACHED") == "xdp"  # not "xdpgeneric"
    return found


def seen(name: str = "u0") -> uplinks.Uplink:
    with opened("nic") as view:
        return next(one for one in uplinks.read_uplinks(view) if one.name == name)


def link() -> tuple[int, int]:
    """The link that is attached: which one it is."""
    found = early.pin(Pins("nic"), "u0").stat()
    return found.st_ino, found.st_ctime_ns


def passes(wire: Nic, host: socket.socket) -> None:
    """What comes in goes to the host's stack."""
    for number in range(3):
        wire.send(b"%d" % number, host.getsockname()[1])
        assert host.recv(100) == b"%d" % number


def test_it_is_there_before_anything_needs_it_and_is_changed_in_place(
    wire: Nic, host: socket.socket
) -> None:
    with running(BEGIN + UPLINK) as mesh:
        assert xdp() == [DENY.name]
        assert seen().why == uplinks.AHEAD
        assert f"uplink u0: XDP: {uplinks.AHEAD}" in [one.text for one in health.check("nic")]
        passes(wire, host)
        attached = link()
        apply.deny("nic", LIST)
        assert (xdp(), seen().why) == ([DENY.name], "1 prefix is denied")
        wire.send(b"denied", host.getsockname()[1], source=DENIED)
        passes(wire, host)
        assert drops(mesh)["outside", Direction.FROM_UPLINK, Reason.DENIED] == 1
        apply.up(mesh_of(BEGIN + UPLINK + FRAMES))
        assert xdp() == [BOTH.name]
        passes(wire, host)
        apply.allow("nic", LIST)
        assert xdp() == [CARRY.name]
        wire.send(b"0", host.getsockname()[1], source=DENIED)
        assert host.recv(100) == b"0"
        apply.up(mesh)
        assert (xdp(), seen().why) == ([DENY.name], uplinks.AHEAD)
        passes(wire, host)
        assert link() == attached
        assert not apply.up(mesh)
        assert not collected("nic")
    assert not xdp()
    passes(wire, host)


@pytest.mark.usefixtures("wire")
def test_off_and_detach_take_it_away() -> None:
    with running(BEGIN + UPLINK) as mesh:
        apply.up(mesh_of(BEGIN + UPLINK + 'xdp = "off"\n'))
        assert (xdp(), seen().why) == ([], 'xdp = "off"')
        assert not collected("nic")
        apply.up(mesh)
        assert xdp() == [DENY.name]
        apply.detach_uplink("nic", "u0")
        assert not xdp()
        apply.attach_uplink("nic", "u0", NAME)
        assert xdp() == [DENY.name]


@pytest.mark.usefixtures("wire")
def test_who_is_killed_leaves_nothing_that_gc_does_not_find() -> None:
    whole, empty = mesh_of(BEGIN + UPLINK), mesh_of(BEGIN)

    def attach(on_step: OnStep) -> object:
        return apply.up(whole, on_step)

    def detach(on_step: OnStep) -> object:
        return apply.up(empty, on_step)

    with running(BEGIN):
        apply.up(whole)  # its programs stay
        for change, before in ((attach, empty), (detach, whole)):
            apply.up(before)
            steps = steps_of(change)
            first = next(n for n, step in enumerate(steps) if step in AROUND)
            for number in (first, first + 1):
                apply.up(before)
                assert killed_at(number, change)
                while collected("nic"):
                    pass
                with opened("nic") as view:
                    there = [DENY.name] if view.record.uplink("u0") else []
                assert xdp() == there, number
        apply.up(whole)
        assert killed_at(first, detach)
    assert not xdp()


@pytest.mark.usefixtures("bridge")
def test_a_driver_without_does_without_until_a_deny_list_asks() -> None:
    why = "interface br0 has no native XDP (Operation not supported); nothing needs it"
    with running(BEGIN):
        done = ebpfmesh("up", "-", stdin=BEGIN + BRIDGE)
        assert f"warning: uplink u9: no XDP: {why}" in done.stderr
        assert (xdp("br0"), seen("u9").why) == ([], why)
        assert f"uplink u9: no XDP: {why}" in [one.text for one in health.check("nic")]
        assert not collected("nic")
        with pytest.raises(Unsupported, match=r"no native XDP .*, which a deny list needs") as no:
            apply.deny("nic", LIST)
        assert no.value.exit_code == 5
        assert (xdp("br0"), seen("u9").why) == ([], why)
        apply.detach_uplink("nic", "u9")
        done = ebpfmesh("attach", "u9", "--uplink", "br0", "--json")
        assert json.loads(done.stdout)["warnings"] == [f"uplink u9: no XDP: {why}"]


def test_beside_a_program_of_others_it_does_without(wire: Nic, host: socket.socket) -> None:
    index = interface.find(NAME)
    assert index is not None
    with running(BEGIN + UPLINK) as mesh:
        theirs = bpf.obj_get(Pins("nic").progs / DENY.name)
        apply.detach_uplink("nic", "u0")
        with theirs, bpf.link_create(theirs, index, bpf.XDP, bpf.XDP_NATIVE):
            with pytest.raises(ForeignProgram):
                apply.up(mesh)
            apply.attach_uplink("nic", "u0", NAME, force=True)
            with opened("nic") as view:
                (row,) = view.record.uplinks()
            assert "already has" in row.without
            assert not early.has(Pins("nic"), row)
            passes(wire, host)
            with pytest.raises(ForeignProgram):
                apply.deny("nic", LIST)
        assert not collected("nic")
        passes(wire, host)


def test_a_driver_that_refuses_says_that_it_is_a_matter_of_settings(tmp_path: Path) -> None:
    """A veth whose other end has a large MTU, for a program that does not know fragments."""
    pass_all = bytes.fromhex("b700000002000000 9500000000000000")
    made = "few0 type veth peer name few1 mtu 9000"
    subprocess.run(["ip", "link", "add", *made.split()], check=True)
    try:
        index = interface.find("few0")
        assert index is not None
        with (
            bpf.prog_load(bpf.PROG_TYPE_XDP, "whole", pass_all) as program,
            pytest.raises(Unsupported, match=r"few0 has no native XDP as it is set \(.*\)$") as no,
        ):
            links.attach_xdp(index, "few0", program, tmp_path / "pin", "")
        assert "MTU" in no.value.hint
    finally:
        subprocess.run(["ip", "link", "del", "few0"], check=True)
