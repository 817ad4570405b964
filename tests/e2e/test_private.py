# SPDX-License-Identifier: BSD-2-Clause
"""What a mesh keeps is root's alone, whatever the umask; a function's users read its hosts."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from stat import S_IMODE, S_ISDIR

import pytest

from ebpfmesh.kernel import cgroup, netns
from ebpfmesh.kernel.pins import BPFFS
from ebpfmesh.state.files import RUN
from support.command import ebpfmesh
from support.topology import wait_until

MESH = """
[mesh]
name = "private"
[[function]]
name = "loud"
privileged = true
command = ["sh", "-c", "umask; exec sleep 1000"]
memory = "64M"
[[function]]
name = "quiet"
[[service]]
name = "web"
address = "198.19.0.1"
port = 80
functions = ["quiet"]
"""
NOBODY = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
HOLD = """
import sqlite3
record = sqlite3.connect("file:/run/ebpfmesh/private/record.db?mode=ro", uri=True)
record.execute("BEGIN")
print(record.execute("SELECT count(*) FROM function").fetchone(), flush=True)
"""


@pytest.fixture
def file() -> Iterator[Path]:
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(MESH)
        file.flush()
        Path(file.name).chmod(0o644)  # for nobody too
        yield Path(file.name)
        ebpfmesh("--mesh", "private", "down")


def up(file: Path, umask: int) -> None:
    ebpfmesh("up", file, prefix=("sh", "-c", f'umask {umask:o}; exec "$@"', "sh"))


def kept() -> dict[Path, int]:
    """All that a mesh keeps in directories, with modes; links to others and the kernel's files."""
    here = f"private.{netns.current()}"
    cgroups = [place / cgroup.TOP / here for place in cgroup.Hierarchies.mounted().all()]
    tops = [RUN, BPFFS / "ebpfmesh", *(top for top in cgroups if top.exists())]
    found = {path: path.stat().st_mode for top in tops for path in (top, *top.rglob("*"))}
    ours = lambda path: RUN in path.parents or BPFFS in path.parents  # noqa: E731
    return {path: mode for path, mode in found.items() if S_ISDIR(mode) or ours(path)}


@pytest.mark.parametrize("umask", [0, 0o22, 0o77])
def test_only_root_may(file: Path, umask: int) -> None:
    up(file, umask)
    log = RUN / "private/loud.log.0"
    wait_until(lambda: log.exists() and log.read_text(), what="the command says something")
    assert int(log.read_text().split()[1], 8) == umask, (
        "the command has the umask of who started it"
    )
    hosts = RUN / "private/hosts"
    found = kept()
    assert found.pop(hosts) & 0o777 == 0o644, "to be read where it is /etc/hosts"
    assert {
        hosts.with_name(name) for name in ("record.db", "loud.log.0", "loud.log.3", "loud.exit")
    } <= found.keys()
    assert {str(path): oct(mode) for path, mode in found.items() if mode & 0o077} == {}


def test_nobody_reads_or_stops_anything(file: Path) -> None:
    """Neither on the host nor in a function; there the names of others still lead to them."""
    up(file, 0o22)
    inside = (sys.executable, "-m", "ebpfmesh", "exec", "loud", "--")
    for who in (NOBODY, inside, (*inside, *NOBODY)):  # root in a function is none of ours either
        for command in (
            ["ls", RUN / "private"],
            ["cat", RUN / "private/loud.log.0"],
            ["/usr/bin/python3", "-c", HOLD],
        ):
            done = subprocess.run([*who, *command], capture_output=True, check=False)
            assert done.returncode != 0, who
            assert done.stdout == b"", who
    for user in ((), NOBODY):
        assert "198.19.0.1 web" in ebpfmesh("exec", "loud", "--", *user, "cat", "/etc/hosts").stdout
    assert "CAP_" in ebpfmesh("show", "functions", prefix=NOBODY, code=4).stderr
    assert "CAP_" in ebpfmesh("plan", file, prefix=NOBODY, code=4).stderr


def test_what_an_earlier_version_left_open_is_closed(file: Path) -> None:
    up(file, 0o22)
    modes = {path: S_IMODE(path.stat().st_mode) for path in (RUN, *RUN.rglob("*"))}
    del modes[RUN / "private.lock"]  # which never was
    for path in modes:
        path.chmod(0o777 if path.is_dir() else 0o666)
    ebpfmesh("policy", "add", "any", "service:web")
    assert {path: S_IMODE(path.stat().st_mode) for path in modes} == modes
