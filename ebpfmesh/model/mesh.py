# SPDX-License-Identifier: BSD-2-Clause
"""A whole mesh."""

from collections.abc import Iterable
from typing import Self, TypeVar

from pydantic import model_validator

from ebpfmesh.errors import NotFound
from ebpfmesh.model.base import suggest
from ebpfmesh.model.objects import Function, Service
from ebpfmesh.model.parts import Parts
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
