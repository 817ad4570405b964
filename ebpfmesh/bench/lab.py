# SPDX-License-Identifier: BSD-2-Clause
"""The paths of a scenario side by side, and what measures over them.

Whatever is measured must have gone over its path: the path's own counters say so, or the
measurement does not count.
"""

import json
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from ebpfmesh.bench import tools, workload
from ebpfmesh.bench.kinds import AXES, KINDS
from ebpfmesh.bench.measure import attach, changes, load, refused, traffic, wire
from ebpfmesh.bench.measure.connect import Connector
from ebpfmesh.bench.measure.pps import PacketRate, measure_pps
from ebpfmesh.bench.measure.update import Updates
from ebpfmesh.bench.paths import PATHS, DataPath
from ebpfmesh.bench.sample import Sample
from ebpfmesh.bench.scenario import Step
from ebpfmesh.bench.workload import Scale
from ebpfmesh.errors import CommandFailed, Unsupported

CLIENT_SECONDS = 0.3
OFFLOAD_SECONDS = 5.0
ENDS_IN_FUNCTIONS = ("frames", "sockets", "connections", "wire", "consumers", "floods")
"""What a path must have seen the packets of."""


class Lab:
    """The paths that the steps are over, at all their scales, built one after the other.

    ``missing`` names those that this machine cannot have, and why. Raises Unsupported if none is
    left.
    """

    def __init__(
        self, steps: Iterable[Step], stack: ExitStack, building: Callable[[str], None]
    ) -> None:
        steps = tuple(steps)
        flows = max((step.at for step in steps if step.axis == "flows"), default=0)
        mesh = workload.load(flows=flows)
        places = dict.fromkeys((step.path, step.scale) for step in steps)
        names = dict.fromkeys(name for name, _ in places)
        self.missing = {name: why for name in names if (why := PATHS[name].missing())}
        if len(self.missing) == len(names):
            name, why = next(iter(self.missing.items()))
            raise Unsupported(f"none of the paths can be built: {name}: {why}")
        self._rate = PacketRate(mesh, stack)
        self._connector = Connector(stack)
        self._takers: dict[str, Callable[..., Sample]] = {
            "pps": partial(measure_pps, self._rate),
            "refused": partial(refused.measure, self._rate),
            "stream": traffic.stream,
            "rr": traffic.rr,
            "http": traffic.http,
            "connect": self._connector.measure,
            "attach": attach.measure,
            "load": load.measure,
            "change": changes.measure,
            "wire": partial(wire.measure, self._rate),
            "taken": partial(wire.taken, self._rate),
            "flood": partial(wire.flood, self._rate),
            "itself": wire.itself,
            "tcp": wire.tcp,
            "update": Updates(mesh, self._rate, stack).measure,
        }
        self.paths: dict[tuple[str, Scale], DataPath] = {}
        self.built: dict[tuple[str, Scale], dict[str, float]] = {}
        """What building each took: seconds, and MiB, roughly, of what the machine had free."""
        for name, scale in places:
            if name in self.missing:
                continue
            path = PATHS[name](mesh, scale)
            building(path.label)
            start, free = time.perf_counter(), _free_memory()
            path.build(stack)
            self.built[name, scale] = {
                "build": time.perf_counter() - start,
                "build-memory": max(free - _free_memory(), 0) / (1 << 20),
            }
            self.paths[name, scale] = path

    def measure(self, step: Step, seconds: float) -> Sample:
        """Take one figure; CommandFailed if it cannot be had or went another way."""
        path, kind = self.paths[step.path, step.scale], KINDS[step.kind]
        settings = dict(kind.settings)
        if not AXES[step.axis].built:
            settings[step.axis] = step.at
        before = path.packets()
        sample = self._takers[kind.take](path, seconds, **settings)
        passed = path.packets() - before
        if kind.source in ENDS_IN_FUNCTIONS and passed < sample.packets:
            what = f"{path.name} carried {passed} packets of at least {sample.packets}"
            raise CommandFailed(what, hint=sample.raw[-traffic.TAIL :])
        return sample

    def describe(self) -> dict[str, str]:
        """What each path is, by its name."""
        return {path.name: path.describe() for path in self.paths.values()}

    def connections(self) -> dict[str, dict[str, str]]:
        """Try a connection from the client and from the blocked one, over paths with a policy."""
        first = {
            path.name: path
            for path in reversed(self.paths.values())
            if path.has_services and path.clients_inside
        }
        return {
            name: {
                client: traffic.try_connection(path, client)
                for client in (workload.CLIENT, workload.BLOCKED)
            }
            for name, path in first.items()
        }

    def environment(self) -> dict[str, str]:
        """What the measuring itself takes of each figure, by what measures; and where it runs."""
        found = {"cores": f"{tools.cores()}: one core, {tools.core(max)}, unless two are named"}
        if (path := self._first("frames")) is not None:
            limit = f"{self._rate.limit(path)} ns for a frame that is thrown away at once"
            found["generator"] = limit
        elif (path := self._first("wire")) is not None:
            limit = f"{wire.limit(self._rate, path)} ns for a frame that is thrown away at once"
            found["generator"] = limit
        if (path := self._first("connections")) is not None:
            connections = self._connector.measure(path, CLIENT_SECONDS)
            own = json.loads(connections.raw)["client_ns"]
            whole = f"{1e9 / connections.value:.0f} ns that it takes over {path.name}"
            found["connecting client"] = f"{own} ns of a new connection, out of {whole}"
        return found

    def _first(self, source: str) -> DataPath | None:
        return next((path for path in self.paths.values() if source in path.carries), None)

    def offloads(self) -> dict[str, str]:
        """The offloads of each path's client at its veth, as ethtool prints them."""
        first = {path.name: path for path in reversed(self.paths.values())}
        return {
            name: tools.run(["ethtool", "-k", "eth0"], path.client.netns, seconds=OFFLOAD_SECONDS)
            for name, path in first.items()
            if "frames" in path.carries
        }

    def warm_up(self) -> None:
        """Send a little over every path, so that no first measurement pays for it."""
        for path in self.paths.values():
            if "frames" in path.carries:
                self._rate.warm_up(path)


def _free_memory() -> int:
    """Bytes that the machine could still give away."""
    rows = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(rows["MemAvailable"].split()[0]) << 10
