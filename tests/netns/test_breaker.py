# SPDX-License-Identifier: BSD-2-Clause
"""What is injected becomes too slow under traffic: packets pass it by, and everybody is told."""

import json
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ebpfmesh import apply
from ebpfmesh._abi import Direction, Reason
from ebpfmesh.config import edit
from ebpfmesh.errors import NotFound, UsageError
from ebpfmesh.model import Injection, Mesh
from ebpfmesh.observe import counters, injected, view
from ebpfmesh.observe.canary import read_canary
from ebpfmesh.observe.injected import Injected
from support.command import COMMAND, ROOT, ebpfmesh, lines
from support.meshes import function, mesh_file, table
from support.sockets import datagrams
from support.topology import SLOWER, drops, poll, running

MESH = mesh_file(
    "breaker",
    function("a", "one"),
    function("b", "one"),
    table("tenant", name="one", inject=2, ways=["egress"], ns_median=300),
)
TEXT = """
#include "mesh_function.h"
MESH_PARAMETER(u32, slow, 0, "so many readings of the clock");
MESH_PARAMETER(u32, port, 0, "whose packets are dropped");
MESH_COUNTER(seen, "packets that came by");
MESH_REASON(0, "to that port");
MESH_MAP(array, last, u32, u64, 1);
MESH_FUNCTION(p)
{
	u32 zero = 0, i;
	u64 *now = last.lookup(&zero);

	mesh_count(seen);
#pragma unroll
	for (i = 0; i < 64; i++)
		if (now && i < mesh_get(slow))
			*now += mesh_now();
	return p->destination_port == mesh_get(port) ? mesh_drop(0) : mesh_next();
}
"""
NEW = TEXT + "/* the new one */\n"
SLOW = 64
BATCH = 500
SECONDS = 120 * SLOWER
PORT = 5000


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    with running(MESH) as found:
        one = Injection(name="f", at="a/egress", file="f.c", source=TEXT, tenant="one")
        apply.edit(found.name, lambda whole: edit.inject(whole, one))
        yield found


def parameters(mesh: Mesh, **values: int) -> None:
    apply.edit(mesh.name, lambda whole: edit.swap(whole, "f", parameters=values))


def send(mesh: Mesh, count: int = BATCH, port: int = PORT, *, flows: int = 1) -> int:
    """So many datagrams from a to b; how many."""
    to, own = mesh.function("b").address4, mesh.function("a").address4
    assert to
    assert own
    for flow in range(flows):
        with datagrams(mesh, "a", own, 10000 + flow) as here:
            for _ in range(count):
                here.sendto(b"ping", (str(to), port))
    return count * flows


def shown(mesh: Mesh) -> Injected:
    with view.opened(mesh.name) as opened:
        return injected.one(opened, "f")


def arrived(mesh: Mesh) -> int:
    """Packets that the mesh gave to b."""
    with view.opened(mesh.name) as opened:
        return sum(row.rx_packets for row in counters.read_meters(opened) if row.function == "b")


def flood(mesh: Mesh, until: Callable[[], bool]) -> int:
    """Send until something is so; how many were sent."""
    count = 0

    def more() -> bool:
        nonlocal count
        count += send(mesh)
        return until()

    assert poll(more, seconds=SECONDS)
    return count


def is_open(mesh: Mesh) -> bool:
    return shown(mesh).live.open


def test_packets_pass_by_what_is_too_slow(mesh: Mesh) -> None:
    """None is lost, a limiter lets all pass, and `show`, `doctor` and `events` say what it is."""
    sent = send(mesh)
    parameters(mesh, slow=SLOW, port=9)
    send(mesh, 10, port=9)
    assert shown(mesh).refused == {"to that port": 10}
    line = [*COMMAND, "events", "--kind", "breaker", "--count", "1", "--json", "--mesh", mesh.name]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, cwd=ROOT) as listener:
        try:
            assert poll(lambda: listens(mesh), seconds=SECONDS)
            sent += flood(mesh, lambda: is_open(mesh))
            told = json.loads(listener.communicate(timeout=SECONDS)[0])
        finally:
            listener.kill()
    assert (told["kind"], told["injected"], told["limit_ns"]) == ("breaker", "f", 300)
    assert told["cost_ns"] > 300
    assert told["seconds"] >= 5
    assert "circuit breaker opened, median" in told["text"]
    met = shown(mesh).counters["seen"]
    sent += send(mesh, 10, port=9)
    assert shown(mesh).counters["seen"] == met
    assert arrived(mesh) == sent
    assert drops(mesh)["a", Direction.FROM_FN, Reason.INJECTED] == 10
    assert "breaker    open" in lines("show", "injected", "f", "--mesh", mesh.name)
    said = ebpfmesh("doctor", "--mesh", mesh.name, code=1).stdout
    assert "injected f: circuit breaker open, median" in said
    assert "ebpfmesh rollback f" in said


