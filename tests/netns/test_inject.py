# SPDX-License-Identifier: BSD-2-Clause
"""Programs of others in the way of packets: injected, swapped, rolled back, ejected, under traffic.

a ──▶ b and web-0, web-1 of tenant one; c of tenant two.
"""

import ctypes
import gc
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from ebpfmesh import _abi, apply, config
from ebpfmesh._abi import Direction, Reason
from ebpfmesh.apply import batch
from ebpfmesh.config import edit
from ebpfmesh.errors import FunctionRefused, UsageError
from ebpfmesh.inject.compile import remove
from ebpfmesh.kernel import bpf
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.model import Injection, Mesh, ranked
from ebpfmesh.observe import counters, injected, view
from ebpfmesh.state import chains
from support.meshes import function, mesh_file, table
from support.sockets import BLOCKED_SECONDS, SECONDS, datagrams, ready
from support.topology import drops, mesh_of, running

MESH = mesh_file(
    "inject",
    function("a", "one"),
    function("b", "one"),
    function("web", "one", replicas=2),
    function("c", "two"),
)
COUNT = """
#include "mesh_function.h"
MESH_PARAMETER(u32, port, 0, "whose packets are dropped");
MESH_COUNTER(seen, "packets that came by");
MESH_REASON(0, "to that port");
MESH_MAP(array, total, u32, u64, 1);
MESH_FUNCTION(p)
{
	u32 zero = 0;
	u64 *sum = total.lookup(&zero);

	mesh_count(seen);
	if (sum)
		*sum += STEP;
	return p->destination_port == mesh_get(port) ? mesh_drop(0) : mesh_next();
}
"""
ONE, TEN = COUNT.replace("STEP", "1"), COUNT.replace("STEP", "10")
OTHER = ONE.replace("u64, 1)", "u64, 2)")
BROKEN = ONE.replace("mesh_count(seen)", "mesh_count(sene)")
UNSAFE = ONE.replace("if (sum)", "").replace("zero = 0", "zero = p->source_port")
AWAY = """
#include "mesh_function.h"
MESH_TARGET(0, "NAME");
MESH_FUNCTION(p)
{
	return p->destination_port == 7 ? mesh_redirect(0) : mesh_next();
}
"""

INJECT = table("inject", name="count", file="count.c", at="a/egress", parameters={"port": 9})
LATE = IPv4Address("198.18.0.99")
MAPS = ("mesh_chain", "mesh_target", "mesh_refused", "mesh_breaker", "mesh_cost")


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    with running(MESH) as found:
        yield found


def injection(at: str, source: str = ONE, name: str = "count", **parameters: int) -> Injection:
    return Injection(name=name, at=at, file=f"{name}.c", source=source, parameters=parameters)


def inject(mesh: Mesh, *wanted: Injection) -> None:
    """Inject, one after the other."""
    for one in wanted:
        apply.edit(mesh.name, lambda whole, one=one: edit.inject(whole, one))


def swap(mesh: Mesh, source: str, **parameters: int) -> None:
    """Another text for "count"."""
    change = {"source": source, "parameters": parameters}
    apply.edit(mesh.name, lambda whole: edit.swap(whole, "count", **change))


def seen(mesh: Mesh, name: str = "count") -> int:
    """Packets that a program met."""
    with view.opened(mesh.name) as opened:
        return injected.one(opened, name).counters["seen"]


def total(mesh: Mesh) -> int:
    """What the map of "count" holds."""
    with apply.opened(mesh.name) as live:
        row = live.record.injection("count")
        assert row
        with live.chains.opened(live.record.program(row.program)) as maps:
            value = bpf.map_lookup(maps["total"].fd, bytes(4), 8)
    return int.from_bytes(value or b"", "little")


def passes(
    mesh: Mesh, source: str, destination: str, port: int, arrives: str = "", *,
    seconds: float = SECONDS,
) -> bool:  # fmt: skip
    """Whether a datagram arrives in this time, at whom it is for or at somebody else."""
    to = mesh.function(destination).address4
    own = mesh.function(source).address4
    assert to
    assert own
    with (
        datagrams(mesh, arrives or destination, to, port) as there,
        datagrams(mesh, source, own) as here,
    ):
        here.sendto(b"ping", (str(to), port))
        return bool(ready([there], seconds)) and there.recv(64) == b"ping"


def is_stopped(mesh: Mesh, source: str, destination: str, port: int) -> bool:
    """Whether a datagram does not arrive, waited for a moment."""
    return not passes(mesh, source, destination, port, seconds=BLOCKED_SECONDS)


