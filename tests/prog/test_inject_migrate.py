# SPDX-License-Identifier: BSD-2-Clause
"""MESH_MIGRATE: what becomes of the entries of each kind of map, and what is refused at its line.

A pair of texts: an old one whose map has entries, and a new one of whose map the layout is another.
"""

import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from ebpfmesh.apply import migrations
from ebpfmesh.errors import FunctionRefused
from ebpfmesh.inject import migrate
from ebpfmesh.inject.build import Built, build
from ebpfmesh.inject.migrate import Migration
from ebpfmesh.kernel import bpf
from support.inject import FUNCTIONS, run, write

PASS = "MESH_FUNCTION(p)\n{\n\treturn mesh_next();\n}\n"
OLD = "struct flow_v1 { u32 packets; };\n"
NEW = OLD + "struct flow { u64 bytes; u32 packets; };\n"
MIGRATE = """MESH_MIGRATE(flows, struct flow_v1, old, new)
{
	if (!old->packets)
		return 0;
	new->packets = old->packets;
	new->bytes = (u64)old->packets * 64;
	return 1;
}
"""
CPUS = bpf.possible_cpus()


def table(kind: str, value: str, entries: int = 1024, key: str = "u32") -> str:
    return f"MESH_MAP({kind}, flows, {key}, struct {value}, {entries});\n"


class Pair:
    """Two versions that were built, the new one's migrations found."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack

    def build(self, text: str) -> Built:
        return self._stack.enter_context(build(write(self._directory, text + PASS)))

    def __call__(
        self, old: str, new: str, text: str = MIGRATE
    ) -> tuple[Built, Built, tuple[Migration, ...]]:
        before, after = self.build(OLD + old), self.build(NEW + new + text)
        return before, after, migrations.found(after.source, after, before.layouts)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with ExitStack() as stack:
        yield Pair(tmp_path, stack)


def number(key: int) -> bytes:
    return struct.pack("=I", key)


def fill(built: Built, entries: dict[int, int]) -> None:
    """Packets by key; of a per-CPU map each CPU has one more than the CPU before it."""
    percpu = "percpu" in built.layouts["flows"].kind
    for key, packets in entries.items():
        values = [packets + cpu for cpu in range(CPUS)]
        value = struct.pack("=" + "I4x" * CPUS, *values) if percpu else number(packets)
        bpf.map_update(built.maps["flows"].fd, number(key), value)


def read(built: Built) -> dict[int, list[tuple[int, int]]]:
    """Bytes and packets, of each CPU where they have their own, by key."""
    percpu = "percpu" in built.layouts["flows"].kind
    size = 16 * (CPUS if percpu else 1)
    found = bpf.map_items(built.maps["flows"].fd, 4, size)
    return {
        int.from_bytes(key, "little"): list(struct.iter_unpack("=QI4x", value))
        for key, value in found
    }


def copy(one: Migration, before: Built, after: Built) -> list[str]:
    """Both passes with nothing between them; the steps that were told."""
    steps: list[str] = []
    old, new = before.maps[one.name].fd, after.maps[one.name].fd
    one.copy(old, new, steps.append)
    one.copy_late(old, new)
    return steps


@pytest.mark.parametrize(
    ("old", "new"),
    [("hash", "hash"), ("hash", "lru_hash"), ("lru_hash", "hash"), ("lru_hash", "lru_hash")],
)
def test_each_entry_is_converted(pair: Pair, old: str, new: str) -> None:
    before, after, (one,) = pair(table(old, "flow_v1"), table(new, "flow"))
    fill(before, {1: 10, 2: 0, 3: 1 << 31})
    copy(one, before, after)
    assert read(after) == {1: [(640, 10)], 3: [(1 << 37, 1 << 31)]}
    assert (one.kept, one.left_out, one.late, one.lost) == (2, 1, 0, 0)
    assert len(list(bpf.map_items(before.maps["flows"].fd, 4, 4))) == 3


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("percpu_hash", "percpu_hash"), ("percpu_hash", "lru_percpu_hash"),
        ("lru_percpu_hash", "percpu_hash"),
    ],
)  # fmt: skip
def test_each_cpu_has_its_own(pair: Pair, old: str, new: str) -> None:
    """A value that is left out is zero where another CPU's is kept."""
    before, after, (one,) = pair(table(old, "flow_v1"), table(new, "flow"))
    fill(before, {1: 10, 2: 0})
    bpf.map_update(before.maps["flows"].fd, number(3), bytes(8 * CPUS))
    copy(one, before, after)
    values = {key: [((n + cpu) * 64, n + cpu) for cpu in range(CPUS)]
              for key, n in ((1, 10), (2, 0))}  # fmt: skip
    if CPUS == 1:  # its only value is zero
        del values[2]
    assert read(after) == values


