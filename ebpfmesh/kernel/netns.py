# SPDX-License-Identifier: BSD-2-Clause
"""Network namespaces: making, entering and finding them, and the sandbox tests run in."""

import contextlib
import fcntl
import os
import re
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import IPRoute, netns

from ebpfmesh.errors import MeshError, NotFound
from ebpfmesh.kernel import libc
from ebpfmesh.kernel.pins import BPFFS

NS_GET_NSTYPE = 0xB703  # linux/include/uapi/linux/nsfs.h
SO_NETNS_COOKIE = 71  # linux/include/uapi/asm-generic/socket.h
OWN = Path("/proc/thread-self/ns/net")
RUN = Path("/run/netns")
PREFIX = "ebpfmesh."


@dataclass(frozen=True)
class NetnsId:
    """What tells one namespace from all others, be they gone or still to come.

    The kernel gives the inode of one that is gone to the next that is made (fs/proc takes
    the smallest that is free), so the cookie is beside it, which is given once between two boots;
    0 before Linux 5.14.
    """

    inode: int
    cookie: int

    @classmethod
    def parse(cls, text: str) -> "NetnsId | None":
        """What ``str`` made a text of; None if it did not."""
        found = re.fullmatch(r"(\d+)-(\d+)", text, re.ASCII)
        return cls(int(found[1]), int(found[2])) if found else None

    def __str__(self) -> str:
        return f"{self.inode}-{self.cookie}"

    def lives(self) -> bool:
        """Whether it still has a process or a name, or a process that will come back to it.

        To who may not enter it, one of the same inode is the same.
        """
        return any(map(self._is_at, _places_of(self.inode)))

    def _is_at(self, place: Path) -> bool:
        try:
            return cookie(place) in (0, self.cookie)
        except NotFound:  # the process there has ended since
            return False
        except (MeshError, OSError):
            return True


def current() -> NetnsId:
    """The calling thread's namespace."""
    return NetnsId(inode(OWN), _own_cookie())


def inode(path: Path) -> int:
    """Of the namespace at a path, on nsfs; NotFound if there is none."""
    try:
        return path.stat().st_ino
    except OSError as error:
        raise NotFound(
            f"no network namespace at {path}", hint="ip netns list shows the named ones"
        ) from error


def cookie(path: Path) -> int:
    """What programs know the namespace at a path by, never given twice; 0: not on this kernel."""
    with entered(path):
        return _own_cookie()


def _own_cookie() -> int:
    with socket.socket(socket.AF_UNIX) as any_socket:
        try:
            raw = any_socket.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)
        except OSError:  # before Linux 5.14
            return 0
    return int.from_bytes(raw, sys.byteorder)


def lives(inode: int) -> bool:
    """Whether a namespace of this inode, be it another than before, has a process or a name."""
    return any(True for _ in _places_of(inode))


def _places_of(inode: int) -> Iterator[Path]:
    """Paths of the namespace with this inode.

    A process that is in another namespace for a moment keeps its own open. One that has come back
    when its descriptors are read is found by itself then. A name may be one in a mount namespace
    of others.
    """
    for place in RUN.glob("*"):
        with contextlib.suppress(OSError):
            if place.stat().st_ino == inode:
                yield place
    for pattern in ("[0-9]*/ns/net", "[0-9]*/fd/*", "[0-9]*/ns/net"):
        for place in Path("/proc").glob(pattern):
            with contextlib.suppress(OSError):
                if os.readlink(place) == f"net:[{inode}]":  # noqa: PTH115  (not a path)
                    yield place
    for process in _mount_namespaces():
        with contextlib.suppress(OSError):
            for mount in (process / "mountinfo").read_text().splitlines():
                _, _, _, root, point, *_ = mount.split()
                if root == f"net:[{inode}]":
                    yield Path(f"{process}/root{point}")


def _mount_namespaces() -> Iterator[Path]:
    """A process of each."""
    seen = set()
    for place in Path("/proc").glob("[0-9]*/ns/mnt"):
        with contextlib.suppress(OSError):
            if (found := os.readlink(place)) not in seen:  # noqa: PTH115  (not a path)
                seen.add(found)
                yield place.parent.parent


def name_of(mesh: str, function: str) -> str:
    """Name of the namespace we make for a function; the prefix marks it as ours."""
    return f"{PREFIX}{mesh}.{function}"


def ours() -> list[str]:
    """Names of the namespaces that were made for functions."""
    return sorted(path.name for path in RUN.glob(f"{PREFIX}*"))


def owner_of(name: str) -> str:
    """MESH/FUNCTION of a namespace that was made for a function."""
    return name.removeprefix(PREFIX).replace(".", "/", 1)


def name_it(name: str, namespace: Path) -> Path:
    """Give a namespace that is there a name, as ``ip netns attach`` does."""
    path = RUN / name
    _share_names()
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0))
    try:
        libc.mount(os.fsencode(namespace), path, None, flags=libc.MS_BIND)
    except BaseException:
        path.unlink()
        raise
    return path


def create(name: str) -> Path:
    """Make a named namespace, as ``ip netns add`` does."""
    home = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc.unshare(libc.CLONE_NEWNET)
        try:
            return name_it(name, OWN)
        finally:
            libc.setns(home, libc.CLONE_NEWNET)
    finally:
        os.close(home)


