# SPDX-License-Identifier: BSD-2-Clause
"""Pools between processes: nothing is lost or there twice, whoever dies when, whatever is written.

The mesh's side of it is in tests/netns/test_pool.py.
"""

import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ebpfmesh.config import load
from ebpfmesh.errors import ConfigError
from ebpfmesh.kernel import pool as kernel
from ebpfmesh.model import Pool
from ebpfmesh.port.batch import DESCRIPTOR
from support.topology import unavailable

ROOT = Path(__file__).parents[2]
TOOL = [sys.executable, str(ROOT / "tests/support/pool_tool.py")]
NAMES = ("near", "far", "other")
SHAPE = Pool(name="frames", slots=32, bytes=64, members=len(NAMES))
EACH = SHAPE.slots // len(NAMES)


class Member:
    """The tool, told what to do."""

    def __init__(self, memory: int, number: int) -> None:
        share = kernel.Share(SHAPE, memory, number)
        env = {**os.environ, **kernel.Handed([share]).env, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            TOOL, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env,
            pass_fds=[memory],
        )  # fmt: skip
        self.hello = self.said()

    def said(self) -> dict[str, Any]:
        assert self.process.stdout
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def __call__(self, *words: object) -> dict[str, Any]:
        assert self.process.stdin
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return self.said()

    def send(self, count: int, to: str, text: str) -> None:
        assert self("take", count) == {"took": count}
        assert self("send", to, text) == {"sent": count}

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


class World:
    """A pool, and its members as they are started."""

    def __init__(self, stack: ExitStack) -> None:
        self.memory = os.memfd_create("test")
        stack.callback(os.close, self.memory)
        os.truncate(self.memory, SHAPE.size)
        kernel.enrol(self.memory, SHAPE, "near", NAMES)
        self._stack = stack

    def member(self, name: str) -> Member:
        found = Member(self.memory, NAMES.index(name))
        self._stack.callback(found.kill)
        assert found.hello == {"name": name, "members": sorted(NAMES)}
        return found

    def seen(self, name: str) -> kernel.Member:
        return next(one for one in kernel.members(self.memory, SHAPE) if one.name == name)

    def used(self) -> dict[str, tuple[int, int]]:
        found = kernel.members(self.memory, SHAPE)
        return {one.name: (one.holds, one.waiting) for one in found if one.holds or one.waiting}

    def owners(self) -> list[int]:
        raw = os.pread(self.memory, 4 * SHAPE.slots, SHAPE.layout.owners)
        return memoryview(raw).cast("I").tolist()

    def write(self, at: int, raw: bytes) -> None:
        os.pwrite(self.memory, raw, at)


@pytest.fixture
def world() -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack)


def test_messages_are_sent_on_and_given_back(world: World) -> None:
    near, far, other = map(world.member, NAMES)
    near.send(3, "far", "first")
    assert far("receive", 10) == {"texts": ["first"] * 3}
    assert far("send", "other", "second") == {"sent": 3}
    assert other("receive", 10) == {"texts": ["second"] * 3}
    assert world.used() == {"other": (3, 0)}
    other("back")
    assert world.used() == {}
    near.send(EACH, "far", "again")
    assert far("receive", 10) == {"texts": ["again"] * EACH}


def test_who_sleeps_for_a_place_is_woken_by_who_gives_one_back(world: World) -> None:
    near, far = map(world.member, ("near", "far"))
    near.send(EACH, "far", "x")
    assert near.process.stdin
    near.process.stdin.write("take 1\n")
    near.process.stdin.flush()
    far("receive", 10)
    far("back")
    assert near.said() == {"took": 1}


def test_what_the_dead_had_is_taken_back_and_what_waits_for_them_stays(world: World) -> None:
    near, far = map(world.member, ("near", "far"))
    near.send(EACH - 1, "far", "held")
    far("receive", 10)
    near.send(1, "far", "waits")
    far.kill()
    assert near("take", 99) == {"took": EACH - 1}  # of those that far had in hand
    assert near("numbers")["reclaimed"] == EACH - 1
    far = world.member("far")
    assert far("receive", 10) == {"texts": ["waits"]}


def test_who_begins_anew_gives_back_what_it_had(world: World) -> None:
    near, far = map(world.member, ("near", "far"))
    near.send(4, "far", "held")
    far("receive", 10)
    far("take", 2)
    far.kill()
    assert world.used() == {"far": (6, 0)}
    far = world.member("far")
    assert world.used() == {}
    assert far("numbers")["reclaimed"] == 6


