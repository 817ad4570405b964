# SPDX-License-Identifier: BSD-2-Clause
"""What changes while functions speak to the outside by an uplink's address, and what runs out.

web, other ─── host, mesh-out 198.19.200.1 ─── router ── MTU 1400 ── server 198.19.201.2
"""

import contextlib
import ctypes
import socket
from ipaddress import ip_address
from pathlib import Path

import pytest

from ebpfmesh import _abi, apply
from ebpfmesh._abi import Direction, Reason
from ebpfmesh.apply import OnStep
from ebpfmesh.kernel import bpf
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.kernel.programs import OUT, Program
from ebpfmesh.model import Mesh
from ebpfmesh.observe import flows, health, uplinks
from ebpfmesh.observe.view import opened
from support.builds import build_with
from support.killing import killed_at, steps_of
from support.masquerade import PORTS, exchanged, is_translated, text, unforwarding
from support.outside import HOST4, ROUTER4, Outside, batch, beyond, sysctl
from support.sockets import carries, connection, datagrams, is_blocked, listener, moved_whole
from support.topology import collected, drops, mesh_of, poll, running

OUTSIDE = unforwarding


def test_what_does_not_change_a_flow_leaves_it(outside: Outside) -> None:
    """Nor does it lose its port when it is judged again, from either side."""
    near = outside.near[0]
    rule = '[[policy]]\nfrom = "function:{}"\nto = "outside:198.19.202.0/24"\naction = "deny"\n'
    with (
        running(text(count_flows=True)) as mesh,
        connection(mesh, "web", outside.home, near, 7003) as (here, there),
    ):
        peer = there.getpeername()
        for number, ends in enumerate(((here, there), (there, here))):
            apply.up(mesh_of(text(count_flows=True) + rule.format(("web", "other")[number])))
            assert carries(*ends)
            assert moved_whole(ends[0], ends[1], 1 << 20)
        more = text(ports="50000-65535", count_flows=True)
        (step,) = [one for one in apply.up(mesh_of(more)) if one.kind == "change-uplink"]
        assert step.describe() == f"~ uplink u0  masquerade_ports {PORTS} → 50000-65535"
        assert carries(here, there)
        assert carries(there, here)
        assert there.getpeername() == peer
        with opened(mesh.name) as view:
            (seen,) = uplinks.read_uplinks(view)
            counted = [one.bytes for one in flows.read(view) if one.protocol == "tcp"]
        assert seen.masquerade == uplinks.Masquerade(HOST4, "50000-65535", 1, 1, 0)
        assert min(counted) > 1 << 20
        assert not collected(mesh.name)


def test_a_flow_whose_port_is_gone_ends(outside: Outside) -> None:
    """A stream is reset by its server, to which it is another; datagrams go on by another port."""
    near, other = outside.near[0], "50000-50009"
    with (
        running(text()) as mesh,
        connection(mesh, "web", outside.home, near, 7004) as (here, there),
        datagrams(mesh, outside.home, near, 7004) as server,
        datagrams(mesh, "web", mesh.function("web").address4) as asking,
    ):
        assert carries(here, there)
        asking.sendto(b"before", (str(near), 7004))
        assert is_translated(server.recvfrom(64)[1])
        apply.up(mesh_of(text(ports=other)))
        there.sendall(b"lost")  # comes to the host, which knows no such connection
        assert poll(lambda: _is_over(there))
        asking.sendto(b"after", (str(near), 7004))
        data, sender = server.recvfrom(64)
        assert data == b"after"
        assert is_translated(sender, other)


def _is_over(one: socket.socket) -> bool:
    with contextlib.suppress(TimeoutError):
        try:
            one.settimeout(0.1)
            one.sendall(b"?")
            return not one.recv(1)
        except ConnectionError:
            return True
    return False


def test_an_address_that_goes_ends_flows(outside: Outside) -> None:
    near = outside.near[0]
    with (
        running(text()) as mesh,
        datagrams(mesh, outside.home, near, 5003) as server,
        datagrams(mesh, "web", mesh.function("web").address4) as here,
    ):
        assert exchanged(here, server, (str(near), 5003))
        readdress(HOST4, "198.19.200.9")
        try:
            collected(mesh.name)
            here.sendto(b"again", (str(near), 5003))
            assert server.recvfrom(64)[1][0] == "198.19.200.9"
        finally:
            readdress("198.19.200.9", HOST4)


def readdress(old: str, new: str) -> None:
    """Give the uplink another address; routes go with the old one."""
    lines = f"addr del {old}/24 dev mesh-out\naddr add {new}/24 dev mesh-out\n"
    for network in ("201", "202"):
        lines += f"route replace 198.19.{network}.0/24 via {ROUTER4}\n"
    batch(lines)


def test_without_it_the_hosts_stack_has_the_flow(outside: Outside) -> None:
    """What began by it stays there when it comes, and what began with it goes there then."""
    near = outside.near[0]
    sysctl("net.ipv4.ip_forward=1")
    try:
        with (
            running(text(on=False)) as mesh,
            connection(mesh, "web", outside.home, near, 7006) as (here, there),
        ):
            own = str(mesh.function("web").address4)
            assert there.getpeername()[0] == own
            (step,) = apply.up(mesh_of(text()))
            assert step.describe() == "~ uplink u0  masquerade on"
            assert carries(here, there)
            assert carries(there, here)
            with connection(mesh, "web", outside.home, near, 7007) as (_, new):
                assert is_translated(new.getpeername())
            apply.up(mesh_of(text(on=False)))
            assert carries(here, there)
            with connection(mesh, "web", outside.home, near, 7008) as (_, new):
                assert new.getpeername()[0] == own
    finally:
        sysctl("net.ipv4.ip_forward=0", "net.ipv4.conf.lo.forwarding=1")


