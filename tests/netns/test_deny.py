# SPDX-License-Identifier: BSD-2-Clause
"""A deny list at an uplink: who is in it gets nothing in, and all others everything.

client ═══ up0 ── host ── a        by two addresses of each family, near and far
"""

import ctypes
import json
import os
import select
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_network
from pathlib import Path

import pytest

from ebpfmesh import apply
from ebpfmesh._abi import Direction, Reason
from ebpfmesh.apply import OnStep
from ebpfmesh.compile import compiled
from ebpfmesh.compile.build import build
from ebpfmesh.compile.source import bpf_dir, flatten
from ebpfmesh.errors import ForeignProgram, NotFound, Unsupported, UsageError
from ebpfmesh.kernel import bpf, deny, interface, links, netns, private
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.kernel.programs import DENY
from ebpfmesh.model import Mesh, Network
from ebpfmesh.observe import health, uplinks
from ebpfmesh.observe.deny import read_denied, shut_out
from ebpfmesh.observe.view import opened
from ebpfmesh.state.record import Record
from support.beyond import Beyond, beyond
from support.command import data, ebpfmesh
from support.killing import Change, interrupted_at, killed_at, steps_of
from support.sockets import carries, connection, datagrams
from support.topology import SLOWER, collected, drops, mesh_of, needs, poll, running

MESH = """
[mesh]
name = "denies"
[[function]]
name = "a"
[[uplink]]
name = "u0"
interface = "up0"
"""
SECOND = '[[uplink]]\nname = "u1"\ninterface = "up1"\n'
LIST = tuple(ip_network(f"100.64.{n}.0/24") for n in range(8))
KEY = ("outside", Direction.FROM_UPLINK, Reason.DENIED)
MANY = 100_000


@pytest.fixture(scope="module")
def outside() -> Iterator[Beyond]:
    with beyond() as found:
        yield found


@pytest.fixture(scope="module")
def mesh(outside: Beyond) -> Iterator[Mesh]:
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


def pings(outside: Beyond, source: object, target: object, wait: str = "20") -> bool:
    words = ["ip", "netns", "exec", outside.client.name, "ping", "-c", "1", "-W", wait]
    return not subprocess.run(
        [*words, "-I", str(source), str(target)], capture_output=True, check=False
    ).returncode


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
def test_who_is_denied_gets_nothing_in_and_others_do(
    mesh: Mesh, outside: Beyond, family: int
) -> None:
    host, far = outside.host[family], outside.far[family]
    prefix = ip_network(outside.far_prefixes[family])
    assert pings(outside, far, host)
    before = drops(mesh).get(KEY, 0)
    assert apply.deny(mesh.name, [prefix]) == (1, 0, 1)
    assert xdp() == [DENY.name]
    assert not pings(outside, far, host, "0.3")
    assert pings(outside, outside.near[family], host)
    assert drops(mesh)[KEY] == before + 1
    assert counted() == {str(prefix): 1}
    apply.deny(mesh.name, LIST)  # what was counted is kept
    assert counted()[str(prefix)] == 1
    assert not pings(outside, far, host, "0.3")
    assert counted()[str(prefix)] == 2
    assert apply.allow(mesh.name, [*LIST, prefix]) == (0, 9, 0)
    assert pings(outside, far, host)
    assert not xdp()
    assert not collected(mesh.name)


def test_connections_go_on_beside_it_and_end_by_it(mesh: Mesh, outside: Beyond) -> None:
    with connection(mesh, outside.client, None, outside.host[0], 22) as (here, there):
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


def offload(outside: Beyond) -> str:
    """Whether the other end of the uplink sends TCP in segments."""
    words = ["ip", "netns", "exec", outside.client.name, "ethtool", "-k", "eth0"]
    shown = subprocess.run(words, capture_output=True, check=True, text=True).stdout
    (line,) = (one for one in shown.splitlines() if one.startswith("tcp-segmentation-offload"))
    return line.split()[1]


