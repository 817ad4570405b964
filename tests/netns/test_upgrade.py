# SPDX-License-Identifier: BSD-2-Clause
"""Another build's programs in the places of those that run: nothing that flows notices.

The other build is a copy of this one whose programs have an instruction more; it is brought up by
its own command line. Packets are numbered by a generator in the kernel and checked at the receiver.

generator ─▶ a ─▶ service web ─▶ b ─▶ checker        and live TCP connections beside
"""

import contextlib
import ctypes
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ebpfmesh import _abi, apply
from ebpfmesh._abi import Reason
from ebpfmesh.apply import OnStep, builds
from ebpfmesh.bench.packets.frames import Frames
from ebpfmesh.bench.packets.generator import Generator
from ebpfmesh.bench.packets.paced import Pace, Sent, running
from ebpfmesh.bench.packets.sink import Checker, Report, drained
from ebpfmesh.bench.workload import Target
from ebpfmesh.compile.source import bpf_dir
from ebpfmesh.errors import NotFound
from ebpfmesh.kernel import bpf, interface, links, programs
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import BPFFS, Pins
from ebpfmesh.model import Injection, Mesh
from ebpfmesh.observe import health, view
from ebpfmesh.observe import injected as injected_now
from ebpfmesh.observe.injected import Injected
from support import topology
from support.alive import alive, connections
from support.builds import broken_build, command_of, other_build, other_layout
from support.command import ROOT, complaint, data, ebpfmesh, lines
from support.killing import interrupted_at, killed_at, shape, steps_of
from support.sockets import carries, connection, connects, home, listener
from support.topology import collected, drops, in_fn, leftovers, mesh_of, meters, poll, wait_until

TEXT = """
[mesh]
name = "upgrade"
hook = "HOOK"
limits = { flows = 131072 }
[[function]]
name = "a"
tenant = "one"
[[function]]
name = "b"
tenant = "two"
[[service]]
name = "numbered"
address = "198.19.0.1"
port = 5000
target_port = 6000
protocol = "udp"
functions = ["b"]
[[service]]
name = "web"
address = "198.19.0.2"
port = 80
target_port = 8080
functions = ["b"]
[[policy]]
from = "function:a"
to = "any"
"""
HOOKS = ("tcx", "clsact")
REPLACEMENTS, COMPILED = 20, 2
CONNECTIONS = 50
FLOWS = 20_000
"""So many that there always are some to be judged anew after the last replacement: the slow way."""
PACE = Pace(burst=32, interval=0.001, seconds=120.0, frames=4_000_000)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return other_build(tmp_path_factory.mktemp("other"))


