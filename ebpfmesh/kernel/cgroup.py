# SPDX-License-Identifier: BSD-2-Clause
"""Cgroups of functions: limits, and the list of processes that are theirs.

Works where cgroups are v2, v1 or both. A function has a directory
``ebpfmesh/MESH.NETNS/FUNCTION`` in the unified hierarchy if there is one, and in those v1
hierarchies that its limits need; NETNS tells meshes of one name in several host namespaces apart.
"""

import contextlib
import errno
import functools
import math
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ebpfmesh.errors import MeshError, Unsupported
from ebpfmesh.kernel import private
from ebpfmesh.kernel.netns import NetnsId
from ebpfmesh.model import Function

LIMITED = ("cpu", "memory", "pids")
PERIOD_US = 100_000
PAGE = os.sysconf("SC_PAGE_SIZE")
NO_LIMIT = 1 << 62  # bytes; what v1 says where there is none is near to 2^63
TRIES = 100  # to make a directory below one that others take away
GATHERED = 100  # looks for processes that came meanwhile
KILL_SECONDS = 2.0  # until what was killed has ended, and who kept it
PIDS = Function.model_fields["pids"].default
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


def memory_of(pid: int) -> Path | None:
    """The file that puts a process to where another's memory is charged; None if nobody knows."""
    found = Hierarchies.mounted()
    top = found.hierarchy_of("memory")
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, names, path = line.split(":", 2)
            if top and ("memory" in names.split(",") if top != found.unified else not names):
                file = top / path.lstrip("/") / "cgroup.procs"
                return file if file.exists() else None
    return None


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

    @property
    def path(self) -> str:
        """Of its directory, from the top of a hierarchy."""
        return f"{TOP}/{self.group}/{self.function}"

    def directory(self, hierarchy: Path) -> Path:
        """Where it is in a hierarchy, if it is."""
        return hierarchy / self.path

    def create(self, function: Function) -> None:
        """Make the directories and set the limits; Unsupported if one cannot be had."""
        found = Hierarchies.mounted()
        self._make(found.tracking(), ())
        for controller in LIMITED:
            wanted = _units(function, controller)
            if wanted is not None:
                self._set(controller, wanted, function)

    def tighten(self, old: Function, new: Function) -> None:
        """Set those limits of ``new`` that are lower than the ``old`` ones, while processes run.

        Raises MeshError, and the limit stays, if more memory is in use than it shall have.
        """
        for controller in LIMITED:
            wanted = _units(new, controller)
            if wanted is not None and wanted < (_units(old, controller) or math.inf):
                self._set(controller, wanted, new, lower=True)

    def limit(self, function: Function) -> None:
        """Set its limits while processes run, and take away those that it has no longer."""
        for controller in LIMITED:
            self._set(controller, _units(function, controller), function)

    def is_limited(self, function: Function) -> bool:
        """Whether the limits are a function's."""
        found = Hierarchies.mounted()
        for controller in LIMITED:
            wanted = _units(function, controller)
            hierarchy = found.hierarchy_of(controller)
            path = hierarchy and _file(
                self.directory(hierarchy), hierarchy == found.unified, controller
            )
            if (_limit_in(path) if path and path.exists() else None) != wanted:
                return False
        return True

    def _set(
        self, controller: str, wanted: int | None, function: Function, *, lower: bool = False
    ) -> None:
        found = Hierarchies.mounted()
        hierarchy = found.hierarchy_of(controller)
        if hierarchy is None:
            if wanted is None:
                return
            raise _missing(function, controller)
        unified = hierarchy == found.unified
        directory = self.directory(hierarchy)
        path = _file(directory, unified, controller)
        if wanted is None:
            if path.exists():
                _write_limit(path, None)
            return
        self._make(hierarchy, (controller,) if unified else ())
        if not unified:
            self._gather(directory / "cgroup.procs")
        if unified and controller == "memory" and lower:
            _reclaim(directory, wanted, function)
        try:
            _write_limit(path, wanted)
        except OSError:
            used = int((directory / "memory.usage_in_bytes").read_text())
            raise _in_use(function, used, wanted) from None

    def _gather(self, procs: Path) -> None:
        """Bring all its processes into one more of its directories; they may fork meanwhile."""
        for _ in range(GATHERED):
            missing = self.processes()
            if missing:
                missing -= {int(line) for line in procs.read_text().split()}
            if not missing:
                return
            for process in missing:
                with contextlib.suppress(ProcessLookupError):
                    procs.write_text(str(process))
        what = f"function {self.function}: new processes come faster than they can be limited"
        raise MeshError(what, hint="end what makes them: ebpfmesh detach")

    def _make(self, hierarchy: Path, delegate: Iterable[str]) -> None:
        """Make the directories; the last function of another mesh may take one above away."""
        for _ in range(TRIES):
            with contextlib.suppress(FileNotFoundError):
                return self._make_once(hierarchy, delegate)
        return self._make_once(hierarchy, delegate)

    def _make_once(self, hierarchy: Path, delegate: Iterable[str]) -> None:
        directory = self.directory(hierarchy)
        for path in (directory.parents[1], directory.parent, directory):
            private.directory(path)
        for controller in delegate:
            for parent in (hierarchy, directory.parents[1], directory.parent):
                (parent / "cgroup.subtree_control").write_text(f"+{controller}")

    def files(self) -> list[Path]:
        """cgroup.procs of each of its directories; a process that joins writes 0 to all."""
        directories = (self.directory(one) for one in Hierarchies.mounted().all())
        return [directory / "cgroup.procs" for directory in directories if directory.is_dir()]

    def charged(self) -> Path | None:
        """cgroup.procs of a directory to whose memory is charged what its processes allocate.

        It is made if it is not there; None where no controller counts memory.
        """
        found = Hierarchies.mounted()
        hierarchy = found.hierarchy_of("memory")
        if hierarchy is None:
            return None
        self._make(hierarchy, ("memory",) if hierarchy == found.unified else ())
        return self.directory(hierarchy) / "cgroup.procs"

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


