# SPDX-License-Identifier: BSD-2-Clause
"""Paths from outside: frames come in by an uplink, a veth whose other end plays the wire.

    client eth0 ═══ up0, host ─── the mesh ─── function eth0

Baselines need none of it: there the host's side of the client's veth is the uplink.
"""

import socket
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from ipaddress import IPv4Address, ip_network
from pathlib import Path
from typing import ClassVar, Literal

from ebpfmesh import apply
from ebpfmesh.bench import workload
from ebpfmesh.bench.paths.bare import XdpRedirect
from ebpfmesh.bench.paths.base import counted
from ebpfmesh.bench.paths.this_build import MeshPath
from ebpfmesh.bench.topology import INSIDE, Member, build_host, make_namespace, set_offload
from ebpfmesh.bench.workload import SMALLEST, Scale, Target
from ebpfmesh.compile import build
from ebpfmesh.compile.source import bpf_dir
from ebpfmesh.kernel import bpf, netns
from ebpfmesh.kernel.programs import Program
from ebpfmesh.model import Identity, Mesh, Service, Uplink

UPLINK, INTERFACE = "uplink0", "up0"
HOST_ADDRESS, CLIENT_ADDRESS = IPv4Address("198.19.220.1"), IPv4Address("198.19.220.2")
LENGTH = 24
PROGRAM, DEVICES = "bench_devmap_xdp", "bench_devmap"
FLOWS = 524288
"""Slots for flows: those of 100 000 that come from outside are among them."""
HOST_MAC, CLIENT_MAC = "02:00:00:00:dc:01", "02:00:00:00:dc:02"


class Devmap(XdpRedirect):
    """A bare XDP redirect from an uplink into the first backend's veth, by a devmap."""

    name = "devmap"
    carries = frozenset({"wire"})
    wire_ends = "xdp"

    def build(self, stack: ExitStack) -> None:
        """See DataPath; a veth takes redirected frames once its peer has NAPI, as with GRO."""
        self.host = build_host(self.label, self.filled(), stack, forwarding=False)
        receiver = self.receivers("pps")[0]
        set_offload(receiver.netns, INSIDE, "rx-gro", on=True)
        pins = Path(f"/sys/fs/bpf/bench_{self.label}")
        pins.mkdir()
        stack.callback(pins.rmdir)
        build.build(
            bpf_dir() / "bench" / "devmap.c",
            [Program(PROGRAM, "xdp")],
            pin_to=pins,
            pin_maps=[DEVICES],
        )
        for name in (PROGRAM, DEVICES):
            stack.callback((pins / name).unlink)
        program, devices = (
            stack.enter_context(bpf.obj_get(pins / name)) for name in (PROGRAM, DEVICES)
        )
        with netns.entered(self.host.netns):
            bpf.map_update(devices, bytes(4), receiver.ifindex.to_bytes(4, sys.byteorder))
            stack.enter_context(bpf.link_create(program, self.client.ifindex, bpf.XDP))

    def receivers(self, traffic: str) -> list[Member]:
        """See DataPath."""
        return super().receivers(traffic)[:1]

    def describe(self) -> str:
        """See DataPath."""
        return (
            "the limit at XDP: whatever is IP goes from the uplink into one function's veth by a "
            "devmap, as it came; no services, no policy, nothing counted"
        )

    def packets(self) -> int:
        """See DataPath; what came out of the receiver's interface: the host does not forward."""
        return counted(self.receivers("pps")[0].netns, "rx", [INSIDE])


