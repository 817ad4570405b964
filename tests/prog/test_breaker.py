# SPDX-License-Identifier: BSD-2-Clause
"""What injected programs cost, of packets that are sampled, and their circuit breakers.

Time passes by writing when a window began; which packet is sampled is written, too.
"""

import ctypes
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ebpfmesh import _abi, apply
from ebpfmesh._abi import Direction, EventKind
from ebpfmesh.compile import compiled
from ebpfmesh.compile.build import instructions
from ebpfmesh.compile.source import bpf_dir
from ebpfmesh.inject import measure
from ebpfmesh.inject.build import Built, build, load
from ebpfmesh.inject.compose import compose
from ebpfmesh.inject.measure import NOTHING
from ebpfmesh.kernel import bpf
from ebpfmesh.kernel.pins import Pins
from prog.lab import NAME, NOBODY, TC, Lab, peer
from prog.test_events import events, listening
from support.inject import counters, set_parameter, write
from support.packets import sent, udp

A, B = peer("a"), peer("b")
BLOCK = 16
HEAD = BLOCK + _abi.CHAIN_MAX
LOW, HIGH = 1, (1 << 32) - 1
"""Limits: what takes long is above the one, nothing above the other, however busy the machine."""
SLOW = 64  # readings of the clock
TEXT = """
MESH_PARAMETER(u32, slow, 0, "so many readings of the clock");
MESH_PARAMETER(u32, verdict, 0, "what becomes of a packet");
MESH_COUNTER(seen, "packets");
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
	return mesh_get(verdict);
}
"""
NEXT, DROP, REDIRECT, MARK = 0, 1, 2, int(_abi.InjectedVerdict.SET_DSCP) | 46 << 6
SAMPLED = _abi.Sampling(left=1)  # the next is
OTHERS = _abi.Sampling(left=1 << 20)  # none of the next ones is


class Chain:
    """Programs of TEXT at what a function sends; their ids are 1, 2 … in the order of packets."""

    def __init__(self, lab: Lab, end: bytes, programs: list[Built]) -> None:
        self.lab = lab
        self.programs = programs
        for place, built in enumerate(programs):
            following = HEAD - place - 1 if place + 1 < len(programs) else 0
            how = {"number": place + 1, "following": following, "tables": lab.injected}
            with load(built, end, **how) as loaded:
                self.put(HEAD - place, loaded)
        self.limit(HIGH)
        lab.maps["mesh_chain"].set(self._function, _abi.Chain(head=(ctypes.c_uint16 * 2)(HEAD, 0)))
        with apply.opened(NAME) as live:
            live.control.commit()

    @property
    def _function(self) -> ctypes.c_uint32:
        return ctypes.c_uint32(self.lab.ids["a"])

    def put(self, slot: int, program: bpf.Fd) -> None:
        descriptor = ctypes.c_uint32(program.fileno())
        self.lab.maps["mesh_injected"].set(ctypes.c_uint32(slot), descriptor)

    def limit(self, limit: int, clock: int = 0) -> None:
        """Begin anew: all breakers are closed."""
        table, now = _abi.Breakers(), time.monotonic_ns()
        for number in range(1, len(self.programs) + 1):
            table.of[number] = _abi.Breaker(limit=limit, clock=clock or measure.clock())
            self.lab.maps["mesh_cost"].set(ctypes.c_uint32(number), _abi.Cost(began=now))
        self.lab.maps["mesh_breaker"].set(ctypes.c_uint32(0), table)

    def clear(self) -> None:
        self.lab.maps["mesh_chain"].set(self._function, _abi.Chain())
        self.lab.maps["mesh_breaker"].set(ctypes.c_uint32(0), _abi.Breakers())
        for slot in range(BLOCK, 2 * BLOCK):
            self.lab.maps["mesh_injected"].delete(ctypes.c_uint32(slot))

    def send(self, *, sampled: bool = True, to: str = "b") -> str:
        """A packet from a; what became of it."""
        choice = SAMPLED if sampled else OTHERS
        self.lab.maps["mesh_sampling"].set(ctypes.c_uint32(0), choice)
        packet = udp(4, A, B if to == "b" else NOBODY, 1000, 53)
        return self.lab.run(TC, "a", bytes(sent(A, packet))).verdict

    def window(self, *, slow: int = 0, samples: int = _abi.BREAKER_SAMPLES) -> None:
        """A second with so many samples, of which so many first ones take long."""
        for number in range(samples):
            set_parameter(self.programs[0], "slow", SLOW if number < slow else 0)
            self._allow(LOW if number < slow else HIGH)
            if number == samples - 1:
                cost = self.cost()
                cost.began -= _abi.BREAKER_WINDOW
                self.lab.maps["mesh_cost"].set(ctypes.c_uint32(1), cost)
            self.send()

    def _allow(self, limit: int) -> None:
        """Another limit for the first."""
        table = self.lab.maps["mesh_breaker"].get(ctypes.c_uint32(0))
        table.of[1].limit = limit
        self.lab.maps["mesh_breaker"].set(ctypes.c_uint32(0), table)

    def cost(self, number: int = 1) -> _abi.Cost:
        found: _abi.Cost = self.lab.maps["mesh_cost"].get(ctypes.c_uint32(number))
        return found

    def is_open(self, number: int = 1) -> bool:
        return bool(self.lab.maps["mesh_breaker"].get(ctypes.c_uint32(0)).of[number].open)

    def seen(self) -> list[int]:
        """Packets that each has met."""
        return [counters(one).get("seen", 0) for one in self.programs]


