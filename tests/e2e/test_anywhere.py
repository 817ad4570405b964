# SPDX-License-Identifier: BSD-2-Clause
"""The command from any directory, whoever may write there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ebpfmesh.compile import compiled
from support.topology import SLOWER

COMMAND = Path(sys.executable).with_name("ebpfmesh")
MESH = '[mesh]\nname = "here"\n[[function]]\nname = "one"\n'
MODULES = ("json", "ctypes", "bcc", "ebpfmesh")


def run(directory: Path, *words: str, check: bool = True) -> str:
    """What the installed command prints, from a directory; the test fails if it fails."""
    done = subprocess.run(
        [COMMAND, *words], cwd=directory, capture_output=True, text=True, check=False,
        timeout=60 * SLOWER,
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_no_module_of_the_directory_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python would look there first, and it is root who runs this."""
    monkeypatch.setenv(compiled.VARIABLE, "")
    (tmp_path / "here.toml").write_text(MESH)
    for name in MODULES:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name}.py of the directory')\n")
    checks = json.loads(run(tmp_path, "doctor", "--json", check=False))["checks"]
    assert ("bcc", "ok") in [(check["topic"], check["status"]) for check in checks]
    run(tmp_path, "up", "here.toml")
    run(tmp_path, "--mesh", "here", "down")


def test_the_example_is_a_mesh(tmp_path: Path) -> None:
    (tmp_path / "edge.toml").write_text(run(tmp_path, "example"))
    assert "+ function phone" in run(tmp_path, "plan", "edge.toml")
