# SPDX-License-Identifier: BSD-2-Clause
"""A deny list at an uplink: who is in it gets nothing in, and all others everything.

client ═══ up0 ── host ── a        by two addresses of each family, near and far
"""

import ctypes
import json
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from ebpfmesh import apply
from ebpfmesh._abi import Direction, Reason
from ebpfmesh.apply import OnStep
from ebpfmesh.errors import ForeignProgram, NotFound, Unsupported, UsageError
from ebpfmesh.kernel import bpf, deny, interface, links, netns
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.kernel.programs import DENY
from ebpfmesh.model import Mesh, Network
from ebpfmesh.observe import health, uplinks
from ebpfmesh.observe.deny import read_denied, shut_out
from ebpfmesh.observe.view import opened
from ebpfmesh.state.record import Record
from support.builds import build_with, early_tag
from support.command import data, ebpfmesh
from support.flowing import traffic
from support.killing import Change, interrupted_at, killed_at, steps_of
from support.meshes import uplink
from support.outside import Outside, beyond, run
from support.sockets import carries, connection, datagrams
from support.topology import SLOWER, collected, drops, mesh_of, needs, poll, running

MESH = """
[mesh]
name = "denies"
[[function]]
name = "a"
""" + uplink()
LIST = tuple(ip_network(f"100.64.{n}.0/24") for n in range(8))
KEY = ("outside", Direction.FROM_UPLINK, Reason.DENIED)
MANY = 100_000


@pytest.fixture(scope="module")
def mesh(outside: Outside) -> Iterator[Mesh]:
    assert outside.interface == "up0"
    with running(MESH) as found:
        apply.deny(found.name, LIST)  # the program stays when the list goes
        apply.allow(found.name, None)
        yield found