Make = Callable[[int], Chain]


@pytest.fixture
def make(lab: Lab, tmp_path: Path) -> Iterator[Make]:
    """A chain of so many programs."""
    made: list[Chain] = []
    with ExitStack() as stack:
        defines = compiled.defines(Pins(NAME).maps, count_flows=False)
        end, held = instructions(bpf_dir() / "mesh_chain.c", "mesh_chain_end", defines=defines)
        for one in held:
            stack.enter_context(one)

        def chain(length: int) -> Chain:
            file = write(tmp_path, TEXT)
            programs = [stack.enter_context(build(file)) for _ in range(length)]
            made.append(Chain(lab, end, programs))
            return made[-1]

        yield chain
        for one in made:
            one.clear()


@pytest.mark.parametrize("verdict", [NEXT, MARK, DROP, REDIRECT])
@pytest.mark.parametrize("place", range(3))
def test_a_sampled_packet_meets_each_once(make: Make, verdict: int, place: int) -> None:
    """As others do, up to the one that takes it out; and each is measured as often as sampled."""
    chain = make(3)
    lab, rounds = chain.lab, 300
    key = _abi.InjectedKey(program=place + 1, index=0)
    lab.maps["mesh_target"].set(key, ctypes.c_uint32(lab.ids["b"]))
    set_parameter(chain.programs[place], "verdict", verdict)
    met = place + 1 if verdict in (DROP, REDIRECT) else 3
    for sampled, _ in itertools.product((True, False, False), range(rounds)):
        wanted = "drop" if verdict == DROP else "forward"
        assert chain.send(sampled=sampled) == wanted
    assert chain.seen() == [3 * rounds] * met + [0] * (3 - met)
    measured = [sum(chain.cost(number).histogram) for number in (1, 2, 3)]
    assert measured == [rounds] * met + [0] * (3 - met)
    lab.maps["mesh_target"].delete(key)


def test_one_in_128_is_sampled(make: Make) -> None:
    """About, and by chance: after a few as well as after many."""
    chain, runs, times = make(1), 16, 4000
    assert chain.send(to="outside") == "pass"
    frame = bytes(sent(A, udp(4, A, NOBODY, 1000, 53)))  # unchanged by a run
    context, gaps, gap = TC.context(chain.lab.ifindex["a"], len(frame), 0), [], 0
    before = sum(chain.cost().histogram)
    with bpf.obj_get(Pins(NAME).progs / "mesh_from_fn") as program:
        for _ in range(times):
            bpf.prog_test_run(program, frame, context=context, repeat=runs)
            after, gap = sum(chain.cost().histogram), gap + 1
            if after > before:
                gaps.append(gap)
                before, gap = after, 0
    mean = _abi.SAMPLE_ONE_IN / runs
    assert mean * 3 / 4 < times / len(gaps) < mean * 3 / 2
    assert min(gaps) <= mean / 4
    assert max(gaps) >= mean * 3