def test_xdp_is_there_only_while_something_is_denied(mesh: Mesh, outside: Beyond) -> None:
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


class Traffic:
    """Numbered datagrams to the host from the client, in a process of its own until stopped.

    Those from the near address all arrive, and from the far one none.
    """

    def __init__(self, mesh: Mesh, outside: Beyond) -> None:
        with ExitStack() as stack:
            there = stack.enter_context(datagrams(mesh, None, outside.host[0], 5300))
            near = stack.enter_context(datagrams(mesh, outside.client, outside.near[0]))
            far = stack.enter_context(datagrams(mesh, outside.client, outside.far[0]))
            ours, theirs = socket.socketpair()
            self._control = ours
            self._child = os.fork()
            if self._child == 0:
                status = 1
                try:
                    self._run(theirs, there, near, far, (str(outside.host[0]), 5300))
                    status = 0
                finally:
                    os._exit(status)
            theirs.close()

    @staticmethod
    def _run(
        control: socket.socket,
        there: socket.socket,
        near: socket.socket,
        far: socket.socket,
        host: tuple[str, int],
    ) -> None:
        sent, lost, strange = 0, 0, 0
        own = near.getsockname()
        there.settimeout(20 * SLOWER)
        while not select.select([control], [], [], 0)[0]:
            for number in range(16):
                near.sendto((sent + number).to_bytes(8), host)
                far.sendto(b"far", host)
            missing = set(range(sent, sent + 16))
            sent += 16
            while missing:
                try:
                    data, peer = there.recvfrom(64)
                except TimeoutError:
                    lost += len(missing)
                    break
                if peer == own:
                    missing.discard(int.from_bytes(data))
                else:
                    strange += 1
        control.sendall(json.dumps([sent, lost, strange]).encode())

    def stop(self) -> tuple[int, int, int]:
        """How many of the near ones were sent, how many lost, and how many of the far came."""
        self._control.sendall(b"!")
        told = self._control.recv(4096)
        self._control.close()
        _, status = os.waitpid(self._child, 0)
        assert status == 0
        sent, lost, strange = json.loads(told)
        return sent, lost, strange

    def kill(self) -> None:
        if self._control.fileno() >= 0:
            os.kill(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)
            self._control.close()


@contextmanager
def traffic(mesh: Mesh, outside: Beyond) -> Iterator[Traffic]:
    made = Traffic(mesh, outside)
    try:
        yield made
    finally:
        made.kill()


