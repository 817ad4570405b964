# SPDX-License-Identifier: BSD-2-Clause
"""A canary: a part of the flows meets another version, and what comes of it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ebpfmesh import apply
from ebpfmesh.config import edit
from ebpfmesh.errors import NotFound
from ebpfmesh.model import Injection, Mesh
from ebpfmesh.observe import injected, view
from ebpfmesh.observe.canary import Comparison, read_canary
from support.command import ebpfmesh
from support.meshes import function, mesh_file
from support.sockets import datagrams
from support.topology import running

MESH = mesh_file("canary", function("a"), function("b"))
SOURCE = """
#include "mesh_function.h"
MESH_PARAMETER(u32, drop, 0, "drops what has this last digit of its port");
MESH_COUNTER(seen, "packets");
MESH_REASON(0, "of that digit");
MESH_MAP(array, shared, u32, u64, 1);
MESH_FUNCTION(p)
{
	u32 zero = 0, digit = p->source_port % 10;
	u64 *sum = shared.lookup(&zero);

	mesh_count(seen);
	if (sum)
		*sum += 1;
	return digit && digit == mesh_get(drop) ? mesh_drop(0) : mesh_next();
}
"""
NEW = SOURCE + "/* the new one */\n"
FLOWS = 600


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    with running(MESH) as found:
        one = Injection(name="f", at="a/egress", file="f.c", source=SOURCE)
        apply.edit(found.name, lambda whole: edit.inject(whole, one))
        yield found


def begin(mesh: Mesh, share: int = 30, **parameters: int) -> None:
    values = {"file": "new.c", "source": NEW, "parameters": parameters, "share": share}
    apply.edit(mesh.name, lambda whole: edit.canary(whole, "f", **values))


def send(mesh: Mesh, flows: int = FLOWS, *, each: int = 1) -> None:
    """So many datagrams of each of so many flows from a to b."""
    to, own = mesh.function("b").address4, mesh.function("a").address4
    assert to
    assert own
    with datagrams(mesh, "b", to, 5000):
        for port in range(10000, 10000 + flows):
            with datagrams(mesh, "a", own, port) as here:
                for _ in range(each):
                    here.sendto(b"ping", (str(to), 5000))


def compared(mesh: Mesh) -> Comparison:
    with view.opened(mesh.name) as opened:
        return read_canary(opened, "f")


def test_a_part_of_the_flows_meets_it(mesh: Mesh) -> None:
    """As many as said, within what chance does; and always the same ones."""
    begin(mesh, share=30)
    send(mesh)
    first = compared(mesh)
    assert first.stable.packets + first.canary.packets == FLOWS
    assert 0.2 < first.canary.packets / FLOWS < 0.4
    send(mesh)
    again = compared(mesh)
    assert again.canary.packets == 2 * first.canary.packets
    assert again.stable.counters == {"seen": again.stable.packets}
    assert again.canary.counters == {"seen": again.canary.packets}
    assert again.judgement == "no difference seen"


def test_what_is_worse_is_seen(mesh: Mesh) -> None:
    begin(mesh, share=50, drop=3)
    send(mesh)
    found = compared(mesh)
    assert found.judgement == "worse"
    assert found.stable.dropped == {}
    assert found.canary.dropped == {"of that digit": found.canary.drops}
    assert found.interval[0] > 0
    assert 0.05 < found.canary.share < 0.2


def test_promote(mesh: Mesh) -> None:
    """It goes on with the maps it has; the other is what a rollback brings back."""
    begin(mesh, share=50)
    send(mesh, 100)
    met = compared(mesh).canary.packets
    apply.edit(mesh.name, lambda whole: edit.promote(whole, "f"))
    send(mesh, 100)
    assert seen(mesh) == met + 100
    with pytest.raises(NotFound, match="no canary"):
        compared(mesh)
    apply.rollback(mesh.name, "f")
    assert seen(mesh) == 100 - met


def seen(mesh: Mesh) -> int:
    with view.opened(mesh.name) as opened:
        return injected.one(opened, "f").counters["seen"]


def test_rollback_leaves_nothing_of_it(mesh: Mesh) -> None:
    with apply.opened(mesh.name) as live:
        before = live.record.model(), live.record.chains(), live.record.programs()
    begin(mesh)
    send(mesh, 50)
    apply.rollback(mesh.name, "f")
    send(mesh, 50)
    assert seen(mesh) >= 50
    with apply.opened(mesh.name) as live:
        assert (live.record.model(), live.record.chains().keys(), live.record.programs()) == (
            before[0],
            before[1].keys(),
            before[2],
        )
        pins = {path.name for path in live.pins.injected.iterdir()}
    assert pins == {str(number) for number in before[2]}


@pytest.mark.parametrize(
    ("drop", "line"),
    [
        (0, "~ injection f  f.c → new.c  text changed"),
        (3, "~ injection f  canary 50 % new.c → none"),
    ],
)
def test_it_decides_by_itself(mesh: Mesh, tmp_path: Path, drop: int, line: str) -> None:
    """Promoted if it is no worse, rolled back if it is."""
    file = tmp_path / "new.c"
    file.write_text(NEW)
    words = ["swap", "f", file, "--canary", "50%", "--for", "4s", "--param", f"drop={drop}"]
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(ebpfmesh, *words, "--mesh", mesh.name)
        while not waiting.done():
            send(mesh, 50, each=20)  # more than is needed to tell, also on a busy machine
    assert line in waiting.result().stdout