def test_a_program_meets_what_is_sent(mesh: Mesh) -> None:
    """What it drops is counted by its own reasons, and what passes by its own counters."""
    inject(mesh, injection("a/egress", port=9))
    assert passes(mesh, "a", "b", 8)
    assert seen(mesh) == 1
    assert is_stopped(mesh, "a", "b", 9)
    with view.opened(mesh.name) as opened:
        row = injected.one(opened, "count")
    assert (row.counters, row.refused, row.parameters) == (
        {"seen": 2},
        {"to that port": 1},
        {"port": 9},
    )
    assert drops(mesh)["a", Direction.FROM_FN, Reason.INJECTED] == 1
    assert passes(mesh, "b", "a", 9)


def test_a_change_leaves_nothing_open(mesh: Mesh) -> None:
    """Nothing has to wait for the garbage collector."""
    gc.disable()
    try:
        inject(mesh, injection("a/egress"))
        before = sum(1 for _ in Path("/proc/self/fd").iterdir())
        swap(mesh, TEN)
        apply.rollback(mesh.name, "count")
        apply.detach(mesh.name, "c")
        assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("at", "met", "others"),
    [
        ("b/ingress", [("a", "b")], [("b", "a"), ("a", "web-0")]),
        ("web/ingress", [("a", "web-0"), ("b", "web-1")], [("web-0", "b")]),
        ("tenant:one/egress", [("a", "b"), ("web-0", "a")], []),
        ("tenant:one/ingress", [("a", "b"), ("web-0", "a")], []),
        ("tenant:two/egress", [], [("a", "b")]),
    ],
)
def test_who_meets_it(
    mesh: Mesh, at: str, met: list[tuple[str, str]], others: list[tuple[str, str]]
) -> None:
    inject(mesh, injection(at, port=9))
    assert all(is_stopped(mesh, source, to, 9) for source, to in met)
    assert all(passes(mesh, source, to, 9) for source, to in others)


def test_a_function_that_comes_later_meets_it_too(mesh: Mesh) -> None:
    """At once: there is no packet of it that does not."""
    inject(mesh, injection("tenant:one/ingress", port=9))
    late = mesh.function("b").model_copy(
        update={"name": "late", "address4": LATE, "address6": None}
    )
    apply.add_function(mesh.name, late)
    whole = mesh.model_copy(update={"functions": (*mesh.functions, late)})
    assert passes(whole, "a", "late", 8)
    assert is_stopped(whole, "a", "late", 9)


def test_swap_keeps_what_is_shared_and_rollback_brings_back(mesh: Mesh) -> None:
    inject(mesh, injection("a/egress"))
    passes(mesh, "a", "b", 1)
    assert (seen(mesh), total(mesh)) == (1, 1)
    swap(mesh, TEN)
    passes(mesh, "a", "b", 1)
    assert (seen(mesh), total(mesh)) == (2, 11)
    apply.rollback(mesh.name, "count")
    passes(mesh, "a", "b", 1)
    assert (seen(mesh), total(mesh)) == (3, 12)
    apply.rollback(mesh.name, "count")
    passes(mesh, "a", "b", 1)
    assert (seen(mesh), total(mesh)) == (4, 22)


def test_a_map_of_another_layout_is_refused(mesh: Mesh) -> None:
    """One of another name begins empty; the one before has what it had when it comes back."""
    inject(mesh, injection("a/egress"))
    passes(mesh, "a", "b", 1)
    with pytest.raises(FunctionRefused, match="c:6: map total has another layout"):
        swap(mesh, OTHER)
    swap(mesh, OTHER.replace("total", "sums"))
    passes(mesh, "a", "b", 1)
    apply.rollback(mesh.name, "count")
    assert (seen(mesh), total(mesh)) == (2, 1)


def test_parameters_change_while_packets_flow(mesh: Mesh) -> None:
    inject(mesh, injection("a/egress", port=9))
    swap(mesh, ONE, port=8)
    assert is_stopped(mesh, "a", "b", 8)
    assert passes(mesh, "a", "b", 9)
    with pytest.raises(UsageError, match="no parameter prot") as caught:
        swap(mesh, ONE, prot=1)
    assert caught.value.hint == 'did you mean "port"?'
    with pytest.raises(UsageError, match="-1 is no u32") as caught:
        swap(mesh, ONE, port=-1)
    assert caught.value.hint == "it may be from 0 to 4294967295"
    assert is_stopped(mesh, "a", "b", 8)