def _units(function: Function, controller: str) -> int | None:
    """A limit as the kernel has it: microseconds of a period, bytes of whole pages, processes."""
    if controller == "memory":
        return function.memory and function.memory // PAGE * PAGE
    if controller == "pids":
        unasked = function.pids == PIDS and Hierarchies.mounted().hierarchy_of("pids") is None
        return None if unasked or not function.sandboxed else function.pids
    return None if function.cpu is None else round(function.cpu * PERIOD_US)


def _missing(function: Function, controller: str) -> Unsupported:
    what = f"function {function.name}: no {controller} cgroup controller is mounted"
    return Unsupported(what, hint=f"leave out {controller}, or enable the controller")


def _in_use(function: Function, used: int, wanted: int) -> MeshError:
    what = f"function {function.name}: {used >> 10} KiB of memory are in use, "
    what += f"which is more than {wanted >> 10} KiB"
    return MeshError(what, hint="give it more, or have it use less first")


def _file(directory: Path, unified: bool, controller: str) -> Path:
    """What holds a limit; it is there if the controller is enabled."""
    if controller == "memory":
        return directory / ("memory.max" if unified else "memory.limit_in_bytes")
    if controller == "pids":
        return directory / "pids.max"
    return directory / ("cpu.max" if unified else "cpu.cfs_quota_us")


def _write_limit(path: Path, wanted: int | None) -> None:
    """Set a limit, None: take it away. OSError EBUSY if more memory is in use (v1)."""
    text = ("max" if path.suffix == ".max" else "-1") if wanted is None else str(wanted)
    if path.name == "cpu.max":
        text += f" {PERIOD_US}"
    try:
        path.write_text(text)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise
        what = f"{path}: {error.strerror}"
        raise MeshError(what, hint="is the limit too small?") from error


def _limit_in(path: Path) -> int | None:
    text, *_ = path.read_text().split()
    return None if text in ("max", "-1") or int(text) >= NO_LIMIT else int(text)


def _reclaim(directory: Path, wanted: int, function: Function) -> None:
    """Make room below a limit; MeshError if there is none.

    v2 takes any memory.max, and then kills: memory_max_write() in linux/mm/memcontrol.c. What
    memory.high asks for is reclaimed, and nobody is killed.
    """
    current, high = directory / "memory.current", directory / "memory.high"
    if int(current.read_text()) <= wanted:
        return
    high.write_text(str(wanted))
    try:
        used = int(current.read_text())
    finally:
        high.write_text("max")
    if used > wanted:
        raise _in_use(function, used, wanted)


@dataclass(frozen=True)
class Stop:
    """How the processes of a cgroup are ended: asked by ``number``, killed ``seconds`` later."""

    cgroup: Cgroup
    number: signal.Signals = signal.SIGTERM
    seconds: float = Function.model_fields["stop_seconds"].default


def ask(one: Stop, spare: Callable[[set[int]], set[int]], asked: set[int]) -> None:
    """Send the signal to its processes, but to those ``asked``, which grow, and the spared."""
    processes = one.cgroup.processes() - asked
    asked |= _send(one.number, processes - spare(processes))


def stop(
    groups: Iterable[Stop],
    spare: Callable[[set[int]], set[int]],
    asked: Iterable[int] = (),
) -> None:
    """End every process of them: each is asked once, and killed if it is there still in the end.

    Those that ``spare`` tells of a set of processes end when the others have, or are killed later.
    """
    began, left, known = time.monotonic(), list(groups), set(asked)
    last = began + max((one.seconds for one in left), default=0) + 2 * KILL_SECONDS
    while (left := [one for one in left if one.cgroup.processes()]) and time.monotonic() < last:
        for one in left:
            ask(one, spare, known)
            late = time.monotonic() - began - one.seconds
            if late >= 0:
                processes = one.cgroup.processes()
                spared = spare(processes) if late < KILL_SECONDS else set()
                _send(signal.SIGKILL, processes - spared)
        time.sleep(0.01)


def _send(number: signal.Signals, processes: Iterable[int]) -> set[int]:
    found = set(processes)
    for process in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)
    return found


def directory_above(group: str) -> Path | None:
    """Directory of all functions of a mesh in the unified hierarchy, if that is there."""
    unified = Hierarchies.mounted().unified
    return unified and unified / TOP / group


def groups(home: NetnsId | None = None) -> set[Cgroup]:
    """All cgroups of ours: of meshes in one host namespace, or in any.

    Those of others come and go meanwhile.
    """
    found = set()
    for hierarchy in Hierarchies.mounted().all():
        for group in _directories(hierarchy / TOP):
            if home is None or group.name.endswith(f".{home}"):
                found |= {Cgroup(group.name, path.name) for path in _directories(group)}
    return found


def _directories(path: Path) -> list[Path]:
    """Those in a directory; none if it is not there, or not any more."""
    try:
        return [one for one in path.iterdir() if one.is_dir()]
    except OSError:  # ENOENT, or ENODEV of a cgroup that goes while it is read
        return []
