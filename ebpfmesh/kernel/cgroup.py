# SPDX-License-Identifier: BSD-2-Clause
"""Cgroups of functions: limits, and the list of processes that are theirs.

Works where cgroups are v2, v1 or both. A function has a directory
``ebpfmesh/MESH.NETNS/FUNCTION`` in the unified hierarchy if there is one, and in those v1
hierarchies that its limits need; NETNS tells meshes of one name in several host namespaces apart.
"""

import contextlib
import functools
import os
import signal
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from ebpfmesh.errors import MeshError, Unsupported
from ebpfmesh.kernel import private
from ebpfmesh.kernel.netns import NetnsId
from ebpfmesh.model import Function

PERIOD_US = 100_000
STOP_SECONDS = 3.0
TOP = "ebpfmesh"


@dataclass(frozen=True)
class Hierarchies:
    """Mount points: of cgroup v2, and of each v1 controller."""

    unified: Path | None
    v1: dict[str, Path]

    @classmethod
    @functools.cache  # the list has a line for each named namespace
    def mounted(cls) -> "Hierarchies":
        """What /proc/mounts says."""
        unified: Path | None = None
        v1: dict[str, Path] = {}
        for line in Path("/proc/mounts").read_text().splitlines():
            _, point, kind, options, *_ = line.split()
            if kind == "cgroup2":
                unified = Path(point)
            elif kind == "cgroup":
                v1 |= {name: Path(point) for name in options.split(",")}
        return cls(unified, v1)

    def hierarchy_of(self, controller: str) -> Path | None:
        """Where a controller's files are; None if no hierarchy has it."""
        if controller in self.v1:
            return self.v1[controller]
        if self.unified and controller in (self.unified / "cgroup.controllers").read_text().split():
            return self.unified
        return None

    def tracking(self) -> Path:
        """The hierarchy that says which processes are a function's."""
        found = self.unified or self.v1.get("pids") or self.v1.get("freezer")
        if found is None:
            raise Unsupported(
                "no cgroup hierarchy is mounted", hint="mount -t cgroup2 none /sys/fs/cgroup"
            )
        return found

    def all(self) -> set[Path]:
        """Every hierarchy that could hold a directory of ours."""
        names = ("cpu", "memory", "pids", "freezer")
        return {self.v1[n] for n in names if n in self.v1} | (
            {self.unified} if self.unified else set()
        )


@dataclass(frozen=True)
class Cgroup:
    """The cgroup of one function; ``group`` is its mesh's part of the path."""

    group: str
    function: str

    @property
    def mesh(self) -> str:
        """Name of its mesh."""
        return self.group.rpartition(".")[0]

    @property
    def home(self) -> NetnsId | None:
        """The host namespace of its mesh; None if the directory is not named by us."""
        return NetnsId.parse(self.group.rpartition(".")[2])

    def directory(self, hierarchy: Path) -> Path:
        """Where it is in a hierarchy, if it is."""
        return hierarchy / TOP / self.group / self.function

    def create(self, function: Function) -> None:
        """Make the directories and set the limits; Unsupported if one cannot be had."""
        found = Hierarchies.mounted()
        self._make(found.tracking(), ())
        for controller, wanted in (("cpu", function.cpu), ("memory", function.memory)):
            if wanted is None:
                continue
            hierarchy = found.hierarchy_of(controller)
            if hierarchy is None:
                what = f"function {function.name}: no {controller} cgroup controller is mounted"
                raise Unsupported(what, hint=f"leave out {controller}, or enable the controller")
            unified = hierarchy == found.unified
            self._make(hierarchy, (controller,) if unified else ())
            self._limit(self.directory(hierarchy), unified, controller, wanted)

    def _make(self, hierarchy: Path, delegate: Iterable[str]) -> None:
        directory = self.directory(hierarchy)
        for path in (directory.parents[1], directory.parent, directory):
            private.directory(path)
        for controller in delegate:
            for parent in (hierarchy, directory.parents[1], directory.parent):
                (parent / "cgroup.subtree_control").write_text(f"+{controller}")

    @staticmethod
    def _limit(directory: Path, unified: bool, controller: str, wanted: float) -> None:
        quota = round(wanted * PERIOD_US)
        if controller == "memory":
            name, text = ("memory.max" if unified else "memory.limit_in_bytes"), str(int(wanted))
        elif unified:
            name, text = "cpu.max", f"{quota} {PERIOD_US}"
        else:
            name, text = "cpu.cfs_quota_us", str(quota)
        try:
            (directory / name).write_text(text)
        except OSError as error:
            raise MeshError(
                f"{directory / name}: {error.strerror}", hint="is the limit too small?"
            ) from error

    def files(self) -> list[Path]:
        """cgroup.procs of each of its directories; a process that joins writes 0 to all."""
        directories = (self.directory(one) for one in Hierarchies.mounted().all())
        return [directory / "cgroup.procs" for directory in directories if directory.is_dir()]

    def processes(self) -> set[int]:
        """Ids of the processes in it."""
        found: set[int] = set()
        for file in self.files():
            with contextlib.suppress(OSError):
                found |= {int(line) for line in file.read_text().split()}
        return found

    def remove(self) -> None:
        """Remove the directories; its processes must have ended. Twice is fine."""
        for hierarchy in Hierarchies.mounted().all():
            directory = self.directory(hierarchy)
            for path in (directory, directory.parent, directory.parents[1]):
                with contextlib.suppress(OSError):
                    path.rmdir()


def stop(groups: Collection[Cgroup]) -> None:
    """End every process of them: SIGTERM, and SIGKILL for what is left after STOP_SECONDS."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + STOP_SECONDS
        while (left := [p for one in groups for p in one.processes()]) and (
            time.monotonic() < deadline
        ):
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, number)
            time.sleep(0.01)


def directory_above(group: str) -> Path | None:
    """Directory of all functions of a mesh in the unified hierarchy, if that is there."""
    unified = Hierarchies.mounted().unified
    return unified and unified / TOP / group


def groups(home: NetnsId | None = None) -> set[Cgroup]:
    """All cgroups of ours: of meshes in one host namespace, or in any."""
    found = set()
    for hierarchy in Hierarchies.mounted().all():
        for path in (hierarchy / TOP).glob(f"*.{home or '*'}/*"):
            if path.is_dir():
                found.add(Cgroup(path.parent.name, path.name))
    return found
