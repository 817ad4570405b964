# SPDX-License-Identifier: BSD-2-Clause
"""Without the packages of the extra "bench": all works but what needs them, which says so.

The library of functions needs numpy too, and is for their commands alone.
"""

import subprocess
import sys

import pytest

from ebpfmesh.cli.choose import BENCH_PACKAGES

BLOCKED = f"import sys\nsys.modules.update(dict.fromkeys({tuple(BENCH_PACKAGES)}))\n"
"""An import of a module that is None in sys.modules fails, and it is not found."""
COMMAND = BLOCKED + "from ebpfmesh.cli.main import main\nmain()\n"
ALL = (
    BLOCKED
    + """
import importlib, pkgutil, ebpfmesh
ALONE = ("__main__", "abi", "kernel.loader")  # scripts: they are run, not imported
WITH = ("bench.lab", "bench.run", "bench.measure", "bench.report", "bench.stats", "port")
for found in pkgutil.walk_packages(ebpfmesh.__path__, "ebpfmesh."):
    name = found.name.removeprefix("ebpfmesh.")
    if name not in ALONE and not name.startswith(WITH):
        importlib.import_module(found.name)
        print(name)
"""
)


def run(code: str, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )


def test_a_mesh_needs_none_of_them() -> None:
    """Nor do the scenarios, the paths and the packets: `bench list`, `bench generate`."""
    done = run(ALL)
    assert done.returncode == 0, done.stderr
    assert {"apply.live", "observe.functions", "cli.main", "bench.packets.send"} <= set(
        done.stdout.split()
    )
    assert run(COMMAND, "bench", "list").returncode == 0


@pytest.mark.parametrize(
    "words", [("demo",), ("bench", "run", "quick"), ("bench", "report", "build")], ids=" ".join
)
def test_what_needs_them_says_so_at_once(words: tuple[str, ...]) -> None:
    done = run(COMMAND, *words)
    assert done.returncode == 5
    packages = ", ".join(BENCH_PACKAGES.values())
    error, hint = done.stderr.splitlines()
    assert error.endswith(f"needs Python packages that are missing: {packages}")
    assert hint == "hint: pip install 'ebpfmesh-….whl[bench]'; in a checkout: make setup"
