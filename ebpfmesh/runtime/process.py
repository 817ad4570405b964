# SPDX-License-Identifier: BSD-2-Clause
"""Processes of functions: in their namespace and cgroup, with the mesh's names in /etc/hosts.

A command that ``up`` starts stays when ebpfmesh exits. Two shells keep what would be lost: one
waits and writes down how the command ended, the other keeps the first mebibyte of what it said.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ebpfmesh.errors import MeshError, NotFound
from ebpfmesh.kernel import libc, private
from ebpfmesh.kernel.cgroup import Cgroup
from ebpfmesh.runtime.capability import confine

KEEP = r"""exec 3>&2 2>/dev/null
{ "$@" 3>&-; printf %s $? >&3; } 2>&1 </dev/null \
| { (ulimit -f 2048; exec cat -u); exec cat -u >/dev/null; } 3>&-"""
"""Writes to stdout what a command says, and to stderr its exit status."""
KEEP_LOG = ["cat", "-u"]  # writes what it reads at once, where head would collect it


@dataclass(frozen=True)
class Home:
    """Where a function's processes run; ``hosts`` is bound over /etc/hosts, ``hidden`` is empty."""

    netns: Path
    cgroup: Cgroup
    hosts: Path
    hidden: Path

    def enter(self) -> None:
        """Move the calling process there, for good: cgroup, network and mount namespace."""
        for file in self.cgroup.files():
            file.write_text("0")
        with self.netns.open() as target:
            libc.setns(target.fileno(), libc.CLONE_NEWNET)
        libc.unshare(libc.CLONE_NEWNS)
        libc.mount(b"none", Path("/"), None, flags=libc.MS_SLAVE | libc.MS_REC)
        libc.mount(
            b"sysfs", Path("/sys"), b"sysfs"
        )  # /sys/class/net shows the namespace it was mounted in
        libc.mount(os.fsencode(self.hosts), Path("/etc/hosts").resolve(), None, flags=libc.MS_BIND)
        libc.mount(b"none", self.hidden, b"tmpfs", b"mode=0755", flags=libc.MS_RDONLY)


def execute(home: Home, command: Sequence[str]) -> NoReturn:
    """Become ``command`` inside a function; NotFound if there is no such program."""
    if shutil.which(command[0]) is None:
        raise NotFound(f"there is no program {command[0]}", hint="give a name in PATH, or a path")
    home.enter()
    confine()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and the command would too
    os.execvp(command[0], list(command))  # noqa: S606


def start(home: Home, command: Sequence[str], *, log: Path, exit_file: Path) -> None:
    """Start ``command`` and leave it running; MeshError if the program is not there.

    ``exit_file`` is empty until it ended.
    """
    if shutil.which(command[0]) is None:
        raise MeshError(
            f"there is no program {command[0]}", hint="install it, or change command in the file"
        )

    def begin() -> None:
        home.enter()
        confine()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # ignored during an undo
            signal.signal(number, signal.SIG_DFL)

    for file in (log, exit_file):
        private.file(file)
    with log.open("wb") as said, exit_file.open("wb") as status:
        subprocess.Popen(
            ["/bin/sh", "-c", KEEP, "ebpfmesh", *command],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=status,
            start_new_session=True,
            preexec_fn=begin,  # noqa: PLW1509  (this process has one thread)
            cwd="/",
        )


def keepers(processes: Iterable[int]) -> set[int]:
    """Those of ``processes`` that only keep the log and the exit status of a command."""
    shells, found = set(), set()
    lines = {process: _command_line(process) for process in processes}
    for process, line in lines.items():
        if line[1:4] == ["-c", KEEP, "ebpfmesh"]:
            shells.add(process)
    for process, line in lines.items():
        if line == KEEP_LOG and _parent(process) in shells:
            found.add(process)
    return shells | found


def _command_line(process: int) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_text(errors="replace").split("\0")[:-1]
    return []


def _parent(process: int) -> int:
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{process}/stat").read_text(errors="replace")
        return int(status.rpartition(")")[2].split()[1])
    return 0


def _hosts(lines: Sequence[tuple[str, str]]) -> str:
    own = ["127.0.0.1 localhost", "::1 localhost", f"127.0.1.1 {socket.gethostname()}"]
    return "\n".join(own + [f"{address} {name}" for address, name in lines]) + "\n"


def has_hosts(path: Path, lines: Sequence[tuple[str, str]]) -> bool:
    """Whether a file says what ``write_hosts`` writes, in whatever order."""
    try:
        return sorted(path.read_text().splitlines()) == sorted(_hosts(lines).splitlines())
    except FileNotFoundError:
        return False


def write_hosts(path: Path, lines: Sequence[tuple[str, str]]) -> None:
    """Write (address, name) as /etc/hosts, in place: running functions have this file bound."""
    private.file(path, 0o644)  # all users of a function read it
    _overwrite(path, 0, _hosts(lines))


def change_hosts(
    path: Path, gone: Collection[tuple[str, str]], new: Collection[tuple[str, str]]
) -> None:
    """Take lines that ``write_hosts`` wrote out of its file, and add others, in place."""
    added = "".join(f"{address} {name}\n" for address, name in new)
    if not gone:
        _overwrite(path, path.stat().st_size, added)
        return
    text = path.read_text()
    for address, name in gone:
        text = text.replace(f"\n{address} {name}\n", "\n")
    _overwrite(path, 0, text + added)


def _overwrite(path: Path, start: int, text: str) -> None:
    """Have a file end with this text; MeshError if there is no room, and it says what it did."""
    raw = text.encode()
    try:
        with path.open("r+b", buffering=0) as file:
            os.posix_fallocate(file.fileno(), start, len(raw) or 1)
            os.pwrite(file.fileno(), raw, start)
            file.truncate(start + len(raw))
    except OSError as error:
        what = f"{path}: {error.strerror}"
        raise MeshError(what, hint=f"is there room? df {path.parent}; ulimit -f") from error


def in_container(reference: str) -> int:
    """Process id of a running container by name or id, asked of podman or docker."""
    for program in ("podman", "docker"):
        if shutil.which(program) is None:
            continue
        done = subprocess.run(
            [program, "inspect", "--type", "container", "--format", "{{.State.Pid}}", reference],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        if done.returncode == 0 and done.stdout.strip().isdigit():
            pid = int(done.stdout)
            if pid:
                return pid
            raise NotFound(
                f"container {reference} does not run", hint=f"{program} start {reference}"
            )
    raise NotFound(f"there is no container {reference}", hint="podman ps or docker ps lists them")
