# SPDX-License-Identifier: BSD-2-Clause
"""A swap for a version with another layout of a map, under traffic: what becomes of the state.

a ──▶ b, by an injected program that counts by destination port.
"""

import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from ebpfmesh import apply
from ebpfmesh.apply import OnStep
from ebpfmesh.config import edit
from ebpfmesh.errors import FunctionRefused, NotFound
from ebpfmesh.kernel import bpf
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.model import Injection, Mesh
from ebpfmesh.observe import injected, view
from support.agreeing import disagreements, is_well
from support.command import ebpfmesh
from support.killing import interrupted_at, killed_at, steps_of
from support.meshes import function, mesh_file
from support.sockets import datagrams
from support.topology import collected, poll, running

MESH = mesh_file("migrate", function("a"), function("b"))
FIRST = """
#include "mesh_function.h"
struct port_v1 { u32 packets; };
MESH_COUNTER(seen, "packets that came by");
MESH_MAP(hash, ports, u32, struct port_v1, 64);
MESH_FUNCTION(p)
{
	struct port_v1 *port, first = { .packets = 1 };
	u32 key = p->destination_port;

	mesh_count(seen);
	port = ports.lookup(&key);
	if (port)
		__sync_fetch_and_add(&port->packets, 1);
	else
		ports.update(&key, &first);
	return mesh_next();
}
"""
SECOND = """
#include "mesh_function.h"
struct port_v1 { u32 packets; };
struct port { u64 packets; u64 bytes; };
MESH_COUNTER(seen, "packets that came by");
MESH_MAP(hash, ports, u32, struct port, 64);
MESH_MIGRATE(ports, struct port_v1, old, new)
{
	new->packets = old->packets;
	new->bytes = old->packets * 1000ULL;
	return old->packets != 99;
}
MESH_FUNCTION(p)
{
	struct port *port, first = { .packets = 1, .bytes = 1 };
	u32 key = p->destination_port;

	mesh_count(seen);
	port = ports.lookup(&key);
	if (port) {
		__sync_fetch_and_add(&port->packets, 1);
		__sync_fetch_and_add(&port->bytes, 1);
	} else {
		ports.update(&key, &first);
	}
	return mesh_next();
}
"""
THIRD = SECOND + "/* the same map */\n"
SMALL = SECOND.replace("struct port, 64)", "struct port, 2)")
Ports = dict[int, tuple[int, ...]]


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    with running(MESH) as found:
        one = Injection(name="count", at="a/egress", file="count.c", source=FIRST)
        apply.edit(found.name, lambda whole: edit.inject(whole, one))
        yield found


def swap(mesh: Mesh, source: str, on_step: OnStep = lambda _: None) -> None:
    apply.edit(mesh.name, lambda whole: edit.swap(whole, "count", source=source), on_step)


def send(mesh: Mesh, *ports: int) -> None:
    """A datagram from a to each port of b; they need not be heard."""
    own, to = mesh.function("a").address4, mesh.function("b").address4
    assert own
    with datagrams(mesh, "a", own) as here:
        for port in ports:
            here.sendto(b"ping", (str(to), port))


def ports(mesh: Mesh, which: str = "program") -> Ports:
    """Packets, and bytes if they are counted, by port, of the program that runs, or another."""
    with apply.opened(mesh.name) as live:
        row = live.record.injection("count")
        assert row
        with live.chains.opened(live.record.program(getattr(row, which))) as maps:
            layout, fd = maps["ports"].layout, maps["ports"].fd
            size = layout.value_size
            return {
                int.from_bytes(key, "little"): struct.unpack("=I" if size == 4 else "=QQ", value)
                for key, value in bpf.map_items(fd, 4, size)
            }


def put(mesh: Mesh, program: int, entries: dict[int, int]) -> None:
    """Entries of the first version; no lock is taken."""
    with bpf.obj_get(Pins(mesh.name).injected / str(program) / "ports") as table:
        for port, packets in entries.items():
            bpf.map_update(table, struct.pack("=I", port), struct.pack("=I", packets))


def running_program(mesh: Mesh) -> int:
    with apply.opened(mesh.name) as live:
        row = live.record.injection("count")
        assert row
        return row.program


def everything(mesh: Mesh) -> tuple[object, ...]:
    with apply.opened(mesh.name) as live:
        pins = sorted(str(path) for path in live.pins.injected.rglob("*"))
        rows = live.record.injections()
        return live.record.model(), pins, rows, live.record.programs(), live.record.chains().keys()


def migrated(mesh: Mesh) -> dict[str, dict[str, int]]:
    with view.opened(mesh.name) as opened:
        return injected.one(opened, "count").migrated


