# SPDX-License-Identifier: BSD-2-Clause
"""Killed at each step of each kind of operation: doctor tells it, up and gc make it good.

The steps are not listed here: each change is done once to see what it announces, then killed at the
first, the second, and so on. x and y have nothing to do with any change: what they say to each
other goes on throughout.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Set
from typing import NamedTuple

import pytest

from ebpfmesh import apply
from ebpfmesh.inject import measure
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.model import Injection, Mesh
from ebpfmesh.observe import functions
from ebpfmesh.observe.view import left, opened
from ebpfmesh.operation import KINDS, Operation
from ebpfmesh.state.files import RUN
from support import meshes
from support.agreeing import disagreements, is_well
from support.killing import killed_at, steps_of
from support.meshes import uplink
from support.outside import beyond
from support.processes import SANDBOXED, command_line
from support.sockets import accepted, carries, connect, listener
from support.topology import collected, leftovers, mesh_of, poll

OTHERS = """
[mesh]
name = "killed"
{settings}
[[function]]
name = "x"
tenant = "steady"
[[function]]
name = "y"
tenant = "steady"
[[function]]
name = "a"
tenant = "one"
"""
C = """
[[function]]
name = "c"
tenant = "{tenant}"
command = ["sleep", "1000"]
cpu = 0.5
"""
ROLLED = """
[[function]]
name = "w"
replicas = 2
tenant = "two"
command = ["sleep", "{seconds}"]
{more}
"""
REMOTE = """
[[remote]]
name = "r"
address = ["198.19.21{number}.2", "2001:db8:d{number}::2"]
uplink = "u{number}"
tenant = "{tenant}"
"""
D = '[[function]]\nname = "d"\nreplicas = 2\ntenant = "two"\n'
FRAMES = """
[[function]]
name = "p"
tenant = "two"
datapath = "xdp"
source = "int p(struct xdp_md *ctx) {{ return {verdict}; }}"
"""
SERVICE = """
[[service]]
name = "{name}"
address = ["198.19.0.{host}", "2001:db8:1::{host}"]
port = "80-83"
functions = ["{functions}"]
"""
RULE = """
[[policy]]
from = "function:a"
to = "{to}"
action = "{action}"
"""


def mesh(*parts: str, settings: str = "") -> Mesh:
    return mesh_of(OTHERS.format(settings=settings) + "".join(parts))


def service(name: str, host: int, functions: str) -> str:
    return SERVICE.format(name=name, host=host, functions=functions)


def injected(mesh: Mesh, source: str) -> Mesh:
    """The mesh with a program of a's own."""
    own = Injection(name="mine", file="mine.c", source=source, at="a/egress")
    return mesh.model_copy(update={"injections": (own,)})


def nothing() -> None:
    """Nothing is damaged."""


def damage() -> None:
    """What only a look at all of a mesh finds."""
    rules = Maps(Pins("killed"))["mesh_policy"]
    for key, _ in list(rules.items()):
        rules.delete(key)
    (RUN / "killed/hosts").unlink()


def older() -> None:
    """The programs are of another build, for all that is known."""
    with apply.opened("killed") as live:
        live.record.set_build("older")


def narrow() -> None:
    """What is injected was never another one: a swap migrates, and is no rollback."""
    apply.up(mesh())
    apply.up(injected(mesh(), NARROW))


def ready() -> None:
    """d-1 takes new flows."""
    apply.set_ready("killed", "d-1", True)


def not_ready(on_step: apply.OnStep) -> tuple[Operation, ...]:
    """d-1 takes none; d-0 has all there are."""
    return apply.set_ready("killed", "d-1", False, on_step=on_step)


def running() -> None:
    """The command of c runs."""
    apply.start("killed", "c")
    assert poll(lambda: started(1))


def stopped() -> None:
    """It does not, as somebody stopped it."""
    apply.stop("killed", "c")


