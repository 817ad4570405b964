# SPDX-License-Identifier: BSD-2-Clause
"""Which first packets pass, by any rules: in the mesh, behind iptables, and by the model."""

from hypothesis import given

from ebpfmesh.model import Policy
from equivalence import strategies
from equivalence.compare import compare, openers
from equivalence.examples import RULES, examples
from equivalence.world import World


@examples(RULES)
@given(rules=strategies.rules)
def test_first_packets(world: World, rules: tuple[Policy, ...]) -> None:
    world.forget()
    mesh = world.set_rules(rules, "first")
    compare(world, openers(mesh), mesh)