def is_masqueraded(mesh: Mesh, outside: Outside, port: int) -> bool:
    with connection(mesh, "web", outside.home, outside.near[0], port) as (here, there):
        return is_translated(there.getpeername()) and carries(here, there) and carries(there, here)


def test_its_program_comes_with_the_first_that_masquerades(outside: Outside) -> None:
    """Also where that change was killed, and where somebody took the program away."""

    def change(on_step: OnStep) -> object:
        return apply.up(mesh_of(text()), on_step=on_step)

    with running(text(on=False)) as without:
        pin, maps = Pins(without.name).progs / OUT.name, Maps(Pins(without.name))
        assert not pin.exists()
        steps = steps_of(change)
        assert "program for masquerade" in steps
        for number, step in enumerate(steps):
            apply.up(without)
            pin.unlink(missing_ok=True)
            maps["mesh_tc_calls"].delete(ctypes.c_uint32(_abi.CALL_OUT))
            assert not collected(without.name)
            assert killed_at(number, change), step
            assert apply.up(mesh_of(text())), step
            assert is_masqueraded(without, outside, 7010), step
        pin.unlink()
        assert "what was wrong with program mesh_out_fn" in str(collected(without.name))
        assert not collected(without.name)
        assert is_masqueraded(without, outside, 7010)
        maps.close()


def test_another_build_has_its_program_too(outside: Outside, tmp_path: Path) -> None:
    with running(text()) as mesh:
        tags = [tag(mesh, OUT)]
        with build_with(mesh, OUT, "flags &= ~MESH_FLOW_NAT_SRC;", tmp_path):
            apply.revert(mesh.name)
            tags.append(tag(mesh, OUT))
            assert is_masqueraded(mesh, outside, 7011)
            apply.up(mesh)
            tags.append(tag(mesh, OUT))
        assert tags[0] == tags[2] != tags[1]
        assert is_masqueraded(mesh, outside, 7011)


def tag(mesh: Mesh, program: Program) -> bytes:
    """Of the instructions that are in the program's slot of mesh_tc_calls."""
    with contextlib.closing(Maps(Pins(mesh.name))) as maps:
        number = maps["mesh_tc_calls"].get(ctypes.c_uint32(program.call or 0))
    assert number
    with bpf.prog_by_id(number.value) as found:
        return bytes(bpf.prog_info(found).tag)


TWO = """
[mesh]
name = "two"
[[function]]
name = "web"
[[uplink]]
name = "u0"
interface = "up0"
masquerade = true
[[uplink]]
name = "u1"
interface = "up1"
masquerade = {on}
"""


@pytest.mark.usefixtures("outside")
def test_routes_say_by_which_uplink() -> None:
    """And what they say of an interface that does not masquerade is the stack's."""
    with contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(beyond(number)) for number in range(2))
        mesh = stack.enter_context(running(TWO.format(on="true")))
        for port, there in ((7100, first), (7101, second)):
            for family in (0, 1):
                with connection(mesh, "web", there.home, there.far[family], port) as (here, end):
                    assert carries(here, end)
                    assert carries(end, here)
                    own = there.host[0] if family == 0 else mesh.function("web").addresses[1]
                    assert end.getpeername()[0] == str(own)
        apply.up(mesh_of(TWO.format(on="false")))
        assert is_blocked(mesh, "web", second.near[0], 7102)  # the host does not forward
        with connection(mesh, "web", first.home, first.near[0], 7103) as (here, end):
            assert carries(here, end)


def test_nothing_leaves_as_it_is_where_the_program_is_missing(outside: Outside) -> None:
    sysctl("net.ipv4.ip_forward=1")
    try:
        with running(text()) as mesh:
            maps = Maps(Pins(mesh.name))
            maps["mesh_tc_calls"].delete(ctypes.c_uint32(_abi.CALL_OUT))
            assert is_blocked(mesh, "web", outside.near[0], 7009)
            assert drops(mesh)["web", Direction.FROM_FN, Reason.NO_PROGRAM]
            maps.close()
            assert "what was wrong with map mesh_tc_calls" in str(collected(mesh.name))
            with connection(mesh, "web", outside.home, outside.near[0], 7009) as (_, there):
                assert is_translated(there.getpeername())
    finally:
        sysctl("net.ipv4.ip_forward=0", "net.ipv4.conf.lo.forwarding=1")


@pytest.mark.usefixtures("outside")
def test_what_the_host_has_to_be_told() -> None:
    """Where routes cannot be asked, and where its own sockets get the same ports."""
    with running(text(ports="60000-61000")) as mesh:
        place = Path("/proc/sys/net/ipv4/ip_local_port_range")
        low, high = place.read_text().split()
        sysctl("net.ipv4.conf.lo.forwarding=0")
        try:
            with listener(mesh, None, ip_address(HOST4), 60001):
                said = [one.text for one in health.check(mesh.name) if "uplink u0" in one.text]
                sysctl("net.ipv4.ip_local_reserved_ports=60000-61000")
                again = [one.text for one in health.check(mesh.name) if "uplink u0" in one.text]
        finally:
            sysctl("net.ipv4.conf.lo.forwarding=1", "net.ipv4.ip_local_reserved_ports=")
        assert any("net.ipv4.conf.lo.forwarding is 0" in one for one in said)
        assert any(f"net.ipv4.ip_local_port_range is {low}-{high}" in one for one in said)
        assert any("listens at tcp port 60001" in one for one in said)
        assert [one for one in said if "port_range" not in one] == again
