# SPDX-License-Identifier: BSD-2-Clause
"""The oracle of losses: numbered packets and live connections while everything is changed.

generator ─▶ radio ─▶ "sent" ─▶ "got" ─▶ eth0 of the decoders ─▶ checker
  200 connections ──┘  injected functions of the operator and of the vendor

What is changed, again and again: which of two texts each end has, services, weights, rules, what
else is injected, and the programs of the mesh, by those of another build and back; and a canary is
begun, promoted or ended. No packet may be lost or overtaken, no connection reset, and each packet
meets one version at each end: never none, never two.

More of it, if EBPFMESH_ORACLE says how many changes and connections: ``make oracle``.
"""

import itertools
import logging
import os
import resource
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest

from ebpfmesh import apply
from ebpfmesh._abi import Reason
from ebpfmesh.bench import workload
from ebpfmesh.bench.measure.pps import PacketRate
from ebpfmesh.bench.measure.watch import Seen, Watcher
from ebpfmesh.bench.packets.paced import Pace
from ebpfmesh.bench.packets.sink import Report
from ebpfmesh.bench.paths import MeshPath
from ebpfmesh.bench.paths.swaps import reattach
from ebpfmesh.bench.tools import cores, one_core
from ebpfmesh.config import edit
from ebpfmesh.kernel import bpf, netns
from ebpfmesh.model import Injection, Mesh
from support.alive import Outcome, Pair, alive, connections, counted
from support.builds import other_build, up_by
from support.topology import drops, wait_until

CHANGES, CONNECTIONS = map(int, os.environ.get("EBPFMESH_ORACLE", "60 200").split())
FLOWS = 64
RATE = 600_000 if cores() > 1 else 20_000  # on one core the sender would leave nothing to changes
QUIET_SECONDS = 1.0
LONGEST_SECONDS = 150.0
"""For all changes: half a minute where four tests share two cores."""
SOURCE = """
#include "mesh_function.h"
MESH_MAP(array, total, u32, u64, 1);
MESH_FUNCTION(p)
{
	u32 zero = 0;
	u64 *sum = total.lookup(&zero);

	if (sum && p->protocol == 17)
		*sum += 1;
	return mesh_next();
}
"""
SECOND = SOURCE.replace("p->protocol == 17", "17 == p->protocol") + "/* the second */\n"
THIRD = SECOND + "/* the third */\n"
OTHER = '#include "mesh_function.h"\nMESH_FUNCTION(p)\n{\n\treturn mesh_next();\n}\n'
PLACES = {"sent": "radio/egress", "got": "tenant:vendor/ingress"}
Change = Callable[[], object]
log = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshPath]:
    """The mesh, with the programs of another build at hand."""
    with ExitStack() as stack:
        path = MeshPath(workload.load())
        path.build(stack)
        with netns.entered(path.host.netns):
            up_by(other_build(tmp_path_factory.mktemp("other")), path.filled())
        yield path


@pytest.fixture(scope="module")
def watcher() -> Iterator[Watcher]:
    with ExitStack() as stack:
        rate = PacketRate(workload.load(), stack)
        yield Watcher(workload.load(), rate, stack, flows=FLOWS)


@pytest.fixture(scope="module")
def pairs(path: MeshPath) -> Iterator[list[Pair]]:
    """Both ends of the connections, through the service "control"."""
    open_files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = max(open_files, 4 * CONNECTIONS)  # two of each here, and room
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, max(needed, most)))
    service = path.mesh.service("control")
    servers = {one.address: one.netns for one in path.receivers("rr")}
    with connections(path.mesh, service, CONNECTIONS, path.client.netns, servers) as found:
        yield found


def changed(path: MeshPath, change: Callable[[Mesh], Mesh]) -> None:
    apply.edit(path.mesh.name, change)


def inject(path: MeshPath, name: str, at: str, source: str) -> None:
    one = Injection(name=name, at=at, file=f"{name}.c", source=source)
    changed(path, lambda mesh: edit.inject(mesh, one))


@pytest.fixture
def injected(path: MeshPath) -> Iterator[None]:
    """Both ends have the second of two texts; a rollback changes to the other, either way."""
    with netns.entered(path.host.netns):
        for name, at in PLACES.items():
            inject(path, name, at, SOURCE)
            changed(path, partial(edit.swap, name=name, source=SECOND))
        before = build_of(path)
        yield
        if build_of(path) != before:
            apply.revert(path.mesh.name)
        for name in PLACES:
            changed(path, partial(edit.eject, name=name))


def build_of(path: MeshPath) -> str:
    """Whose programs run."""
    with apply.opened(path.mesh.name) as live:
        return live.record.build


def total(path: MeshPath, name: str) -> int:
    """How many of the numbered packets a function has met, in all its versions."""
    with netns.entered(path.host.netns), apply.opened(path.mesh.name) as live:
        row = live.record.injection(name)
        assert row
        with live.chains.opened(live.record.program(row.program)) as maps:
            return int.from_bytes(bpf.map_lookup(maps["total"].fd, bytes(4), 8) or b"", "little")


@contextmanager
def traffic(
    watcher: Watcher, path: MeshPath, pairs: list[Pair], seconds: float = LONGEST_SECONDS
) -> Iterator[tuple[Seen, Outcome]]:
    """Packets and connections at work while the block runs."""
    pace = Pace.at_rate(RATE, seconds=seconds, frames=round(RATE * seconds))
    with (
        one_core(min),
        alive(pairs) as outcome,
        watcher.running(path, pace, flows=FLOWS) as seen,
    ):
        yield seen, outcome


# ---- what is changed