def test_an_array_has_all_its_entries(pair: Pair) -> None:
    before, after, (one,) = pair(table("array", "flow_v1", 4), table("array", "flow", 8))
    fill(before, {0: 1, 3: 4})
    copy(one, before, after)
    kept = {0: [(64, 1)], 3: [(256, 4)]}
    assert read(after) == {key: kept.get(key, [(0, 0)]) for key in range(8)}


def test_an_array_of_each_cpu(pair: Pair) -> None:
    before, after, (one,) = pair(
        table("percpu_array", "flow_v1", 2), table("percpu_array", "flow", 2)
    )
    fill(before, {1: 5})
    copy(one, before, after)
    assert read(after)[1] == [((5 + cpu) * 64, 5 + cpu) for cpu in range(CPUS)]


@pytest.mark.parametrize("kind", ["hash", "array"])
def test_what_does_not_fit_is_refused(pair: Pair, kind: str) -> None:
    """At the line of the map; where the author leaves out what is too many, it fits."""
    before, after, (one,) = pair(table(kind, "flow_v1", 64), table(kind, "flow", 8))
    fill(before, {key: key % 4 for key in range(64)})
    with pytest.raises(FunctionRefused, match="c:4: map flows, of 8 entries, cannot hold"):
        copy(one, before, after)
    before, after, (one,) = pair(table(kind, "flow_v1", 64), table(kind, "flow", 8))
    fill(before, {key: key < 8 for key in range(64)})
    copy(one, before, after)
    assert (one.kept, one.left_out) == (8, 56)


def test_an_lru_map_keeps_what_it_has_room_for(pair: Pair) -> None:
    before, after, (one,) = pair(table("hash", "flow_v1", 4096), table("lru_hash", "flow", 64))
    fill(before, dict.fromkeys(range(4096), 7))
    copy(one, before, after)
    assert one.kept == 4096
    found = read(after)
    assert 0 < len(found) <= 64
    assert {tuple(values) for values in found.values()} == {((448, 7),)}


def test_what_came_meanwhile_comes_later(pair: Pair) -> None:
    """Unless there is such an entry already, or no room; what was left out stays so."""
    before, after, (one,) = pair(table("hash", "flow_v1", 64), table("hash", "flow", 4))
    old, new = before.maps["flows"].fd, after.maps["flows"].fd
    fill(before, {1: 1, 2: 0})
    one.copy(old, new, lambda _: None)
    fill(before, {1: 9, 2: 9, 3: 3, 4: 4, 5: 0})
    bpf.map_update(new, number(4), struct.pack("=QI4x", 1, 1))
    one.copy_late(old, new)
    assert read(after) == {1: [(64, 1)], 3: [(192, 3)], 4: [(1, 1)]}
    assert (one.kept, one.left_out, one.late, one.lost) == (1, 2, 1, 0)
    fill(before, dict.fromkeys(range(10, 20), 1))
    one.copy_late(old, new)
    assert (len(read(after)), one.late, one.lost) == (4, 2, 9)


def test_as_many_as_a_map_can_have(pair: Pair) -> None:
    """Of many groups; every one is there, whatever its place in its group."""
    count = 65536
    before, after, (one,) = pair(table("hash", "flow_v1", count), table("hash", "flow", count))
    keys = [number(key) for key in range(count)]
    bpf.map_update_batch(before.maps["flows"].fd, keys, [number(key + 1) for key in range(count)])
    steps = copy(one, before, after)
    assert len(steps) == 1 + count // migrate.ENTRIES
    assert read(after) == {key: [((key + 1) * 64, key + 1)] for key in range(count)}


def test_values_that_no_stack_would_hold(pair: Pair) -> None:
    big = "struct big_v1 { u8 x[40000]; };\nstruct big { u32 first; u8 x[40001]; };\n"
    before = pair.build(big + "MESH_MAP(hash, flows, u32, struct big_v1, 8);\n")
    after = pair.build(
        big + "MESH_MAP(hash, flows, u32, struct big, 8);\n"
        "MESH_MIGRATE(flows, struct big_v1, old, new)\n{\n\tnew->first = old->x[39999];\n"
        "\tnew->x[40000] = 5;\n\treturn 1;\n}\n"
    )
    (one,) = migrations.found(after.source, after, before.layouts)
    for key in range(8):
        bpf.map_update(before.maps["flows"].fd, number(key), bytes(39999) + bytes([key]))
    copy(one, before, after)
    found = dict(bpf.map_items(after.maps["flows"].fd, 4, 40008))
    assert found == {
        number(key): number(key) + bytes(40000) + b"\x05" + bytes(3) for key in range(8)
    }