def listens(mesh: Mesh) -> bool:
    with view.opened(mesh.name) as opened:
        return bool(opened.config.events)


def test_reset_swap_and_rollback_close_it(mesh: Mesh) -> None:
    with pytest.raises(UsageError, match="circuit breaker of f is not open"):
        apply.reset(mesh.name, "f")
    with pytest.raises(NotFound, match="nothing is injected as g"):
        apply.reset(mesh.name, "g")
    parameters(mesh, slow=SLOW)
    flood(mesh, lambda: is_open(mesh))
    parameters(mesh)  # it is not put in anew: it may have been the other packets
    assert is_open(mesh)
    apply.reset(mesh.name, "f")
    assert_met(mesh)
    parameters(mesh, slow=SLOW)
    flood(mesh, lambda: is_open(mesh))
    apply.edit(mesh.name, lambda whole: edit.swap(whole, "f", source=NEW, parameters={}))
    assert_met(mesh)
    apply.rollback(mesh.name, "f")
    assert_met(mesh)
    apply.edit(mesh.name, lambda whole: edit.eject(whole, "f"))
    with view.opened(mesh.name) as opened:
        table = opened.maps["mesh_breaker"].get(opened.maps["mesh_breaker"].spec.key(0))
    assert not any(row.open or row.limit for row in table.of)


def assert_met(mesh: Mesh) -> None:
    """It is closed, and each packet meets it."""
    before = shown(mesh)
    assert not before.live.open
    send(mesh, 10)
    assert shown(mesh).counters["seen"] == before.counters["seen"] + 10


def test_what_is_slow_for_a_moment_stays(mesh: Mesh) -> None:
    """For a third of the windows that it would take, then no longer."""
    for _ in range(2):
        parameters(mesh, slow=SLOW)
        flood(mesh, lambda: windows(mesh) >= 2)
        parameters(mesh)
        flood(mesh, lambda: windows(mesh) == 0)
    assert not is_open(mesh)


def windows(mesh: Mesh) -> int:
    """How many windows were over in a row."""
    with view.opened(mesh.name) as opened:
        program, table = shown(mesh).program, opened.maps["mesh_cost"]
        return int(table.get(table.spec.key(program)).windows)


def test_a_canary_that_is_too_slow(mesh: Mesh) -> None:
    """Its flows meet the other version, until it is rolled back."""
    values = {"file": "new.c", "source": NEW, "parameters": {"slow": SLOW}, "share": 50}
    apply.edit(mesh.name, lambda whole: edit.canary(whole, "f", **values))

    def opened() -> bool:
        send(mesh, 100, flows=50)
        with view.opened(mesh.name) as seen:
            return read_canary(seen, "f").canary.live.open

    assert poll(opened, seconds=SECONDS)
    with view.opened(mesh.name) as seen:
        before = read_canary(seen, "f")
    assert before.judgement == "too slow"
    sent = send(mesh, 1, flows=100)
    with view.opened(mesh.name) as seen:
        after = read_canary(seen, "f")
    assert after.canary.counters == before.canary.counters
    assert after.stable.counters["seen"] == before.stable.counters["seen"] + sent
    apply.rollback(mesh.name, "f")
    assert_met(mesh)


def test_a_canary_that_is_too_slow_is_rolled_back(mesh: Mesh, tmp_path: Path) -> None:
    """At once, not when its time is over."""
    file = tmp_path / "new.c"
    file.write_text(NEW)
    words = ["swap", "f", file, "--canary", "50%", "--for", "1h", "--param", f"slow={SLOW}"]
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(ebpfmesh, *words, "--mesh", mesh.name)
        while not waiting.done():
            send(mesh, 100, flows=50)
    assert "~ injection f  canary 50 % new.c → none" in waiting.result().stdout
    assert "canary f: too slow" in waiting.result().stderr
