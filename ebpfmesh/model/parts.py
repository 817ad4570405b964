# SPDX-License-Identifier: BSD-2-Clause
"""The parts of a mesh, be they right together or not, and the groups that its functions form."""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Literal

from pydantic import AfterValidator

from ebpfmesh.model.base import MeshName, Model, check_prefix
from ebpfmesh.model.function import Function
from ebpfmesh.model.injection import Injection, Rights
from ebpfmesh.model.limits import Limits, Timeouts
from ebpfmesh.model.policy import Policy
from ebpfmesh.model.readiness import Probe
from ebpfmesh.model.remote import Remote
from ebpfmesh.model.service import Service
from ebpfmesh.model.uplink import Uplink

Hook = Literal["auto", "tcx", "clsact"]
OnFailure = Literal["undo", "keep"]


def probes_of(function: Function, ports: Iterable[tuple[str, int]]) -> tuple[Probe, ...]:
    """What a function is asked, that services send to at these (protocol, port)."""
    if function.ready and function.ready.kind:
        return (function.ready,)
    if not function.command or function.has_frames:  # packets wait for it
        return ()
    return tuple(Probe.model_validate({"protocol": p, "port": n}) for p, n in sorted(ports))


def groups_of(functions: Iterable[Function]) -> dict[str, tuple[str, ...]]:
    """The functions of each group, by name: NAME-2 before NAME-10."""
    found: dict[str, list[str]] = {}
    for function in functions:
        if function.group:
            found.setdefault(function.group, []).append(function.name)
    return {
        group: tuple(sorted(names, key=lambda name: (len(name), name)))
        for group, names in found.items()
    }


class Parts(Model):
    """What a mesh is made of.

    ``prefix4`` and ``prefix6`` are where functions without a given address get theirs from.
    ``hook`` is how programs are attached: by TCX link or clsact filter; auto means a link where
    packets of functions come by, if the kernel has it. While an ``expedited`` mesh is changed, the
    kernel's grace periods are shorter, for everybody. With ``reject`` the sender of what no rule
    allows is told, and of what no service or no function of it takes. With ``count_flows``
    packets and bytes are counted for each flow, too. Where a function does not get ready, what
    ``up`` did is undone, or kept (``on_failure``). With ``host`` the host's own processes reach
    services, by programs at the root of the cgroup hierarchy.
    """

    name: MeshName
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    hook: Hook = "auto"
    expedited: bool = False
    reject: bool = False
    count_flows: bool = False
    host: bool = False
    on_failure: OnFailure = "undo"
    prefix4: Annotated[IPv4Network, AfterValidator(check_prefix)] = IPv4Network("198.18.0.0/16")
    prefix6: Annotated[IPv6Network, AfterValidator(check_prefix)] = IPv6Network("2001:db8::/64")
    functions: tuple[Function, ...] = ()
    services: tuple[Service, ...] = ()
    policies: tuple[Policy, ...] = ()
    injections: tuple[Injection, ...] = ()
    uplinks: tuple[Uplink, ...] = ()
    remotes: tuple[Remote, ...] = ()
    rights: tuple[Rights, ...] = ()

    @property
    def tenants(self) -> tuple[str, ...]:
        """The tenants of its functions and remotes, each once, in the order they first appear."""
        beyond = (remote.tenant for remote in self.remotes)
        return tuple(dict.fromkeys((*(function.tenant for function in self.functions), *beyond)))

    def rights_of(self, tenant: str) -> Rights:
        """What a tenant may inject: nothing, if the mesh does not say."""
        return next((one for one in self.rights if one.name == tenant), Rights(name=tenant))

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """The functions of each group."""
        return groups_of(self.functions)

    @property
    def backed(self) -> tuple[Service, ...]:
        """Its services with their backends."""
        groups = self.groups
        return tuple(service.backed(groups) for service in self.services)

    def probes(self) -> dict[str, tuple[Probe, ...]]:
        """What each function is asked to be ready, without those that are so by themselves.

        One that has a command and sockets, and does not say, is asked for the ports that services
        of a single port send to.
        """
        ports: dict[str, set[tuple[str, int]]] = {}
        for service in self.backed:
            if service.ports == 1:
                for name in service.backends:
                    ports.setdefault(name, set()).add((service.protocol, service.target_port))
        return {one.name: found for one in self.functions
                if (found := probes_of(one, ports.get(one.name, ())))}  # fmt: skip

    def sizes(self) -> dict[str, int]:
        """What it takes of the limits that count more than objects."""
        ends = (i for rule in self.policies for i in (rule.source, rule.destination))
        return {
            "services": sum(service.entries for service in self.services),
            "rules": sum(len(rule.prefixes) for rule in self.policies),
            "prefixes": len({identity.name for identity in ends if identity.prefix}),
        }
