# SPDX-License-Identifier: BSD-2-Clause
"""Paths whose programs are exchanged while packets flow: as the mesh does it, and the wrong way."""

from contextlib import ExitStack
from functools import partial

from ebpfmesh import apply
from ebpfmesh.bench import workload
from ebpfmesh.bench.paths.base import Change
from ebpfmesh.bench.paths.this_build import MeshPath
from ebpfmesh.bench.workload import SMALLEST, Scale
from ebpfmesh.config import edit
from ebpfmesh.kernel import bpf, links, netns
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.model import Injection, Mesh

NAME = "counted"
TEXT = """#include "mesh_function.h"
MESH_COUNTER(seen, "packets");
MESH_FUNCTION(p)
{
	mesh_count(seen);
	return mesh_next();
}
"""
OTHER = TEXT + "/* another */\n"


class MeshSwapped(MeshPath):
    """The mesh with a function injected at what the client sends, of which there are two texts."""

    name = "mesh-swapped"
    carries = frozenset({"swaps"})

    def __init__(self, mesh: Mesh, scale: Scale = SMALLEST) -> None:
        super().__init__(mesh.model_copy(update={"name": f"{mesh.name}-s"}), scale)

    def build(self, stack: ExitStack) -> None:
        """See DataPath."""
        super().build(stack)
        one = Injection(name=NAME, at=f"{workload.CLIENT}/egress", file=f"{NAME}.c", source=TEXT)
        with netns.entered(self.host.netns):
            apply.edit(self.mesh.name, lambda mesh: edit.inject(mesh, one))
            apply.edit(self.mesh.name, lambda mesh: edit.swap(mesh, NAME, source=OTHER))

    def describe(self) -> str:
        """See DataPath."""
        return "the mesh with a function injected, in whose place another is put"

    def swap(self) -> Change:
        """See DataPath; nothing is compiled, either way."""
        back = partial(apply.rollback, self.mesh.name, NAME)
        return Change(back, back)


class MeshReattached(MeshPath):
    """The mesh where a program gives way to the next by being detached: what is never to be done.

    Packets that come meanwhile meet no program, and the host's stack knows no way for them.
    """

    name = "mesh-reattached"
    carries = frozenset({"swaps"})

    def __init__(self, mesh: Mesh, scale: Scale = SMALLEST) -> None:
        super().__init__(mesh.model_copy(update={"name": f"{mesh.name}-r"}), scale)

    def describe(self) -> str:
        """See DataPath."""
        return "the mesh whose program at the client is detached and attached again"

    def swap(self) -> Change:
        """See DataPath."""
        return Change(partial(reattach, self), lambda: None)


def reattach(path: MeshPath) -> None:
    """Take the program away from what the client sends, and put it back."""
    own, ifindex = Pins(path.mesh.name), path.client.ifindex
    pin = own.links / f"{workload.CLIENT}-ingress"
    with netns.rtnetlink() as ip, bpf.obj_get(own.progs / "mesh_from_fn") as program:
        links.detach(ip, ifindex, "ingress", pin)
        links.attach(ifindex, "ingress", program, pin, path.mesh.hook, own=True)
