# SPDX-License-Identifier: BSD-2-Clause
"""A whole mesh."""

from collections.abc import Collection, Iterable
from typing import Self, TypeVar

from pydantic import model_validator

from ebpfmesh.errors import NotFound
from ebpfmesh.model.base import suggest
from ebpfmesh.model.function import Function
from ebpfmesh.model.injection import Injection, ranked
from ebpfmesh.model.parts import Parts
from ebpfmesh.model.policy import Policy
from ebpfmesh.model.service import Service
from ebpfmesh.model.whole import problems

_Named = TypeVar("_Named", Function, Service)


class Mesh(Parts):
    """A whole mesh: every name is unique and known, no address is used twice."""

    def function(self, name: str) -> Function:
        """The function called ``name``; raises ``NotFound``."""
        return _named(self.functions, "function", name)

    def service(self, name: str) -> Service:
        """The service called ``name``; raises ``NotFound``."""
        return _named(self.services, "service", name)

    def made_of(
        self,
        functions: Collection[Function],
        services: Iterable[Service],
        policies: Iterable[Policy],
        injections: Iterable[Injection] = (),
    ) -> Self:
        """Its settings with these parts; what names a function or service that is gone goes too."""
        uplinks = {uplink.name for uplink in self.uplinks}
        remotes = tuple(remote for remote in self.remotes if remote.uplink in uplinks)
        known = {one.name for one in (*functions, *remotes)}
        groups = {function.group for function in functions if function.group}
        kept = tuple(s.only(known | groups).published_on(uplinks) for s in services)
        names = {
            "function": known,
            "group": groups,
            "tenant": {function.tenant for function in functions} | {one.tenant for one in remotes},
            "service": {service.name for service in kept},
        }
        own = {function.name for function in functions}
        there = {("function", name) for name in own | groups}
        there |= {("tenant", name) for name in names["tenant"]}
        parts = {
            "functions": tuple(functions),
            "remotes": remotes,
            "services": kept,
            "policies": tuple(
                policy
                for policy in policies
                if all(
                    end.name in names.get(end.kind, {end.name})
                    for end in (policy.source, policy.destination)
                )
            ),
            "injections": ranked(tuple(one for one in injections if one.target in there)),
        }
        return self.model_copy(update=parts)

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        for problem in problems(self):
            raise problem
        return self


def _named(objects: Iterable[_Named], kind: str, name: str) -> _Named:
    for item in objects:
        if item.name == name:
            return item
    hint = suggest(name, (item.name for item in objects))
    raise NotFound(f'there is no {kind} "{name}"', hint=hint)
