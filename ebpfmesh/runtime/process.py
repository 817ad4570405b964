# SPDX-License-Identifier: BSD-2-Clause
"""Processes of functions: in their namespace and cgroup, with the mesh's names in /etc/hosts.

A command that ``up`` starts stays when ebpfmesh exits. A keeper, its parent, writes down what would
be lost: how it ended, and the last of what it said (``keeper.py``).
"""

import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn, Protocol

from ebpfmesh.errors import MeshError, NotFound
from ebpfmesh.kernel import private
from ebpfmesh.runtime import seccomp
from ebpfmesh.runtime.capability import SETGID, SETUID, confine
from ebpfmesh.runtime.home import Home, number_inside
from ebpfmesh.runtime.sandbox import PATH, Sandbox, check_installed

KEEPER = ["-I", "-S", str(Path(__file__).with_name("keeper.py"))]
OOM = Path("/proc/self/oom_score_adj")
SPARED = "-1000"
FILES = resource.getrlimit(resource.RLIMIT_NOFILE)
BWRAP = ("bwrap", "--args")
MAKERS = ("bwrap: ", "setpriv: ")  # what their complaints begin with
SETUP_SECONDS = 30.0


class Handed(Protocol):
    """What a command inherits beside its files: open descriptors, and variables that name them."""

    @property
    def descriptors(self) -> Sequence[int]:
        """They have the same numbers in the command."""

    @property
    def env(self) -> dict[str, str]:
        """How the command finds them."""

    def bind(self) -> None:
        """Done last, by a process of the function's namespace and cgroup, still root.

        MeshError or OSError if it fails: the command does not begin.
        """


def execute(home: Home, command: Sequence[str]) -> NoReturn:
    """Become ``command`` inside a function; NotFound if there is no such program."""
    if shutil.which(command[0]) is None:
        raise NotFound(f"there is no program {command[0]}", hint="give a name in PATH, or a path")
    home.enter()
    confine()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and the command would too
    os.execvp(command[0], list(command))  # noqa: S606


