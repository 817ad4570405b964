# SPDX-License-Identifier: BSD-2-Clause
"""Paths without a service and without a rule: what moving a packet costs by itself."""

import sys
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from ebpfmesh.bench import workload
from ebpfmesh.bench.paths.base import DataPath, counted, try_in_namespace
from ebpfmesh.bench.topology import (
    INSIDE,
    Host,
    Member,
    attach_at,
    build_bridge,
    build_host,
    make_namespace,
    set_offload,
)
from ebpfmesh.bench.workload import Target
from ebpfmesh.compile import build
from ebpfmesh.compile.source import bpf_dir
from ebpfmesh.kernel import bpf, netns, probe
from ebpfmesh.kernel.programs import Program

BRIDGE = "bridge0"
LOOPBACK, NO_MAC = 1, "00:00:00:00:00:00"
ADDRESSES: dict[workload.Version, IPv4Address | IPv6Address] = {
    4: IPv4Address("127.0.0.1"),
    6: IPv6Address("::1"),
}


class Loopback(DataPath):
    """Client and server in one namespace: no interface but lo."""

    name = "loopback"
    has_services = False
    carries = frozenset({"sockets"})

    def build(self, stack: ExitStack) -> None:
        """See DataPath."""
        place = make_namespace(self.label, stack)
        with netns.entered(place), netns.rtnetlink() as ip:
            ip.link("set", index=LOOPBACK, state="up")
        everybody = Member(
            place, IPv4Address("127.0.0.1"), IPv6Address("::1"), NO_MAC, LOOPBACK, NO_MAC
        )
        names = [workload.CLIENT, *{name for one in self.mesh.services for name in one.functions}]
        self.host = Host(place, dict.fromkeys(names, everybody))

    def describe(self) -> str:
        """See DataPath."""
        return (
            "client and server in one network namespace, over lo: what copying and the two "
            "sockets cost; no interface is crossed, no services, no policy"
        )

    def target(self, traffic: str, version: workload.Version = 4) -> Target:
        """See DataPath."""
        return Target(ADDRESSES[version], workload.backend_target(self.mesh, traffic).port)

    def receivers(self, traffic: str) -> list[Member]:
        """See DataPath; one, since two servers cannot have the same port."""
        return super().receivers(traffic)[:1]

    def packets(self) -> int:
        """See DataPath."""
        return counted(self.host.netns, "tx", ["lo"])


class Routed(DataPath):
    """Veths routed by the host: no rule, no tracking, no service."""

    name = "routed"
    has_services = False
    carries = frozenset({"sockets", "frames", "connections"})

    def build(self, stack: ExitStack) -> None:
        """See DataPath."""
        self.host = build_host(self.label, self.filled(), stack)

    def describe(self) -> str:
        """See DataPath."""
        return "veths routed by the host without any rule: no services, no policy"


class Bridge(DataPath):
    """Veths of a Linux bridge."""

    name = "bridge"
    has_services = False
    carries = frozenset({"sockets", "frames", "connections"})

    @classmethod
    def missing(cls) -> str:
        """See DataPath."""
        return try_in_namespace(["ip", "link", "add", BRIDGE, "type", "bridge"], "iproute2")

    def build(self, stack: ExitStack) -> None:
        """See DataPath."""
        receiver = workload.backends(self.mesh, "pps")[0]
        self.host = build_bridge(
            self.label, self.filled(), BRIDGE, (workload.CLIENT, receiver), stack
        )

    def describe(self) -> str:
        """See DataPath."""
        return (
            "veths of a Linux bridge: functions find each other by ARP and ND in one on-link "
            "prefix, the bridge knows their MAC addresses (static entries) and does not call "
            "netfilter; no services, no policy"
        )


class RedirectPeer(DataPath):
    """A bare bpf_redirect_peer between the client and the first backend: the limit at tc."""

    name = "redirect_peer"
    has_services = False
    carries = frozenset({"sockets", "frames", "connections"})

    @classmethod
    def missing(cls) -> str:
        """See DataPath."""
        if not probe.has_redirect_peer():
            return "the kernel has no bpf_redirect_peer (Linux 5.10): boot a newer one"
        return ""

    def build(self, stack: ExitStack) -> None:
        """See DataPath."""
        self.host = build_host(self.label, self.filled(), stack, forwarding=False)
        client, server = self.client, self.receivers("stream")[0]
        pins = Path(f"/sys/fs/bpf/bench_{self.label}")
        programs = {"bench_forward": client, "bench_reply": server}
        pins.mkdir()
        stack.callback(pins.rmdir)
        build.build(
            bpf_dir() / "bench" / "redirect_peer.c",
            [Program(name, "tc") for name in programs],
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
            "the limit at tc: programs that rewrite two MAC addresses and redirect to a constant "
            "peer, in a host that forwards nothing itself; no services, no policy, nothing counted"
        )

    def packets(self) -> int:
        """See DataPath; what came out of the two functions' interfaces (counted since Linux 6.7).

        Nothing else can bring a packet there, since the host does not forward.
        """
        members = (self.client, self.receivers("stream")[0])
        return sum(counted(member.netns, "rx", [INSIDE]) for member in members)


def _redirect_defines(client: Member, server: Member) -> dict[str, str]:
    """The constants redirect_peer.c is compiled with; numbers as the machine loads the bytes."""
    defines = {"FORWARD_IFINDEX": str(server.ifindex), "REPLY_IFINDEX": str(client.ifindex)}
    macs = {"FORWARD_MAC": server.mac, "REPLY_MAC": client.mac, "GATEWAY_MAC": client.gateway_mac}
    for name, mac in macs.items():
        raw = bytes.fromhex(mac.replace(":", ""))
        defines[f"{name}_HI"] = str(int.from_bytes(raw[:2], sys.byteorder))
        defines[f"{name}_LO"] = str(int.from_bytes(raw[2:], sys.byteorder))
    return defines


class XdpRedirect(DataPath):
    """A bare XDP redirect of generated frames into the first backend's veth: the limit."""

    name = "xdp_redirect"
    has_services = False
    carries = frozenset({"frames"})
    entry = "redirect"

    @classmethod
    def missing(cls) -> str:
        """See DataPath."""
        if not probe.has_program(bpf.PROG_TYPE_XDP):
            return "the kernel has no XDP programs: boot one that has"
        return ""

    def build(self, stack: ExitStack) -> None:
        """See DataPath; a veth takes redirected frames once its peer has NAPI, as with GRO."""
        self.host = build_host(self.label, self.filled(), stack, forwarding=False)
        for receiver in self.receivers("pps"):
            set_offload(receiver.netns, INSIDE, "rx-gro", on=True)

    def describe(self) -> str:
        """See DataPath."""
        return (
            "the physical limit: frames are redirected by XDP from where they are made into the "
            "receiver's veth, as they are; generated frames only, no services, no policy"
        )

    def packets(self) -> int:
        """See DataPath; what came out of the receiver's interface: the host does not forward."""
        return counted(self.receivers("pps")[0].netns, "rx", [INSIDE])
