# SPDX-License-Identifier: BSD-2-Clause
"""What this process may do: its effective capabilities."""

from pathlib import Path

from ebpfmesh.errors import MissingPrivilege
from ebpfmesh.runtime.capability import BPF, NET_ADMIN, SYS_ADMIN

_BITS = {"CAP_NET_ADMIN": NET_ADMIN, "CAP_SYS_ADMIN": SYS_ADMIN, "CAP_BPF": BPF}
READ = ("CAP_BPF", "CAP_NET_ADMIN")
CHANGE = ("CAP_BPF", "CAP_NET_ADMIN", "CAP_SYS_ADMIN")


def missing(wanted: tuple[str, ...], status: str | None = None) -> list[str]:
    """Those of ``wanted`` that the process lacks; ``status`` is the text of its /proc status."""
    text = status if status is not None else Path("/proc/self/status").read_text()
    held = next(int(line.split()[1], 16) for line in text.splitlines() if "CapEff:" in line)
    if held >> _BITS["CAP_SYS_ADMIN"] & 1:  # stands for CAP_BPF as well, capabilities(7)
        held |= 1 << _BITS["CAP_BPF"]
    return [name for name in wanted if not held >> _BITS[name] & 1]


def require(wanted: tuple[str, ...], what: str) -> None:
    """Raise MissingPrivilege, naming the capabilities that ``what`` needs and are not there."""
    if lacking := missing(wanted):
        raise MissingPrivilege(f"{what} needs {', '.join(lacking)}", hint="run it as root")