@pytest.mark.parametrize("who", ["near", "far"])
def test_it_is_well_wherever_a_member_died(world: World, who: str) -> None:
    """Both send all the time; one is killed at any moment, again and again."""
    others = {"near": "far", "far": "near"}
    rest = world.member(others[who])
    rest("churn", who)
    for seed in range(10):
        one = world.member(who)
        one("churn", others[who])
        time.sleep(random.Random(seed).random() * 0.05)
        one.kill()
    rest.kill()
    near, far = map(world.member, ("near", "far"))
    for one in (near, far):  # what is on its way to each, and then all that there is
        while one("receive", 0)["texts"]:
            one("back")
    assert world.used() == {}
    for one, to in ((near, "far"), (far, "near")):
        one.send(EACH, to, "x")
    assert far("receive", 10) == near("receive", 10) == {"texts": ["x"] * EACH}
    counted = [world.seen(name).counters for name in ("near", "far")]
    assert not any(one["malformed"] for one in counted)


def test_what_was_sent_to_one_that_left_is_taken_back(world: World) -> None:
    near, other = map(world.member, ("near", "other"))
    near.send(EACH, "far", "x")
    kernel.forget(world.memory, SHAPE, ("near", "other"))
    assert not any(world.owners())
    assert near("take", 99) == {"took": EACH}
    assert other("numbers")["malformed"] == 0
    assert kernel.enrol(world.memory, SHAPE, "new", ("near", "other", "new")) == NAMES.index("far")


def test_what_one_that_lives_has_is_left_to_it_until_it_ends(world: World) -> None:
    near, far = map(world.member, ("near", "far"))
    near.send(EACH, "far", "x")
    assert far("receive", 10) == {"texts": ["x"] * EACH}
    kernel.forget(world.memory, SHAPE, ("near", "other"))
    assert near.process.stdin
    near.process.stdin.write("take 99\n")
    near.process.stdin.flush()
    far.kill()
    assert near.said() == {"took": EACH}


def test_one_process_is_a_member(world: World) -> None:
    near = world.member("near")
    second = Member.__new__(Member)
    with pytest.raises(json.JSONDecodeError):
        second.__init__(world.memory, 0)  # type: ignore[misc]
    second.kill()
    assert near("take", 1) == {"took": 1}


def forged(world: World, rows: list[tuple[int, int]], produced: int, owner: int | None) -> None:
    """Have the ring from far to near say what no library of ours would."""
    layout = SHAPE.layout
    ring = layout.rings + len(NAMES) * layout.ring
    raw = np.array([(address, length, 0) for address, length in rows], DESCRIPTOR).tobytes()
    world.write(ring + 128, raw)
    for address, _ in rows:
        if owner is not None and address // SHAPE.bytes < SHAPE.slots:
            at = layout.owners + address // SHAPE.bytes * 4
            world.write(at, owner.to_bytes(4, "little"))
    world.write(ring, produced.to_bytes(4, "little"))


