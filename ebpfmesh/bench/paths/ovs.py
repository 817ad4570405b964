# SPDX-License-Identifier: BSD-2-Clause
"""Paths of Open vSwitch, with services and policies by OpenFlow and its own conntrack."""

import functools
from contextlib import ExitStack
from functools import partial
from typing import ClassVar

from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic import GenericNetlinkSocket

from ebpfmesh.bench.paths import ovs_flows, ovs_switch
from ebpfmesh.bench.paths.base import Change, DataPath
from ebpfmesh.bench.topology import INSIDE, build_host, make_namespace, set_offload
from ebpfmesh.errors import MeshError
from ebpfmesh.kernel import netns
from ebpfmesh.model import Policy, Service

HOST_MAC = "02:eb:9f:00:00:02"
"""Of the host-side veths: another than the gateway's, which is the flows' alone."""
CHECKSUMS = ("tx-checksum-ip-generic", "tx-checksum-sctp")


class Ovs(DataPath):
    """Open vSwitch's userspace datapath; see ``ovs_flows`` for the flows."""

    name = "ovs"
    has_services = True
    carries = frozenset({"sockets", "frames", "changes"})
    datapath: ClassVar[ovs_switch.Datapath] = "netdev"

    @classmethod
    @functools.cache
    def missing(cls) -> str:
        """See DataPath."""
        if reason := ovs_switch.missing():
            return reason
        with ExitStack() as stack:
            place = make_namespace(f"probe-{cls.name}", stack)
            try:
                ovs_switch.Switch(place, cls.datapath, stack)
            except MeshError as error:
                return f"Open vSwitch does not work here: {error.message}"
        return ""

    def build(self, stack: ExitStack) -> None:
        """See DataPath."""
        self.host = build_host(self.label, self.filled(), stack, forwarding=False)
        with netns.rtnetlink(self.host.netns) as ip:
            for member in self.host.members.values():
                ip.link("set", index=member.ifindex, address=HOST_MAC)
        if self.datapath == "netdev":
            for member in self.host.members.values():
                set_offload(member.netns, INSIDE, *CHECKSUMS, on=False)
        self._switch = ovs_switch.Switch(self.host.netns, self.datapath, stack)
        ports = {name: number for number, name in enumerate(self.host.members, 1)}
        self._switch.connect(dict(zip(self.host.interfaces(), ports.values(), strict=True)))
        gateway = self.client.gateway_mac
        self._switch.change(ovs_flows.bundle(self.filled(), self.host.members, ports, gateway))

    def describe(self) -> str:
        """See DataPath."""
        return (
            "Open vSwitch's userspace datapath (ovs-vswitchd, AF_PACKET, no DPDK), since this is "
            "what there is without its kernel module: services as groups, policies and routing as "
            "flows, conntrack of its own; the functions compute their checksums themselves"
        )

    def processes(self) -> tuple[int, ...]:
        """See DataPath; ovsdb-server and ovs-vswitchd."""
        return self._switch.processes

    def add_service(self, service: Service) -> Change:
        """See DataPath."""
        return self._change(ovs_flows.add_service(self.filled(), service))

    def add_rule(self, rule: Policy) -> Change:
        """See DataPath."""
        return self._change(ovs_flows.add_rule(self.filled(), rule))

    def _change(self, bundles: tuple[str, str]) -> Change:
        do, undo = (partial(self._switch.change, bundle) for bundle in bundles)
        return Change(do, undo)

    def revalidated(self) -> None:
        """Wait until packets meet the flows as they are now."""
        self._switch.revalidated()

    def flows(self) -> str:
        """All flows and groups of the switch, without what they have counted."""
        command = ["ovs-ofctl", "-O", ovs_switch.OPENFLOW, "--no-stats"]
        return "".join(
            self._switch.run([*command, what, ovs_switch.BRIDGE])
            for what in ("dump-flows", "dump-groups")
        )


class OvsKernel(Ovs):
    """The same with Open vSwitch's datapath in the kernel."""

    name = "ovs-kernel"
    carries = Ovs.carries | {"connections"}
    datapath = "system"

    @classmethod
    @functools.cache
    def missing(cls) -> str:
        """See DataPath."""
        family = GenericNetlinkSocket()
        try:
            family.bind("ovs_datapath", None)
        except NetlinkError:
            return "Open vSwitch's kernel datapath: this kernel has no openvswitch module"
        finally:
            family.close()
        return super().missing()

    def describe(self) -> str:
        """See DataPath."""
        return (
            "Open vSwitch with its datapath in the kernel: services as groups, policies and "
            "routing as flows, the kernel's conntrack"
        )
