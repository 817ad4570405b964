# SPDX-License-Identifier: BSD-2-Clause
"""Where a function's processes run."""

import os
from dataclasses import dataclass
from pathlib import Path

from ebpfmesh.kernel import libc
from ebpfmesh.kernel.cgroup import Cgroup


def number_inside(process: int) -> int:
    """What a process is called in the PID namespace that it is in; 0 if it is in ours, or gone."""
    try:
        status = Path(f"/proc/{process}/status").read_text(errors="replace")
    except OSError:
        return 0
    numbers = next(line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
    return int(numbers[-1]) if len(numbers) > 1 else 0


@dataclass(frozen=True)
class Home:
    """Where a function's processes run; ``hosts`` is bound over /etc/hosts, ``hidden`` is empty."""

    netns: Path
    cgroup: Cgroup
    hosts: Path
    hidden: Path

    def join_cgroup(self) -> None:
        """Have the calling process be in the function's cgroup."""
        for file in self.cgroup.files():
            file.write_text("0")

    def join(self) -> None:
        """And in its network namespace."""
        self.join_cgroup()
        with self.netns.open() as target:
            libc.setns(target.fileno(), libc.CLONE_NEWNET)

    def enter(self) -> None:
        """Move the calling process there, for good: cgroup, network and mount namespace."""
        self.join()
        libc.unshare(libc.CLONE_NEWNS)
        libc.mount(b"none", Path("/"), None, flags=libc.MS_SLAVE | libc.MS_REC)
        libc.mount(
            b"sysfs", Path("/sys"), b"sysfs"
        )  # /sys/class/net shows the namespace it was mounted in
        libc.mount(os.fsencode(self.hosts), Path("/etc/hosts").resolve(), None, flags=libc.MS_BIND)
        libc.mount(b"none", self.hidden, b"tmpfs", b"mode=0755", flags=libc.MS_RDONLY)