TO_NEAR = 2 << 16 | 1 << 8
BAD = {
    "beyond all places": ([(SHAPE.slots * SHAPE.bytes, 1), (1 << 63, 1), ((1 << 64) - 1, 1)], 3),
    "beyond its place": ([(64, 65), (64 + 63, 2), (64, (1 << 32) - 1)], 3),
    "not sent": ([(0, 1)], 1),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("language", ["Python", "C"])
def test_what_is_no_message_is_counted_and_not_read(
    world: World, in_c: Path, what: str, language: str
) -> None:
    rows, count = BAD[what]
    forged(world, rows, count, None if what == "not sent" else TO_NEAR)
    receives(world, in_c, language)
    assert world.seen("near").counters["malformed"] == count


@pytest.mark.parametrize("language", ["Python", "C"])
def test_a_ring_that_cannot_be_so_long_is_empty(world: World, in_c: Path, language: str) -> None:
    forged(world, [], (1 << 32) - 5, TO_NEAR)
    receives(world, in_c, language)
    assert world.seen("near").counters["malformed"] == 1


def test_a_place_that_is_sent_twice_comes_once(world: World) -> None:
    forged(world, [(0, 1), (0, 2)], 2, TO_NEAR)
    near = world.member("near")
    assert len(near("receive", 10)["texts"]) == 1
    assert near("numbers")["malformed"] == 1


@pytest.mark.parametrize("language", ["Python", "C"])
def test_who_died_between_two_steps_of_sending_or_receiving(
    world: World, in_c: Path, language: str
) -> None:
    """A place that was said to be sent and is in no ring; one that was taken and still is in it."""
    world.member("near").send(1, "far", "\0" * 8)
    (slot,) = (number for number, owner in enumerate(world.owners()) if owner)
    own, words = NAMES.index("far"), world.owners()
    words[slot] = 1 << 16 | own
    words[EACH] = 2 << 16 | own << 8 | NAMES.index("other")
    world.write(SHAPE.layout.owners, np.array(words, np.uint32).tobytes())
    if language == "Python":
        far = world.member("far")
        assert far("receive", 10) == {"texts": ["\0" * 8]}
        far("back")
    else:
        with example(world, in_c, own) as process:
            assert process.stdout
            assert process.stdout.readline() == "0\n"
            end = time.monotonic() + 60
            while any(world.owners()) and time.monotonic() < end:
                time.sleep(0.01)
    assert not any(world.owners())
    assert world.seen("far").counters["reclaimed"] == 1


@pytest.mark.parametrize("language", ["Python", "C"])
def test_who_begins_while_others_look_whether_it_is_dead(
    world: World, in_c: Path, language: str
) -> None:
    """They have its lock meanwhile."""
    world.member("other").send(1, "near", "\0" * 8)
    own = (1, NAMES.index("near"))
    fcntl.lockf(world.memory, fcntl.LOCK_EX, *own)
    threading.Timer(0.3, fcntl.lockf, (world.memory, fcntl.LOCK_UN, *own)).start()
    if language == "Python":
        assert world.member("near")("receive", 10) == {"texts": ["\0" * 8]}
        return
    with example(world, in_c, own[1]) as process:
        assert process.stdout
        assert process.stdout.readline() == "0\n"


@contextmanager
def example(world: World, in_c: Path, number: int) -> Iterator["subprocess.Popen[str]"]:
    """The example in C, which receives."""
    share = kernel.Share(SHAPE.model_copy(update={"name": "numbers"}), world.memory, number)
    env = {**os.environ, **kernel.Handed([share]).env}
    process = subprocess.Popen(
        [in_c, "receive"], stdout=subprocess.PIPE, text=True, env=env, pass_fds=[world.memory]
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def receives(world: World, in_c: Path, language: str) -> None:
    """What is good that comes after that is received."""
    other = world.member("other")
    if language == "Python":
        near = world.member("near")
        other.send(1, "near", "good")
        texts: list[str] = []
        while not texts:
            texts = near("receive", 10)["texts"]
        assert texts == ["good"]
        near("receive", 0)
        return
    other.send(1, "near", "\0" * 8)  # the end, for the example
    with example(world, in_c, 0) as process:
        assert process.stdout
        assert process.stdout.readline() == "0\n"


@pytest.fixture(scope="module")
def in_c(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, compiled."""
    if shutil.which("cc") is None:
        unavailable("there is no C compiler")
    target = tmp_path_factory.mktemp("pool") / "pool"
    flags = ["-std=gnu11", "-O2", f"-I{ROOT}/ebpfmesh/port/include"]
    subprocess.run(["cc", *flags, ROOT / "examples/port/pool.c", "-o", target], check=True)
    return target


FUNCTIONS = """
[mesh]
name = "m"
[[function]]
name = "a"
tenant = "one"
command = ["true"]
[[function]]
name = "b"
tenant = "two"
command = ["true"]
[[function]]
name = "c"
tenant = "one"
[[function]]
name = "g"
replicas = 3
tenant = "one"
command = ["true"]
"""
REFUSED = {
    'functions = ["a", "b"]': (
        'pool "p" is of tenant "one", and function "b" of "two"',
        "memory is shared within one tenant alone",
    ),
    'functions = ["c"]': ('pool "p" is handed to a command, and "c" has none', "give it a command"),
    'functions = ["a", "h"]': ('pool "p" names an unknown function "h"', "known: a, b"),
    'functions = ["g", "g-1"]': ('pool "p" names "g-1" twice', ""),
    'functions = ["g"]\nmembers = 2': (
        'pool "p" has room for 2 members, and there are 3',
        "raise members",
    ),
    'functions = ["a"]\nslots = 3': ("3 is no power of two", "2 or 4"),
    'functions = ["a"]\nbytes = 100': ("bytes", "a multiple of 64"),
    'functions = ["a"]\nslots = 65536\nbytes = "64K"': (
        "takes 4296286208 bytes, and 1G is most",
        "fewer slots",
    ),
    'functions = ["a"]\nslots = 512\nbytes = "1M"\n[[tenant]]\nname = "one"\npools = "512M"': (
        'with pool "p" tenant "one" shares',
        "raise pools under [[tenant]]",
    ),
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_shared_is_refused(tmp_path: Path, text: str) -> None:
    what, hint = REFUSED[text]
    (file := tmp_path / "m.toml").write_text(
        FUNCTIONS + f'[[pool]]\nname = "p"\ntenant = "one"\n{text}\n'
    )
    with pytest.raises(ConfigError) as caught:
        load(file)
    begin = FUNCTIONS.count("\n") + 1
    assert what in str(caught.value)
    assert hint in str(caught.value.hint)
    assert caught.value.line
    assert caught.value.line >= begin


def test_a_group_is_in_a_pool_with_all_of_it(tmp_path: Path) -> None:
    (file := tmp_path / "m.toml").write_text(
        FUNCTIONS + '[[pool]]\nname = "p"\ntenant = "one"\nfunctions = ["a", "g"]\n'
    )
    mesh = load(file)
    wanted = (Pool(name="p", slots=1024, bytes=2048, members=4),)
    assert {one.name: one.pools for one in mesh.functions} == {
        "b": (), "c": (), **dict.fromkeys(("a", "g-0", "g-1", "g-2"), wanted)
    }  # fmt: skip
