# SPDX-License-Identifier: BSD-2-Clause
"""What all paths have in common: the interface, and the tools to build and to probe one."""

import functools
import shutil
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NoReturn

from ebpfmesh.bench import workload
from ebpfmesh.bench.topology import Host, Member
from ebpfmesh.bench.workload import SMALLEST, Scale, Target
from ebpfmesh.errors import CommandFailed, Unsupported
from ebpfmesh.kernel import netns
from ebpfmesh.model import Mesh, Policy, Service

Source = Literal[
    "sockets", "frames", "verdicts", "connections", "changes", "swaps",
    "wire", "consumers", "floods", "itself",
]  # fmt: skip
PROBE_SECONDS = 30


@dataclass(frozen=True)
class Change:
    """Something that can be done, and undone, any number of times, in the host namespace."""

    do: Callable[[], object]
    undo: Callable[[], object]


class DataPath(ABC):
    """A way from function to function; ``host`` is there after ``build``.

    ``scale`` says how much it holds besides what is measured.
    """

    name: ClassVar[str]
    has_services: ClassVar[bool]
    """Whether it knows services, and policies that allow them."""
    carries: ClassVar[frozenset[Source]]
    """What can use it: programs with ``sockets`` in two functions; ``frames`` that the kernel's
    generator makes; ``connections`` of the client in the kernel, which needs checksums to stay
    unfinished all the way, as a stack leaves them; ``changes``: a service or a rule can be added;
    ``swaps``: a program can be exchanged;
    ``verdicts``: it counts what it refuses, by reason; ``wire``: frames that come in by the host's
    side of the client's veth as from a wire; ``consumers``: the same, and a program takes them;
    ``floods``: others that it drops where they come in; ``itself``: what it makes by itself.
    """
    clients_inside: ClassVar[bool] = True
    """Whether functions are its clients, and not somebody outside."""
    entry: ClassVar[Literal["stack", "redirect"]] = "stack"
    """How generated frames enter: as received by the client's host-side veth, or by XDP redirect
    into the veth ``redirect_ifindex``."""

    wire_ends: ClassVar[Literal["tc", "xdp"]] = "tc"
    """Where frames of a wire are taken from a function that has no program."""

    host: Host

    def __init__(self, mesh: Mesh, scale: Scale = SMALLEST) -> None:
        self.mesh = mesh
        self.scale = scale
        self.label = f"{self.name}-{scale}"

    @classmethod
    def missing(cls) -> str:
        """Why it cannot be here and what to do about it; empty if it can. Found by trying."""
        return ""

    @abstractmethod
    def build(self, stack: ExitStack) -> None:
        """Make everything; undone by ``stack``."""

    @abstractmethod
    def describe(self) -> str:
        """What it is, in a sentence for the report."""

    def packets(self) -> int:
        """How many packets the path has carried since it was built, by its own counters.

        What it dropped or passed in another way is not among them; a GSO packet may count as one.
        Here it is what was sent to functions by whatever stands in the host namespace.
        """
        return counted(self.host.netns, "tx", self.host.interfaces())

    def dropped(self, reason: str) -> int:
        """How many packets it has refused for a reason of the mesh, by name."""
        raise Unsupported(f"{self.name} does not tell {reason}")

    def processes(self) -> tuple[int, ...]:
        """Ids of the processes that work for the path, besides the kernel."""
        return ()

    @property
    def wire(self) -> tuple[Path, str]:
        """The interface that frames of a wire come in by, of the host: its namespace and name."""
        with netns.entered(self.host.netns):
            return self.host.netns, socket.if_indextoname(self.client.ifindex)

    def add_service(self, service: Service) -> Change:
        """What adds a service to those there are; nothing has happened yet."""
        self._refuse(service.name)

    def add_rule(self, rule: Policy) -> Change:
        """What adds a policy that allows something; nothing has happened yet."""
        self._refuse(f"{rule.source} → {rule.destination}")

    def swap(self) -> Change:
        """What puts another program in the place of one; nothing has happened yet."""
        raise Unsupported(f"{self.name} has no program that another could take the place of")

    def _refuse(self, what: str) -> NoReturn:
        raise Unsupported(f"{what} cannot be added to {self.name}: it has no services and no rules")

    def filled(self) -> Mesh:
        """The mesh with all that ``scale`` asks for; what is measured comes last."""
        return self._filled

    @functools.cached_property
    def _filled(self) -> Mesh:
        return workload.fill(self.mesh, self.scale)

    def target(self, traffic: str, version: workload.Version = 4) -> Target:
        """Where the client sends a kind of traffic to."""
        choose = workload.service_target if self.has_services else workload.backend_target
        return choose(self.mesh, traffic, version)

    @property
    def client(self) -> Member:
        """The function that sends."""
        return self.host.members[workload.CLIENT]

    def receivers(self, traffic: str) -> list[Member]:
        """The functions a kind of traffic can arrive at."""
        names = workload.backends(self.mesh, traffic)
        return [self.host.members[name] for name in names]

    @property
    def redirect_ifindex(self) -> int:
        """The first receiver's veth in the host namespace: where XDP redirects frames to."""
        return self.receivers("pps")[0].ifindex


def run(command: list[str], text: str = "") -> str:
    """Output of a program in the current network namespace; ``text`` is what it reads.

    Raises Unsupported if there is no such program, CommandFailed with what it said if it fails.
    """
    try:
        done = subprocess.run(command, input=text, text=True, check=True, capture_output=True)
    except FileNotFoundError as error:
        raise Unsupported(f"{command[0]} is missing", hint="scripts/setup.sh test") from error
    except subprocess.CalledProcessError as error:
        raise CommandFailed(f"{command[0]}: {error.stderr.strip()}") from error
    return done.stdout


def try_in_namespace(command: list[str], package: str, text: str = "") -> str:
    """Why a program does not do its work in a network namespace that is thrown away; or ""."""
    if shutil.which(command[0]) is None:
        return f"{command[0]} is missing: apt-get install {package}"
    try:
        done = subprocess.run(
            ["unshare", "--net", *command],
            input=text,
            text=True,
            check=False,
            capture_output=True,
            timeout=PROBE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"{command[0]} does not end within {PROBE_SECONDS} s"
    if not done.returncode:
        return ""
    said = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
    return f"{command[0]} does not work on this kernel: {said[0]}"


def counted(namespace: Path, direction: Literal["rx", "tx"], interfaces: Iterable[str]) -> int:
    """Packets through interfaces of a network namespace in one direction, by their counters."""
    wanted = set(interfaces)
    column = 2 if direction == "rx" else 10
    with netns.entered(namespace):
        rows = Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]
    return sum(int(row.split()[column]) for row in rows if row.partition(":")[0].strip() in wanted)
