# SPDX-License-Identifier: BSD-2-Clause
"""The ebpfmesh command as a user types it: another process, its output, its exit code."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.topology import SLOWER

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "ebpfmesh")
SECONDS = 180.0
"""Of any command: one may compile all programs beside three others."""


def ebpfmesh(
    *words: object, code: int = 0, stdin: str = "", prefix: tuple[str, ...] = (), **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run a command; the test fails if its exit code is another than ``code``."""
    line = [*prefix, *COMMAND, *map(str, words)]
    done = subprocess.run(
        line, input=stdin, capture_output=True, text=True, check=False, cwd=ROOT,
        timeout=SECONDS * SLOWER, env=os.environ | environment,
    )  # fmt: skip
    if done.returncode != code:
        said = f"{done.stdout}{done.stderr}"
        pytest.fail(f"ebpfmesh {' '.join(map(str, words))}: exit {done.returncode}\n{said}")
    return done


def install(directory: Path) -> None:
    """Have a program `ebpfmesh` there, for lines that a shell is given as users type them."""
    directory.mkdir()
    program = directory / "ebpfmesh"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m ebpfmesh "$@"\n')
    program.chmod(0o755)


def lines(*words: object) -> list[str]:
    """What a command prints on stdout; nothing may be on stderr."""
    done = ebpfmesh(*words)
    assert done.stderr == ""
    return done.stdout.splitlines()


def data(*words: object) -> dict[str, Any]:
    """What a command prints with --json: schema 1, and nothing on stderr."""
    done = ebpfmesh("--json", *words)
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    assert found.pop("schema") == 1
    return found


def complaint(*words: object, code: int, **environment: str) -> tuple[str, str]:
    """The error and the hint of a command that fails with ``code``, and says no more than these."""
    done = ebpfmesh(*words, code=code, **environment)
    assert done.stdout == ""
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    return error.removeprefix("error: "), hint.removeprefix("hint: ")
