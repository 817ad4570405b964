# SPDX-License-Identifier: BSD-2-Clause
"""Debian's kernels, unpacked below the checkout: nothing is installed, no boot loader touched."""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from kernels.matrix import Kernel

CACHE = Path(__file__).parents[2] / ".cache" / "kernels"


def fetched(kernel: Kernel) -> Path:
    """The kernel's image, below it its modules; downloaded the first time. SystemExit if not."""
    directory = CACHE / kernel.series
    if not directory.exists():
        _unpack(_newest(kernel.package), directory)
    return next((directory / "boot").glob("vmlinuz-*"))


def _newest(pattern: str) -> str:
    """The newest package that apt knows of a pattern; its lists are fetched if it knows none."""
    for lists in ("as they are", "new"):
        if lists == "new":
            _run(["apt-get", "-q", "update"])
        names = _run(["apt-cache", "pkgnames", "linux-image-"]).split()
        if found := [name for name in names if re.fullmatch(pattern, name)]:
            return max(found, key=lambda name: [int(part) for part in re.findall(r"\d+", name)])
    sys.exit(f"apt knows no package {pattern}\nhint: it is Debian 12's, with its security updates")


def _unpack(package: str, directory: Path) -> None:
    """Download a package and unpack it at ``directory``, whole or not at all."""
    new = directory.with_name(f"{directory.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    sys.stderr.write(f"kernels: fetching {package}\n")
    download = ["apt-get", "-q", "download", package]
    if subprocess.run(download, cwd=new, capture_output=True, check=False).returncode != 0:
        _run(["apt-get", "-q", "update"])  # its lists name a version that is gone
        _run(download, cwd=new)
    (archive,) = new.glob("*.deb")
    _run(["dpkg-deb", "-x", str(archive), str(new)])
    archive.unlink()
    new.rename(directory)


def _run(command: Sequence[str], cwd: Path | None = None) -> str:
    """What a command prints; SystemExit with its messages if it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed: {done.stderr.strip()}\nhint: needs a network, once")
    return done.stdout
