# SPDX-License-Identifier: BSD-2-Clause
"""Paths from an uplink to a program that takes the packets, in each of the ways it can.

All but one go through the same service, policy and meters of the mesh; what differs is the last
step.
``consumers/consume.c`` and ``consume.py`` are the programs: they look at each packet and count it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from abc import abstractmethod
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

from ebpfmesh.bench import tools, workload
from ebpfmesh.bench.paths.base import DataPath
from ebpfmesh.bench.paths.iptables import Iptables
from ebpfmesh.bench.paths.uplink import MeshUplink
from ebpfmesh.bench.topology import Member
from ebpfmesh.bench.workload import SMALLEST, Scale
from ebpfmesh.errors import CommandFailed
from ebpfmesh.kernel import netns
from ebpfmesh.model import Mesh
from ebpfmesh.observe import functions
from ebpfmesh.observe.view import opened

PACKAGE = Path(__file__).parents[2]
SOURCES = PACKAGE / "bench/consumers"
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Werror", f"-I{PACKAGE}/port/include")
COUNT = 8
"""Bytes that a consumer counts in."""


class Consumed(DataPath):
    """What they have in common: a place for the program and its count, and one backend.

    The program is started in its network, unless a path has another way.
    """

    carries = frozenset({"consumers"})
    how: ClassVar[str]
    """What the program is asked for."""

    def __init__(self, mesh: Mesh, scale: Scale = SMALLEST) -> None:
        super().__init__(mesh, scale)
        services = tuple(
            one.model_copy(update={"functions": one.functions[:1]}) for one in self.mesh.services
        )
        self.mesh = self.mesh.model_copy(update={"services": services})

    @classmethod
    def missing(cls) -> str:
        """See DataPath."""
        if shutil.which("cc") is None:
            return "there is no C compiler: apt-get install gcc libc6-dev"
        return super().missing()

    def build(self, stack: ExitStack) -> None:
        """See DataPath."""
        self.place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ebpfmesh-took-")))
        self.place.chmod(0o755)  # commands of functions look for themselves there
        self._count.write_bytes(bytes(COUNT))
        self._count.chmod(0o666)
        words = ["cc", *FLAGS, str(SOURCES / "consume.c"), "-o", str(self.place / "consume")]
        done = subprocess.run(words, check=False, capture_output=True, text=True)
        if done.returncode:
            raise CommandFailed(f"cc: {done.stderr.strip()}")
        self._build_way(stack)
        self._start(stack)

    @abstractmethod
    def _build_way(self, stack: ExitStack) -> None:
        """Make the way to the program."""

    @property
    def _count(self) -> Path:
        return self.place / "count"

    @property
    def program(self) -> tuple[str, ...]:
        """The command of the consumer."""
        return (str(self.place / "consume"), self.how, *self._about)

    @property
    def _about(self) -> tuple[str, str]:
        return str(workload.backend_target(self.mesh, "pps").port), str(self._count)

    def taken(self) -> int:
        """Packets that the program has taken since it was started."""
        return int.from_bytes(self._count.read_bytes(), sys.byteorder)

    def _start(self, stack: ExitStack, /) -> None:
        """Start the program in the backend's network, on the last core."""
        output = stack.enter_context(tempfile.TemporaryFile()).fileno()  # noqa: SIM115
        started = tools.start(self.program, self.consumer.netns, output)
        stack.callback(tools.stop, started)
        self._process = started.pid

    @property
    def consumer(self) -> Member:
        """The function whose packets are taken."""
        return self.receivers("pps")[0]

    def processes(self) -> tuple[int, ...]:
        """See DataPath."""
        return (self._process,)


class IptablesRecvmmsg(Consumed, Iptables):
    """A UDP socket, 64 datagrams at a time, behind what people use instead of a mesh."""

    name = "iptables-recvmmsg"
    how = "recvmmsg"

    def _build_way(self, stack: ExitStack) -> None:
        Iptables.build(self, stack)

    def describe(self) -> str:
        """See DataPath."""
        return "the rules of iptables from a wire to a UDP socket, read as that of recvmmsg"


class ConsumedOfMesh(Consumed, MeshUplink):
    """By an uplink of a mesh."""

    def _build_way(self, stack: ExitStack) -> None:
        MeshUplink.build(self, stack)


class Recvmmsg(ConsumedOfMesh):
    """The same over the mesh."""

    name = "recvmmsg"
    how = "recvmmsg"

    def describe(self) -> str:
        """See DataPath."""
        return "the mesh from an uplink to a UDP socket, recvmmsg of 64 datagrams at a time, in C"


class TpacketV3(ConsumedOfMesh):
    """A packet socket's ring of blocks, before tc; there the packets are dropped."""

    name = "tpacket-v3"
    how = "tpacket"

    def describe(self) -> str:
        """See DataPath."""
        return (
            "the mesh from an uplink to a packet socket with TPACKET_V3, in C; the stack behind it "
            "gets nothing"
        )


class MeshAfXdp(ConsumedOfMesh):
    """A function with a port, in C."""

    name = "mesh-af-xdp"
    how = "port"
    xdp = "auto"

    def adapted(self, mesh: Mesh) -> Mesh:
        """See MeshUplink."""
        name = workload.backends(mesh, "pps")[0]
        settings = {"datapath": "af_xdp", "command": self.program, "volumes": self.volumes}
        found = tuple(
            one.model_copy(update=settings) if one.name == name else one for one in mesh.functions
        )
        return mesh.model_copy(update={"functions": found})

    @property
    def volumes(self) -> tuple[str, ...]:
        """What of the host the command has to see."""
        return (f"{self.place}:{self.place}:rw",)

    def _start(self, _stack: ExitStack, /) -> None:
        """The mesh has started it."""

    def processes(self) -> tuple[int, ...]:
        """See DataPath; they are put on the last core."""
        with netns.entered(self.host.netns), opened(self.mesh.name) as view:
            name = workload.backends(self.mesh, "pps")[0]
            found = next(row.processes for row in functions.read(view) if row.name == name)
        for process in found:
            os.sched_setaffinity(process, {tools.core(max)})
        return found

    def describe(self) -> str:
        """See DataPath."""
        return "the mesh from an uplink to a function's port (AF_XDP), in C"


class MeshAfXdpPython(MeshAfXdp):
    """A function with a port, in Python."""

    name = "mesh-af-xdp-python"

    @property
    def program(self) -> tuple[str, ...]:
        """See Consumed."""
        return (sys.executable, str(SOURCES / "consume.py"), *self._about)

    @property
    def volumes(self) -> tuple[str, ...]:
        """See MeshAfXdp."""
        home, python = PACKAGE.parent, Path(sys.prefix)
        more = [home] if python.is_relative_to(home) else [home, python]
        return (*super().volumes, *map(str, more))

    def describe(self) -> str:
        """See DataPath."""
        return "the mesh from an uplink to a function's port (AF_XDP), in Python with numpy"