def test_order(mesh: Mesh) -> None:
    """Those at one place in the order that is asked for; a tenant's after a function's own."""
    first, second, third = (injection("a/egress", name=name) for name in ("one", "two", "three"))
    inject(mesh, first, second)
    apply.edit(mesh.name, lambda whole: edit.inject(whole, third, before="two"))
    inject(mesh, injection("tenant:one/egress", name="last"))
    with apply.opened(mesh.name) as live:
        names = [row.injection.name for row in live.record.injections()]
        ids = {row.injection.name: row.program for row in live.record.injections()}
        chain = chains.wanted(live.record)[live.record.find_id("function", "a") or 0]
    assert names == ["one", "three", "two", "last"]
    assert chain.egress == tuple(ids[name] for name in names)


@pytest.mark.parametrize(
    ("source", "what"), [(BROKEN, r"c:12: .*sene"), (UNSAFE, r"c:14: the verifier: ")]
)
def test_what_is_refused_changes_nothing(mesh: Mesh, source: str, what: str) -> None:
    inject(mesh, injection("a/egress", port=9))
    before = everything(mesh)
    with pytest.raises(FunctionRefused, match=what) as caught:
        swap(mesh, source)
    remove(caught.value.log)
    with pytest.raises(FunctionRefused, match=what) as caught:
        inject(mesh, injection("b/egress", source, name="other"))
    remove(caught.value.log)
    assert everything(mesh) == before
    assert is_stopped(mesh, "a", "b", 9)


def everything(mesh: Mesh) -> tuple[object, ...]:
    """Pins, slots and heads of all that is injected, and the mesh itself."""
    with apply.opened(mesh.name) as live:
        pins = sorted(str(path) for path in live.pins.injected.rglob("*"))
        found = live.control.maps
        maps = [[bytes(key) + bytes(row) for key, row in found[name].items()] for name in MAPS]
        slots = [program_in(found, slot) for slot in range(256)]
        return live.record.model(), pins, maps, slots, live.record.chains()


def program_in(maps: Maps, slot: int) -> str:
    """What a packet would meet in a slot of a chain; nothing where none will come."""
    value = maps["mesh_injected"].get(ctypes.c_uint32(slot))
    if value is None:
        return ""
    with bpf.prog_by_id(value.value) as program:
        name: str = bpf.prog_info(program).name.decode()
    return "" if name == "mesh_nothing" else name


def test_nothing_is_left(mesh: Mesh) -> None:
    before = everything(mesh)
    inject(mesh, injection("a/egress"), injection("tenant:one/ingress", name="other"))
    swap(mesh, TEN)
    for name in ("count", "other"):
        apply.edit(mesh.name, lambda whole, name=name: edit.eject(whole, name))
    assert everything(mesh) == before
    inject(mesh, injection("tenant:two/egress"))
    apply.detach(mesh.name, "c")
    assert there(mesh).injections == ()
    inject(mesh, injection("a/egress"))
    apply.detach(mesh.name, "a")
    with apply.opened(mesh.name) as live:
        assert live.record.chains() == {}
        assert live.record.model().injections == ()
        assert list(live.pins.injected.iterdir()) == []


def received(mesh: Mesh, function: str) -> int:
    with view.opened(mesh.name) as opened:
        rows = counters.read_meters(opened)
    return sum(row.rx_packets for row in rows if row.function == function)


def there(mesh: Mesh) -> Mesh:
    with apply.opened(mesh.name) as live:
        return live.record.model()


def test_functions_come_and_go(mesh: Mesh) -> None:
    """One that is a target, and one that is of the tenant of a place, or is not any more."""

    def is_sent_on() -> bool:
        before = received(mesh, "b")
        passes(mesh, "a", "web-0", 7, seconds=BLOCKED_SECONDS)
        return received(mesh, "b") == before + 1

    inject(mesh, injection("tenant:two/ingress", port=9, name="limit"))
    inject(mesh, injection("a/egress", AWAY.replace("NAME", "b"), name="away"))
    assert is_sent_on()
    before = mesh.function("b")
    apply.detach(mesh.name, "b")
    with apply.opened(mesh.name) as live:  # else who gets its id next would be a target
        assert list(live.control.maps["mesh_target"].items()) == []
    apply.add_function(mesh.name, before)
    assert is_sent_on()
    apply.detach(mesh.name, "b")
    apply.add_function(mesh.name, before.model_copy(update={"tenant": "two"}))
    assert not is_sent_on()
    allowed = edit.rule("function:a", "function:b")
    apply.edit(mesh.name, lambda whole: edit.add_policy(whole, allowed))
    assert passes(mesh, "a", "b", 8)
    assert is_stopped(mesh, "a", "b", 9)
    apply.up(mesh.model_copy(update={"injections": there(mesh).injections}))
    assert passes(mesh, "a", "b", 9)
    assert is_sent_on()


