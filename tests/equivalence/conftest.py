# SPDX-License-Identifier: BSD-2-Clause
"""The two networks of this tier, and how much hypothesis tries.

EBPFMESH_EQUIVALENCE is the number of examples of each test: 60, the same each time, unless it says
otherwise.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from equivalence.world import RESTORE, World
from equivalence.world import world as both_networks
from support import topology

HERE = Path(__file__).parent
NUMBER = os.environ.get("EBPFMESH_EQUIVALENCE", "")
settings.register_profile(
    "equivalence",
    max_examples=int(NUMBER or 60),
    derandomize=not NUMBER,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("equivalence")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A failing test is made smaller, which takes minutes."""
    for item in items:
        if HERE in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(0 if NUMBER else 1800))


@pytest.fixture(scope="package", autouse=True)
def _world(_sandbox: None) -> Iterator[World | None]:
    if topology.cannot_run():
        yield None
        return
    topology.needs(*RESTORE.values())
    with both_networks() as world:
        yield world


@pytest.fixture
def world(_world: World) -> World:
    """Both networks."""
    return _world
