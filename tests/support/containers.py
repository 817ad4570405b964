# SPDX-License-Identifier: BSD-2-Clause
"""Real containers for tests: podman over a storage of its own, an image made of busybox-static.

The flags are those that also work where cgroups are hybrid and CAP_SYS_RESOURCE is missing.
"""

import contextlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from support.topology import needs

IMAGE = "localhost/ebpfmesh-test:latest"
APPLETS = ("sh", "sleep", "ping", "wget", "nc", "httpd", "cat", "ip")
STORAGE = '[storage]\ndriver = "{driver}"\ngraphroot = "{top}/graph"\nrunroot = "{top}/run"\n'
ENGINE = """[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
events_logger = "file"
"""


def podman(*words: str, check: bool = True) -> str:
    """What podman prints; its complaints fail the test."""
    done = subprocess.run(
        ["podman", *words], capture_output=True, text=True, check=False, timeout=180
    )
    if check and done.returncode != 0:
        pytest.fail(f"podman {' '.join(words)}: {done.stderr}")
    return done.stdout.strip()


@contextlib.contextmanager
def engine(driver: str = "vfs") -> Iterator[None]:
    """Podman with an empty storage of this driver, and the image; nothing of it is left."""
    needs("podman", "runc", "busybox")
    top = Path(tempfile.mkdtemp(prefix="ebpfmesh-podman-"))
    with pytest.MonkeyPatch.context() as patch:
        for variable, text in (("STORAGE", STORAGE), ("", ENGINE)):
            file = top / f"containers{variable}.conf"
            file.write_text(text.format(top=top, driver=driver) if variable else text)
            name = f"CONTAINERS_{variable}_CONF" if variable else "CONTAINERS_CONF"
            patch.setenv(name, str(file))
        try:
            podman("import", str(root_file_system(top)), IMAGE)
            yield
        finally:
            podman("rm", "--all", "--force", "--time", "0", check=False)
            shutil.rmtree(top, ignore_errors=True)


def root_file_system(top: Path) -> Path:
    """A tar with busybox, statically linked, under the names of a few applets."""
    path = top / "root.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(os.path.realpath(shutil.which("busybox") or ""), "bin/busybox")
        for applet in APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        for directory in ("proc", "sys", "dev", "etc", "tmp", "run"):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
    return path


def start(name: str, *command: str, options: Sequence[str] = ()) -> int:
    """A running container without a network; the id of its process."""
    podman("run", "--detach", "--network", "none", "--name", name, *options, IMAGE, *command)
    return int(podman("inspect", "--format", "{{.State.Pid}}", name))


def stop(name: str) -> None:
    """End and remove a container."""
    podman("rm", "--force", "--time", "0", name)
