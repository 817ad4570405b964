# SPDX-License-Identifier: BSD-2-Clause
"""Servers as Debian has them, by their mesh file alone, as docs/servers.md says: line by line.

The page's /srv and /home are this test's own, and alice is an account in it alone.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ebpfmesh.kernel import libc
from support.command import ROOT, data, ebpfmesh, install
from support.topology import SLOWER, needs, wait_until

PAGE = (ROOT / "docs/servers.md").read_text()
BEGIN, TRY, KEPT = re.findall(r"^```\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
ALICE = {"passwd": "alice:x:2000:2000::/home/alice:/bin/sh\n", "group": "alice:x:2000:\n"}
SQL = "ebpfmesh exec client -- psql -h sql -U postgres -Atc"
PROGRAMS = ("nginx", "redis-server", "redis-cli", "psql", "ssh", "dnsmasq", "iperf3", "busybox")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Where ebpfmesh is in PATH, at a machine that has alice."""
    needs(*PROGRAMS)
    install(tmp_path / "bin")
    with ExitStack() as stack:
        for file, line in ALICE.items():
            real, own = Path("/etc", file), tmp_path / file
            own.write_text(real.read_text() + line)
            libc.mount(os.fsencode(own), real, None, flags=libc.MS_BIND)
            stack.callback(libc.umount, real)
        for directory in (Path("/srv"), Path("/home")):
            libc.mount(b"none", directory, b"tmpfs", b"mode=0755")
            stack.callback(libc.umount, directory)
        home = Path("/home/alice")
        home.mkdir()
        os.chown(home, 2000, 2000)
        yield tmp_path


def typed(script: str, place: Path, *, stop: bool = False) -> str:
    """What a shell prints that is given these lines; ``stop`` at the first that fails."""
    path = f"{place}/bin:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", *(["-e"] if stop else []), "-c", script],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=150 * SLOWER,
        env=os.environ | {"PATH": path},
    )  # fmt: skip
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    return done.stdout


def as_said(block: str, place: Path) -> None:
    """Each line prints what its comment says."""
    for line in block.splitlines():
        command, _, expected = line.partition("  # ")
        assert expected in (said := typed(command, place)), f"{line}\n{said}"


def test_each_does_what_the_page_says(place: Path) -> None:
    try:
        typed(BEGIN, place, stop=True)
        as_said(TRY, place)
        rows = {row["name"]: row for row in data("show", "functions")["functions"]}
        assert all(row["ready"] for row in rows.values())
        for name in rows.keys() - {"client"}:
            assert data("logs", name, "-n", 1), f"{name} said nothing"
        who_logs_in_has_a_terminal_and_no_capability(place)
        as_said(KEPT, place)
        others_answer_after_a_restart(place)
    finally:
        ebpfmesh("down", "--mesh", "servers")


def others_answer_after_a_restart(place: Path) -> None:
    """With what they were given before."""
    typed(f"{SQL} 'create table kept (a int)'", place)
    for name in ("postgres", "ssh", "dns"):
        typed(f"ebpfmesh restart {name}", place)
    again = [line for line in TRY.splitlines() if " ssh -i" in line or "nslookup" in line]
    for line in (*again, f"{SQL} 'select count(*) from kept'  # 0"):
        wait_until(lambda: answers(line, place), what=line, seconds=30)  # noqa: B023  (at once)


def answers(line: str, place: Path) -> bool:
    try:
        as_said(line, place)
    except AssertionError:
        return False
    return True


def who_logs_in_has_a_terminal_and_no_capability(place: Path) -> None:
    """Not even those that sshd has; the key it proves itself by is not theirs to read."""
    ssh = next(line for line in TRY.splitlines() if " ssh -i" in line).partition(" id  # ")[0]
    script = "tty; grep CapEff /proc/self/status; cat /srv/ssh/key"
    said = typed(f"{ssh.replace(' ssh ', ' ssh -tt ')} '{script}' || true", place)
    assert "/dev/pts/" in said
    assert "CapEff:\t0000000000000000" in said
    assert "cat: /srv/ssh/key: Permission denied" in said
