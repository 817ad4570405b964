# SPDX-License-Identifier: BSD-2-Clause
"""Ports of functions that others start: handed over a Unix socket, to those inside alone.

Who can connect is asked for the network namespace that its socket was made in, which the kernel
knows (SIOCGSKNS): a path can lead into several containers, a port belongs to one. What is handed is
made at that moment, so that nothing of an owner before is in it.
"""

import contextlib
import errno
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from ebpfmesh.apply.lookup import functions, home_in
from ebpfmesh.errors import MeshError, UsageError
from ebpfmesh.kernel import xsk
from ebpfmesh.kernel.cgroup import memory_of
from ebpfmesh.model import FRAME
from ebpfmesh.state.place import check_place, port_pins
from ebpfmesh.state.record import Record
from ebpfmesh.state.rows import FunctionRow

SIOCGSKNS = 0x894C  # linux/sockios.h
PEER = socket.SOL_SOCKET, socket.SO_PEERCRED, 12
HELD_SECONDS = 1.0  # until a socket that was closed has let go of its queue


def serve_port(
    mesh: str, name: str, place: Path, tell: Callable[[int, str], None], *, once: bool = False
) -> None:
    """Hand a function's port to each process inside that asks at ``place``, or to one, and end.

    ``tell`` gets the number of who asked, and why it was refused, or nothing. Raises UsageError
    for a function that has no port or gets it otherwise, and for a place that is taken.
    """
    with _opened(mesh, name):
        pass
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        try:
            if _is_left(place):
                place.unlink()
            _name(listener, place)
        except OSError as error:
            what = f"{place}: {error.strerror}"
            raise UsageError(what, hint="remove it, or name a path that is free") from error
        stack.callback(place.unlink, missing_ok=True)
        listener.listen()
        refused = "nobody has asked"
        while not once or refused:
            peer, _ = listener.accept()
            with peer:
                (pid,) = struct.unpack("=i8x", peer.getsockopt(*PEER))
                refused = _hand(mesh, name, peer, pid)
            tell(pid, refused)


def _is_left(place: Path) -> bool:
    """Whether there is a socket that nobody listens at, as who was killed leaves it."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(place.lstat().st_mode):
            kind = socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK
            with socket.socket(socket.AF_UNIX, kind) as asking:
                return asking.connect_ex(os.fspath(place)) == errno.ECONNREFUSED
    return False


def _name(listener: socket.socket, place: Path) -> None:
    """Have it be found at ``place``, by any user of the container.

    Its mode is right from the begin: who can write to that directory may have put a link to a file
    of the host's in its place before a chmod().
    """
    before = os.umask(0o111)
    try:
        listener.bind(os.fspath(place))
    finally:
        os.umask(before)


def _hand(mesh: str, name: str, peer: socket.socket, pid: int) -> str:
    """Make a function's port for a process; why not, if it is refused."""
    try:
        with contextlib.ExitStack() as stack:
            row, namespace = stack.enter_context(_opened(mesh, name))
            if row.attachment.netns_inode != _inode(peer):
                raise MeshError(f"it is not in the network namespace of {name}")
            function = row.function
            made = xsk.handed(namespace, port_pins(row), function.frames, function.queues)
            port = stack.enter_context(made)
            _bind(port, pid)
            socket.send_fds(peer, [str(FRAME).encode()], port.descriptors)
    except (MeshError, OSError) as error:
        why = error.message if isinstance(error, MeshError) else str(error)
        with contextlib.suppress(OSError):
            peer.send(f"no: {why}".encode(), socket.MSG_DONTWAIT)
        return why
    return ""


@contextlib.contextmanager
def _opened(mesh: str, name: str) -> Iterator[tuple[FunctionRow, Path]]:
    """A function that is to be handed its port, and where it is."""
    with contextlib.closing(Record(mesh)) as record:
        check_place(record)
        home = home_in(record, name)
        (row,) = functions(record, name)
        if row.function.datapath != "af_xdp":
            raise UsageError(
                f"function {name} has no port", hint='datapath = "af_xdp" gives it one'
            )
        if row.function.command:
            hint = "its command inherits it: EBPFMESH_PORT"
            raise UsageError(f"the mesh starts the command of function {name}", hint=hint)
        yield row, home.netns


def _inode(peer: socket.socket) -> int:
    """Of the network namespace that the other end of a connection was made in."""
    namespace = fcntl.ioctl(peer, SIOCGSKNS)
    try:
        return os.fstat(namespace).st_ino
    finally:
        os.close(namespace)


def _bind(port: xsk.Handed, pid: int) -> None:
    """Have its packets come, and its memory be charged to the cgroup of a process; MeshError."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            _be_charged(pid)
            port.bind(HELD_SECONDS)
        except BaseException as error:  # noqa: BLE001  (this process ends here)
            os.write(writer, (str(error) or type(error).__name__).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        why = told.read().decode(errors="replace")
    os.waitpid(child, 0)
    if why:
        raise MeshError(why)


def _be_charged(pid: int) -> None:
    """Have what this process allocates be charged where another's memory is.

    MeshError if that has ended, since who has its connection by now is anybody's guess.
    """
    if group := memory_of(pid):
        group.write_text("0")
    elif pid and not Path(f"/proc/{pid}").exists():
        raise MeshError("who asked has ended")
