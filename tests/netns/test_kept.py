# SPDX-License-Identifier: BSD-2-Clause
"""A mesh whose programs are all kept needs no compiler, nor a process that would have one."""

import subprocess
from pathlib import Path

import pytest

from ebpfmesh.compile import compiled
from support.topology import running

MESH = """
[mesh]
name = "kept"
[[function]]
name = "server"
[[service]]
name = "web"
address = ["198.19.0.1"]
port = 80
functions = ["server"]
"""


def test_no_process_begins_where_all_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if compiled.directory() is None:
        monkeypatch.setenv(compiled.VARIABLE, str(tmp_path / "kept"))
    with running(MESH):
        pass

    def begun(words: object, **_rest: object) -> None:
        pytest.fail(f"it runs {words}")

    monkeypatch.setattr(subprocess, "Popen", begun)
    with running(MESH):
        pass
