# SPDX-License-Identifier: BSD-2-Clause
"""The headers BCC compiles against: a tree of links instead of a kernel source.

Network programs need nothing of the kernel's own headers, so neither does this machine. BCC takes
a small tree for a kernel source: a few fixed files from ``bpf/include/uapi`` beside the
user-space headers of linux-libc-dev, whose paths differ between machines and which are therefore
linked when they are needed. Compiling is faster too, as there is less to read.
"""

import sysconfig
from pathlib import Path

from ebpfmesh.compile.source import bpf_dir
from ebpfmesh.errors import Unsupported

SOURCE_VARIABLE = "BCC_KERNEL_SOURCE"
"""Environment variable that must name the tree *before* bcc is imported or compiles anything."""

CFLAGS = ("-DCONFIG_CC_STACKPROTECTOR", "-DCONFIG_BPF_SYSCALL")
"""What the tree's missing kernel configuration would have said; BCC's own headers ask for it."""


def header_links() -> dict[Path, Path]:
    """The tree's links and where they lead; Unsupported if linux-libc-dev is missing."""
    include = Path("include")
    uapi = include / "uapi"
    fixed = bpf_dir() / "include" / "uapi"
    return {
        include / "linux": fixed / "linux",
        include / "asm": fixed / "asm",
        include / "sys": fixed / "sys",
        uapi / "linux": _system_headers("linux", "bpf.h"),
        uapi / "asm": _system_headers("asm", "types.h"),
        uapi / "asm-generic": _system_headers("asm-generic", "types.h"),
    }


def header_tree(into: Path) -> Path:
    """Link the headers for BCC below the existing, empty directory ``into`` and return it.

    The result is the value of ``SOURCE_VARIABLE``; it must stand as long as the compiler runs and
    holds nothing but directories and links. Raises Unsupported if linux-libc-dev is missing.
    """
    for link, target in header_links().items():
        (into / link).parent.mkdir(parents=True, exist_ok=True)
        (into / link).symlink_to(target, target_is_directory=True)
    return into


def _system_headers(name: str, sample: str) -> Path:
    """Return the directory of user-space kernel headers called ``name``; it holds ``sample``."""
    root = Path("/usr/include")
    # asm differs by architecture: Debian keeps it below the multiarch name.
    for directory in (root / (sysconfig.get_config_var("MULTIARCH") or ""), root):
        if (directory / name / sample).is_file():
            return directory / name
    raise Unsupported(
        f"user-space kernel headers are missing: no {root / name / sample}",
        hint="apt-get install linux-libc-dev",
    )
