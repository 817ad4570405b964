# SPDX-License-Identifier: BSD-2-Clause
"""Whether a function is ready, or well: one look at it, bounded in time.

``check(probe, inside)`` waits for the probe's command, ``await checked(probe, inside)`` lets others
run meanwhile, ``begin`` is for who looks at many at once. All say why not; empty: all is well.
"""

import asyncio
import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from ebpfmesh.errors import MeshError
from ebpfmesh.kernel import libc, netns
from ebpfmesh.model import Address, Function, Probe
from ebpfmesh.runtime import enter, process
from ebpfmesh.runtime.home import Home
from ebpfmesh.runtime.sandbox import Sandbox

SECONDS = 5.0
"""A command that takes longer is killed."""
LISTENS = "0A"  # TCP_LISTEN, linux/include/net/tcp_states.h
ANYWHERE = ("0.0.0.0", "::")  # noqa: S104  (looked for)


@dataclass(frozen=True)
class Inside:
    """A function to look at: where it runs, and the sandbox of its command if it has one."""

    function: Function
    home: Home
    sandbox: Sandbox | None

    def process(self) -> int | None:
        """A process that sees what the function's command does; None: it does not run."""
        processes = self.home.cgroup.processes()
        return enter.first_of(processes) if self.sandbox else next(iter(processes), None)


class Look:
    """A probe's command that runs in a function; ``ended`` can be read from once it does not."""

    def __init__(self, command: Sequence[str], inside: Inside) -> None:
        self._program = command[0]
        self._deadline = time.monotonic() + SECONDS
        self._process = _start(command, inside)
        self.ended = os.pidfd_open(self._process)

    @property
    def left(self) -> float:
        """Seconds it may go on."""
        return max(0.0, self._deadline - time.monotonic())

    def why(self) -> str | None:
        """Why not; None while it goes on. Not to be asked again after another answer."""
        if self._goes_on(0) and self.left:
            return None
        late, status = self._goes_on(0), self.end()
        if late:
            return f"{self._program} takes longer than {SECONDS:g} s"
        return f"{self._program} exited {status}" if status else ""

    def wait(self) -> None:
        """Wait until there is an answer."""
        self._goes_on(self.left)

    def _goes_on(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self.ended, select.POLLIN)
        return not poll.poll(seconds * 1000)

    def end(self) -> int:
        """Kill what is left of it; its exit status, as a shell has it."""
        for kill in (os.killpg, os.kill):  # it may not have a group of its own yet
            with contextlib.suppress(ProcessLookupError):
                kill(self._process, signal.SIGKILL)
        _, status = os.waitpid(self._process, 0)
        os.close(self.ended)
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code


def _start(command: Sequence[str], inside: Inside) -> int:
    """Start a command beside a function's own, without input and output; its process."""
    if child := os.fork():
        return child
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(one, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(null, number)
        if inside.sandbox:
            enter.enter(inside.sandbox, inside.home, command)
        process.execute(inside.home, command)
    finally:
        os._exit(126)


def begin(probe: Probe, inside: Inside) -> Look | str:
    """Look at a function; a ``Look`` if that takes a while."""
    try:
        match probe.kind:
            case "port":
                return _port(probe, inside)
            case "file":
                return _file(probe, inside)
            case "command" if inside.process() is None:
                return "its command does not run"
            case "command":
                return Look(probe.command, inside)
    except (MeshError, OSError) as error:
        return str(error)
    return ""


def check(probe: Probe, inside: Inside) -> str:
    """Why a function is not ready; takes SECONDS at most."""
    look = begin(probe, inside)
    if isinstance(look, str):
        return look
    while (why := look.why()) is None:
        look.wait()
    return why


async def checked(probe: Probe, inside: Inside) -> str:
    """As ``check``, for a loop of asyncio."""
    look = begin(probe, inside)
    if isinstance(look, str):
        return look
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(look.ended, ended.set)
    try:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), look.left)
    except asyncio.CancelledError:
        loop.remove_reader(look.ended)
        look.end()
        raise
    loop.remove_reader(look.ended)
    while (why := look.why()) is None:
        look.wait()
    return why


def _port(probe: Probe, inside: Inside) -> str:
    usable = {*map(ip_address, ANYWHERE), *inside.function.addresses}
    with netns.entered(inside.home.netns):
        found = {address for address, port in _bound(probe.protocol) if port == probe.port}
    if found & usable:
        return ""
    return f"{probe} is bound to {min(map(str, found))} alone" if found else str(probe)


def _bound(protocol: str) -> Iterator[tuple[Address, int]]:
    """Addresses and ports at which sockets of this thread's network wait to be spoken to.

    TCP's that listen stand before all others (tcp_seq_start() in linux/net/ipv4/tcp_ipv4.c).
    """
    for name in (protocol, f"{protocol}6"):
        with (
            contextlib.suppress(FileNotFoundError),
            Path(f"/proc/thread-self/net/{name}").open() as file,
        ):
            next(file)
            for line in file:
                _, local, _, state, *_ = line.split()
                if protocol == "tcp" and state != LISTENS:
                    break
                address, port = local.split(":")
                words = (int(address[at : at + 8], 16) for at in range(0, len(address), 8))
                found = ip_address(b"".join(word.to_bytes(4, sys.byteorder) for word in words))
                yield getattr(found, "ipv4_mapped", None) or found, int(port, 16)


def _file(probe: Probe, inside: Inside) -> str:
    first = inside.process()
    if first is None:
        return "its command does not run"
    root = os.open(f"/proc/{first}/root", os.O_PATH | os.O_CLOEXEC)
    try:
        return "" if libc.is_below(root, probe.file or "") else str(probe)
    finally:
        os.close(root)
