# SPDX-License-Identifier: BSD-2-Clause
"""What comes from outside by an uplink: the same by any rules as behind iptables, DNAT and all.

Of these tests a quarter of the examples of others are tried.
"""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings

from ebpfmesh.model import Policy
from equivalence import strategies
from equivalence.compare import compare, uplink_openers
from equivalence.conversation import Talks, front_shots, shots_of
from equivalence.examples import FRONTED, UPLINKED_RULES, examples
from equivalence.network import UPLINK_PAIRS
from equivalence.strategies import Step
from equivalence.world import World

FEWER = settings(max_examples=max(settings.default.max_examples // 4, 1))


@pytest.fixture(scope="module")
def uplinked(_world: World) -> Iterator[World]:
    """Both networks; the outside comes in by an uplink, where services are published."""
    with _world.by_uplink():
        yield _world


@FEWER
@examples(UPLINKED_RULES)
@given(rules=strategies.uplink_rules)
def test_first_packets_from_outside(uplinked: World, rules: tuple[Policy, ...]) -> None:
    uplinked.forget()
    mesh = uplinked.set_rules(rules, "first")
    compare(uplinked, uplink_openers(mesh), mesh)


@FEWER
@examples(FRONTED)
@given(rules=strategies.uplink_rules, port=strategies.ports, steps=strategies.steps)
def test_conversations_with_the_outside(
    uplinked: World, rules: tuple[Policy, ...], port: int, steps: tuple[Step, ...]
) -> None:
    uplinked.forget()
    mesh = uplinked.set_rules(rules, "every", show_invalid=True)
    shots, begun = [], set[str]()
    for turn, step in enumerate(steps):
        shots += shots_of(step, turn, port, UPLINK_PAIRS)
        shots += front_shots(step, turn, begun, mesh)
    Talks().check(uplinked, shots, mesh)