def start(
    home: Home,
    command: Sequence[str],
    *,
    logs: Sequence[Path],
    size: tuple[Path, int],
    exit_file: Path,
    sandbox: Sandbox | None = None,
    handed: Sequence[Handed] = (),
) -> None:
    """Start ``command`` and leave it running; MeshError if the program is not there.

    ``exit_file`` is empty until it ended. ``logs`` are two files of this run, and those that they
    become of the run before; how large each may become is in the file ``size``, from a byte on,
    now and later. Without a ``sandbox`` it is root of the host. ``handed`` is what
    it inherits.
    """
    if not sandbox and shutil.which(command[0]) is None:
        hint = "install it, or change command in the file"
        raise MeshError(f"there is no program {command[0]}", hint=hint)
    for new, old in zip(logs[:2], logs[2:], strict=True):
        with contextlib.suppress(FileNotFoundError):
            new.replace(old)
    oom = OOM.read_text().strip()
    with contextlib.ExitStack() as stack:
        if sandbox:
            keep = _in_sandbox(stack, home, sandbox, handed)
        else:
            keep = _Keep((), (), None, lambda: _at_host(home, handed), _file(stack, b""))
        for one in handed:
            keep = keep.with_handed(one)
        exit_file.unlink(missing_ok=True)  # a keeper of before, if it still lives, has that one
        for path in (exit_file, *logs, size[0]):
            private.file(path)
        files = [stack.enter_context(one.open("wb")).fileno() for one in (exit_file, *logs[:2])]
        files.append(stack.enter_context(size[0].open("rb")).fileno())
        try:
            kept = subprocess.Popen(
                [
                    sys.executable,
                    *KEEPER,
                    oom,
                    *map(str, (*files, size[1])),
                    *keep.before,
                    *command,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=keep.begin,  # noqa: PLW1509  (this process has one thread)
                pass_fds=[*keep.descriptors, *files],
                env=keep.env,
                cwd="/",
            )
        except subprocess.SubprocessError as error:
            why = os.pread(keep.trouble, 4096, 0).decode(errors="replace")
            what = f"{command[0]} cannot be started in {home.netns.name}: {why or error}"
            raise MeshError(what, hint="are its cgroup and its volumes there?") from error
        if sandbox:
            _wait_until_made(home, kept, logs[0])


def _wait_until_made(home: Home, keeper: "subprocess.Popen[bytes]", log: Path) -> None:
    """Return once a command runs in its sandbox, or ran; MeshError if that could not be made."""
    deadline = time.monotonic() + SETUP_SECONDS
    while not any(number_inside(process) > 1 for process in home.cgroup.processes()):
        if keeper.poll() is not None or time.monotonic() > deadline:
            _, _, said = log.read_bytes()[:4096].decode(errors="replace").partition(" ")
            if said.startswith(MAKERS):
                what = f"the sandbox in {home.netns.name} cannot be made: {said.splitlines()[0]}"
                raise MeshError(
                    what, hint="ebpfmesh doctor says whether this machine lacks something"
                )
            return
        time.sleep(0.0005)


class _Keep(NamedTuple):
    """How a command is kept: by words before its own, with which descriptors and variables.

    What keeps it from beginning can be read from ``trouble``.
    """

    before: Sequence[str]
    descriptors: Sequence[int]
    env: dict[str, str] | None
    begin: Callable[[], None]
    trouble: int

    def with_handed(self, one: Handed) -> "_Keep":
        """The same, for a command that inherits something more."""
        env = dict(os.environ if self.env is None else self.env) | one.env
        return self._replace(descriptors=(*self.descriptors, *one.descriptors), env=env)


def _at_host(home: Home, handed: Sequence[Handed]) -> None:
    home.enter()
    for one in handed:
        one.bind()
    _defaults()
    confine()


def _defaults() -> None:
    """What a command begins with, whatever this process has changed for itself."""
    resource.setrlimit(resource.RLIMIT_NOFILE, FILES)
    with contextlib.suppress(OSError):  # where it may not be asked for
        OOM.write_text(SPARED)  # of who keeps it
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # ignored during an undo
        signal.signal(number, signal.SIG_DFL)


def _in_sandbox(
    stack: contextlib.ExitStack, home: Home, sandbox: Sandbox, handed: Sequence[Handed]
) -> _Keep:
    """Who keeps it is root, with two capabilities; what it keeps is the function's user."""
    check_installed()
    root = sandbox.root()
    user, group = sandbox.outside(root)
    owner = stack.enter_context(sandbox.owner(home.netns, user))
    options = "".join(f"{word}\0" for word in sandbox.options(home, root)).encode()
    filters = [_file(stack, one) for one in seccomp.filters(sandbox.function.capabilities)]
    told, trouble = _file(stack, options), _file(stack, b"")
    before = [
        *("setpriv", "--reuid", str(user), "--regid", str(group), "--clear-groups"),
        *(*BWRAP, str(told), "--userns", str(owner)),
        *(word for one in filters for word in ("--add-seccomp-fd", str(one))),
        "--",
    ]

    def begin() -> None:
        try:
            sandbox.stage(home, root)
            for one in handed:
                one.bind()
        except (MeshError, OSError) as error:
            os.write(trouble, str(error).encode())
            raise
        _defaults()
        confine((SETUID, SETGID))

    return _Keep(before, (told, owner, *filters), {"PATH": PATH}, begin, trouble)


def _file(stack: contextlib.ExitStack, content: bytes) -> int:
    """A descriptor that this can be read from."""
    file = stack.enter_context(os.fdopen(os.memfd_create("sandbox"), "w+b", buffering=0))
    file.write(content)
    file.seek(0)
    return file.fileno()


def keepers(processes: Iterable[int]) -> set[int]:
    """Those of ``processes`` that only keep the log, the exit status and the sandbox of others."""
    lines = {process: _command_line(process) for process in processes}
    top = {process for process, line in lines.items() if line[1:4] == KEEPER}
    found = set(top)
    for process, line in lines.items():
        parent = _parent(process)
        if _is_bwrap(line) and (parent in top or _is_bwrap(lines.get(parent, []))):
            found.add(process)  # the last is the first process of a sandbox
    return found


def keeper(processes: Iterable[int]) -> int | None:
    """The one of ``processes`` that writes down how a command ends; None if it is gone."""
    found = [one for one in processes if _command_line(one)[1:4] == KEEPER]
    # Before its command executes, there are two, and one's parent is the other.
    return next((one for one in found if _parent(one) not in found), None)


def _is_bwrap(line: Sequence[str]) -> bool:
    """Whether a command line is bubblewrap's as we call it, or is about to be."""
    return tuple(line[:2]) == BWRAP or (line[:1] == ["setpriv"] and "bwrap" in line)


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