def test_state_goes_on(mesh: Mesh) -> None:
    """Every entry is converted but for those that the author leaves out; the third one shares."""
    send(mesh, 5001, 5001, 5002)
    put(mesh, running_program(mesh), {7: 99, 8: 1 << 31})
    swap(mesh, SECOND)
    assert ports(mesh) == {5001: (2, 2000), 5002: (1, 1000), 8: (1 << 31, 1000 << 31)}
    assert migrated(mesh) == {"ports": {"kept": 3, "left_out": 1, "late": 0, "lost": 0}}
    shown = ebpfmesh("show", "injected", "count", "--mesh", mesh.name).stdout
    assert "migrated   ports: 3 kept, 1 left out, 0 late, 0 lost\n" in shown
    send(mesh, 5001, 5003)
    swap(mesh, THIRD)
    send(mesh, 5003)
    assert ports(mesh) == {
        5001: (3, 2001), 5002: (1, 1000), 5003: (2, 2), 8: (1 << 31, 1000 << 31),
    }  # fmt: skip
    assert migrated(mesh) == {}


def test_under_traffic(mesh: Mesh) -> None:
    """No packet is lost; what was counted before the swap and after it is there."""
    own, to = mesh.function("a").address4, mesh.function("b").address4
    assert own
    assert to
    stop, before = Event(), Event()
    with datagrams(mesh, "b", to, 6000) as there, datagrams(mesh, "a", own) as here:

        def traffic() -> int:
            sent = 0
            while not stop.is_set():
                here.sendto(struct.pack("=I", sent), (str(to), 6000))
                assert there.recv(64) == struct.pack("=I", sent)
                sent += 1
                if sent == 100:
                    before.set()
            return sent

        with ThreadPoolExecutor() as pool:
            sending = pool.submit(traffic)
            try:
                assert before.wait(30)
                swap(mesh, SECOND)
                flipped = ports(mesh)[6000][0]
                assert poll(lambda: ports(mesh)[6000][0] > flipped + 100, seconds=30)
            finally:
                stop.set()
            sent = sending.result()
    ((packets, size),) = ports(mesh).values()
    with view.opened(mesh.name) as opened:
        assert injected.one(opened, "count").counters["seen"] == sent
    (old,) = ports(mesh, "before")[6000]
    assert 100 <= old < sent
    new = sent - old  # packets that met the new one
    copied = packets - new
    assert 100 <= copied <= old
    assert size == copied * 1000 + new


@pytest.mark.parametrize("step", ["grace period", "commit"])
def test_what_comes_during_the_copy_comes_too(mesh: Mesh, step: str) -> None:
    """By the second pass; an entry that was changed meanwhile is as it was copied."""
    old = running_program(mesh)
    put(mesh, old, {1: 1, 2: 99})

    def meanwhile(now: str) -> None:
        if now == step:
            put(mesh, old, {1: 5, 2: 5, 3: 5, 4: 99})

    swap(mesh, SECOND, meanwhile)
    assert ports(mesh) == {1: (1, 1000), 3: (5, 5000)}
    assert migrated(mesh) == {"ports": {"kept": 1, "left_out": 2, "late": 1, "lost": 0}}


def test_a_rollback_returns_to_what_the_old_one_had(mesh: Mesh) -> None:
    """As it was at the flip; once more: as the new one left it. The counters are of both."""
    send(mesh, 5001)
    swap(mesh, SECOND)
    send(mesh, 5001, 5002)
    apply.rollback(mesh.name, "count")
    assert ports(mesh) == {5001: (1,)}
    send(mesh, 5003)
    apply.rollback(mesh.name, "count")
    assert ports(mesh) == {5001: (2, 1001), 5002: (1, 1)}
    send(mesh, 5002)
    swap(mesh, FIRST)  # which is a rollback too
    assert ports(mesh) == {5001: (1,), 5003: (1,)}
    with view.opened(mesh.name) as opened:
        assert injected.one(opened, "count").counters["seen"] == 5


def begin_canary(mesh: Mesh, source: str = SECOND) -> None:
    values = {"file": "new.c", "source": source, "parameters": {}, "share": 50}
    apply.edit(mesh.name, lambda whole: edit.canary(whole, "count", **values))


def test_a_canary_begins_with_what_there_is(mesh: Mesh) -> None:
    """Its map is its own; the rollback of a canary leaves nothing of it."""
    put(mesh, running_program(mesh), {1: 4})
    before = everything(mesh)
    begin_canary(mesh)
    assert ports(mesh, "canary") == {1: (4, 4000)}
    send(mesh, *range(5000, 5040))
    assert ports(mesh)[1] == (4,)
    assert len(ports(mesh)) + len(ports(mesh, "canary")) == 42
    apply.rollback(mesh.name, "count")
    assert everything(mesh) == before


