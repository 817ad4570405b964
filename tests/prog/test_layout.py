# SPDX-License-Identifier: BSD-2-Clause
"""The compiler's layout of every key and value is that of ``ebpfmesh._abi``, to the byte.

A byte of mesh_abi.h that moves without ``make abi`` fails here, and in unit/test_abi.py.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ebpfmesh import _abi
from ebpfmesh.kernel.maps import FLOWS
from prog.bcc_layout import layout

LAID_OUT = [spec for spec in _abi.MAPS if spec.kind != "ringbuf"]  # that has but struct mesh_event


def laid_out(*arguments: str) -> dict[str, dict[str, Any]]:
    """What BCC says of each map."""
    names = [spec.name for spec in LAID_OUT]
    done = subprocess.run(
        [sys.executable, "-m", "tests.prog.bcc_layout", *names, *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def compiled() -> dict[str, dict[str, Any]]:
    return laid_out()


@pytest.mark.parametrize("spec", LAID_OUT, ids=lambda spec: spec.name)
@pytest.mark.parametrize("part", ["key", "value"])
def test_layout(compiled: dict[str, dict[str, Any]], spec: _abi.MapSpec, part: str) -> None:
    assert compiled[spec.name][part] == layout(getattr(spec, part))


def test_flows_are_wider_where_they_count(compiled: dict[str, dict[str, Any]]) -> None:
    """That is all that differs, and a flow stands at the beginning of its entry."""
    counted = laid_out("-DMESH_COUNT_FLOWS=1")
    shapes = {name: {**counted[name], "value": layout(_abi.CountedFlow)} for name in FLOWS}
    assert counted == compiled | shapes
    assert _abi.CountedFlow.flow.offset == 0
    assert "__pad_" not in json.dumps(counted)


def test_no_padding(compiled: dict[str, dict[str, Any]]) -> None:
    """BCC names what the compiler put between two fields ``__pad_`` and a number."""
    assert "__pad_" not in json.dumps(compiled)
    assert set(compiled) == {spec.name for spec in LAID_OUT}
