# SPDX-License-Identifier: BSD-2-Clause
"""What functions use: real processes under real limits, packets of which each is counted."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpfmesh import apply
from ebpfmesh.errors import MeshError, NotFound
from ebpfmesh.kernel import bpf, netns
from ebpfmesh.kernel.maps import FLOWS, Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.kernel.used import Files
from ebpfmesh.model import Mesh
from ebpfmesh.observe import functions, usage, view
from ebpfmesh.observe.top import Rates, Sampler, rates
from ebpfmesh.state.place import cgroup_of
from ebpfmesh.state.record import Record
from support.meshes import function, mesh_file
from support.sockets import carries, connection
from support.topology import background, in_fn, running, wait_until

MESH = mesh_file(
    "usage", function("busy", cpu=0.2), function("greedy", memory="32M"), function("idle", "other")
)


@pytest.fixture
def working(mesh: Mesh) -> Iterator[None]:
    """One spins, one sleeps."""
    with (
        background(mesh, "busy", ["sh", "-c", "while :; do :; done"]),
        background(mesh, "idle", ["sleep", "1000"]),
    ):
        yield


@pytest.fixture
def sampler(mesh: Mesh) -> Iterator[Sampler]:
    with Sampler(mesh.name, flows=True) as found:
        yield found


def by_name(rows: list[Rates]) -> dict[str, Rates]:
    return {row.name: row for row in rows}


@pytest.mark.usefixtures("working")
def test_cpu_is_throttled_at_its_limit(sampler: Sampler) -> None:
    """It has used time, and been kept from more; who sleeps has used next to none."""
    before = sampler.sample()
    found: dict[str, Rates] = {}

    def throttled() -> bool:
        found.update(by_name(rates(before, sampler.sample())))
        busy = found["busy"]
        return bool(busy.cpu and busy.throttled)

    wait_until(throttled, what="it is throttled")
    assert found["busy"].cpu_limit == 0.2
    assert found["busy"].processes == 1
    assert found["idle"].cpu is not None
    assert (found["idle"].cpu_limit, found["idle"].throttled) == (None, None)
    assert found["idle"].processes == 1


@pytest.mark.usefixtures("working")
def test_memory_is_what_there_is(mesh: Mesh, sampler: Sampler) -> None:
    """Of a cgroup with a limit; else of the processes."""
    assert sampler.sample().functions["idle"].usage.memory
    hold = ["python3", "-c", "x = bytearray(8 << 20); print(flush=True); input()"]
    with background(mesh, "greedy", ["sh", "-c", 'sleep 1000 | "$@"', "sh", *hold]):
        wait_until(
            lambda: (sampler.sample().functions["greedy"].usage.memory or 0) > 8 << 20,
            what="it has 8 MiB",
        )
    assert sampler.sample().functions["greedy"].row.function.memory == 32 << 20


def test_a_process_that_is_killed_for_memory_is_counted(mesh: Mesh, sampler: Sampler) -> None:
    before = sampler.sample().functions
    assert before["greedy"].usage.oom_kills is not None
    assert before["idle"].usage.oom_kills is None
    done = in_fn(mesh, "greedy", ["tail", "/dev/zero"], check=False)
    assert done.returncode == -9
    after = sampler.sample().functions["greedy"].usage.oom_kills
    assert after == before["greedy"].usage.oom_kills + 1


def test_each_packet_is_counted(mesh: Mesh, sampler: Sampler) -> None:
    """Three echoes and their answers of 98 bytes; and those that policy drops."""
    before = sampler.sample()
    in_fn(mesh, "greedy", ["ping", "-4", "-c", 3, "-i", 0.2, "-W", 20, "busy"])
    in_fn(mesh, "greedy", ["ping", "-4", "-c", 2, "-i", 0.2, "-W", 0.1, "idle"], check=False)
    after = sampler.sample()
    seconds = after.when - before.when
    found = by_name(rates(before, after))
    for name in ("greedy", "busy"):
        one = found[name]
        sent, got = one.tx_packets_per_second, one.rx_packets_per_second
        bits = one.tx_bits_per_second
        assert sent is not None
        assert got is not None
        assert bits is not None
        assert (round(sent * seconds), round(got * seconds)) == (3, 3), name
        assert round(bits * seconds) == 3 * 98 * 8
    drops = found["greedy"].drops_per_second
    assert drops is not None
    assert round(drops["POLICY"] * seconds) == 2
    assert found["idle"].rx_packets_per_second == 0


def test_the_programs_run_once_for_each_frame(mesh: Mesh, sampler: Sampler) -> None:
    """As the kernel counts them; what a stack says by itself may come between the two readings."""
    greedy, idle = ["-c", 5, "-i", 0.2, "-W", 20, "busy"], mesh.function("idle").address4

    def agree() -> bool:
        before, runs = sampler.sample(), usage.runs(seen)
        in_fn(mesh, "greedy", ["ping", "-4", *greedy])
        in_fn(mesh, None, ["ping", "-c", 2, "-i", 0.2, "-W", 0.1, idle], check=False)
        after, ran = sampler.sample(), usage.runs(seen)
        more = [
            sum(
                one.usage.ran[way] - before.functions[name].usage.ran[way]
                for name, one in after.functions.items()
            )
            for way in (0, 1)
        ]
        assert more[0] >= 10
        assert more[1] >= 2
        return more == [new[1] - old[1] for old, new in zip(runs, ran, strict=True)]

    with bpf.enable_stats(), view.opened(mesh.name) as seen:
        wait_until(agree, what="both count the same", seconds=30)


def test_the_programs_are_timed(mesh: Mesh, sampler: Sampler) -> None:
    """With few packets all the while, so that a single one is enough."""
    before = sampler.sample()
    in_fn(mesh, "greedy", ["ping", "-4", "-c", 5, "-i", 0.2, "-W", 20, "busy"])
    found = by_name(rates(before, sampler.sample()))
    for name in ("greedy", "busy"):
        kernel = found[name].kernel
        assert kernel
        assert kernel < 1
    with view.opened(mesh.name) as seen:
        row = next(row for row in functions.read(seen) if row.name == "greedy")
    assert row.kernel_seconds


def test_timing_ends_once_there_was_enough(mesh: Mesh) -> None:
    """What it costs is paid for a moment only where there are many packets."""
    with view.opened(mesh.name) as seen, usage.Timer() as timer:
        timer.start(seen)
        timer.stop(seen)
        assert timer.is_on
        flood = ["ping", "-4", "-f", "-c", usage.Timer.ENOUGH, "-W", 20, "busy"]
        in_fn(mesh, "greedy", flood)
        mean, _ = timer.stop(seen)
        assert mean
        assert not timer.is_on
        timer.start(seen)
        assert timer.is_on
    assert not timer.is_on


def test_flows_are_those_of_both_ends(mesh: Mesh, sampler: Sampler) -> None:
    def flows() -> list[int]:
        found = sampler.sample().functions
        return [found[name].flows or 0 for name in ("greedy", "busy", "idle")]

    tables = Maps(Pins(mesh.name))
    for table in (tables[name] for name in FLOWS):  # none is over between two looks
        for key, _ in list(table.items()):
            table.delete(key)
    before = flows()
    with connection(mesh, "greedy", "busy", mesh.function("busy").address4, 7000) as (here, there):
        assert carries(here, there)
        assert flows() == [before[0] + 1, before[1] + 1, before[2]]


def test_show_functions_has_the_totals(mesh: Mesh, sampler: Sampler) -> None:
    """Those of top; what a stack says by itself may come between the two readings."""
    in_fn(mesh, "greedy", ["ping", "-4", "-c", 1, "-W", 20, "busy"])

    def agree() -> bool:
        with view.opened(mesh.name) as seen:
            rows = {row.name: row for row in functions.read(seen)}
        now = sampler.sample().functions
        assert {*rows} == {*now}
        assert rows["greedy"].tx_packets
        return all(
            (row.tx_packets, row.rx_bytes, row.flows, row.drops, row.processes, row.oom_kills)
            == (used.tx_packets, used.rx_bytes, now[name].flows, used.drops, used.processes,
                used.oom_kills)
            for name, row in rows.items()
            for used in [now[name].usage]
        )  # fmt: skip

    wait_until(agree, what="both say the same", seconds=20)


def test_functions_come_and_go_between_samples(mesh: Mesh, sampler: Sampler) -> None:
    """Who is gone is no row more; who has come, or come again, has rates from its second sample."""
    names = [*sampler.sample().functions]
    left = tuple(one for one in mesh.functions if one.name != "greedy")
    less = mesh.model_copy(update={"functions": left})
    try:
        before = sampler.sample()
        apply.up(less)
        gone = sampler.sample()
        assert "greedy" not in by_name(rates(before, gone))
        assert [*gone.functions] == [name for name in names if name != "greedy"]
        apply.up(mesh)
        back = sampler.sample()
        found = by_name(rates(gone, back))
        assert found["greedy"].tx_packets_per_second is None
        assert found["busy"].tx_packets_per_second is not None
        again = by_name(rates(before, back))["greedy"]
        assert again.tx_packets_per_second is None
        assert by_name(rates(back, sampler.sample()))["greedy"].tx_packets_per_second is not None
    finally:
        apply.up(mesh)


def test_a_cgroup_that_goes_while_it_is_read(mesh: Mesh) -> None:
    """Its files are open; nothing is known of it any more, and nothing fails."""
    record = Record(mesh.name)
    group = cgroup_of(record, "greedy")
    record.close()
    with Files() as files:
        opened = files.of(group)
        assert opened.used().cpu is not None
        group.remove()
        try:
            used = opened.used()
            assert (used.cpu, used.memory, used.oom_kills) == (None, None, None)
            assert used.processes == ()
        finally:
            group.create(mesh.function("greedy"))


def test_what_is_broken_is_told(sampler: Sampler) -> None:
    def state(name: str) -> str:
        return sampler.sample().functions[name].state

    row = sampler.sample().functions["idle"].row
    assert state("idle") == "up"
    with netns.rtnetlink() as ip:
        ip.link("set", index=row.attachment.ifindex, state="down")
        wait_until(lambda: state("idle") == "down", what="it is down")
        ip.link("set", index=row.attachment.ifindex, state="up")
    wait_until(lambda: state("idle") == "up", what="it is up again")


def test_programs_that_are_missing_are_found_by_turns(mesh: Mesh) -> None:
    pin = next(path for path in Path("/sys/fs/bpf/ebpfmesh/usage").glob("v*/links/idle-ingress"))
    with bpf.obj_get(pin) as held, Sampler(mesh.name) as sampler:
        sampler.sample()
        pin.unlink()
        try:
            found = sampler.sample().functions
            assert found["idle"].state == "programs missing"
            assert found["busy"].state == "up"
        finally:
            bpf.obj_pin(held, pin)


def test_the_end_of_the_mesh_is_the_end() -> None:
    text = '[mesh]\nname = "gone"\n[[function]]\nname = "f"\n'
    with running(text) as up, Sampler("gone") as sampler:
        assert [*sampler.sample().functions] == ["f"]
        apply.down("gone")
        with pytest.raises(NotFound):
            sampler.sample()
        apply.up(up)
        assert [*sampler.sample().functions] == ["f"]


def test_the_end_of_the_mesh_may_come_within_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs go before the record does."""
    with running('[mesh]\nname = "gone"\n[[function]]\nname = "f"\n'), Sampler("gone") as sampler:
        look = sampler._look
        monkeypatch.setattr(sampler, "_look", lambda: (look(), apply.down("gone")))
        with pytest.raises(NotFound):
            sampler.sample()


def test_the_record_may_go_while_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with running('[mesh]\nname = "gone"\n[[function]]\nname = "f"\n'), Sampler("gone") as sampler:
        record = sampler.view.record

        def version() -> int:
            apply.down("gone")
            raise MeshError("disk I/O error")

        monkeypatch.setattr(record, "version", version)
        with pytest.raises(NotFound):
            sampler.sample()


def test_no_descriptor_stays_open(mesh: Mesh) -> None:
    gc.collect()  # what others left is closed by now
    before = len(list(Path("/proc/self/fd").iterdir()))
    with Sampler(mesh.name, flows=True) as sampler:
        sampler.sample()
        assert len(list(Path("/proc/self/fd").iterdir())) > before
    assert len(list(Path("/proc/self/fd").iterdir())) == before
