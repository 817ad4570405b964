# SPDX-License-Identifier: BSD-2-Clause
"""Programs of tenants run with barriers against speculation, the operator's without."""

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpfmesh import _abi, apply
from ebpfmesh._abi import Direction, Reason
from ebpfmesh.apply import batch
from ebpfmesh.config import edit
from ebpfmesh.kernel import bpf
from ebpfmesh.model import Injection, Mesh
from ebpfmesh.observe import injected, view
from ebpfmesh.state import chains
from support.meshes import function, mesh_file, table
from support.sockets import BLOCKED_SECONDS, SECONDS, datagrams, ready
from support.topology import drops, running
from support.translated import barriers

MESH = mesh_file(
    "guarded",
    function("a", "one"),
    function("b", "one"),
    table("tenant", name="one", inject=4, ways=["egress", "ingress"]),
)
TEXT = """
#include "mesh_function.h"
MESH_TARGET(0, "b");
MESH_REASON(0, "to port 9");
MESH_COUNTER(seen, "packets that came by");
MESH_MAP(array, table, u32, u64, 16);
MESH_FUNCTION(p)
{
	u32 key[4] = {p->source_port, p->destination_port, p->length, p->protocol}, i;
	u64 sum = 0;

#pragma unroll
	for (i = 0; i < 4; i++) {
		u64 *value = table.lookup(&key[i]);

		if (value)
			sum += *value;
	}
	mesh_count(seen);
	if (sum || p->destination_port == 9)
		return mesh_drop(0);
	if (p->destination_port == 6)
		return mesh_write(mesh_next(), 1, 'o', 1);
	return p->destination_port == 7 ? mesh_redirect(0) : mesh_next_dscp(10);
}
"""
MITIGATED = "mitigations=off" not in Path("/proc/cmdline").read_text().split()
"""Whether the verifier puts any in; see cpu_mitigations_off() in linux/include/linux/bpf.h."""


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    with running(MESH) as found:
        yield found


def inject(mesh: Mesh, tenant: str | None, *, name: str = "f", at: str = "a/egress") -> None:
    text = TEXT if at == "a/egress" else TEXT.replace("mesh_redirect(0)", "mesh_next()")
    one = Injection(name=name, at=at, file="f.c", source=text, tenant=tenant)
    apply.edit(mesh.name, lambda whole: edit.inject(whole, one))


def send(mesh: Mesh, port: int, seconds: float = SECONDS) -> bytes:
    """A datagram from a to b; what arrives of it in this time, or nothing."""
    to, own = mesh.function("b").address4, mesh.function("a").address4
    assert to
    assert own
    with datagrams(mesh, "b", to, port) as there, datagrams(mesh, "a", own) as here:
        here.sendto(b"ping", (str(to), port))
        return there.recv(64) if ready([there], seconds) else b""


def count_barriers(mesh: Mesh, name: str) -> int:
    """Barriers in the program of a name, as it is in the chain of a."""
    with apply.opened(mesh.name) as live:
        row = live.record.injection(name)
        assert row
        [slot] = [
            place.slot
            for chain, block in live.record.chains().items()
            for place in chains.places(block, chain)
            if place.program == row.program
        ]
        number = live.control.maps["mesh_injected"].get(ctypes.c_uint32(slot))
    with bpf.prog_by_id(number.value) as program:
        return barriers(program)


def test_a_tenants_program_has_barriers(mesh: Mesh) -> None:
    inject(mesh, None, name="ours")
    inject(mesh, "one", name="theirs")
    assert count_barriers(mesh, "ours") == 0
    assert bool(count_barriers(mesh, "theirs")) == MITIGATED
    apply.edit(mesh.name, lambda whole: edit.swap(whole, "theirs", source=TEXT + "/* new */"))
    assert bool(count_barriers(mesh, "theirs")) == MITIGATED


@pytest.mark.parametrize("tenants", [("one", "one"), (None, "one"), ("one", None)])
def test_it_does_what_others_do(mesh: Mesh, tenants: tuple[str | None, str | None]) -> None:
    """Drop, redirect, mark, write and pass, beside an operator's or not, at both ends."""
    inject(mesh, tenants[0], name="first")
    inject(mesh, tenants[1], name="second")
    inject(mesh, tenants[0], name="third", at="b/ingress")
    assert [send(mesh, port) for port in (8, 7)] == [b"ping", b"ping"]
    assert send(mesh, 9, BLOCKED_SECONDS) == b""
    assert send(mesh, 6) == b"pong"
    with view.opened(mesh.name) as opened:
        rows = {row.name: row for row in injected.read_injected(opened)}
    assert rows["first"].refused == {"to port 9": 1}
    assert {name: row.counters["seen"] for name, row in rows.items()} == {
        "first": 4, "second": 2, "third": 3,
    }  # fmt: skip
    assert drops(mesh)["a", Direction.FROM_FN, Reason.INJECTED] == 1


def test_what_it_goes_on_to_is_missed_and_repaired(mesh: Mesh) -> None:
    inject(mesh, "one")
    assert send(mesh, 8)
    with apply.opened(mesh.name) as live:
        whole = live.record.model()
        live.control.maps["mesh_injected"].delete(ctypes.c_uint32(_abi.CHAIN_END))
        assert batch.problems(live) == ["map mesh_injected"]
    assert not send(mesh, 8, BLOCKED_SECONDS)
    assert drops(mesh)["a", Direction.FROM_FN, Reason.NO_PROGRAM] == 1
    assert [step.kind for step in apply.up(whole)] == ["repair"]
    assert send(mesh, 8)