class MeshUplink(MeshPath):
    """The mesh with an uplink by which the client comes, and functions with sockets, all at tc."""

    name = "mesh-uplink"
    carries = frozenset({"wire", "sockets"})
    clients_inside = False
    xdp: ClassVar[Literal["auto", "off"]] = "off"

    def __init__(self, mesh: Mesh, scale: Scale = SMALLEST) -> None:
        super().__init__(mesh, scale)
        self.mesh = self.mesh.model_copy(update={"name": f"{mesh.name}-{self.name}-{scale}"})

    def _prepare(self, host: Path, stack: ExitStack) -> None:
        """Make the uplink and the client behind it."""
        outside = make_namespace(f"{self.label}.outside", stack)
        ends = (host, INTERFACE, HOST_ADDRESS, HOST_MAC), (
            outside, INSIDE, CLIENT_ADDRESS, CLIENT_MAC,
        )  # fmt: skip
        commands = {host: [], outside: []}  # type: dict[Path, list[str]]
        with netns.entered(host):
            _ip(f"link add {INTERFACE} type veth peer name {INSIDE} netns {outside.name}")
        for place, name, address, mac in ends:
            commands[place] += [
                "link set lo up",
                f"link set {name} address {mac}",
                f"link set {name} up addrgenmode none",
                f"addr add {address}/{LENGTH} dev {name}",
            ]
        commands[host] += [f"neigh add {CLIENT_ADDRESS} lladdr {CLIENT_MAC} dev {INTERFACE}"]
        commands[outside] += [
            f"neigh add {HOST_ADDRESS} lladdr {HOST_MAC} dev {INSIDE}",
            f"route add default via {HOST_ADDRESS}",
        ]
        for place, lines in commands.items():
            with netns.entered(place):
                _ip(*lines)
        self._outside = outside

    def filled(self) -> Mesh:
        """See DataPath; all of its services are published, and for the outside."""
        return self._published

    @cached_property
    def _published(self) -> Mesh:
        mesh = workload.fill(self.mesh, self.scale)
        outside = Identity.parse("outside")
        limits = mesh.limits.model_copy(update={"services": 2 * mesh.limits.services})
        if "wire" in self.carries:  # the outside has a part of it
            limits = limits.model_copy(update={"flows": max(limits.flows, FLOWS)})
        return self.adapted(
            mesh.model_copy(
                update={
                    "uplinks": (Uplink(name=UPLINK, interface=INTERFACE, xdp=self.xdp),),
                    "services": tuple(
                        one.model_copy(update={"publish": (f"{UPLINK}:{_port(one)}",)})
                        for one in mesh.services
                    ),
                    "policies": tuple(
                        one.model_copy(update={"source": outside})
                        if one.source == Identity.parse(f"function:{workload.CLIENT}")
                        else one
                        for one in mesh.policies
                    ),
                    "limits": limits,
                }
            )
        )

    def adapted(self, mesh: Mesh) -> Mesh:
        """The mesh with what this path has besides."""
        return mesh

    @property
    def client(self) -> Member:
        """See DataPath."""
        with netns.entered(self.host.netns):
            index = socket.if_nametoindex(INTERFACE)
        return Member(self._outside, CLIENT_ADDRESS, None, CLIENT_MAC, index, HOST_MAC)

    def target(self, traffic: str, version: workload.Version = 4) -> Target:
        """See DataPath."""
        return replace(super().target(traffic, version), address=HOST_ADDRESS)

    def describe(self) -> str:
        """See DataPath."""
        return (
            "the mesh with an uplink, at tc: services published there, policy, flows and meters on"
        )


class MeshDeny(MeshUplink):
    """The same, and a source is on the uplink's deny list: it is dropped at XDP."""

    name = "mesh-deny"
    carries = frozenset({"floods"})
    xdp = "auto"

    def build(self, stack: ExitStack) -> None:
        """See DataPath."""
        super().build(stack)
        with netns.entered(self.host.netns):
            apply.deny(self.mesh.name, [ip_network(workload.FLOOD_ADDRESS)])

    def describe(self) -> str:
        """See DataPath."""
        return "the mesh with an uplink, and a source that its deny list has"


class MeshXdp(MeshUplink):
    """The mesh with an uplink, whose functions are packet functions: XDP all the way."""

    name = "mesh-xdp"
    carries = frozenset({"wire"})
    wire_ends = "xdp"
    xdp = "auto"

    def adapted(self, mesh: Mesh) -> Mesh:
        """See MeshUplink."""
        ends = workload.backends(mesh, "pps")
        functions = tuple(
            one.model_copy(update={"datapath": "xdp"}) if one.name in ends else one
            for one in mesh.functions
        )
        return mesh.model_copy(update={"functions": functions})

    def describe(self) -> str:
        """See DataPath."""
        return (
            "the mesh from an uplink into packet functions by XDP: services published there, "
            "policy, flows and meters on"
        )


def _port(service: Service) -> int:
    """What it is published at: its own port, but for those that all have the same."""
    return service.target_port if service.name.startswith(workload.FILLER) else service.port


def _ip(*lines: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), check=True, text=True)
