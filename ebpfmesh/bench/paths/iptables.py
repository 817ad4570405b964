# SPDX-License-Identifier: BSD-2-Clause
"""Paths of netfilter through iptables: kube-proxy's chains and a list of policies."""

from contextlib import ExitStack
from functools import partial
from typing import ClassVar

from ebpfmesh.bench import workload
from ebpfmesh.bench.paths import iptables_rules
from ebpfmesh.bench.paths.base import Change, DataPath, run, try_in_namespace
from ebpfmesh.bench.topology import build_host
from ebpfmesh.kernel import netns
from ebpfmesh.model import Policy, Service

DENIED = "DENIED"
"""The reason for which a source is dropped."""


class Iptables(DataPath):
    """kube-proxy's chains through iptables-nft; see ``iptables_rules`` for the choices."""

    name = "iptables"
    has_services = True
    carries = frozenset({"sockets", "frames", "connections", "changes", "wire"})
    command: ClassVar[str] = "iptables-nft-restore"
    established_first: ClassVar[bool] = True
    append: ClassVar[bool] = False
    """Whether what is new goes to the end of its list, instead of the list being written anew."""

    @classmethod
    def missing(cls) -> str:
        """See DataPath."""
        mesh = workload.demo()
        rules = iptables_rules.ruleset(mesh, established_first=cls.established_first)
        return try_in_namespace([cls.command], "iptables", rules)

    def build(self, stack: ExitStack) -> None:
        """See DataPath."""
        self.host = build_host(self.label, self.filled(), stack)
        rules = iptables_rules.ruleset(self.filled(), established_first=self.established_first)
        with netns.entered(self.host.netns):
            run([self.command], rules)

    def describe(self) -> str:
        """See DataPath."""
        place = "first" if self.established_first else "last"
        return (
            f"veths routed by the host with kube-proxy's chains, conntrack and a FORWARD rule per "
            f"service ({self.command}); established connections are accepted {place}"
        )

    def add_service(self, service: Service) -> Change:
        """See DataPath."""
        return self._change(iptables_rules.add_service(self.filled(), service, append=self.append))

    def add_rule(self, rule: Policy) -> Change:
        """See DataPath."""
        full, first = self.filled(), self.established_first
        return self._change(
            iptables_rules.add_rule(full, rule, established_first=first, append=self.append)
        )

    def _change(self, texts: tuple[str, str]) -> Change:
        do, undo = (partial(run, [self.command, "--noflush"], text) for text in texts)
        return Change(do, undo)


class IptablesEachPacket(Iptables):
    """The same rules, with the list of policies before the rule for established connections."""

    name = "iptables-each-packet"
    established_first = False


class IptablesAppend(Iptables):
    """The same rules; a new one goes to the end of its list, whatever its place should be."""

    name = "iptables-append"
    append = True

    def describe(self) -> str:
        """See DataPath."""
        return "the same rules as iptables; what is new is appended, and nothing else touched"


class IptablesLegacy(Iptables):
    """The same rules in the tables that were there before nf_tables."""

    name = "iptables-legacy"
    command = "iptables-legacy-restore"


class IptablesRaw(Iptables):
    """The same rules, and a source that is dropped before all else: where denying costs least."""

    name = "iptables-raw"
    carries = frozenset({"floods"})

    def build(self, stack: ExitStack) -> None:
        """See DataPath."""
        super().build(stack)
        drop = f"*raw\n-A PREROUTING -s {workload.FLOOD_ADDRESS}/32 -j DROP\nCOMMIT\n"
        with netns.entered(self.host.netns):
            run([self.command, "--noflush"], drop)

    def dropped(self, reason: str) -> int:
        """See DataPath; in the table raw."""
        with netns.entered(self.host.netns):
            listed = run(["iptables-nft", "-t", "raw", "-nvxL", "PREROUTING"])
        rows = [line.split() for line in listed.splitlines()]
        return sum(int(row[0]) for row in rows if reason == DENIED and "DROP" in row)

    def describe(self) -> str:
        """See DataPath."""
        return "the same rules as iptables; one source is dropped in the table raw"
