# SPDX-License-Identifier: BSD-2-Clause
"""The sandbox of a function's command, by bubblewrap: what it shows, and who is in it.

The command has namespaces of its own of every kind. Its user namespace owns its network namespace
(``ebpfmesh.kernel.userns``), so that no capability it has is worth anything outside. bubblewrap
runs as the command's own user from its first instruction; what only the host's root may do, to
join cgroups and to bind what the user could not reach, is done before it is executed, in ``stage``.
"""

import contextlib
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ebpfmesh.config.home import HOME as DESCRIBED
from ebpfmesh.errors import MeshError, NotFound, Unsupported
from ebpfmesh.kernel import libc, netns, userns
from ebpfmesh.kernel.cgroup import Hierarchies
from ebpfmesh.model import Function, Volume
from ebpfmesh.runtime import images, seccomp
from ebpfmesh.runtime.home import Home

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHOWN = ("/usr", "/etc", "/opt")
"""What of the host a command sees that has no root of its own, read-only."""
PRIVATE = ("/etc", "/opt")
"""Where of that some files are not for everybody."""
BECOME_OTHERS = {"SETUID", "SETGID", "DAC_OVERRIDE", "DAC_READ_SEARCH", "CHOWN", "FOWNER"}
"""Capabilities that lead to files of the host's users and groups, which are the sandbox's own."""
LINKS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")  # to /usr, or directories
TMP, SHM, VAR_TMP = "/tmp", "/dev/shm", "/var/tmp"  # noqa: S108  (the sandbox's own)
PLACES = ("proc", "sys", "dev", "tmp", "run", "etc")  # that every root has
PAGE = 4000  # mount(2) reads no more than a page of options
PORTS, PINGS = "net/ipv4/ip_unprivileged_port_start", "net/ipv4/ping_group_range"


@dataclass(frozen=True)
class Root:
    """Where a command's files come from: directories, the first above the others; none: SHOWN."""

    layers: tuple[Path, ...] = ()
    env: Mapping[str, str] | None = None
    workdir: str = "/"


