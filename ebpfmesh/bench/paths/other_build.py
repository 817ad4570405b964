# SPDX-License-Identifier: BSD-2-Clause
"""The mesh of another build, as a path beside this one's: to see what a change to the code costs.

Nothing of the other build runs in this process, and nothing of its maps is read here: its own
command line, started with its own interpreter, brings its mesh up, tells what it counted, and takes
the mesh down. The traffic, and what measures it, are this build's.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

from pyroute2.netlink.rtnl import ndmsg

from ebpfmesh.bench.paths.base import DataPath
from ebpfmesh.bench.paths.this_build import MeshPath
from ebpfmesh.bench.topology import INSIDE, Host, Member, address4, make_namespace
from ebpfmesh.bench.workload import SMALLEST, Scale
from ebpfmesh.errors import CommandFailed, UsageError
from ebpfmesh.kernel import netns
from ebpfmesh.model import Function, Mesh

SECONDS = 300
"""What a command may take: an `up` that compiles, or one of many services."""


class OtherBuild(DataPath):
    """The mesh of the checkout in ``directory``; made by ``beside``."""

    has_services = True
    carries = frozenset({"sockets", "frames", "verdicts", "connections"})
    directory: ClassVar[Path]

    def __init__(self, mesh: Mesh, scale: Scale = SMALLEST) -> None:
        super().__init__(mesh.model_copy(update={"name": f"{mesh.name}-{scale}-b"}), scale)

    @classmethod
    def missing(cls) -> str:
        """See DataPath."""
        try:
            cls._run("--version")
        except CommandFailed as error:
            return f"{error.message}: make setup in {cls.directory}"
        return MeshPath.missing()

    def build(self, stack: ExitStack) -> None:
        """See DataPath."""
        host = make_namespace(self.label, stack)
        with netns.entered(host):
            stack.callback(self._down, host)
            with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
                file.writelines(mesh_file(self.filled()))
                file.flush()
                self._run("up", file.name)
            shown = self._shown("functions")
        rows = {row["name"]: row for row in shown}
        self.host = Host(host, {f.name: _member(f, rows[f.name]) for f in self.filled().functions})

    def _down(self, host: Path) -> None:
        with netns.entered(host):
            self._run("--mesh", self.mesh.name, "down")

    def describe(self) -> str:
        """See DataPath."""
        command = ["git", "-C", str(self.directory), "describe", "--always", "--dirty"]
        told = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        build = f"{self.directory}, commit {told}" if told else str(self.directory)
        return f"the mesh of another build ({build}), brought up by its own command"

    def packets(self) -> int:
        """See DataPath; what functions sent and the mesh let pass, as the other build shows it."""
        with netns.entered(self.host.netns):
            return sum(row["tx_packets"] for row in self._shown("meters"))

    def dropped(self, reason: str) -> int:
        """See DataPath."""
        with netns.entered(self.host.netns):
            return sum(row["packets"] for row in self._shown("drops") if row["reason"] == reason)

    def _shown(self, what: str) -> Any:
        shown = self._run("--json", "--mesh", self.mesh.name, "show", what)
        return json.loads(shown)[what]

    @classmethod
    def _run(cls, *arguments: str) -> str:
        """Output of the other build's command in the calling thread's namespace."""
        own = cls.directory / ".venv" / "bin" / "python"
        python = str(own) if own.exists() else sys.executable
        kept = {name: text for name, text in os.environ.items() if not name.startswith("EBPFMESH_")}
        done = subprocess.run(
            [python, "-m", "ebpfmesh", *arguments],
            env=kept | {"PYTHONPATH": str(cls.directory)},
            cwd=cls.directory,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        if done.returncode:
            what = f"ebpfmesh {' '.join(arguments)} of {cls.directory}"
            raise CommandFailed(f"{what}: exit {done.returncode}", hint=done.stderr.strip())
        return done.stdout


def beside(directory: Path) -> type[OtherBuild]:
    """The path over the build in a directory; UsageError if there is none."""
    found = directory.resolve()
    if not (found / "ebpfmesh" / "__main__.py").is_file():
        hint = "name the directory of a checkout: it holds ebpfmesh/ and bpf/"
        raise UsageError(f"there is no other build in {directory}", hint=hint)
    return type("Beside", (OtherBuild,), {"name": f"mesh@{found.name}", "directory": found})


def _member(function: Function, row: dict[str, Any]) -> Member:
    """A function as the other build shows it, and as it is seen from inside."""
    place = netns.RUN / row["netns"]
    with netns.rtnetlink(place) as ip:
        (link,) = ip.get_links(ifname=INSIDE)
        gateways = {
            neighbour.get("lladdr")
            for neighbour in ip.get_neighbours(ifindex=link["index"])
            if neighbour["state"] & ndmsg.NUD_PERMANENT
        }
    (gateway,) = gateways
    return Member(
        place, address4(function), function.address6, link.get("address"), row["ifindex"], gateway
    )


def mesh_file(mesh: Mesh) -> Iterator[str]:
    """The mesh file of a mesh of the workload, by the keys that every build knows, line by line."""
    yield from _table("[mesh]", name=mesh.name)
    yield from _table("[mesh.limits]", **mesh.limits.model_dump(exclude_defaults=True))
    for function in mesh.functions:
        addresses = [str(address) for address in function.addresses]
        yield from _table(
            "[[function]]", name=function.name, tenant=function.tenant, address=addresses
        )
    for service in mesh.services:
        addresses = [str(address) for address in service.addresses]
        yield from _table(
            "[[service]]", name=service.name, address=addresses,
            **service.model_dump(include={"port", "target_port", "protocol", "functions"}),
        )  # fmt: skip
    for policy in mesh.policies:
        ends = {"from": str(policy.source), "to": str(policy.destination)}
        ports = {"protocol": policy.protocol, "port": policy.port} if policy.port else {}
        yield from _table("[[policy]]", **ends, **ports)


def _table(head: str, **values: object) -> Iterator[str]:
    yield f"{head}\n"
    yield from (f"{key} = {json.dumps(value)}\n" for key, value in values.items())
