# SPDX-License-Identifier: BSD-2-Clause
"""The mesh as a path, made and changed by the same calls as the command line's."""

import importlib.util
import socket
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from ebpfmesh import apply
from ebpfmesh._abi import Reason
from ebpfmesh.bench.paths.base import Change, DataPath, counted
from ebpfmesh.bench.topology import INSIDE, Host, Member, address4, attach_at, make_namespace
from ebpfmesh.bench.workload import SMALLEST, Scale
from ebpfmesh.compile.build import build
from ebpfmesh.compile.source import bpf_dir
from ebpfmesh.config import edit
from ebpfmesh.errors import NotFound
from ebpfmesh.kernel import bpf, interface, links, netns, probe
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.kernel.programs import Program
from ebpfmesh.model import Mesh, Policy, Service
from ebpfmesh.observe import counters


class MeshPath(DataPath):
    """The mesh, at tc."""

    name = "mesh"
    has_services = True
    carries = frozenset({"sockets", "frames", "verdicts", "connections", "changes"})

    def __init__(self, mesh: Mesh, scale: Scale = SMALLEST) -> None:
        super().__init__(mesh.model_copy(update={"name": f"{mesh.name}-{scale}"}), scale)

    @classmethod
    def missing(cls) -> str:
        """See DataPath."""
        if importlib.util.find_spec("bcc") is None:
            return "BCC is missing: apt-get install python3-bpfcc"
        if not probe.has_redirect_peer():
            return "the kernel has no bpf_redirect_peer (Linux 5.10): boot a newer one"
        return ""

    def build(self, stack: ExitStack) -> None:
        """See DataPath."""
        host = make_namespace(self.label, stack)
        with netns.entered(host):  # or the gc of others, who see no such name, finds nobody there
            stack.enter_context(netns.OWN.open("rb"))
        stack.callback(self._down, host)
        self._prepare(host, stack)
        with netns.entered(host):
            apply.up(self.filled())
        with netns.entered(host), netns.rtnetlink() as ip:
            names = {owner: name for name, owner in interface.ours(ip).items()}
            members = {
                function.name: Member(
                    netns.RUN / netns.name_of(self.mesh.name, function.name),
                    address4(function),
                    function.address6,
                    interface.mac_of(self.mesh.name, function.name),
                    socket.if_nametoindex(names[f"{self.mesh.name}/{function.name}"]),
                    interface.GATEWAY_MAC,
                )
                for function in self.filled().functions
            }
        self.host = Host(host, members)

    def _prepare(self, host: Path, stack: ExitStack) -> None:
        """Make in the host's namespace what has to be there before the mesh."""

    def _down(self, host: Path) -> None:
        with netns.entered(host):
            apply.down(self.mesh.name)

    def describe(self) -> str:
        """See DataPath."""
        return "the mesh at tc: services, policy, flows and meters on"

    def packets(self) -> int:
        """See DataPath; what functions sent and the mesh let pass, by its meters."""
        meters = Maps(Pins(self.mesh.name))["mesh_meter"]
        return sum(meter.tx_packets for _, meter in meters.filled())

    def dropped(self, reason: str) -> int:
        """See DataPath."""
        found = counters.counted(Maps(Pins(self.mesh.name)))
        return sum(drop.packets for key, drop in found if key.reason == Reason[reason])

    def add_service(self, service: Service) -> Change:
        """See DataPath."""
        addresses = [str(address) for address in service.addresses]
        values = service.model_dump(include={"port", "target_port", "protocol", "functions"})
        scope = edit.scope_of_service(
            service.name, addresses=addresses, functions=service.functions
        )
        change = partial(apply.edit, self.mesh.name, scope=scope)
        return Change(
            partial(
                change, lambda m: edit.add_service(m, service.name, addresses=addresses, **values)
            ),
            partial(change, lambda m: edit.delete_service(m, service.name)),
        )

    def replace_programs(self) -> Change:
        """All programs by others of the same text, as `up --rollback` does it."""
        with netns.entered(self.host.netns):
            try:
                apply.plan_revert(self.mesh.name)
            except NotFound:
                with apply.opened(self.mesh.name) as live:
                    live.record.set_build("again")  # whatever it is called: another one
                apply.up(self.filled())
        back = partial(apply.revert, self.mesh.name)
        return Change(back, back)

    def add_rule(self, rule: Policy) -> Change:
        """See DataPath."""
        change = partial(apply.edit, self.mesh.name, scope=edit.scope_of_policy(rule))
        return Change(
            partial(change, lambda m: edit.add_policy(m, rule)),
            partial(change, lambda m: edit.delete_policy(m, rule)),
        )


class MeshCounted(MeshPath):
    """The mesh where each flow is counted, too."""

    name = "mesh-counted"

    def __init__(self, mesh: Mesh, scale: Scale = SMALLEST) -> None:
        counted = mesh.model_copy(update={"name": f"{mesh.name}-c", "count_flows": True})
        super().__init__(counted, scale)

    def describe(self) -> str:
        """See DataPath."""
        return "the mesh that counts each flow, too"


class MeshUnmetered(MeshPath):
    """The mesh with a fast path that counts nothing: what the meters cost is the difference.

    It runs before the mesh's own program, which therefore never does.
    """

    name = "mesh-unmetered"
    carries = frozenset({"sockets", "frames", "connections"})

    def __init__(self, mesh: Mesh, scale: Scale = SMALLEST) -> None:
        super().__init__(mesh.model_copy(update={"name": f"{mesh.name}-u"}), scale)

    @classmethod
    def missing(cls) -> str:
        """See DataPath."""
        if not links.has_tcx():
            return "the kernel has no TCX (Linux 6.6), which lets one program run before another"
        return super().missing()

    def build(self, stack: ExitStack) -> None:
        """See DataPath."""
        super().build(stack)
        pins = Path("/sys/fs/bpf") / f"bench_{self.label}"
        pins.mkdir()
        stack.callback(pins.rmdir)
        own, program = Pins(self.mesh.name), Program("mesh_from_fn", "tc")
        build(
            bpf_dir() / "mesh_tc.c",
            [program],
            pin_to=pins,
            defines={"MESH_PINS": f'"{own.maps}"', "MESH_UNMETERED": "1"},
        )
        stack.callback((pins / program.name).unlink)
        loaded = stack.enter_context(bpf.obj_get(pins / program.name))
        for name, member in self.host.members.items():
            attach_at(self.host.netns, member.ifindex, loaded, pins / f"link_{name}", stack)

    def describe(self) -> str:
        """See DataPath."""
        return "the mesh with a fast path that counts nothing"

    def packets(self) -> int:
        """See DataPath; what came out of the functions' interfaces, which nothing else counts."""
        return sum(counted(m.netns, "rx", [INSIDE]) for m in self.host.members.values())