@pytest.fixture(autouse=True)
def _nothing_denied(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "mesh" in request.fixturenames:
        apply.allow("denies", None)


def xdp(name: str = "up0") -> list[str]:
    """What is at XDP of an interface."""
    index = interface.find(name)
    assert index is not None
    with netns.rtnetlink() as ip:
        return [one.name for one in links.programs(ip, index) if one.how == "XDP"]


def listed(mesh: str = "denies") -> set[tuple[str | None, str]]:
    with opened(mesh) as view:
        return {(row.uplink, row.prefix) for row in read_denied(view)}


def counted() -> dict[str, int | None]:
    with opened("denies") as view:
        return {row.prefix: row.packets for row in read_denied(view, counters=True)}


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
def test_who_is_denied_gets_nothing_in_and_others_do(
    mesh: Mesh, outside: Outside, family: int
) -> None:
    host, far = outside.host[family], outside.far[family]
    prefix = ip_network(outside.far_prefixes[family])
    assert outside.pings(host, far)
    before = drops(mesh).get(KEY, 0)
    assert apply.deny(mesh.name, [prefix]) == (1, 0, 1)
    assert xdp() == [DENY.name]
    assert not outside.pings(host, far, seconds=0.3)
    assert outside.pings(host, outside.near[family])
    assert drops(mesh)[KEY] == before + 1
    assert counted() == {str(prefix): 1}
    apply.deny(mesh.name, LIST)  # what was counted is kept
    assert counted()[str(prefix)] == 1
    assert not outside.pings(host, far, seconds=0.3)
    assert counted()[str(prefix)] == 2
    assert apply.allow(mesh.name, [*LIST, prefix]) == (0, 9, 0)
    assert outside.pings(host, far)
    assert not xdp()
    assert not collected(mesh.name)


def test_connections_go_on_beside_it_and_end_by_it(mesh: Mesh, outside: Outside) -> None:
    with connection(mesh, outside.home, None, outside.host[0], 22) as (here, there):
        apply.deny(mesh.name, LIST)
        assert carries(here, there)
        assert carries(there, here)
        apply.deny(mesh.name, [ip_network(outside.near[0])])
        here.sendall(b"x")
        there.settimeout(0.5)
        with pytest.raises(TimeoutError):
            there.recv(1)
        apply.allow(mesh.name, [ip_network(outside.near[0])])
        there.settimeout(20 * SLOWER)
        assert there.recv(1) == b"x"  # by the client's retransmission


def offload(outside: Outside) -> str:
    """Whether the other end of the uplink sends TCP in segments."""
    shown = outside.run("ethtool -k eth0").splitlines()
    (line,) = (one for one in shown if one.startswith("tcp-segmentation-offload"))
    return line.split()[1]


def test_xdp_is_there_only_while_something_is_denied(mesh: Mesh, outside: Outside) -> None:
    needs("ethtool")
    assert offload(outside) == "on"
    apply.deny(mesh.name, LIST)
    assert offload(outside) == "off"
    with opened(mesh.name) as view:
        (row,) = uplinks.read_uplinks(view)
    assert (row.xdp, row.denied) == (DENY.name, len(LIST))
    assert (
        row.why == "8 prefixes are denied; a veth's other end has no segmentation offload meanwhile"
    )
    assert f"uplink u0: XDP: {row.why}" in [check.text for check in health.check(mesh.name)]
    apply.allow(mesh.name, LIST[:4])
    assert offload(outside) == "off"
    apply.allow(mesh.name, LIST[4:])
    assert offload(outside) == "on"
    texts = [check.text for check in health.check(mesh.name)]
    assert "uplink u0: no XDP: nothing needs it" in texts
    assert all(m.get(k) is None for m, k in inner_maps())


def inner_maps() -> Iterator[tuple[object, object]]:
    maps = Maps(Pins("denies"))
    for name in ("mesh_deny_bits", "mesh_deny4", "mesh_deny6", "mesh_deny4_trie"):
        for slot in range(2):
            yield maps[name], ctypes.c_uint32(slot)


def test_lists_of_many_take_the_place_of_each_other_and_no_packet_is_lost(
    mesh: Mesh, outside: Outside
) -> None:
    far = ip_network(outside.far_prefixes[0])
    many = [ip_network((0x14000000 + (n << 8), 24)) for n in range(MANY)]
    apply.deny(mesh.name, [far])
    with traffic(mesh, outside) as flowing:
        assert apply.deny(mesh.name, many) == (MANY, 0, MANY + 1)
        apply.deny(mesh.name, [far, *LIST], replace=True)
        for length in range(20, 25):  # hashes, then a trie
            apply.deny(mesh.name, [ip_network(f"100.96.0.0/{length}")])
        sent, lost, strange = flowing.stop()
    assert sent > 1000
    assert (lost, strange) == (0, 0)
    assert drops(mesh)[KEY] >= sent


def test_a_list_of_one_uplink_is_not_the_others(mesh: Mesh, outside: Outside) -> None:
    with beyond(1) as other:
        assert apply.up(mesh_of(MESH + uplink(1)))
        apply.deny(mesh.name, [ip_network(one.far[0]) for one in (outside, other)], uplink="u1")
        assert (xdp("up0"), xdp("up1")) == ([], [DENY.name])
        assert outside.pings(outside.host[0], outside.far[0])
        assert not other.pings(other.host[0], other.far[0], seconds=0.3)
        apply.deny(mesh.name, [ip_network(other.far[0])])
        assert xdp("up0") == [DENY.name]
        apply.allow(mesh.name, [ip_network(other.far[0])])
        assert (xdp("up0"), xdp("up1")) == ([], [DENY.name])
        apply.detach_uplink(mesh.name, "u1")
        assert not xdp("up1")
        assert other.pings(other.host[0], other.far[0])
        assert len(listed()) == 2  # it is there again with the uplink
        apply.attach_uplink(mesh.name, "u1", "up1")
        assert xdp("up1") == [DENY.name]
        assert not other.pings(other.host[0], other.far[0], seconds=0.3)
        assert not collected(mesh.name)
        assert apply.up(mesh_of(MESH))
        assert not xdp("up1")


def test_an_uplink_that_went_keeps_nobody_from_denying(mesh: Mesh) -> None:
    with beyond(1):
        apply.attach_uplink(mesh.name, "u1", "up1")
        apply.deny(mesh.name, LIST[:1])
        run("ip link del up1")
        apply.deny(mesh.name, LIST)
        assert xdp() == [DENY.name]
        assert collected(mesh.name) == ["uplink u1 of mesh denies"]
        assert not collected(mesh.name)


def test_large_frames_pass_and_are_denied(mesh: Mesh) -> None:
    """Beside an MTU of 9000 XDP needs a program that takes fragments."""
    with beyond(1) as other:
        run("ip link set up1 mtu 9000")
        other.run("ip link set eth0 mtu 9000")
        apply.attach_uplink(mesh.name, "u1", "up1")
        apply.deny(mesh.name, [ip_network(other.far[0])], uplink="u1")
        with (
            datagrams(mesh, None, other.host[0], 5300) as there,
            datagrams(mesh, other.home, other.near[0]) as near,
            datagrams(mesh, other.home, other.far[0]) as far,
        ):
            far.sendto(b"y" * 8000, (str(other.host[0]), 5300))
            near.sendto(b"x" * 8000, (str(other.host[0]), 5300))
            assert there.recv(9000) == b"x" * 8000
        apply.detach_uplink(mesh.name, "u1")
        apply.allow(mesh.name, None)


def rows(mesh: str = "denies") -> set[object]:
    record = Record(mesh)
    try:
        return set(record.denied())
    finally:
        record.close()


def add(on_step: OnStep) -> object:
    return apply.deny("denies", LIST[2:], replace=True, on_step=on_step)


def remove(on_step: OnStep) -> object:
    return apply.allow("denies", None, on_step=on_step)


BEFORE: dict[str, tuple[tuple[Network, ...], Change]] = {
    "first": ((), add),
    "more": (LIST[:4], add),
    "last": (LIST[:4], remove),
}


@pytest.mark.parametrize("kind", BEFORE)
@pytest.mark.parametrize("how", [killed_at, interrupted_at])
def test_a_change_that_is_cut_short_is_undone(
    mesh: Mesh, kind: str, how: Callable[[int, Change], bool]
) -> None:
    before, change = BEFORE[kind]

    def begin() -> None:
        apply.allow(mesh.name, None)
        if before:
            apply.deny(mesh.name, before)

    begin()
    (Pins(mesh.name).progs / DENY.name).unlink()  # as where nothing was ever denied
    begin()
    steps = steps_of(change)
    begin()
    there = rows()
    for number in range(len(steps) + 1):
        if not how(number, change):
            break
        if how is killed_at:
            assert collected(mesh.name), steps[number]
        with apply.opened(mesh.name) as live:
            assert not live.record.cut_short
        assert rows() == there, steps[number]
        assert xdp() == ([DENY.name] if before else []), steps[number]
        assert {str(row.prefix) for row in blocks()} == {str(one) for one in before}, steps[number]
        assert not collected(mesh.name), steps[number]
    else:
        pytest.fail(f"it never came to its end: {steps}")


def blocks() -> set[object]:
    return {entry.block for entry in deny.counts(Maps(Pins("denies")))}


def test_killed_in_a_change_and_taken_down() -> None:
    """Nothing is left, with no repair before, of what the record does not know yet."""

    def change(on_step: OnStep) -> object:
        return apply.deny("alone", LIST, on_step=on_step)

    with beyond(1), running(MESH.replace("denies", "alone").replace("up0", "up1")):
        last = steps_of(change).index("deny list: record")
        apply.allow("alone", None)
        assert killed_at(last - 1, change)  # the program is there by now
        assert xdp("up1") == [DENY.name]
        assert not rows("alone")
        assert apply.down("alone")
        assert not xdp("up1")


def test_up_repairs_what_others_took_away(mesh: Mesh, outside: Outside) -> None:
    apply.deny(mesh.name, [ip_network(outside.far[0])])
    with bpf.obj_get(Pins(mesh.name).links / "@u0-xdp") as link:
        bpf.link_detach(link)
    assert not xdp()
    assert "XDP at uplink u0 is not as it was made" in [c.text for c in health.check(mesh.name)]
    assert [step.describe() for step in apply.up(mesh)] == ["~ repaired XDP at uplink u0"]
    assert not outside.pings(outside.host[0], outside.far[0], seconds=0.3)
    deny.replace(Maps(Pins(mesh.name)), [])
    assert collected(mesh.name) == ["what was wrong with the deny list of mesh denies"]
    assert not outside.pings(outside.host[0], outside.far[0], seconds=0.3)
    assert apply.up(mesh) == ()


def test_a_program_of_others_is_refused_and_left(mesh: Mesh, outside: Outside) -> None:
    apply.deny(mesh.name, LIST)
    apply.allow(mesh.name, None)
    index = interface.find("up0")
    assert index is not None
    with apply.opened(mesh.name) as live, live.program(DENY.name) as theirs:
        other = bpf.link_create(theirs, index, bpf.XDP, bpf.XDP_NATIVE)
    with other:
        with pytest.raises(ForeignProgram, match="up0 already has") as refused:
            apply.deny(mesh.name, LIST)
        assert refused.value.exit_code == 6
        assert not listed()
        assert bpf.link_interface(other) == index
    assert poll(lambda: not xdp())
    assert outside.pings(outside.host[0], outside.near[0])
    assert not collected(mesh.name)


def test_where_the_driver_has_no_xdp_it_is_refused(mesh: Mesh) -> None:
    run("ip link add br0 type bridge")
    try:
        apply.attach_uplink(mesh.name, "u9", "br0")
        with pytest.raises(Unsupported, match="interface br0 has no native XDP") as refused:
            apply.deny(mesh.name, LIST)
        assert refused.value.exit_code == 5
        assert 'xdp = "off"' in refused.value.hint
        assert not listed()
        assert not xdp()
        apply.deny(mesh.name, LIST, uplink="u0")
        assert xdp() == [DENY.name]
        assert not collected(mesh.name)
    finally:
        apply.detach_uplink(mesh.name, "u9")
        run("ip link del br0")


def test_where_xdp_is_off_nothing_can_be_denied(mesh: Mesh) -> None:
    apply.deny(mesh.name, LIST)
    off = mesh_of(MESH + 'xdp = "off"\n')
    assert {step.kind for step in apply.up(off)} == {"remove-uplink", "add-uplink"}
    assert not xdp()
    texts = [check.text for check in health.check(mesh.name)]
    assert 'uplink u0: no XDP: xdp = "off": what is denied comes in' in texts
    with pytest.raises(UsageError, match="uplink u0 is to have no XDP"):
        apply.deny(mesh.name, LIST)
    assert apply.snapshot(mesh.name)[0].uplinks[0].xdp == "off"
    assert apply.up(mesh)
    assert xdp() == [DENY.name]


def test_names_that_lead_nowhere_are_refused(mesh: Mesh) -> None:
    apply.deny(mesh.name, LIST)
    for call, text in (
        (lambda: apply.deny(mesh.name, LIST, uplink="u1"), "there is no uplink u1"),
        (lambda: apply.allow(mesh.name, [ip_network("10.0.0.0/8")]), "10.0.0.0/8 is not denied"),
        (lambda: apply.allow(mesh.name, LIST, uplink="u0"), "at uplink u0, nor are 7 others"),
    ):
        with pytest.raises(NotFound, match=text):
            call()
    assert len(listed()) == len(LIST)
    assert apply.allow(mesh.name, [ip_network("10.0.0.0/8"), LIST[0]], missing_ok=True) == (0, 1, 7)


def test_what_shuts_the_host_out_is_told(
    mesh: Mesh, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "203.0.113.9 50000 198.19.210.1 22")
    with opened(mesh.name) as view:

        def told(*texts: str) -> list[str]:
            return list(shut_out(view, {ip_network(one) for one in texts}))

        assert told("198.19.210.2") == [
            "198.19.210.2/32 has 198.19.210.2 in it, the gateway of uplink u0 (up0)"
        ]
        near, six = "198.19.210.0/25", "2001:db8:d0::/64"
        assert [line.partition(", ")[2][:11] for line in told(near)] == [
            "the gateway",
            "an address ",
        ]
        assert len(told(six)) == 2
        assert told("203.0.113.0/24") == [
            "203.0.113.0/24 has 203.0.113.9 in it, from where you are logged in"
        ]
        assert len(told("0.0.0.0/0")) == 3
        assert not told("100.64.0.0/10", "2001:db8:e::/48", outside.far_prefixes[0])


def test_programs_of_another_build_take_the_place_of_ours(tmp_path: Path) -> None:
    with beyond(1) as other, running(MESH.replace("denies", "alone").replace("up0", "up1")) as mesh:
        apply.deny(mesh.name, [ip_network(other.far[0])])
        before = early_tag(mesh)
        with (
            build_with(mesh, DENY, "deny_check(ctx, &length);", tmp_path),
            traffic(mesh, other) as flowing,
        ):
            apply.revert(mesh.name)
            after = early_tag(mesh)
            assert [step.kind for step in apply.up(mesh)] == ["replace-programs"]
            sent, lost, strange = flowing.stop()
        assert after != before
        assert early_tag(mesh) == before
        assert (lost, strange, sent > 0) == (0, 0, True)


def test_the_command_line_changes_nothing_where_a_line_is_wrong(mesh: Mesh, tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    assert "- for stdin" in ebpfmesh("deny", "add", "-f", file, code=2).stderr
    file.write_text("# of today\n192.0.2.0/24\n198.51.100.1/24\nexample.com\n")
    done = ebpfmesh("deny", "add", "-f", file, "--json", code=2)
    told = json.loads(done.stdout)["errors"]
    assert [(row["file"], row["line"]) for row in told] == [(str(file), 3), (str(file), 4)]
    assert not listed()
    assert "--all has them" in ebpfmesh("deny", "del", "--all", "192.0.2.7", code=2).stderr
    file.write_text("192.0.2.0/24 # a comment\n198.51.100.1\n")
    own = "198.19.210.0/28"
    assert data("deny", "add", "--file", file, own) == {
        "mesh": mesh.name,
        "uplink": None,
        "added": 3,
        "removed": 0,
        "denied": 3,
        "warnings": [
            f"{own} has 198.19.210.2 in it, the gateway of uplink u0 (up0)",
            f"{own} has 198.19.210.1 in it, an address of uplink u0 (up0): "  # noqa: ISC004
            "its neighbours may be in it too",
        ],
    }
    plain = ebpfmesh("deny", "show", "--plain")
    assert plain.stdout == "192.0.2.0/24\n198.19.210.0/28\n198.51.100.1/32\n"
    again = ebpfmesh("deny", "del", "-f", "-", stdin=plain.stdout)
    assert again.stdout == "- 3 prefixes\n"
    assert not listed()
