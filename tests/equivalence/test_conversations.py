# SPDX-License-Identifier: BSD-2-Clause
"""Which packets of a conversation pass, in any order, and when rules change on the way."""

from hypothesis import given
from hypothesis import strategies as st

from ebpfmesh.model import Policy
from equivalence import strategies
from equivalence.conversation import Talks, shots_of
from equivalence.examples import CHANGES, CONVERSATIONS, examples
from equivalence.strategies import Step
from equivalence.world import World

Phase = tuple[tuple[Policy, ...], tuple[Step, ...]]


@examples(CONVERSATIONS)
@given(rules=strategies.rules, port=strategies.ports, steps=strategies.steps)
def test_conversations(
    world: World, rules: tuple[Policy, ...], port: int, steps: tuple[Step, ...]
) -> None:
    world.forget()
    mesh = world.set_rules(rules, "first", show_invalid=True)
    shots = [shot for turn, step in enumerate(steps) for shot in shots_of(step, turn, port)]
    Talks().check(world, shots, mesh)


@examples(CHANGES)
@given(
    port=strategies.ports,
    phases=st.lists(st.tuples(strategies.rules, strategies.steps), min_size=2, max_size=3),
)
def test_rules_change(world: World, port: int, phases: list[Phase]) -> None:
    """Open connections are judged anew, by how they were opened."""
    world.forget()
    turn, talks = 0, Talks()
    for rules, steps in phases:
        mesh = world.set_rules(rules, "every", show_invalid=True)
        shots = []
        for step in steps:
            turn += 1
            shots += shots_of(step, turn, port)
        talks.check(world, shots, mesh)