@pytest.mark.parametrize("lost", ["heads", "slots", "pins"])
def test_what_is_lost_is_repaired(mesh: Mesh, lost: str) -> None:
    inject(mesh, injection("a/egress", port=9))
    with apply.opened(mesh.name) as live:
        maps, whole = live.control.maps, live.record.model()
        assert batch.problems(live) == []
        if lost == "heads":
            number = live.record.find_id("function", "a") or 0
            maps["mesh_chain"].set(ctypes.c_uint32(number), _abi.Chain())
        elif lost == "slots":
            for slot in range(256):
                maps["mesh_injected"].delete(ctypes.c_uint32(slot))
        else:
            for path in live.pins.injected.rglob("*_*"):
                path.unlink()
        assert batch.problems(live)
    assert [step.kind for step in apply.up(whole)] == ["repair"]
    assert is_stopped(mesh, "a", "b", 9)
    with apply.opened(mesh.name) as live:
        assert batch.problems(live) == []


def test_redirect(mesh: Mesh) -> None:
    """To a function of its own tenant, and to no other."""
    inject(mesh, injection("a/egress", AWAY.replace("NAME", "web-1"), name="away"))
    assert passes(mesh, "a", "b", 8)
    assert is_stopped(mesh, "a", "b", 7)
    assert received(mesh, "web-1") == 1
    for name in ("c", "nobody"):
        with pytest.raises(UsageError, match=f"target 0, {name}, is no function of its own tenant"):
            inject(mesh, injection("b/egress", AWAY.replace("NAME", name), name="other"))


NOTHING = """
#include "mesh_function.h"
MESH_FUNCTION(p) { return mesh_next(); }
"""
RIGHTS = table("tenant", name="one", inject=1, ways=["egress"], instructions=60)


@pytest.mark.parametrize(
    ("at", "tenant", "what"),
    [
        ("a/ingress", "one", 'tenant "one" may not inject at ingress'),
        ("c/egress", "one", 'c/egress is not a place of tenant "one"'),
        ("tenant:two/egress", "one", 'tenant:two/egress is not a place of tenant "one"'),
        ("c/egress", "two", 'tenant "two" may inject 0'),
    ],
)
def test_a_tenant_has_no_right(at: str, tenant: str, what: str) -> None:
    with running(MESH + RIGHTS) as mesh:
        one = injection(at).model_copy(update={"tenant": tenant})
        with pytest.raises(UsageError, match=what):
            inject(mesh, one)


def test_the_rights_of_a_tenant() -> None:
    """What it may cost is less than an operator's may; rights change while the mesh is up."""
    with running(MESH + RIGHTS) as mesh:
        one = injection("a/egress").model_copy(update={"tenant": "one"})
        small = one.model_copy(update={"source": NOTHING})
        with pytest.raises(FunctionRefused, match="instructions, of 60 it may have"):
            inject(mesh, one)
        inject(mesh, small)
        with pytest.raises(UsageError, match='tenant "one" may inject 1'):
            inject(mesh, small.model_copy(update={"name": "more"}))
        inject(mesh, injection("a/egress", name="operator"))
        more = mesh_of(MESH + RIGHTS.replace("60", "900").replace("inject = 1", "inject = 2"))
        wanted = more.model_copy(
            update={"injections": ranked((small, one.model_copy(update={"name": "more"})))}
        )
        assert [step.kind for step in apply.up(wanted)][:2] == ["set-rights", "set-injection"]


def test_from_a_file(tmp_path: Path) -> None:
    """[[inject]] in the mesh file, with a plan that tells; the file beside it is what counts."""
    (tmp_path / "count.c").write_text(ONE)
    file = tmp_path / "mesh.toml"
    file.write_text(MESH + INJECT)
    wanted = config.load(file)
    try:
        apply.up(wanted)
        assert is_stopped(wanted, "a", "b", 9)
        assert apply.plan(config.load(file)) == ()
        (tmp_path / "count.c").write_text(TEN)
        changed = config.load(file)
        lines = [step.describe() for step in apply.plan(changed)]
        assert lines == ["~ injection count  text changed"]
        apply.up(changed)
        assert apply.plan(changed) == ()
        without = mesh_of(MESH)
        lines = [step.describe() for step in apply.up(without)]
        assert lines == ["- injection count  a/egress  count.c"]
        assert passes(wanted, "a", "b", 9)
    finally:
        apply.down(wanted.name)


def test_a_function_comes_with_what_is_injected_at_it() -> None:
    """In one change: nothing is left for another to repair."""
    wanted = mesh_of('[mesh]\nname = "both"\n[[function]]\nname = "a"\n')
    own = Injection(name="mine", file="mine.c", source=ONE, at="a/egress")
    with running(wanted.model_copy(update={"injections": (own,)})) as mesh:
        assert apply.up(mesh) == ()