def stop(on_step: apply.OnStep) -> tuple[Operation, ...]:
    """The command of c ends."""
    return apply.stop("killed", "c", on_step)


def start(on_step: apply.OnStep) -> tuple[Operation, ...]:
    """It begins."""
    return apply.start("killed", "c", on_step)


def rolling() -> None:
    """The commands of w run, and take new flows."""
    assert poll(lambda: started(2))
    assert unready() == {}


def unready() -> dict[str, str]:
    with opened("killed") as view:
        return dict(view.unready)


def restart(on_step: apply.OnStep) -> tuple[Operation, ...]:
    """It ends, and begins again."""
    return apply.restart("killed", "c", on_step)


class Change(NamedTuple):
    """``up`` from one mesh to another, or from nothing; or what is done ``by`` another way.

    Killed at each step from ``first`` on.
    """

    before: Mesh | None
    after: Mesh
    damage: Callable[[], None] = nothing
    by: Callable[[apply.OnStep], tuple[Operation, ...]] | None = None
    first: str = ""

    def prepare(self) -> None:
        """All is as before it."""
        apply.up(self.before) if self.before else apply.down("killed")
        self.damage()

    def do(self, on_step: apply.OnStep) -> tuple[str, ...]:
        """The kinds of its operations."""
        done = self.by(on_step) if self.by else apply.up(self.after, on_step)
        return tuple(step.kind for step in done)

    @property
    def commands(self) -> int:
        """How many commands run after it."""
        if self.by is stop:
            return 0
        return sum(bool(function.command) for function in self.after.functions)