@dataclass(frozen=True)
class Sandbox:
    """That of one function, by what the mesh file says of it."""

    mesh: str
    function: Function

    @property
    def own(self) -> int:
        """The host's number for its root; the next is its nobody."""
        name = f"{self.mesh}/{self.function.name}".encode()
        drawn = int.from_bytes(hashlib.sha256(name).digest()[:4])
        return userns.FIRST_OWN + (drawn & 0x0FFFFFFE)

    def root(self) -> Root:
        """Its files; NotFound if there is no such directory or image."""
        function = self.function
        if function.image:
            found = images.find(function.image)
            return Root(found.layers, found.env, found.workdir)
        if function.rootfs:
            if not Path(function.rootfs).is_dir():
                what = f"there is no directory {function.rootfs}"
                raise NotFound(what, hint="make it, or change rootfs in the file")
            return Root((Path(function.rootfs),))
        return Root()

    def user(self, root: Root) -> tuple[int, int]:
        """Numbers of its user and group, as it knows them; NotFound for a name without one."""
        user, _, group = (self.function.user or "nobody").partition(":")
        users, groups = _names(root, "passwd"), _names(root, "group")
        found = users.get(user, [])
        if not user.isdecimal() and not found:
            fallback = {"root": "0", "nobody": str(userns.NOBODY)}
            if user not in fallback:
                raise NotFound(f"there is no user {user}", hint="give a number, or another name")
            found = [user, "x", fallback[user], fallback[user]]
        number = int(user) if user.isdecimal() else int(found[2])
        if not group:
            own = found or next((row for row in users.values() if row[2] == user), [])
            return number, int(own[3]) if own else number
        if group.isdecimal():
            return number, int(group)
        if group not in groups:
            raise NotFound(f"there is no group {group}", hint="give a number, or another name")
        return number, int(groups[group][2])

    def outside(self, root: Root) -> tuple[int, int]:
        """The same user and group as the host knows them."""
        user, group = (userns.outside(number, self.own) for number in self.user(root))
        return user, group

    def env(self, root: Root) -> dict[str, str]:
        """All variables of its command."""
        return {"PATH": PATH, "HOME": TMP} | dict(root.env or {}) | self.function.env

    def check(self) -> None:
        """Raise what keeps it from being made: Unsupported, NotFound or MeshError."""
        check_installed()
        root = self.root()
        self.user(root)
        for volume in map(Volume.parse, self.function.volumes):
            if volume.from_host and not Path(volume.source).exists():
                hint = "make it, or change volumes in the file"
                raise NotFound(f"there is no {volume.source}", hint=hint)
        program = self.function.command[0]
        if not any(self._shows(root, path) for path in self._candidates(root, program)):
            what, hint = (
                f"there is no program {program}",
                "install it, or change command in the file",
            )
            if not root.layers and (found := shutil.which(program)):
                what += " in its sandbox"
                hint = f'of the host it sees {", ".join(SHOWN)}: volumes = ["{found}"] adds it'
            raise MeshError(what, hint=hint)

    def _candidates(self, root: Root, program: str) -> Iterator[Path]:
        env = self.env(root)
        directories = env["PATH"].split(":") if "/" not in program else [self.workdir(root)]
        yield from (Path(directory, program) for directory in directories)

    def _shows(self, root: Root, path: Path) -> bool:
        """Whether a command sees a file here, as far as can be told without its links."""
        path = Path(os.path.normpath(path))
        for volume in map(Volume.parse, self.function.volumes):
            if volume.from_host and path.is_relative_to(volume.target):
                return Path(volume.source, path.relative_to(volume.target)).exists()
        if root.layers:
            return any(os.path.lexists(f"{layer}{path}") for layer in root.layers) or any(
                Path(layer, path.parts[1]).is_symlink() for layer in root.layers
            )
        shown = any(path.is_relative_to(top) for top in (*SHOWN, *LINKS))
        return shown and os.access(path, os.X_OK)

    def workdir(self, root: Root) -> str:
        """Where its command begins."""
        return self.function.workdir or root.workdir

    def make_netns(self, name: str) -> Path:
        """A named network namespace that a user namespace of its own owns.

        Ping and ports below 1024 need no capability in it.
        """
        user, _ = self.outside(self.root() if self.function.user else Root())
        with userns.made(self.own, user, libc.CLONE_NEWNET) as made:
            path = netns.name_it(name, made / "net")
        with netns.entered(path):
            for setting, value in ((PORTS, "0"), (PINGS, "0 2147483647")):
                with contextlib.suppress(OSError):  # a kernel without the one or the other
                    Path("/proc/sys", setting).write_text(value)
        return path

    @contextlib.contextmanager
    def owner(self, namespace: Path, user: int) -> Iterator[int]:
        """A descriptor of the user namespace of its network; of a new one, if others made that.

        So it is if it was made for another user, whom its command had before: nobody has power over
        that network then, and who asks for such is made anew.
        """
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(namespace.open())
            found = -1 if self.function.netns else userns.owner_of(file.fileno())
            if found < 0 or userns.user_of(found) != user:
                made = stack.enter_context(userns.made(self.own, user))
                found = os.open(made / "user", os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, found)
            yield found

    def stage(self, home: Home, root: Root) -> None:
        """Move the calling process to its cgroup, network and a mount namespace, for good.

        What bubblewrap shall bind is under ``home.hidden`` there.
        """
        home.join()
        controllers = _controllers(home)
        libc.unshare(libc.CLONE_NEWCGROUP | libc.CLONE_NEWNS)
        libc.mount(b"none", Path("/"), None, flags=libc.MS_SLAVE | libc.MS_REC)
        _mount_sys(controllers)
        mask = os.umask(0o022)
        self._place_all(home, root)
        os.umask(mask)  # of the command

    def _place_all(self, home: Home, root: Root) -> None:
        top, hosts = home.hidden, os.open(home.hosts, os.O_PATH | os.O_CLOEXEC)  # which it covers
        libc.mount(b"none", top, b"tmpfs", b"mode=0755,size=1M")
        _bind(Path(f"/proc/self/fd/{hosts}"), top / "hosts")
        for index, volume in enumerate(map(Volume.parse, self.function.volumes)):
            if volume.from_host:
                _bind(Path(volume.source), top / str(index))
        if root.layers:
            self._mount_root(root, top)

    def _mount_root(self, root: Root, top: Path) -> None:
        """Its root below ``top``; what is to be mounted on, and is not in it, lies underneath."""
        under = top / "under"
        for place in PLACES:
            (under / place).mkdir(parents=True)
        for name in ("hosts", "resolv.conf"):
            (under / "etc" / name).touch()
        for volume in map(Volume.parse, self.function.volumes):
            source = Path(volume.source) if volume.from_host else under
            _place(source, under / volume.target.lstrip("/"))
        layers = ":".join(map(str, (*root.layers, under)))
        if len(layers) > PAGE:
            raise MeshError(f"{len(root.layers)} layers are more than can be told to the kernel")
        (top / "root").mkdir()
        flags = libc.MS_RDONLY | libc.MS_NODEV | libc.MS_NOSUID
        libc.mount(b"overlay", top / "root", b"overlay", f"lowerdir={layers}".encode(), flags)

    def options(self, home: Home, root: Root) -> list[str]:
        """What bubblewrap is told, but for descriptors; no word holds a NUL."""
        function, top = self.function, str(home.hidden)
        user, group = self.user(root)
        words = ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--die-with-parent"]
        words += ["--hostname", function.name, "--uid", str(user), "--gid", str(group)]
        words += ["--ro-bind", f"{top}/root", "/"] if root.layers else _host_root()
        if not root.layers and not BECOME_OTHERS.isdisjoint(function.capabilities):
            words += _hidden(*self.outside(root))
        words += ["--proc", "/proc", "--ro-bind", "/sys", "/sys", "--dev", "/dev"]
        for place, mode in ((SHM, "1777"), (TMP, "1777"), ("/run", "0755")):
            words += ["--perms", mode, "--size", str(function.tmp), "--tmpfs", place]
        words += ["--remount-ro", "/dev"]
        words += ["--ro-bind", f"{top}/hosts", "/etc/hosts"]
        if Path("/etc/resolv.conf").exists():
            # A link leads to /run of the host, where its own is not.
            real = Path("/etc/resolv.conf").resolve()
            place = "/etc/resolv.conf" if root.layers else str(real)
            words += ["--ro-bind", str(real), place]
        for index, volume in enumerate(map(Volume.parse, function.volumes)):
            # Above a directory of one user's alone bubblewrap would make more of that kind.
            above = os.path.dirname(volume.target)  # noqa: PTH120
            words += ["--perms", "0755", "--dir", above] if above != "/" else []
            if not volume.from_host:
                words += ["--perms", "0755", "--size", str(function.tmp), "--tmpfs", volume.target]
                continue
            how = "--bind" if volume.writable else "--ro-bind"
            words += [how, f"{top}/{index}", volume.target]
        words += ["--remount-ro", "/", "--chdir", self.workdir(root)]
        for power in function.capabilities:
            words += ["--cap-add", f"CAP_{power}"]
        for name, value in self.env(root).items():
            words += ["--setenv", name, value]
        return words