def test_what_is_measured_is_the_program(make: Make) -> None:
    """Of two the first is slow, and no figure of the second knows of it."""
    chain = make(2)
    set_parameter(chain.programs[0], "slow", SLOW)
    for _ in range(200):
        chain.send()
    slow, quick = (chain.cost(number) for number in (1, 2))
    assert slow.lately > quick.lately


def test_it_opens_after_five_windows(make: Make) -> None:
    """And packets go on without it, whatever it wants done with them."""
    chain = make(2)
    set_parameter(chain.programs[0], "verdict", DROP)
    for number in range(1, 6):
        assert not chain.is_open()
        assert chain.send(sampled=False) == "drop"
        chain.window(slow=_abi.BREAKER_SAMPLES)
        assert chain.cost().windows == number
    assert chain.is_open()
    assert not chain.is_open(2)
    before = chain.seen()
    for sampled in (True, False):
        assert chain.send(sampled=sampled) == "forward"
    assert chain.seen() == [before[0], before[1] + 2]


@pytest.mark.parametrize("last", range(2))
def test_all_of_a_chain_may_be_open(make: Make, last: int) -> None:
    chain = make(2)
    set_parameter(chain.programs[last], "verdict", DROP)
    table = chain.lab.maps["mesh_breaker"].get(ctypes.c_uint32(0))
    table.of[1].open = table.of[2].open = 1
    chain.lab.maps["mesh_breaker"].set(ctypes.c_uint32(0), table)
    for sampled in (True, False):
        assert [chain.send(sampled=sampled, to=to) for to in ("b", "outside")] == [
            "forward",
            "pass",
        ]
    assert chain.seen() == [0, 0]


def test_a_window_between_begins_anew(make: Make) -> None:
    """Slow for four windows, then not in most of its samples, then again."""
    chain = make(1)
    for _ in range(4):
        chain.window(slow=_abi.BREAKER_SAMPLES)
    assert chain.cost().windows == 4
    chain.window(slow=_abi.BREAKER_SAMPLES // 4)
    assert chain.cost().windows == 0
    for _ in range(4):
        chain.window(slow=_abi.BREAKER_SAMPLES)
    assert not chain.is_open()


def test_a_quick_one_stays(make: Make) -> None:
    chain = make(1)
    for _ in range(30):
        chain.window()
    assert not chain.is_open()
    assert sum(chain.cost().histogram) == 30 * _abi.BREAKER_SAMPLES


def test_a_window_waits_for_samples(make: Make) -> None:
    """Of few packets nothing is concluded, however long they take to come."""
    chain = make(1)
    for _ in range(20):
        chain.window(slow=1, samples=1)
    assert (chain.cost().samples, chain.cost().windows) == (20, 0)
    chain.window(slow=12, samples=12)
    assert (chain.cost().samples, chain.cost().windows) == (0, 1)


def test_it_is_told_of_once(make: Make) -> None:
    chain = make(1)
    with listening(chain.lab, EventKind.BREAKER, 0) as ring:
        for _ in range(5):
            chain.window(slow=_abi.BREAKER_SAMPLES)
        [(event, data)] = events(ring)
    assert (event.kind, event.program, event.limit, data) == (EventKind.BREAKER, 1, LOW, b"")
    assert event.cost > LOW
    assert event.lasted >= 1000  # of what took a second by what is written
    assert (event.sender, event.receiver) == (chain.lab.ids["a"], chain.lab.ids["b"])
    assert (event.ifindex, event.direction) == (chain.lab.ifindex["a"], Direction.FROM_FN)


def test_an_open_canary_gives_its_packets_to_the_other(make: Make) -> None:
    """By its detour, as long as that is met itself."""
    chain = make(2)
    author = chain.programs[0].code
    code = compose(
        author, NOTHING, number=1, following=0, tables=chain.lab.injected, detour=HEAD - 1
    )
    with bpf.prog_load(bpf.PROG_TYPE_SCHED_CLS, "canary", code) as loaded:
        chain.put(HEAD, loaded)
    table = chain.lab.maps["mesh_breaker"].get(ctypes.c_uint32(0))
    table.of[1].open = 1
    chain.lab.maps["mesh_breaker"].set(ctypes.c_uint32(0), table)
    set_parameter(chain.programs[1], "verdict", DROP)
    assert chain.send() == chain.send(sampled=False) == "drop"
    assert chain.seen() == [0, 2]