def test_a_canary_that_is_promoted_keeps_its_own(mesh: Mesh) -> None:
    put(mesh, running_program(mesh), {1: 4})
    begin_canary(mesh)
    send(mesh, *range(5000, 5040))
    new, old = ports(mesh, "canary"), ports(mesh)
    apply.edit(mesh.name, lambda whole: edit.promote(whole, "count"))
    assert ports(mesh) == new
    assert migrated(mesh)["ports"]["kept"] == 1
    apply.rollback(mesh.name, "count")
    assert ports(mesh) == old


@pytest.mark.parametrize(
    ("source", "what"),
    [
        (SMALL, "c:6: map ports, of 2 entries, cannot hold the old ones"),
        (SECOND.replace("{ u32 packets; }", "{ u32 packets; u32 more; }"),
         "c:7: a value of map ports has 4 bytes, the old type here 8"),
    ],
)  # fmt: skip
def test_what_is_refused_changes_nothing(mesh: Mesh, source: str, what: str) -> None:
    """Not even what a rollback returns to."""
    swap(mesh, FIRST + "/* once more */")
    send(mesh, 1, 2, 3)
    before = everything(mesh)
    with pytest.raises(FunctionRefused, match=what):
        swap(mesh, source)
    assert everything(mesh) == before
    send(mesh, 1)
    assert ports(mesh) == {1: (2,), 2: (1,), 3: (1,)}
    apply.rollback(mesh.name, "count")
    assert ports(mesh) == {1: (2,), 2: (1,), 3: (1,)}


def unfinished(mesh: Mesh) -> Iterator[tuple[int, str]]:
    """Steps of the swap up to where its state is whole; all is as before again."""
    wanted = everything(mesh)
    steps = steps_of(lambda on_step: swap(mesh, SECOND, on_step))
    assert [step for step in steps if "migrate" in step] == [
        "migrate ports", "migrate ports: 2 entries",
    ]  # fmt: skip
    apply.rollback(mesh.name, "count")
    begin_anew(mesh)
    assert everything(mesh)[2:] == wanted[2:]
    yield from enumerate(steps[: steps.index("grace period") + 1])


def begin_anew(mesh: Mesh) -> None:
    """Without what a rollback would return to."""
    apply.edit(mesh.name, lambda whole: edit.eject(whole, "count"))
    one = Injection(name="count", at="a/egress", file="count.c", source=FIRST)
    apply.edit(mesh.name, lambda whole: edit.inject(whole, one))
    put(mesh, running_program(mesh), {1: 4, 2: 99})


def interrupted(mesh: Mesh, step: int, change: Callable[[OnStep], object]) -> None:
    assert interrupted_at(step, change)
    assert is_well(mesh.name)


def killed(mesh: Mesh, step: int, change: Callable[[OnStep], object]) -> None:
    assert killed_at(step, change)
    collected(mesh.name)
    assert is_well(mesh.name)


@pytest.mark.parametrize("how", [interrupted, killed])
def test_cut_short(mesh: Mesh, how: Callable[..., None]) -> None:
    """At each step: the old version runs with its map, and the next swap begins from there."""
    put(mesh, running_program(mesh), {1: 4, 2: 99})
    for number, step in unfinished(mesh):
        before = everything(mesh)
        how(mesh, number, lambda on_step: swap(mesh, SECOND, on_step))
        assert everything(mesh) == before, step
        assert ports(mesh) == {1: (4,), 2: (99,)}, step
        with pytest.raises(NotFound):
            apply.rollback(mesh.name, "count")
    send(mesh, 1)
    swap(mesh, SECOND)
    assert ports(mesh) == {1: (5, 5000)}
    with apply.opened(mesh.name) as live:
        wanted = live.record.model()
    assert disagreements(wanted) == []


def test_the_plan_tells(mesh: Mesh) -> None:
    with apply.opened(mesh.name) as live:
        whole = live.record.model()
    lines = [step.describe() for step in apply.plan(edit.swap(whole, "count", source=SECOND))]
    assert lines == ["~ injection count  text changed  MESH_MIGRATE of ports"]
    swap(mesh, SECOND)
    with apply.opened(mesh.name) as live:
        whole = live.record.model()
    lines = [step.describe() for step in apply.plan(edit.swap(whole, "count", source=THIRD))]
    assert lines == ["~ injection count  text changed"]
