# SPDX-License-Identifier: BSD-2-Clause
"""What can go wrong, as the user meets it: one line saying what and on what, a hint, an exit code.

Errors of the kernel, of netlink and of other programs are translated to these once, in
``ebpfmesh.kernel``; every other module lets them pass.
"""

from pathlib import Path


class MeshError(Exception):
    """Base of every error the tool reports; ``message`` is one line, ``hint`` what to do next.

    ``about``: the function and the key of the mesh file that it is about, if it is. ``others`` are
    wrong too.
    """

    exit_code = 1

    def __init__(
        self, message: str, *, hint: str = "", about: tuple[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.about = about
        self.others: tuple[MeshError, ...] = ()


class CommandFailed(MeshError):
    """A program we ran (iptables-restore, iperf3, …) failed; the message carries its output."""


class VerifierRejected(MeshError):
    """The compiler or the kernel's verifier refused a program; the whole log is in ``log``."""

    def __init__(self, message: str, *, log: Path, hint: str = "") -> None:
        super().__init__(message, hint=hint or f"the whole log is in {log}")
        self.log = log


class FunctionRefused(MeshError):
    """Code of others is not taken: ``file`` and ``line`` (1-based) of its author say where.

    ``log`` has all that compiler or verifier said; None if it was neither of them.
    """

    def __init__(
        self, message: str, *, file: Path, line: int | None, log: Path | None = None, hint: str = ""
    ) -> None:
        where = f"{file}:{line}" if line else str(file)
        logged = f"the whole log is in {log}" if log else ""
        super().__init__(f"{where}: {message}", hint="; ".join(filter(None, (hint, logged))))
        self.file = file
        self.line = line
        self.log = log


class UsageError(MeshError):
    """The command line asks for something that cannot be meant."""

    exit_code = 2


class ConfigError(MeshError):
    """A mesh file is wrong; ``file`` and ``line`` (1-based) say where.

    ``others`` are wrong in it too, and so are ``more`` that are not told one by one.
    """

    exit_code = 2

    def __init__(self, message: str, *, file: Path, line: int | None, hint: str = "") -> None:
        where = f"{file}:{line}" if line else str(file)
        super().__init__(f"{where}: {message}", hint=hint)
        self.file = file
        self.line = line
        self.more = 0


class NotFound(MeshError):
    """No mesh, function, service, namespace or container of that name, or not attached."""

    exit_code = 3


class MissingPrivilege(MeshError):
    """A capability is missing; the message names it."""

    exit_code = 4


class Unsupported(MeshError):
    """The kernel or the machine lacks a feature or a package; the message names it."""

    exit_code = 5


class ForeignProgram(MeshError):
    """Somebody else's program, interface or pin is where ours would go."""

    exit_code = 6


class AbiMismatch(MeshError):
    """A pinned map, a program or a record is not laid out as this version expects."""

    exit_code = 7


class UnreadableRecord(AbiMismatch):
    """A record is damaged, or something else stands in its place."""


class Busy(MeshError):
    """Another process is changing the mesh."""
