# SPDX-License-Identifier: BSD-2-Clause
"""The part of a mesh that one change looks at: what else there is makes no difference to it."""

from dataclasses import dataclass

from ebpfmesh.model.base import Address
from ebpfmesh.model.policy import Identity, Policy


@dataclass(frozen=True)
class Scope:
    """What a change names or may meet.

    ``addresses`` stand for whoever has them, ``uplinks`` for the services published there,
    ``rules`` for the policy about the same flows, ``about`` for all policies that name one of
    these. What these need to be whole comes along.
    """

    functions: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    addresses: tuple[Address, ...] = ()
    uplinks: tuple[str, ...] = ()
    rules: tuple[Policy, ...] = ()
    about: tuple[Identity, ...] = ()
