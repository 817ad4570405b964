# SPDX-License-Identifier: BSD-2-Clause
"""Where a mesh keeps its programs and maps: directories of the BPF file system, by ABI."""

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from ebpfmesh._abi import ABI
from ebpfmesh.errors import AbiMismatch
from ebpfmesh.kernel import libc, private

BPFFS = Path("/sys/fs/bpf")
HOME = "netns-"  # a name here has no dots
MOUNTED = b"ebpfmesh"  # the source that /proc/mounts shows where we mounted it
PRELOADED = {"maps.debug", "progs.debug"}  # the kernel puts them there (CONFIG_BPF_PRELOAD)
BPF_FS_MAGIC = 0xCAFE4A11  # linux/include/uapi/linux/magic.h


@dataclass(frozen=True)
class Pins:
    """The pins of one mesh: ``BPFFS/ebpfmesh/MESH/v<ABI>/{maps,progs,links}``.

    And ``progs-BUILD``: programs that can run again in the place of those in ``progs``. An empty
    directory says by its name whose all of it is, should the record be lost.
    """

    mesh: str

    @property
    def top(self) -> Path:
        """Everything of the mesh, whatever its ABI."""
        return BPFFS / "ebpfmesh" / self.mesh

    @property
    def root(self) -> Path:
        """What this version of ebpfmesh may use."""
        return self.top / f"v{ABI:x}"

    @property
    def maps(self) -> Path:
        """One pin a map, by its name."""
        return self.root / "maps"

    @property
    def progs(self) -> Path:
        """One pin a program, by its name."""
        return self.root / "progs"

    def build(self, name: str) -> Path:
        """Programs of a build, by their names; those that run are in ``progs`` as well."""
        return self.root / f"progs-{name}"

    def builds(self) -> list[str]:
        """The builds that have programs pinned by ``build``."""
        return sorted(path.name.partition("-")[2] for path in self.root.glob("progs-*"))

    @property
    def links(self) -> Path:
        """Two pins a function: ``FUNCTION-ingress`` and ``FUNCTION-egress`` of its interface.

        And one for each program at sockets, by its name.
        """
        return self.root / "links"

    @property
    def injected(self) -> Path:
        """A directory for each injected program, by its id, with a pin for each of its maps."""
        return self.root / "injected"

    @property
    def ports(self) -> Path:
        """A directory for each function with AF_XDP: a pin for its map, one for its link.

        And for each with a program: its link, and its maps in a directory.
        """
        return self.root / "ports"

    @property
    def home(self) -> str:
        """The host namespace of the mesh, by the name of a directory; empty: unknown."""
        found = (path.name.removeprefix(HOME) for path in self.top.glob(f"{HOME}*"))
        return next(found, "")

    def exist(self) -> bool:
        """Whether there are any that the caller may see."""
        with contextlib.suppress(PermissionError):
            return self.top.is_dir()
        return False

    def create(self, home: str = "0-0") -> None:
        """Make the directories; the ones that are there stay."""
        above = (self.top.parent, self.top, self.top / f"{HOME}{home}", self.root)
        for directory in (*above, self.maps, self.progs, self.links, self.injected, self.ports):
            private.directory(directory)

    def remove(self) -> None:
        """Remove every pin of the mesh, and the common directory if it was the last."""
        shutil.rmtree(self.top, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.top.parent.rmdir()

    def check(self) -> None:
        """Raise AbiMismatch if the mesh's pins are of another version."""
        if self.top.is_dir() and not self.root.is_dir():
            found = ", ".join(sorted(path.name for path in self.top.glob("v*"))) or "nothing"
            raise AbiMismatch(
                f"mesh {self.mesh} is pinned as {found}, this version uses v{ABI:x}",
                hint=f"use that version, or begin anew: ebpfmesh --mesh {self.mesh} down, then up",
            )


def all_meshes() -> list[str]:
    """Names of the meshes that have pins here."""
    return private.names(BPFFS / "ebpfmesh")


def is_bpffs(path: Path = BPFFS) -> bool:
    """Whether a BPF file system is mounted here."""
    return libc.magic(path) == BPF_FS_MAGIC


def mount_bpffs() -> None:
    """Mount the BPF file system if it is not; ``unmount_bpffs`` knows it by its source."""
    if is_bpffs():
        return
    libc.mount(MOUNTED, BPFFS, b"bpf", b"mode=0700")


def unmount_bpffs() -> None:
    """Undo ``mount_bpffs``, unless somebody has pins in it; what others mounted stays."""
    wanted = [MOUNTED.decode(), str(BPFFS), "bpf"]
    mounts = [line.split()[:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    if wanted in mounts and {path.name for path in BPFFS.iterdir()} <= PRELOADED:
        libc.umount(BPFFS)
