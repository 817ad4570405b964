# SPDX-License-Identifier: BSD-2-Clause
"""What changes to a mesh cost, and what a mesh costs while nobody uses it.

Each figure is a function that gives a ``Sample``; all of them use host namespaces and meshes of
their own. Must run in a sandbox (``ebpfmesh.kernel.netns.enter_sandbox``).
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

from ebpfmesh import apply
from ebpfmesh.bench.sample import Sample
from ebpfmesh.bench.topology import make_namespace
from ebpfmesh.compile import compiled
from ebpfmesh.errors import CommandFailed
from ebpfmesh.kernel import interface, netns
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.model import Function, Hook, Mesh

PROGRAM = Path(sys.executable).with_name("ebpfmesh")
COMMAND_SECONDS = 60
IDLE_SECONDS = 2.0
QUIET_SECONDS, SETTLE_SECONDS = 6, 40.0
FIRST_ADDRESS = IPv4Address("198.18.0.1")
MANY = 500
IDLE_FUNCTIONS = 10
TWO_FUNCTIONS = """
[mesh]
name = "{name}"
[[function]]
name = "one"
[[function]]
name = "two"
"""


def command_line(*arguments: str, **environment: str) -> str:
    """Run ebpfmesh as a user does; its output, or CommandFailed."""
    done = subprocess.run(
        [PROGRAM, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    if done.returncode:
        raise CommandFailed(f"ebpfmesh {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _timed(*arguments: str, **environment: str) -> Sample:
    start = time.perf_counter()
    output = command_line(*arguments, **environment)
    return Sample(time.perf_counter() - start, output)


def help_time(times: int) -> list[Sample]:
    """Seconds for ``ebpfmesh --help``, from start to exit."""
    return [_timed("--help") for _ in range(times)]


def up_cold(times: int) -> list[Sample]:
    """Seconds for ``ebpfmesh up`` of two functions, as it is installed, from start to exit."""
    return [_up("bench-two") for _ in range(times)]


def up_compiling(times: int) -> list[Sample]:
    """Seconds for the same where no programs are kept from before."""
    return [_up("bench-two", **{compiled.VARIABLE: ""}) for _ in range(times)]


def _up(name: str, **environment: str) -> Sample:
    with ExitStack() as stack:
        host = make_namespace(name, stack)
        file = stack.enter_context(tempfile.NamedTemporaryFile("w", suffix=".toml"))
        file.write(TWO_FUNCTIONS.format(name=name))
        file.flush()
        stack.enter_context(netns.entered(host))
        stack.callback(apply.down, name)
        return _timed("up", file.name, **environment)


@contextmanager
def _mesh(name: str, functions: int, hook: Hook = "auto") -> Iterator[Mesh]:
    """A mesh of that many functions, in a host namespace of its own, which the caller is in."""
    mesh = Mesh(
        name=name,
        hook=hook,
        functions=tuple(
            Function(name=f"f{number}", address4=FIRST_ADDRESS + number)
            for number in range(1, functions + 1)
        ),
    )
    with ExitStack() as stack:
        host = make_namespace(name, stack)
        stack.enter_context(netns.entered(host))
        stack.callback(apply.down, name)
        apply.up(mesh)
        yield mesh


def attach_many(times: int, hook: Hook = "auto") -> list[Sample]:
    """Milliseconds to attach an existing namespace to a mesh of 500 functions, by the API.

    ``hook`` is how the mesh attaches its programs.
    """
    samples = []
    with _mesh("bench-many", MANY, hook) as mesh, ExitStack() as stack:
        inside = make_namespace("bench-many.new", stack)
        function = Function(name="new", address4=FIRST_ADDRESS + MANY + 1, netns=str(inside))
        for _ in range(times):
            start = time.perf_counter()
            apply.add_function(mesh.name, function)
            samples.append(Sample((time.perf_counter() - start) * 1e3, ""))
            apply.detach(mesh.name, function.name)
    return samples


def idle_maps(_times: int) -> list[Sample]:
    """MiB of the maps of a mesh of ten functions; the same every time, so taken once."""
    with _mesh("bench-idle", IDLE_FUNCTIONS) as mesh:
        maps = Maps(Pins(mesh.name)).memory()
    table = "".join(f"{name} {size}\n" for name, size in sorted(maps.items()))
    return [Sample(sum(maps.values()) / (1 << 20), table)]


def idle_work(_times: int) -> list[Sample]:
    """What runs of an idle mesh of ten functions.

    Its programs run for packets only, so it takes no CPU if no packet passes and no process is
    left: the figure is packets per second and processes, added up. New stacks announce their
    IPv6 addresses several times (MLD, RFC 3810), seconds apart: QUIET_SECONDS without a packet
    are waited for, SETTLE_SECONDS at most.
    """
    with _mesh("bench-idle", IDLE_FUNCTIONS) as mesh:
        deadline = time.monotonic() + SETTLE_SECONDS
        before, quiet = _packets(), 0
        while quiet < QUIET_SECONDS and time.monotonic() < deadline:
            time.sleep(1.0)
            quiet = quiet + 1 if _packets() == before else 0
            before = _packets()
        time.sleep(IDLE_SECONDS)
        packets = (_packets() - before) / IDLE_SECONDS
        processes = _processes(mesh)
    raw = f"{packets} packets per second, {processes} processes\n"
    return [Sample(packets + processes, raw)]


def _packets() -> int:
    """Packets through all interfaces of functions, in the caller's namespace."""
    with netns.rtnetlink() as ip:
        names = interface.ours(ip)
    directory = Path("/proc/thread-self/net/dev")
    rows = [line.split() for line in directory.read_text().splitlines()[2:]]
    return sum(int(row[2]) + int(row[10]) for row in rows if row[0].rstrip(":") in names)


def _processes(mesh: Mesh) -> int:
    """Processes that run inside the functions' namespaces."""
    inodes = {
        (netns.RUN / netns.name_of(mesh.name, function.name)).stat().st_ino
        for function in mesh.functions
    }
    found = 0
    for place in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            found += place.stat().st_ino in inodes
        except OSError:  # it ended
            continue
    return found


FIGURES: dict[str, Callable[[int], list[Sample]]] = {
    "help": help_time,
    "up": up_cold,
    "up-compiling": up_compiling,
    "attach": attach_many,
    "attach-clsact": partial(attach_many, hook="clsact"),
    "maps": idle_maps,
    "idle": idle_work,
}
"""By name: a function that takes the figure that many times."""
