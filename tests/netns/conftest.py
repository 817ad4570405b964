# SPDX-License-Identifier: BSD-2-Clause
"""What most tests of this tier begin with, as their module says: a mesh, and who is outside of it.

    MESH = "…"                 a mesh file
    OUTSIDE = beyond_router    of ``support/outside.py``; without it, who is behind an uplink at up0

The fixtures ``mesh`` and ``outside`` are these, for all tests of the module. Where a test makes
something else of the mesh: ``pytestmark = pytest.mark.usefixtures("restored")``.
"""

from collections.abc import Iterator

import pytest

from ebpfmesh import apply
from ebpfmesh.kernel import sockets
from ebpfmesh.model import Mesh
from support.nic import Nic, nic
from support.outside import Outside, beyond
from support.topology import mesh_of, running, unavailable


@pytest.fixture(scope="module")
def outside(request: pytest.FixtureRequest) -> Iterator[Outside]:
    with getattr(request.module, "OUTSIDE", beyond)() as found:
        yield found


@pytest.fixture(scope="module")
def wire() -> Iterator[Nic]:
    """What plays a NIC, and the wire that it is at."""
    with nic() as found:
        yield found


@pytest.fixture(scope="module")
def running_mesh(request: pytest.FixtureRequest) -> Iterator[Mesh]:
    """The mesh, for a module that makes something of it for ``mesh``."""
    wanted = mesh_of(request.module.MESH)
    if wanted.uplinks:
        request.getfixturevalue("outside")  # before it, so that the interface is there
    with running(wanted) as found:
        yield found


@pytest.fixture(scope="module")
def mesh(running_mesh: Mesh) -> Mesh:
    return running_mesh


@pytest.fixture
def restored(mesh: Mesh) -> Iterator[None]:
    """The mesh is that of the file again after each test."""
    yield
    apply.up(mesh)


@pytest.fixture(scope="module")
def at_sockets() -> None:
    """Programs at sockets can be had here."""
    if not sockets.supported():
        unavailable("no cgroup v2, or a kernel without programs for it")
