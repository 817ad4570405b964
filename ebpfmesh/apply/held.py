# SPDX-License-Identifier: BSD-2-Clause
"""What a change holds while it goes on: the record, the maps, the pins of a mesh, by its lock."""

import contextlib
import functools
from collections.abc import Callable, Mapping

from pyroute2 import IPRoute

from ebpfmesh.apply.control import Control
from ebpfmesh.kernel import bpf, netns
from ebpfmesh.kernel.cgroup import Cgroup
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.model import Mesh, Probe
from ebpfmesh.state.place import cgroup_of
from ebpfmesh.state.writer import Writer

OnStep = Callable[[str], None]


def quiet(_step: str) -> None:
    """An ``on_step`` that says nothing."""


class Held:
    """A mesh whose lock the caller has. ``step`` is told what is about to change."""

    def __init__(self, record: Writer, on_step: OnStep) -> None:
        self.name = record.mesh
        self.record = record
        self.step = on_step
        self.pins = Pins(self.name)
        self.control = Control(Maps(self.pins), record)
        self.until_closed = contextlib.ExitStack()
        self.starting: Mapping[str, tuple[Probe, ...]] = {}
        """Functions that are not ready when they are made, and what they are asked."""
        self.patience: float | None = None
        """Seconds for functions to get ready, instead of what each says; 0: they count as ready."""
        self.until_closed.callback(self.control.maps.close)

    @functools.cached_property
    def ip(self) -> IPRoute:
        """A netlink socket of the host namespace; changes of the policy need none."""
        return self.until_closed.enter_context(netns.rtnetlink())

    @functools.cached_property
    def fixed(self) -> Mesh:
        """What cannot change while the mesh is up, hook and prefixes among it."""
        return self.record.base()

    def program(self, name: str) -> bpf.Fd:
        """A pinned program of the mesh."""
        return bpf.obj_get(self.pins.progs / name)

    def cgroup(self, function: str) -> Cgroup:
        """Of the processes of a function."""
        return cgroup_of(self.record, function)

    def close(self) -> None:
        """Close what was opened."""
        self.until_closed.close()
