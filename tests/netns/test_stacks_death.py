# SPDX-License-Identifier: BSD-2-Clause
"""A backend dies under load: first its server, then the function itself.

client: curl, again and again ──▶ web:80 ──▶ web-0:8080 (dies) | web-1:8080 | web-2:8080
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from ebpfmesh import apply
from ebpfmesh.model import Mesh
from support.meshes import BALANCED
from support.servers import nginx
from support.topology import background, in_network, needs, running, wait_until

BACKENDS = ("web-0", "web-1", "web-2")
OTHERS = {"web-1", "web-2"}
URL = {4: "http://198.19.0.1/", 6: "http://[2001:db8:1::1]/"}
# Exit codes of curl for a server that dies: no connection, no answer, a reset as it sends or reads.
DYING = {"failed 7", "failed 52", "failed 55", "failed 56"}


@contextmanager
def load(mesh: Mesh, how: str, url: str, log: Path) -> Iterator[Callable[[], list[str]]]:
    """One request after another, each by a new connection; the answers so far."""
    loop = f"while :; do curl -sS --fail -m 20 '{url}' || echo failed $?; done >{log} 2>/dev/null"
    words: list[object] = ["sh", "-c", loop]
    if how == "packets":
        running_loop = background(mesh, None, in_network(mesh, "client", words))
    else:
        running_loop = background(mesh, "client", words)
    log.touch()
    with running_loop:
        yield lambda: log.read_text().splitlines()


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("how", ["packets", "sockets"])
def test_a_backend_dies_under_load(tmp_path: Path, how: str, version: int) -> None:
    """While its server is dead some are refused, none hangs; without the function all are served.

    By packets a service is found at each of them, by sockets once, when they connect.
    """
    needs("nginx", "curl", "nsenter")
    with running(BALANCED) as mesh, ExitStack() as stack:
        first = stack.enter_context(ExitStack())
        first.enter_context(nginx(mesh, "web-0", tmp_path / "web-0"))
        for name in BACKENDS[1:]:
            stack.enter_context(nginx(mesh, name, tmp_path / name))
        lines = stack.enter_context(load(mesh, how, URL[version], tmp_path / "log"))
        wait_until(lambda: set(BACKENDS) <= set(lines()), what="all serve")
        first.close()
        mark = len(lines())
        wait_until(lambda: {"failed 7"} | OTHERS <= set(lines()[mark:]), what="some are refused")
        apply.detach(mesh.name, "web-0")
        gone = len(lines()) + 1  # one may have begun before
        wait_until(lambda: len(lines()) >= gone + 40, what="40 answers")
        found = lines()
        assert set(found[gone : gone + 40]) == OTHERS
        assert {line for line in found if line.startswith("failed")} <= DYING