def test_lists_of_many_take_the_place_of_each_other_and_no_packet_is_lost(
    mesh: Mesh, outside: Beyond
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


def test_a_list_of_one_uplink_is_not_the_others(mesh: Mesh, outside: Beyond) -> None:
    with beyond(1) as other:
        assert apply.up(mesh_of(MESH + SECOND))
        apply.deny(mesh.name, [ip_network(one.far[0]) for one in (outside, other)], uplink="u1")
        assert (xdp("up0"), xdp("up1")) == ([], [DENY.name])
        assert pings(outside, outside.far[0], outside.host[0])
        assert not pings(other, other.far[0], other.host[0], "0.3")
        apply.deny(mesh.name, [ip_network(other.far[0])])
        assert xdp("up0") == [DENY.name]
        apply.allow(mesh.name, [ip_network(other.far[0])])
        assert (xdp("up0"), xdp("up1")) == ([], [DENY.name])
        apply.detach_uplink(mesh.name, "u1")
        assert not xdp("up1")
        assert pings(other, other.far[0], other.host[0])
        assert len(listed()) == 2  # it is there again with the uplink
        apply.attach_uplink(mesh.name, "u1", "up1")
        assert xdp("up1") == [DENY.name]
        assert not pings(other, other.far[0], other.host[0], "0.3")
        assert not collected(mesh.name)
        assert apply.up(mesh_of(MESH))
        assert not xdp("up1")


def test_an_uplink_that_went_keeps_nobody_from_denying(mesh: Mesh) -> None:
    with beyond(1):
        apply.attach_uplink(mesh.name, "u1", "up1")
        apply.deny(mesh.name, LIST[:1])
        subprocess.run(["ip", "link", "del", "up1"], check=True)
        apply.deny(mesh.name, LIST)
        assert xdp() == [DENY.name]
        assert collected(mesh.name) == ["uplink u1 of mesh denies"]
        assert not collected(mesh.name)


def test_large_frames_pass_and_are_denied(mesh: Mesh) -> None:
    """Beside an MTU of 9000 XDP needs a program that takes fragments."""
    with beyond(1) as other:
        subprocess.run(["ip", "link", "set", "up1", "mtu", "9000"], check=True)
        words = ["ip", "-n", other.client.name, "link", "set", "eth0", "mtu", "9000"]
        subprocess.run(words, check=True)
        apply.attach_uplink(mesh.name, "u1", "up1")
        apply.deny(mesh.name, [ip_network(other.far[0])], uplink="u1")
        with (
            datagrams(mesh, None, other.host[0], 5300) as there,
            datagrams(mesh, other.client, other.near[0]) as near,
            datagrams(mesh, other.client, other.far[0]) as far,
        ):
            there.settimeout(10 * SLOWER)
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


def test_up_repairs_what_others_took_away(mesh: Mesh, outside: Beyond) -> None:
    apply.deny(mesh.name, [ip_network(outside.far[0])])
    with bpf.obj_get(Pins(mesh.name).links / "@u0-xdp") as link:
        bpf.link_detach(link)
    assert not xdp()
    assert "XDP at uplink u0 is not as it was made" in [c.text for c in health.check(mesh.name)]
    assert [step.describe() for step in apply.up(mesh)] == ["~ repaired XDP at uplink u0"]
    assert not pings(outside, outside.far[0], outside.host[0], "0.3")
    deny.replace(Maps(Pins(mesh.name)), [])
    assert collected(mesh.name) == ["what was wrong with the deny list of mesh denies"]
    assert not pings(outside, outside.far[0], outside.host[0], "0.3")
    assert apply.up(mesh) == ()


def test_a_program_of_others_is_refused_and_left(mesh: Mesh, outside: Beyond) -> None:
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
    assert pings(outside, outside.near[0], outside.host[0])
    assert not collected(mesh.name)


def test_where_the_driver_has_no_xdp_it_is_refused(mesh: Mesh) -> None:
    subprocess.run(["ip", "link", "add", "br0", "type", "bridge"], check=True)
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
        subprocess.run(["ip", "link", "del", "br0"], check=True)


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
    mesh: Mesh, outside: Beyond, monkeypatch: pytest.MonkeyPatch
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
    text = flatten(bpf_dir() / DENY.file).replace(
        "deny_check(ctx, &length);", "deny_check(ctx, &length);bpf_ktime_get_ns();"
    )
    source = tmp_path / DENY.file
    source.write_text(text)
    with beyond(1) as other, running(MESH.replace("denies", "alone").replace("up0", "up1")) as mesh:
        apply.deny(mesh.name, [ip_network(other.far[0])])
        own, before = Pins(mesh.name), tag()
        there = own.build("another")
        private.directory(there)
        for path in own.progs.iterdir():
            if path.name != DENY.name:
                with bpf.obj_get(path) as program:
                    bpf.obj_pin(program, there / path.name)
        build(source, [DENY], pin_to=there, defines=compiled.defines(own.maps, count_flows=False))
        with traffic(mesh, other) as flowing:
            apply.revert(mesh.name)
            after = tag()
            assert [step.kind for step in apply.up(mesh)] == ["replace-programs"]
            sent, lost, strange = flowing.stop()
        assert after != before
        assert tag() == before
        assert (lost, strange, sent > 0) == (0, 0, True)


def tag() -> bytes:
    """Which program is attached at the uplink."""
    with bpf.obj_get(Pins("alone").links / "@u0-xdp") as link:
        number = bpf.link_program(link)
    with bpf.prog_by_id(number) as program:
        return bytes(bpf.prog_info(program).tag)


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