def test_numbers_instead_of_structs(pair: Pair) -> None:
    before = pair.build("MESH_MAP(hash, flows, u64, u32, 8);\n")
    after = pair.build(
        "MESH_MAP(hash, flows, u64, u64, 8);\n"
        "MESH_MIGRATE(flows, u32, old, new) { *new = *old + 1ULL; return 1; }\n"
    )
    (one,) = migrations.found(after.source, after, before.layouts)
    bpf.map_update(before.maps["flows"].fd, bytes(8), b"\xff" * 4)
    copy(one, before, after)
    assert bpf.map_lookup(after.maps["flows"].fd, bytes(8), 8) == struct.pack("=Q", 1 << 32)


def test_what_is_the_same_is_shared(tmp_path: Path) -> None:
    """A text may keep its MESH_MIGRATE, whatever the type in it; other maps do not mind."""
    text = NEW + table("hash", "flow") + MIGRATE
    with (
        build(write(tmp_path, text + PASS)) as before,
        build(write(tmp_path, text + "/**/" + PASS), reuse=before.maps) as after,
    ):
        assert after.shared == {"flows"}
        assert migrations.found(after.source, after, before.layouts) == ()


@pytest.mark.parametrize(
    ("old", "new", "text", "why"),
    [
        (table("hash", "flow_v1"), table("hash", "flow"), "", "c:4: map flows has another layout"),
        (table("hash", "flow_v1", key="u64"), table("hash", "flow"), MIGRATE,
         "c:5: a key of map flows has 4 bytes, and had 8"),
        (table("hash", "flow_v1"), table("hash", "flow"),
         MIGRATE.replace("flow_v1", "flow"), "c:5: a value of map flows has 4 bytes, .* here 16"),
    ],
)  # fmt: skip
def test_what_cannot_migrate(pair: Pair, old: str, new: str, text: str, why: str) -> None:
    with pytest.raises(FunctionRefused, match=why) as caught:
        pair(old, new, text)
    assert caught.value.hint
    assert text or "MESH_MIGRATE(flows, …)" in caught.value.hint


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("hash", "percpu_hash"), ("percpu_hash", "hash"), ("array", "hash"), ("hash", "array"),
        ("percpu_array", "array"), ("percpu_array", "percpu_hash"),
    ],
)  # fmt: skip
def test_kinds_that_are_too_different(pair: Pair, old: str, new: str) -> None:
    with pytest.raises(FunctionRefused, match=f"c:5: map flows cannot migrate from {old} to {new}"):
        pair(table(old, "flow_v1"), table(new, "flow"))


def test_a_ring_does_not_become_a_map(pair: Pair) -> None:
    with pytest.raises(FunctionRefused, match="from ringbuf to hash"):
        pair("MESH_RING(flows, 4096);\n", table("hash", "flow"))


def test_it_ends_after_its_time(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "SECONDS", -1)
    before, after, (one,) = pair(table("hash", "flow_v1"), table("hash", "flow"))
    fill(before, {1: 1})
    with pytest.raises(FunctionRefused, match="c:5: map flows is not migrated after"):
        copy(one, before, after)
    assert read(after) == {}


def test_talkers(pair: Pair) -> None:
    """The example: one that counted packets alone goes before it."""
    old = "MESH_MAP(lru_percpu_hash, talkers, struct mesh_address, u64, 4096);\n"
    before, after = pair.build(old), build(FUNCTIONS / "talkers.c")
    with after:
        (one,) = migrations.found(after.source, after, before.layouts)
        for host, packets in ((1, 9), (2, 1)):
            values = struct.pack("=Q", packets) + bytes(8 * (CPUS - 1))
            bpf.map_update(before.maps["talkers"].fd, bytes(15) + bytes([host]), values)
        copy(one, before, after)
        size = 16 * CPUS
        found = {
            key[15]: struct.unpack_from("=QQ", value)
            for key, value in bpf.map_items(after.maps["talkers"].fd, 16, size)
        }
        assert found == {1: (9, 540)}
        frame = bytes(Ether() / IP(src="198.18.0.1", dst="198.18.0.2") / UDP() / bytes(100))
        run(after, frame)
        found_now = bpf.map_items(after.maps["talkers"].fd, 16, size)
        sums = {
            tuple(map(sum, zip(*struct.iter_unpack("=QQ", value), strict=True)))
            for _, value in found_now
        }
        assert sums == {(9, 540), (1, len(frame))}