def cheap(path: MeshPath) -> Iterator[Change]:
    """Changes that compile nothing, without an end."""
    edited, back = partial(changed, path), partial(apply.rollback, path.mesh.name)
    functions = path.mesh.service("samples").functions
    add = partial(
        edit.add_service, name="more", addresses=["198.19.255.1"], port=80, functions=functions
    )
    denied = edit.rule("function:guest", "service:samples", action="deny", priority=7)
    allowed = edit.rule("function:radio", "service:samples", priority=3)
    first = edit.rule("function:radio", "service:samples")
    replaced = partial(apply.revert, path.mesh.name)
    weigh = partial(edit.set_service, name="samples", addresses=())
    each = (
        replaced,
        partial(back, "sent"),
        partial(edited, add),
        partial(back, "got"),
        partial(edited, lambda mesh: edit.add_policy(mesh, denied)),
        partial(back, "sent"),
        partial(edited, lambda mesh: weigh(mesh, weights={"decode-0": 3})),
        partial(back, "got"),
        partial(edited, lambda mesh: edit.add_policy(mesh, allowed)),
        partial(back, "sent"),
        partial(edited, lambda mesh: edit.delete_service(mesh, "more")),
        partial(back, "got"),
        partial(edited, lambda mesh: edit.delete_policy(mesh, denied)),
        partial(edited, lambda mesh: weigh(mesh, weights={"decode-0": 1})),
        partial(edited, lambda mesh: edit.add_policy(mesh, first)),
    )
    return itertools.cycle(each)


def costly(path: MeshPath) -> Iterator[Change]:
    """Changes that compile, and what ends each; others between them would end a canary."""
    edited, (first, second) = partial(changed, path), PLACES
    begin = partial(edit.canary, file="third.c", source=THIRD)
    yield partial(edited, partial(begin, name=first, share=30))
    yield partial(apply.revert, path.mesh.name)
    yield partial(edited, partial(begin, name=first, share=60))
    yield partial(edited, partial(edit.promote, name=first))
    yield partial(inject, path, "other", PLACES[second], OTHER)
    yield partial(edited, partial(begin, name=second, share=50))
    yield partial(apply.rollback, path.mesh.name, second)
    yield partial(edited, partial(edit.eject, name="other"))


def change_all(path: MeshPath) -> int:
    """CHANGES of them, those that compile in the middle; how many there were."""
    rare = list(costly(path))
    often = list(itertools.islice(cheap(path), CHANGES - len(rare)))
    half = len(often) // 2
    for change in (*often[:half], *rare, *often[half:]):
        change()
    return len(often) + len(rare)


# ---- what is seen


def report_of(seen: Seen) -> Report:
    assert seen.report
    return seen.report


def refused(path: MeshPath) -> dict[Reason, int]:
    """What the mesh dropped, but for the announcements of the functions' own stacks."""
    found = Counter[Reason]()
    for (_, _, reason), packets in drops(path.mesh).items():
        found[reason] += packets
    del found[Reason.MULTICAST]
    return dict(found)


def test_nothing_is_lost_while_everything_is_changed(
    watcher: Watcher, path: MeshPath, pairs: list[Pair], injected: None
) -> None:
    del injected
    places = [path.client.netns, *(one.netns for one in path.receivers("rr"))]
    with traffic(watcher, path, pairs, QUIET_SECONDS) as (quiet, _):
        quiet.traffic.wait()
    with netns.entered(path.host.netns):
        before = counted(places), refused(path), [total(path, name) for name in PLACES]
    with traffic(watcher, path, pairs) as (seen, outcome):
        assert change_all(path) == CHANGES
        assert not seen.traffic.ended, "some changes were made without traffic"
    with netns.entered(path.host.netns):
        after = counted(places), refused(path), [total(path, name) for name in PLACES]
    report = report_of(seen)
    tell(quiet, seen, outcome)
    assert report.in_order, report
    assert (report.arrived, report.flows, report.foreign) == (seen.sent.frames, FLOWS, 0)
    assert outcome.broken == ""
    assert outcome.rounds > 1
    assert after[:2] == before[:2], "what TCP counts, and what the mesh dropped"
    met = [now - then for now, then in zip(after[2], before[2], strict=True)]
    assert met == [report.arrived, report.arrived], "each packet meets one version at each end"


def tell(quiet: Seen, busy: Seen, outcome: Outcome) -> None:
    """The figures, for who reads them (--log-cli-level=INFO); nothing is asserted of times."""
    for what, seen in (("no change", quiet), (f"{CHANGES} changes", busy)):
        report = report_of(seen)
        log.info(
            "%s: %d packets in %.1f s; longest gap of a flow %.0f µs, of the sender %.0f µs",
            what, report.arrived, (report.last_ns - report.first_ns) / 1e9,
            report.longest_flow_gap_ns / 1e3, seen.sent.longest_pause_ns / 1e3,
        )  # fmt: skip
    log.info(
        "%d connections, %d rounds of messages, the longest %.1f ms",
        CONNECTIONS, outcome.rounds, outcome.longest_round_ns / 1e6,
    )  # fmt: skip


def test_the_wrong_way_is_seen(watcher: Watcher, path: MeshPath, pairs: list[Pair]) -> None:
    """A program that is detached and attached again loses packets, and the oracle tells."""
    with traffic(watcher, path, pairs) as (seen, _):
        for _ in range(30):  # some of them while the sender has its core
            before = watcher.checker.packets()
            wait_until(lambda before=before: watcher.checker.packets() > before, what="it sends")
            reattach(path)
    assert report_of(seen).lost > 0
