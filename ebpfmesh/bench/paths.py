# SPDX-License-Identifier: BSD-2-Clause
"""The paths that are compared, each a small class behind one interface.

A path is made from a ``Mesh`` and builds what carries its traffic: a host namespace of its own,
the functions, rules or programs. ``target`` says where a client sends: a service's address
where the path has services, a backend's own where not.
"""

import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

from ebpfmesh import apply
from ebpfmesh.bench import iptables, workload
from ebpfmesh.bench.topology import Host, Member, address4, attach_at, build_host, make_namespace
from ebpfmesh.bench.workload import SMALLEST, Scale, Target
from ebpfmesh.errors import CommandFailed, Unsupported
from ebpfmesh.kernel import bpf, build, interface, netns
from ebpfmesh.kernel.source import bpf_dir
from ebpfmesh.model import Mesh


class DataPath(ABC):
    """A way from function to function; ``host`` is there after ``build``.

    ``scale`` says how much it holds besides what is measured.
    """

    name: ClassVar[str]
    has_services: ClassVar[bool]
    """Whether it knows services, and policies that allow them."""

    carries: ClassVar[frozenset[str]] = frozenset(("frames", "sockets", "changes", "functions"))

    host: Host

    @classmethod
    def missing(cls) -> str:
        """Why it cannot be built here; empty if it can."""
        return ""

    def packets(self) -> int:
        """Packets it has carried so far, by its own counters."""
        raise NotImplementedError

    def __init__(self, mesh: Mesh, scale: Scale = SMALLEST) -> None:
        self.mesh = mesh
        self.scale = scale
        self.label = f"{self.name}-{scale}"

    @abstractmethod
    def build(self, stack: ExitStack) -> None:
        """Make everything; undone by ``stack``."""

    @abstractmethod
    def describe(self) -> str:
        """What it is, in a sentence for the report."""

    def filled(self) -> Mesh:
        """The mesh with all that ``scale`` asks for; what is measured comes last."""
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


class Routed(DataPath):
    """Veths routed by the host: no rule, no tracking, no service."""

    name = "routed"
    has_services = False

    def build(self, stack: ExitStack) -> None:
        """See DataPath."""
        self.host = build_host(self.label, self.filled(), stack)

    def describe(self) -> str:
        """See DataPath."""
        return "veths routed by the host without any rule: no services, no policy"


class RedirectPeer(Routed):
    """A bare bpf_redirect_peer between the client and the first backend: the limit."""

    name = "redirect_peer"

    def build(self, stack: ExitStack) -> None:
        """See DataPath."""
        super().build(stack)
        client, server = self.client, self.receivers("stream")[0]
        pins = Path("/sys/fs/bpf/bench_redirect_peer")
        programs = {"bench_forward": client, "bench_reply": server}
        pins.mkdir()
        stack.callback(pins.rmdir)
        build.build(
            bpf_dir() / "bench" / "redirect_peer.c",
            [build.Program(name, "tc") for name in programs],
            pin_to=pins,
            defines=_redirect_defines(client, server),
        )
        for name in programs:
            stack.callback((pins / name).unlink)
        for name, member in programs.items():
            program = stack.enter_context(bpf.obj_get(pins / name))
            pin = pins / f"{name}_link"
            attach_at(self.host.netns, member.ifindex, program, pin, stack)

    def describe(self) -> str:
        """See DataPath."""
        return (
            "the limit: tc programs that rewrite two MAC addresses and redirect to a constant "
            "peer; no services, no policy, nothing counted"
        )


def _redirect_defines(client: Member, server: Member) -> dict[str, str]:
    """The constants redirect_peer.c is compiled with; numbers as the machine loads the bytes."""
    defines = {"FORWARD_IFINDEX": str(server.ifindex), "REPLY_IFINDEX": str(client.ifindex)}
    macs = {"FORWARD_MAC": server.mac, "REPLY_MAC": client.mac, "GATEWAY_MAC": client.gateway_mac}
    for name, mac in macs.items():
        raw = bytes.fromhex(mac.replace(":", ""))
        defines[f"{name}_HI"] = str(int.from_bytes(raw[:2], sys.byteorder))
        defines[f"{name}_LO"] = str(int.from_bytes(raw[2:], sys.byteorder))
    return defines


class Iptables(DataPath):
    """kube-proxy's chains through iptables-nft; see ``ebpfmesh.bench.iptables`` for the choices."""

    name = "iptables"
    has_services = True
    command: ClassVar[str] = "iptables-nft-restore"
    established_first: ClassVar[bool] = True

    def build(self, stack: ExitStack) -> None:
        """See DataPath."""
        self.host = build_host(self.label, self.filled(), stack)
        rules = iptables.ruleset(self.filled(), established_first=self.established_first)
        with netns.entered(self.host.netns):
            restore(self.command, rules)

    def describe(self) -> str:
        """See DataPath."""
        place = "first" if self.established_first else "last"
        return (
            f"veths routed by the host with kube-proxy's chains, conntrack and a FORWARD rule per "
            f"service ({self.command}); established connections are accepted {place}"
        )


class IptablesEachPacket(Iptables):
    """The same rules, with the list of policies before the rule for established connections."""

    name = "iptables-each-packet"
    established_first = False


class IptablesAppend(Iptables):
    """The same rules; a new one goes to the end of its list, whatever its place should be."""

    name = "iptables-append"

    def describe(self) -> str:
        """See DataPath."""
        return "the same rules as iptables; what is new is appended, and nothing else touched"


class MeshPath(DataPath):
    """The mesh, made and changed by the same calls as the command line's."""

    name = "mesh"
    has_services = True

    def __init__(self, mesh: Mesh, scale: Scale = SMALLEST) -> None:
        super().__init__(mesh.model_copy(update={"name": f"{mesh.name}-{scale}"}), scale)

    def build(self, stack: ExitStack) -> None:
        """See DataPath."""
        host = make_namespace(self.label, stack)
        stack.callback(self._down, host)
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

    def _down(self, host: Path) -> None:
        with netns.entered(host):
            apply.down(self.mesh.name)

    def describe(self) -> str:
        """See DataPath."""
        return "the mesh at tc: services, policy, flows and meters on"


def restore(command: str, rules: str, *, keep: bool = False) -> None:
    """Set rules of the current network namespace; ``keep`` those that are not spoken of."""
    try:
        words = [command, "--noflush"] if keep else [command]
        subprocess.run(words, input=rules, text=True, check=True, capture_output=True)
    except FileNotFoundError as error:
        raise Unsupported(f"{command} is missing", hint="apt-get install iptables") from error
    except subprocess.CalledProcessError as error:
        raise CommandFailed(f"{command}: {error.stderr.strip()}") from error


PATHS: dict[str, type[DataPath]] = {
    path.name: path
    for path in (RedirectPeer, Routed, Iptables, IptablesEachPacket, IptablesAppend, MeshPath)
}