def check_installed() -> None:
    """Raise Unsupported if a program or a library is missing that every sandbox needs."""
    if shutil.which("bwrap") is None:
        what = "bubblewrap is not installed, which a command's sandbox needs"
        raise Unsupported(what, hint="apt install bubblewrap")
    seccomp.library()


def _names(root: Root, file: str) -> dict[str, list[str]]:
    """The lines of /etc/passwd or /etc/group that a command sees, by their names."""
    for layer in root.layers or (Path("/"),):
        path = layer / "etc" / file
        if path.is_file() and not path.is_symlink():
            rows = [line.split(":") for line in path.read_text(errors="replace").splitlines()]
            return {row[0]: row for row in reversed(rows) if len(row) >= 4 and row[2].isdecimal()}
    return {}


def _host_root() -> Iterator[str]:
    for path in map(Path, (*SHOWN, *LINKS)):
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), str(path))
        elif path.is_dir():
            yield from ("--ro-bind", str(path), str(path))
    if DESCRIBED.is_dir():  # other functions' variables are there
        yield from _empty(str(DESCRIBED))
    yield from ("--dir", "/var", "--symlink", "../tmp", VAR_TMP, "--symlink", "../run", "/var/run")


def _empty(path: str) -> tuple[str, ...]:
    """Nothing in the place of a directory, for nobody."""
    return "--perms", "0000", "--tmpfs", path, "--remount-ro", path


def _hidden(user: int, group: int) -> Iterator[str]:
    """Files of the host's that not everybody may read, nor this user of the host: keys, shadow."""
    for top, directories, files in (found for one in PRIVATE for found in os.walk(one)):
        for name in (*directories, *files):
            path = os.path.join(top, name)  # noqa: PTH118  (thousands of them)
            try:
                found = os.lstat(path)
            except FileNotFoundError:  # gone meanwhile
                continue
            kind, right = stat.S_IFMT(found.st_mode), stat.S_IROTH
            if kind == stat.S_IFLNK or found.st_mode & right:
                continue
            if user == found.st_uid or group == found.st_gid:
                continue
            if kind == stat.S_IFDIR:
                directories.remove(name)
                yield from _empty(path)
            else:
                yield from ("--ro-bind", "/dev/null", path)


def _controllers(home: Home) -> list[str]:
    """Those of each hierarchy that has a cgroup of this function's; empty for cgroup v2."""
    lines = (line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines())
    return [names for _, names, path in lines if path.endswith(f"/{home.cgroup.path}")]


def _mount_sys(controllers: Sequence[str]) -> None:
    """/sys of the network namespace that this process is in, and of its cgroups alone."""
    quiet = libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC
    libc.mount(b"sysfs", Path("/sys"), b"sysfs", flags=quiet)
    top = Path("/sys/fs/cgroup")
    if Hierarchies.mounted().unified == top:
        libc.mount(b"cgroup2", top, b"cgroup2", flags=quiet | libc.MS_RDONLY)
        return
    libc.mount(b"none", top, b"tmpfs", b"mode=0755,size=64k", quiet)
    for names in controllers:
        place = top / (names or "unified")
        place.mkdir()
        kind = b"cgroup" if names else b"cgroup2"
        libc.mount(kind, place, kind, names.encode(), quiet | libc.MS_RDONLY)


def _place(source: Path, target: Path) -> None:
    """Make what ``source`` can be bound on."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()


def _bind(source: Path, target: Path) -> None:
    _place(source, target)
    libc.mount(os.fsencode(source), target, None, flags=libc.MS_BIND | libc.MS_REC)
