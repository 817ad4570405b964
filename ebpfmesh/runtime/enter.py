# SPDX-License-Identifier: BSD-2-Clause
"""Entering the sandbox of a function's command: another beside it, no more able than it is.

bubblewrap makes sandboxes and enters none. A process that is on its way in has what is open here
and the host's root until it is the command: nobody inside can look at it meanwhile, as it changed
its credentials in a program that a user namespace above executed (``ptrace(2)``).
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from ebpfmesh.errors import NotFound
from ebpfmesh.kernel import libc
from ebpfmesh.runtime import capability, seccomp
from ebpfmesh.runtime.home import Home, number_inside
from ebpfmesh.runtime.sandbox import Sandbox

ALL = (
    libc.CLONE_NEWUSER | libc.CLONE_NEWNS | libc.CLONE_NEWPID | libc.CLONE_NEWNET
    | libc.CLONE_NEWIPC | libc.CLONE_NEWUTS | libc.CLONE_NEWCGROUP
)  # fmt: skip
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def first_of(processes: Iterable[int]) -> int | None:
    """The process that is number 1 of a sandbox, among those of a cgroup; None if none is.

    Nor while it is alone: bubblewrap then has yet to make what it shows.
    """
    numbers = {number_inside(one): one for one in processes}
    return numbers.get(1) if any(number > 1 for number in numbers) else None


def enter(sandbox: Sandbox, home: Home, command: Sequence[str]) -> NoReturn:
    """Run ``command`` in a sandbox that is there, and end as it does; NotFound if there is none."""
    first = first_of(home.cgroup.processes())
    if first is None:
        what = f"the command of function {sandbox.function.name} does not run"
        raise NotFound(what, hint="ebpfmesh show functions says how it ended; down and up start it")
    root = sandbox.root()
    user, group = sandbox.user(root)
    own = {name: os.environ[name] for name in ("TERM", "LANG") if name in os.environ}
    env, workdir = own | sandbox.env(root), sandbox.workdir(root)
    filters = seccomp.filters(sandbox.function.capabilities)
    kept = [capability.NUMBERS[name] for name in sandbox.function.capabilities]
    target = os.pidfd_open(first)
    home.join_cgroup()
    try:
        libc.setns(target, ALL)
    except OSError as error:
        what = f"the command of function {sandbox.function.name} ended meanwhile"
        raise NotFound(what, hint="ebpfmesh show functions says how") from error
    if child := os.fork():
        _end_as(child)
    try:
        _become(user, group, kept, filters)
        with contextlib.suppress(OSError):
            os.chdir(workdir)
        os.execvpe(command[0], list(command), env)  # noqa: S606
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)
    finally:
        os._exit(1)


def _become(user: int, group: int, kept: Sequence[int], filters: Iterable[bytes]) -> None:
    """Give up, for good, what a command of the sandbox does not have."""
    os.setgroups([])
    os.setresgid(group, group, group)
    capability.bound(kept)
    libc.prctl(libc.PR_SET_KEEPCAPS, 1)
    os.setresuid(user, user, user)
    capability.keep_as_user(kept)
    libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and the command would too
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    for program in filters:
        libc.seccomp(program)


def _end_as(child: int) -> NoReturn:
    """Pass signals on to ``child``, and end as it does."""
    for number in SIGNALS:
        signal.signal(number, _pass_on(child))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to both
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 128 - code)


def _pass_on(child: int) -> Callable[[int, object], None]:
    def pass_on(number: int, _frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    return pass_on
