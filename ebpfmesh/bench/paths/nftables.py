# SPDX-License-Identifier: BSD-2-Clause
"""The path of netfilter through nftables: verdict maps, as kube-proxy's nftables mode."""

from contextlib import ExitStack
from functools import partial

from ebpfmesh.bench import workload
from ebpfmesh.bench.paths import nftables_rules
from ebpfmesh.bench.paths.base import Change, DataPath, run, try_in_namespace
from ebpfmesh.bench.topology import build_host
from ebpfmesh.kernel import netns
from ebpfmesh.model import Policy, Service

COMMAND = ["nft", "-f", "-"]


class Nftables(DataPath):
    """A map of services and a set of policies; see ``nftables_rules`` for the choices."""

    name = "nftables"
    has_services = True
    carries = frozenset({"sockets", "frames", "connections", "changes"})

    @classmethod
    def missing(cls) -> str:
        """See DataPath."""
        rules = "".join(nftables_rules.transactions(workload.demo()))
        return try_in_namespace(COMMAND, "nftables", rules)

    def build(self, stack: ExitStack) -> None:
        """See DataPath."""
        self.host = build_host(self.label, self.filled(), stack)
        with netns.entered(self.host.netns):
            for part in nftables_rules.transactions(self.filled()):
                run(COMMAND, part)

    def describe(self) -> str:
        """See DataPath."""
        return (
            "veths routed by the host with verdict maps as in kube-proxy's nftables mode, "
            "conntrack and a set of what policies allow; established connections are accepted first"
        )

    def add_service(self, service: Service) -> Change:
        """See DataPath; chains, and an element of the map of services."""
        return _change(nftables_rules.add_service(self.filled(), service))

    def add_rule(self, rule: Policy) -> Change:
        """See DataPath; elements of the set of what is allowed."""
        return _change(nftables_rules.add_rule(self.filled(), rule))


def _change(texts: tuple[str, str]) -> Change:
    do, undo = (partial(run, COMMAND, text) for text in texts)
    return Change(do, undo)
