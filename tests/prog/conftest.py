# SPDX-License-Identifier: BSD-2-Clause
"""The one mesh of this tier: compiled once, reset after each test."""

from collections.abc import Iterator

import pytest

from support import topology

pytest.register_assert_rewrite("prog.rows")  # before anything imports it: its asserts speak

from prog.lab import MESH, Lab  # noqa: E402


@pytest.fixture(scope="package", autouse=True)
def _lab(_sandbox: None) -> Iterator[Lab | None]:
    if topology.cannot_run():
        yield None
        return
    with topology.running(MESH):
        lab = Lab()
        try:
            yield lab
        finally:
            lab.close()


@pytest.fixture
def lab(_lab: Lab) -> Iterator[Lab]:
    yield _lab
    _lab.reset()