PASS = """
#include "mesh_function.h"
MESH_FUNCTION(p)
{
	return mesh_next();
}
"""
COUNT = PASS.replace("MESH_FUNCTION", 'MESH_COUNTER(seen, "packets");\nMESH_FUNCTION').replace(
    "return", "mesh_count(seen);\n\treturn"
)
NARROW = COUNT.replace("MESH_FUNCTION", "MESH_MAP(array, total, u32, u32, 4);\nMESH_FUNCTION")
WIDE = COUNT.replace(
    "MESH_FUNCTION",
    "MESH_MAP(array, total, u32, u64, 4);\n"
    "MESH_MIGRATE(total, u32, old, new) { *new = *old; return 1; }\nMESH_FUNCTION",
)
MINE, D_0 = C.format(tenant="one"), service("web", 1, "d-0")
YOURS = C.format(tenant="two").replace("cpu = 0.5", 'cpu = 1\nmemory = "64M"\nrate = "1G"')
D_1 = service("mail", 2, "d")
W, W_S = ROLLED.format(seconds=1000, more=""), service("web", 1, "w")
POOL = meshes.table("pool", name="shared", tenant="two", slots=64, functions=["w"])
W_AS_NOW = ROLLED.format(seconds=2000, more='env = {A = "b"}\ncpu = 0.5\nuser = "bin"')
OUTSIDE = RULE.format(to="outside:192.0.2.0/24", action="deny")
RIGHTS = meshes.table(
    "tenant", name="one", rate="1G", inject=2, flows={"guarantee": 99, "maximum": 100}, log="1M"
)
P, P_TOO = (FRAMES.format(verdict=verdict) for verdict in ("XDP_PASS", "XDP_DROP"))
U_0, U_1, U_2 = map(uplink, range(3))
MASQUERADE = "masquerade = true\n"
R_0, R_1 = (REMOTE.format(number=number, tenant=f"far-{number}") for number in range(2))
R_S = service("web", 1, "r")
PUBLISHED = 'publish = ["u{number}:80-83", "u{number}:90-93"]\n'
E, F = ('[[function]]\nname = "e"\n', '[[function]]\nname = "f"\n')
OLD = mesh(
    MINE, F, D, D_0, PUBLISHED.format(number=0), U_0, service("gone", 2, "f"), OUTSIDE, R_0,
    service("far", 3, "r"), RULE.format(to="function:r", action="deny"), U_2,
    RULE.format(to="service:web", action="allow"),
)  # fmt: skip
NEW = mesh(
    YOURS, E, D.replace("2\n", "3\n"), service("web", 1, "d"), PUBLISHED.format(number=1), U_1,
    service("come", 2, "e"), R_1, service("far", 3, "r"), U_2, MASQUERADE,
    RULE.format(to="function:e", action="allow"), RULE.format(to="service:web", action="deny"),
    RIGHTS, settings='reject = true\nhost = true\non_failure = "keep"\ntimeouts = {udp = 60}',
)  # fmt: skip
WAYS = ("up", "gc", "down")
CHANGES = {
    "create-mesh": Change(None, mesh_of('[mesh]\nname = "killed"\n' + MINE)),
    "repair": Change(OLD, OLD, damage),
    "replace-programs": Change(mesh(), mesh(), older),
    "set-timeouts": Change(mesh(), mesh(settings="timeouts = {udp = 60}")),
    "set-reject": Change(mesh(), mesh(settings="reject = true")),
    "set-host": Change(mesh(D, D_0), mesh(D, D_0, settings="host = true")),
    "set-on-failure": Change(mesh(), mesh(settings='on_failure = "keep"')),
    "set-rights": Change(mesh(), mesh(RIGHTS)),
    "add-function": Change(mesh(), mesh(MINE)),
    "add-function, with raw frames": Change(mesh(), mesh(P), first="function p: offloads"),
    "add-function, which share a pool": Change(mesh(), mesh(W, POOL), first="pool shared"),
    "change-function": Change(mesh(MINE, D), mesh(YOURS, D.replace("2\n", "2\ncpu = 0.25\n"))),
    "change-function, its program": Change(mesh(P), mesh(P_TOO), first="change function p"),
    "remove-function": Change(mesh(MINE), mesh()),
    "add-uplink": Change(mesh(D, D_0), mesh(D, D_0, PUBLISHED.format(number=0), U_0)),
    "change-uplink": Change(mesh(U_2), mesh(U_2, MASQUERADE)),
    "remove-uplink": Change(mesh(D, D_0, PUBLISHED.format(number=0), U_0), mesh(D, D_0)),
    "add-remote": Change(mesh(U_0, D, D_0), mesh(U_0, R_0, D, R_S)),
    "remove-remote": Change(mesh(U_0, R_0, D, R_S), mesh(U_0, D, D_0)),
    "set-ready": Change(mesh(D, D_0, D_1), mesh(D, D_0, D_1), ready, not_ready),
    "stop-function": Change(mesh(MINE), mesh(MINE), running, stop),
    "start-function": Change(mesh(MINE), mesh(MINE), stopped, start),
    "roll-function": Change(mesh(W, W_S), mesh(W_AS_NOW, W_S), rolling, first="w-1: draining"),
    "roll-function, to restart": Change(mesh(MINE), mesh(MINE), running, restart),
    "set-service": Change(mesh(D, D_0), mesh(D, service("web", 1, "d"))),
    "remove-service": Change(mesh(D, D_0), mesh(D)),
    "add-policy": Change(mesh(), mesh(OUTSIDE)),
    "remove-policy": Change(mesh(OUTSIDE), mesh()),
    "set-injection": Change(injected(mesh(), PASS), injected(mesh(), COUNT)),
    "set-injection, which migrates": Change(
        injected(mesh(), NARROW), injected(mesh(), WIDE), narrow
    ),
    "remove-injection": Change(injected(mesh(), PASS), mesh()),
}
"""For each kind of operation a change that has one, or several."""


def test_each_kind_of_operation_is_killed() -> None:
    assert {name.partition(",")[0] for name in CHANGES} == KINDS.keys()