def _share_names() -> None:
    """Make /run/netns a mount that shows new names to all mount namespaces."""
    RUN.mkdir(mode=0o755, exist_ok=True)
    try:
        libc.mount(b"none", RUN, None, flags=libc.MS_SHARED | libc.MS_REC)
    except MeshError:  # not a mount yet
        libc.mount(os.fsencode(RUN), RUN, None, flags=libc.MS_BIND | libc.MS_REC)
        libc.mount(b"none", RUN, None, flags=libc.MS_SHARED | libc.MS_REC)


def remove(name: str) -> None:
    """Remove a named namespace; twice is fine."""
    with contextlib.suppress(FileNotFoundError):
        netns.remove(name)


def find(name_or_path: str) -> Path:
    """Path of a namespace given as name (under /run/netns) or as path; NotFound otherwise."""
    path = Path(name_or_path) if "/" in name_or_path else RUN / name_or_path
    if not path.exists() or not _is_netns(path):
        raise NotFound(
            f"no network namespace {name_or_path}", hint="ip netns list shows the named ones"
        )
    return path


def _is_netns(path: Path) -> bool:
    try:
        with path.open() as file:
            return bool(fcntl.ioctl(file, NS_GET_NSTYPE) == libc.CLONE_NEWNET)
    except PermissionError:  # for us it is whatever it is called
        return True
    except OSError:
        return False


def of_pid(pid: int) -> Path:
    """Path of a process's namespace; NotFound if there is no such process."""
    path = Path(f"/proc/{pid}/ns/net")
    if not path.exists():
        raise NotFound(f"no process {pid}", hint="pgrep -a NAME finds the id of a process")
    return path


@contextlib.contextmanager
def entered(path: Path) -> Iterator[None]:
    """Put the calling thread into a namespace for the ``with`` block."""
    home = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(path)
        try:
            yield
        finally:
            libc.setns(home, libc.CLONE_NEWNET)
    finally:
        os.close(home)


def _setns(path: Path) -> None:
    try:
        target = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound(f"no network namespace at {path}") from error
    try:
        libc.setns(target, libc.CLONE_NEWNET)
    finally:
        os.close(target)


@contextlib.contextmanager
def unnamed() -> Iterator[Path]:
    """A namespace without a name, gone after the block or with this process; its path."""
    home = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc.unshare(libc.CLONE_NEWNET)
        try:
            made = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
        finally:
            libc.setns(home, libc.CLONE_NEWNET)
    finally:
        os.close(home)
    try:
        yield Path(f"/proc/self/fd/{made}")
    finally:
        os.close(made)


@contextlib.contextmanager
def rtnetlink(path: Path | None = None) -> Iterator[IPRoute]:
    """A netlink socket of the calling thread's namespace, or of the one at ``path``."""
    if path is None:
        ip = IPRoute()
    else:
        with entered(path):
            ip = IPRoute()
    try:
        yield ip
    finally:
        ip.close()


def enter_sandbox() -> None:
    """Move this process to network and mount namespaces of its own, with nothing in them.

    Has a private BPF file system, empty /run/netns and /run/ebpfmesh, and loopback; no packet can
    leave and no pin stays. There is no way back: meant for tests, the demo and the benchmark.
    """
    libc.unshare(libc.CLONE_NEWNET)
    own_pins()
    _own_run()
    with rtnetlink() as ip:
        ip.link("set", index=socket.if_nametoindex("lo"), state="up")


def _own_run() -> None:
    """Cover /run with a directory that shows what is in it, but for what a mesh leaves there.

    Two more mounts would do, but the machine's /run would need directories for them, and one that
    others have mounted on cannot be told from one to remove.
    """
    run, ours = RUN.parent, (RUN, Path("/run/ebpfmesh"))
    covered = os.open(run, os.O_RDONLY | os.O_DIRECTORY)
    try:
        libc.mount(b"tmpfs", run, b"tmpfs", b"mode=0755")
        for place in (run / name for name in os.listdir(covered)):  # noqa: PTH208  (a descriptor)
            if place not in ours:
                _show(Path(f"/proc/self/fd/{covered}/{place.name}"), place)
    finally:
        os.close(covered)
    for place in ours:
        place.mkdir()
        libc.mount(b"tmpfs", place, b"tmpfs", b"mode=0755")


def _show(source: Path, place: Path) -> None:
    if source.is_symlink():
        place.symlink_to(source.readlink())
        return
    if source.is_dir():
        place.mkdir()
    else:
        place.touch()
    libc.mount(os.fsencode(source), place, None, flags=libc.MS_BIND | libc.MS_REC)


def own_pins() -> None:
    """Move this process to a mount namespace of its own, with an empty BPF file system.

    Nobody else sees its pins, and none outlives it. There is no way back.
    """
    libc.unshare(libc.CLONE_NEWNS)
    libc.mount(b"none", Path("/"), None, flags=libc.MS_REC | libc.MS_PRIVATE)
    libc.mount(b"bpf", BPFFS, b"bpf", b"mode=0700")
