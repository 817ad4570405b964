# SPDX-License-Identifier: BSD-2-Clause
"""Maps of injected functions in the memory of commands: read by those whose packets meet them."""

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ebpfmesh import apply
from ebpfmesh.errors import FunctionRefused
from ebpfmesh.model import Mesh
from ebpfmesh.observe import logs
from ebpfmesh.observe.view import opened
from ebpfmesh.runtime.logs import read
from support.sockets import made
from support.topology import mesh_of, running, wait_until

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tests/support/map_tool.py"
MESH = """
[mesh]
name = "maps"
[[tenant]]
name = "one"
inject = 2
[[function]]
name = "a"
tenant = "one"
command = ["{python}", "{tool}"]
volumes = ["{root}"]
{more}
[[function]]
name = "b"
tenant = "one"
command = ["sh", "-c", "env; exec sleep 1000"]
[[inject]]
name = "count"
at = "a/ingress"
{tenant}
source = '''
#include "mesh_function.h"
{map}
MESH_FUNCTION(p)
{{
	u32 at = p->destination_port & 3;
	u64 *value = seen.lookup(&at);

	if (p->protocol == 17 && value)
		__sync_fetch_and_add(value, {step});
	return mesh_next();
}}
'''
"""
SHARED = "MESH_SHARED(seen, u64, 4);"
REFUSED = ["mapping", "protection", "bpf", "array", "file", "path"]


def mesh(
    *, step: int = 1, declared: str = SHARED, more: str = "", tenant: str = 'tenant = "one"'
) -> Mesh:
    names = {"python": sys.executable, "tool": TOOL, "root": ROOT, "more": more}
    return mesh_of(MESH.format(**names, map=declared, step=step, tenant=tenant))


@pytest.fixture(scope="module")
def empty() -> Iterator[Mesh]:
    with running('[mesh]\nname = "maps"\n') as one:
        yield one


@pytest.fixture(autouse=True)
def _put_back(empty: Mesh) -> Iterator[None]:
    yield
    apply.up(empty)


def said(function: str = "a") -> list[str]:
    with opened("maps") as view:
        return [line.text for line in read([logs.log(view, function)])]


def first() -> dict[str, Any]:
    wait_until(lambda: len(said()) > 1, what="the command has read it")
    found: dict[str, Any] = json.loads(said()[0])
    return found


def comes(seen: list[int], *, current: bool = True) -> None:
    last = json.dumps({"seen": seen, "current": current})
    wait_until(lambda: said()[-1:] == [last], what=f"{last}, and not {said()[-2:]}")


def send(whole: Mesh, *ports: int) -> None:
    with made(whole, "b", socket.AF_INET, socket.SOCK_DGRAM) as one:
        for port in ports:
            one.sendto(b"x", (str(whole.function("a").address4), port))


def test_what_a_program_counts_is_read_and_nothing_is_written() -> None:
    """Nor by a command that may be root of the host: the map is frozen."""
    whole = mesh()
    apply.up(whole)
    assert first() == {"refused": REFUSED, "shape": [4], "size": 8}
    send(whole, 5000, 5001, 5001, 5003)
    comes([1, 2, 0, 1])
    assert not any("EBPFMESH_MAPS" in line for line in said("b"))


def test_an_operators_and_a_privileged_command() -> None:
    whole = mesh_of(
        MESH.format(
            python=sys.executable, tool=TOOL, root=ROOT, more="privileged = true", map=SHARED,
            step=1, tenant="",
        ).replace(f'volumes = ["{ROOT}"]\n', "")
    )  # fmt: skip
    apply.up(whole)
    assert set(REFUSED) - set(first()["refused"]) <= {"path"}  # the file is root's
    send(whole, 5002)
    comes([0, 0, 1, 0])


def test_another_version_goes_on_with_the_map_or_tells() -> None:
    whole = mesh()
    apply.up(whole)
    first()
    send(whole, 5000)
    comes([1, 0, 0, 0])
    whole = mesh(step=10)
    apply.up(whole)
    send(whole, 5000)
    comes([11, 0, 0, 0])
    apply.up(whole.model_copy(update={"injections": ()}))
    comes([11, 0, 0, 0], current=False)
    whole = mesh(declared="MESH_SHARED(seen, u64, 8);")
    apply.up(whole)
    send(whole, 5000)
    apply.restart("maps", "a")
    comes([1, 0, 0, 0, 0, 0, 0, 0])
    with pytest.raises(FunctionRefused, match="another layout"):
        apply.up(mesh())