@pytest.fixture(scope="module")
def wider(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return other_layout(tmp_path_factory.mktemp("wider"))


@pytest.fixture(params=HOOKS)
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """The file of a mesh that is down after the test."""
    if request.param == "tcx" and not links.has_tcx():
        topology.unavailable("the kernel has no TCX")
    file = tmp_path / "upgrade.toml"
    file.write_text(TEXT.replace("HOOK", request.param))
    yield file
    apply.down("upgrade")


def tags() -> dict[str, bytes]:
    """What the kernel calls the instructions of each program that is pinned."""
    found = {}
    for path in Pins("upgrade").progs.iterdir():
        with bpf.obj_get(path) as program:
            found[path.name] = bytes(bpf.prog_info(program).tag)
    return found


def runs() -> set[int]:
    """Ids of all programs that are attached, or in a slot."""
    own, found = Pins("upgrade"), set()
    with apply.opened("upgrade") as live:
        for row in live.record.functions():
            at = row.attachment
            for direction, name in programs.HOOKS.items():
                pin = own.links / f"{row.function.name}-{direction}"
                assert links.holds(live.ip, at.ifindex, direction, pin), (row, name)
                with bpf.obj_get(pin) as held:
                    link = bpf.is_link(held)
                    found.add(bpf.link_program(held) if link else bpf.prog_info(held).id)
    for program in programs.AT_SOCKETS:
        with bpf.obj_get(own.links / program.name) as link:
            found.add(bpf.link_program(link))
    calls = Maps(own)["mesh_tc_calls"]
    slots = [calls.get(ctypes.c_uint32(slot)) for slot in programs.CALLS]
    return found | {slot.value for slot in slots if slot}


def pinned(directory: Path) -> set[int]:
    found = set()
    for path in directory.iterdir():
        with bpf.obj_get(path) as program:
            found.add(int(bpf.prog_info(program).id))
    return found


def one_build_runs() -> bool:
    """Whether all that is attached, in slots and pinned is one and the same; there is no uplink."""
    own = Pins("upgrade").progs
    with bpf.obj_get(own / programs.UPLINK) as program:
        nowhere = int(bpf.prog_info(program).id)
    return runs() == pinned(own) - {nowhere}


# ---- traffic


class Numbered:
    """Numbered packets from a through the service to b, and what becomes of them."""

    def __init__(self, stack: ExitStack) -> None:
        self._pins = BPFFS / "test_upgrade"
        self._pins.mkdir()
        stack.callback(self._pins.rmdir)
        self._generator = Generator(self._pins, stack)
        self._checker = Checker(6000, 1, FLOWS, self._pins, stack)

    def arrived(self) -> int:
        """How many so far, of those that flow now."""
        return self._checker.packets()

    @contextlib.contextmanager
    def flowing(self, mesh: Mesh) -> Iterator[list[tuple[Report, Sent]]]:
        """While the block runs; what became of them is in the list after."""
        with apply.opened(mesh.name) as live:
            row = live.record.function("a")
            assert row is not None
        frames = Frames(
            source_mac=interface.mac_of(mesh.name, "a"), target_mac=interface.GATEWAY_MAC,
            source=row.function.address4, target=Target(mesh.service("numbered").address4, 5000),
            flows=FLOWS,
        )  # fmt: skip
        self._generator.load(frames)
        self._checker.reset()
        found: list[tuple[Report, Sent]] = []
        with self._checker.on([(home(mesh, "b"), "eth0")]):
            with running(self._generator, row.attachment.ifindex, PACE, pick=min) as traffic:
                yield found
            sent = traffic.sent
            drained(self._checker.packets, sent.frames)
            found.append((self._checker.report(sent.frames), sent))


@pytest.fixture
def numbered() -> Iterator[Numbered]:
    with ExitStack() as stack:
        yield Numbered(stack)


def told(seen: list[tuple[Report, Sent]]) -> str:
    ((report, sent),) = seen
    gap, pause = report.longest_gap_ns / 1e3, sent.longest_pause_ns / 1e3
    return f"{report.sent} sent, longest gap {gap:.0f} µs, longest pause of the sender {pause:.0f}"


def test_nothing_is_lost_while_programs_are_replaced(
    file: Path, other: Path, numbered: Numbered
) -> None:
    """Back and forth, beside a run without; `-s` shows the longest gaps."""
    nothing = leftovers()
    mesh = mesh_of(file.read_text())
    ebpfmesh("up", file)
    own = tags()
    with (
        connections(
            mesh, mesh.service("web"), CONNECTIONS, home(mesh, "a"),
            {mesh.function("b").address4: home(mesh, "b")},
        ) as pairs,
        alive(pairs) as outcome,
    ):  # fmt: skip
        with numbered.flowing(mesh) as quiet:
            wait_until(lambda: numbered.arrived() > 2 * FLOWS, what="each flow's")
        counted = meters(mesh)["a", "two"]
        with numbered.flowing(mesh) as seen:
            begun = time.monotonic()
            for turn in range(REPLACEMENTS):
                if turn % 2:
                    assert "programs" in ebpfmesh("up", file).stdout
                else:
                    assert "programs" in command_of(other, "up", file).stdout
                assert (tags() == own) is bool(turn % 2)
            seconds = time.monotonic() - begun
            wait_until(lambda: numbered.arrived() > 2 * FLOWS, what="each flow's")
    assert not outcome.broken
    assert outcome.rounds > 1
    assert one_build_runs()
    sys.stdout.write(f"{REPLACEMENTS} replacements in {seconds:.1f} s: {told(seen)}\n")
    sys.stdout.write(f"without any: {told(quiet)}\n")
    for report, _ in (*quiet, *seen):
        assert report.in_order, report
        assert report.flows == FLOWS
        assert report.sent > 10_000
    assert meters(mesh)["a", "two"].tx_packets >= counted.tx_packets + seen[0][0].sent
    assert {reason for _, _, reason in drops(mesh)} <= {Reason.MULTICAST}
    apply.down("upgrade")
    assert poll(lambda: leftovers() <= nothing), leftovers() - nothing


# ---- killed, interrupted, failed


@pytest.fixture
def mesh(other: Path, tmp_path: Path) -> Iterator[Mesh]:
    """A mesh that runs the other build's programs, at a link and at a filter."""
    file = tmp_path / "upgrade.toml"
    file.write_text(TEXT.replace("HOOK", "auto"))
    command_of(other, "up", file)
    yield mesh_of(file.read_text())
    apply.down("upgrade")


def build() -> str:
    with apply.opened("upgrade") as live:
        return live.record.build


def works(mesh: Mesh, here: socket.socket, there: socket.socket) -> bool:
    """Whether what was connected before still carries, and new flows come about."""
    in_fn(mesh, "a", ["ping", "-c", 1, "-W", 20, "b"])
    with listener(mesh, "b", mesh.function("b").address4, 8080):
        new = connects(mesh, "a", mesh.service("web").address4, 80)
    return new and carries(here, there) and carries(there, here)


def is_all(name: str, *kept: str) -> bool:
    """Whether this build runs, all of it, and beside it only these are pinned."""
    own = Pins("upgrade")
    there = {path.name for path in own.root.iterdir()} - {
        "maps", "progs", "links", "injected", "ports",
    }  # fmt: skip
    return one_build_runs() and build() == name and there == {f"progs-{one}" for one in kept}


def replace(on_step: OnStep) -> object:
    return apply.up(mesh_of(TEXT.replace("HOOK", "auto")), on_step)


def roll_back(on_step: OnStep) -> object:
    return apply.revert("upgrade", on_step)


def test_doctor_tells_of_another_build(mesh: Mesh) -> None:
    """Until ``up`` has replaced its programs."""

    def told() -> list[str]:
        return [one.text for one in health.check("upgrade") if "another build" in one.text]

    ran = build()
    (text,) = told()
    apply.up(mesh)
    assert text == (f"its programs are those of another build, {ran}; this version's are {build()}")
    assert told() == []


def test_replacing_killed_at_each_step(mesh: Mesh) -> None:
    """It works at once as it is; up finishes it, gc goes back."""
    old = build()
    with connection(mesh, "a", "b", mesh.function("b").address4, 9000) as ends:
        steps = steps_of(replace)
        new = build()
        assert {shape(step) for step in steps} >= {
            f"programs {new}", f"programs {old}", "program mesh_slow_fn", "program mesh_connect4",
            "function: ingress program", "function: egress program", "commit",
        }  # fmt: skip
        assert is_all(new, old)
        loaded = steps.index(
            "program mesh_answer_fn"
        )  # then it is as where they were pinned before
        for step in range(len(steps)):
            apply.revert("upgrade")
            if step <= loaded:
                builds.keep(Pins("upgrade"), "")
            before = [new] if step > loaded else []
            assert is_all(old, *before)
            assert killed_at(step, replace), steps[step]
            assert works(mesh, *ends), steps[step]
            if step % 2:
                collected("upgrade")
                assert is_all(old, *before), steps[step]
            replace(lambda _: None)
            assert is_all(new, old), steps[step]
            assert works(mesh, *ends), steps[step]


def test_rollback_killed_at_each_step(mesh: Mesh) -> None:
    """Given again it returns, and gc has all as it was."""
    old = build()
    replace(lambda _: None)
    new = build()
    with connection(mesh, "a", "b", mesh.function("b").address4, 9000) as ends:
        steps = steps_of(roll_back)
        for step in range(len(steps)):
            replace(lambda _: None)
            assert killed_at(step, roll_back), steps[step]
            assert works(mesh, *ends), steps[step]
            if step % 2:
                collected("upgrade")
                assert is_all(new, old), steps[step]
            roll_back(lambda _: None)
            assert is_all(old, new), steps[step]


def test_replacing_interrupted_at_each_step(mesh: Mesh) -> None:
    """Undone, with what could be returned to."""
    old = build()
    with connection(mesh, "a", "b", mesh.function("b").address4, 9000) as ends:
        step = 0
        while interrupted_at(step, replace):
            assert is_all(old), step
            step += 1
        new, step = build(), 0
        while interrupted_at(step, roll_back):
            assert is_all(new, old), step
            step += 1
        assert step > 15
        assert is_all(old, new)
        assert works(mesh, *ends)


@pytest.mark.usefixtures("mesh")
def test_a_build_that_does_not_compile_changes_nothing(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    broken = broken_build(tmp_path_factory.mktemp("broken"))
    old, before = build(), leftovers()
    done = command_of(broken, "up", tmp_path / "upgrade.toml", code=1)
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: mesh_slow.c was refused: ")
    Path(hint.rpartition(" ")[2]).unlink()
    assert poll(lambda: leftovers() == before), leftovers() ^ before
    assert is_all(old)


# ---- what is told, and what stays


@pytest.mark.usefixtures("mesh")
def test_plan_up_and_rollback(other: Path, tmp_path: Path) -> None:
    file, old = tmp_path / "upgrade.toml", build()
    (step,) = data("plan", file)["operations"]
    new = step["fields"]["build"]["after"]
    assert step["text"] == f"~ programs {old} → {new}"
    assert (step["kind"], step["action"]) == ("replace-programs", "change")
    ebpfmesh("plan", file, "--exit-code", code=8)
    assert complaint("up", "--rollback", code=3)[0].endswith("has no programs to return to")
    complaint("plan", "--rollback", code=3)
    assert is_all(old)
    assert lines("up", file) == [f"~ programs {old} → {new}"]
    assert lines("plan", file) == ["nothing to do"]
    assert lines("plan", "--rollback") == [f"~ programs {new} → {old}"]
    assert complaint("up", file, "--rollback", code=2)
    assert is_all(new, old)
    assert lines("up", "--rollback") == [f"~ programs {new} → {old}"]
    assert is_all(old, new)
    assert command_of(other, "plan", file).stdout == "nothing to do\n"
    assert lines("up", "--rollback") == [f"~ programs {old} → {new}"]
    assert is_all(new, old)


def test_a_mesh_of_a_version_that_did_not_say(mesh: Mesh) -> None:
    """Its programs are replaced, and can be returned to, all the same."""
    with apply.opened("upgrade") as live:
        live.record.set_build("unknown")
    (step,) = apply.plan(mesh)
    assert step.describe().startswith("~ programs unknown → ")
    apply.up(mesh)
    assert apply.up(mesh) == ()
    apply.revert("upgrade")
    assert build() == "unknown"
    assert one_build_runs()


@pytest.mark.usefixtures("mesh")
def test_with_other_changes() -> None:
    """In one: the programs first. What fails undoes them too."""
    old = build()
    text = TEXT.replace("HOOK", "auto") + '[[function]]\nname = "c"\ntenant = "one"\n'
    bad = mesh_of(text + 'netns = "ebpfmesh-nowhere"\n')
    with pytest.raises(NotFound):
        apply.up(bad)
    assert is_all(old)
    done = apply.up(mesh_of(text))
    assert [one.kind for one in done] == ["replace-programs", "add-function"]
    in_fn(mesh_of(text), "c", ["ping", "-c", 1, "-W", 20, "a"])
    assert is_all(build(), old)


def injected() -> Injected:
    with view.opened("upgrade") as seen:
        return injected_now.one(seen, "mine")


def test_what_is_injected_and_what_is_known_stay(mesh: Mesh) -> None:
    """The injected program drops what is longer than its limit: all pings of a."""
    source = (bpf_dir() / "functions/template.c").read_text()
    short = {"limit": 60}
    mine = Injection(name="mine", file="mine.c", source=source, at="a/egress", parameters=short)
    with_mine = mesh.model_copy(update={"injections": (mine,)})
    ping = ["ping", "-c", 1, "-W", 0.3, "b"]

    def keys() -> set[bytes]:
        return {bytes(key) for key, _ in Maps(Pins(mesh.name))["mesh_flow4"].items()}

    def slots() -> list[object]:
        table = Maps(Pins(mesh.name))["mesh_injected"]
        return [bytes(table.get(ctypes.c_uint32(n)) or b"") for n in range(_abi.CHAIN_SLOTS)]

    with connection(mesh, "a", "b", mesh.function("b").address4, 9000) as ends:
        assert works(mesh, *ends)
        apply.edit("upgrade", lambda _: with_mine)
        assert in_fn(mesh, "a", ping, check=False).returncode == 1
        for replaced in (lambda: apply.up(with_mine), lambda: apply.revert("upgrade")):
            known, counted, before, programs = keys(), meters(mesh), injected(), slots()
            assert sum(before.refused.values())
            assert [step.kind for step in replaced()] == ["replace-programs"]
            assert keys() >= known
            assert meters(mesh) == counted
            assert slots() == programs
            assert injected() == before
            assert in_fn(mesh, "a", ping, check=False).returncode == 1
            assert sum(injected().refused.values()) > sum(before.refused.values())
        apply.edit("upgrade", lambda _: mesh)
        assert works(mesh, *ends)


# ---- another layout


CHANGES: tuple[tuple[object, ...], ...] = (
    ("up", "FILE"), ("plan", "FILE"), ("up", "--rollback"), ("plan", "--rollback"), ("gc",),
    ("policy", "add", "function:b", "function:a"), ("policy", "del", "function:a", "any"),
    ("service", "del", "web"), ("service", "set", "web", "--function", "b"),
    ("attach", "c", "--pid", "1"), ("detach", "a"), ("swap", "none", __file__), ("eject", "none"),
)  # fmt: skip


@pytest.mark.parametrize("newer", [True, False], ids=["up by this build", "up by the other"])
def test_another_layout_is_refused(newer: bool, wider: Path, tmp_path: Path) -> None:
    """By every command that changes something, before it does; the mesh goes on as it is."""
    file = tmp_path / "upgrade.toml"
    file.write_text(TEXT.replace("HOOK", "auto"))
    first, second = (ROOT, wider) if newer else (wider, ROOT)
    try:
        command_of(first, "up", file)
        before = leftovers()
        for words in CHANGES:
            given = [file if word == "FILE" else word for word in words]
            error, hint = command_of(second, *given, code=7).stderr.splitlines()
            assert "version" in error, words
            assert "ebpfmesh --mesh upgrade down" in hint, words
            assert poll(lambda: leftovers() == before), words
        command_of(first, "exec", "a", "--", "ping", "-c", "1", "-W", "20", "b")
        assert command_of(first, "plan", file).stdout == "nothing to do\n"
    finally:
        command_of(first, "down")
