# SPDX-License-Identifier: BSD-2-Clause
"""What is rejected is answered as iptables' REJECT does, on the wire."""

from hypothesis import given

from ebpfmesh.model import Policy
from equivalence import strategies
from equivalence.answers import askers, compare_answers, told
from equivalence.examples import ANSWERS, examples
from equivalence.world import World


@examples(ANSWERS)
@given(rules=strategies.rules, port=strategies.ports)
def test_who_is_rejected_is_told_the_same(
    world: World, rules: tuple[Policy, ...], port: int
) -> None:
    world.forget()
    mesh = world.set_rules(rules, "first")
    shots = askers(port)
    by_mesh, by_iptables = (told(received, shots) for received in world.receive(shots))
    compare_answers(by_mesh, by_iptables, shots, mesh)