@pytest.fixture(scope="module", autouse=True)
def _uplinks() -> Iterator[None]:
    with beyond(0), beyond(1), beyond(2):
        yield


@pytest.fixture(autouse=True)
def _gone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(measure, "EVICT", 1)  # nobody asks what the programs cost cold
    yield
    apply.down("killed")


def things() -> set[str]:
    """All there is, processes by name."""
    return {re.sub(r"process \d+ ", "process ", word) for word in leftovers()}


@contextlib.contextmanager
def talking(wanted: Mesh) -> Iterator[Callable[[], bool]]:
    """x and y are connected; whether what either says is heard."""
    address = wanted.function("y").address4
    with (
        listener(wanted, "y", address, 7000) as server,
        connect(wanted, "x", address, 7000) as here,
        accepted(server) as there,
    ):
        yield lambda: carries(here, there) and carries(there, here)


@pytest.mark.parametrize("kind", CHANGES)
def test_killed_at_each_step(kind: str) -> None:
    killed(CHANGES[kind], {kind.partition(",")[0]})


def test_a_change_of_many_kinds_killed_at_each_step() -> None:
    """What it was killed in and all that was done before are undone together."""
    alone = {"create-mesh", "repair", "set-ready", "stop-function", "start-function"}
    alone |= {"roll-function"}
    loaded = {"set-injection", "remove-injection", "replace-programs"}  # at each step: minutes
    killed(Change(OLD, NEW), KINDS.keys() - alone - loaded)


def killed(change: Change, kinds: Set[str]) -> None:
    """Kill it at each step, then up; in turn nothing comes before, or gc, or down if all is new."""
    change.prepare()
    assert {*change.do(lambda _: None)} >= kinds
    assert poll(lambda: started(change.commands))
    wanted = things()
    change.prepare()
    steps = steps_of(change.do)
    with talking(change.after) if change.before else contextlib.nullcontext(lambda: True) as whole:
        begin = steps.index(change.first) if change.first else 0
        for number, step in enumerate(steps[begin:], begin):
            change.prepare()
            assert killed_at(number, change.do), step
            assert whole(), step
            mend(change, step, WAYS[number % (2 if change.before else 3)])
            assert whole(), step
            assert poll(lambda: things() == wanted), (step, things() ^ wanted)
            assert poll(lambda: change.by is stop or as_described()), step


def started(commands: int) -> bool:
    """Whether so many commands run, and nothing is left of those before."""
    found = [word for word in leftovers() if word.startswith("process ")]
    sleep = sum(word.endswith(" sleep") for word in found)
    return (sleep, len(found)) == (commands, SANDBOXED * commands)


def as_described() -> bool:
    """Whether each function runs what it shall, and takes new flows."""
    with opened("killed") as view:
        rows = functions.read(view)
        wanted = [(row.processes, view.record.function(row.name)) for row in rows if row.processes]
    for processes, row in wanted:
        lines = [command_line(one).decode().split("\0")[:-1] for one in processes]
        if row is None or lines != [list(row.function.command)]:
            return False
        if row.function.name in unready():
            return False
    return True


def mend(change: Change, step: str, first: str) -> None:
    """Up, be it after gc or down; what doctor said before is what they find."""
    well = is_well("killed")
    if first == "gc":
        assert bool(collected("killed")) != well, step
        assert is_well("killed")
        assert is_one_of(change), step
    elif first == "down":
        assert bool(apply.down("killed")) != well, step
        assert "killed" not in left()
    done = steps_of(change.do)
    if first == "up":
        assert ("recover" in done) != well, step
        assert disagreements(change.after) == [], step


def is_one_of(change: Change) -> bool:
    """Whether the mesh is as before a change, or as after it."""
    if change.before is None:
        return "killed" not in left()
    undone = {step.kind for step in apply.plan(change.before)} <= {"replace-programs"}
    found = disagreements(change.before if undone else change.after)
    return all(line.startswith("~ programs older") for line in found)
