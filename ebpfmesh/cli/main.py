# SPDX-License-Identifier: BSD-2-Clause
"""The ebpfmesh command: its commands, and what becomes of errors and signals."""

import errno
import gc
import os
import sys
from typing import NoReturn

import click

from ebpfmesh.cli import (
    bench,
    deny,
    desired,
    doctor,
    edit,
    events,
    example,
    functions,
    inject,
    interrupt,
    logs,
    mesh,
    output,
    port,
    remote,
    serve,
    show,
    top,
)
from ebpfmesh.cli.base import Group, Settings
from ebpfmesh.errors import MeshError

INTERRUPTED = 130
HINTS = {
    errno.EACCES: "root may: use sudo, or choose another place",
    errno.EROFS: "nothing can be written there: choose another place",
    errno.ENOMEM: "make memory free, or lower limits under [mesh]",
    errno.ENOSPC: "the disk is full: make room, or choose another place",
}
"""What to do where the system says no and nothing of ours knows more."""
GARBAGE = 20_000
"""New objects after which Python looks for cycles: of most commands, loading modules is all."""


@click.group(
    cls=Group,
    examples=(
        "ebpfmesh up examples/edge.toml",
        "ebpfmesh show functions",
        "ebpfmesh exec phone -- curl -s http://portal/",
    ),
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "EBPFMESH"},
)
@click.version_option(package_name="ebpfmesh", message="%(prog)s %(version)s")
def cli() -> None:
    """An in-kernel mesh between function containers.

    Each option of every command can be set in the environment too: EBPFMESH_MESH, EBPFMESH_JSON
    and so on. Completion: eval "$(_EBPFMESH_COMPLETE=bash_source ebpfmesh)".
    """


for _module in (
    mesh, desired, example, functions, logs, show, top, edit, remote, deny, inject, events, serve,
    port, doctor, bench,
):  # fmt: skip
    for _command in _module.COMMANDS:
        cli.add_command(_command)


def main() -> NoReturn:
    """Run the command line; every way out has its exit code."""
    gc.set_threshold(GARBAGE)
    interrupt.install()
    chosen = Settings(no_color=bool(os.environ.get("NO_COLOR")))
    try:
        code = _run(chosen)
        sys.stdout.flush()
    except BrokenPipeError:  # `ebpfmesh show flows | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def _run(chosen: Settings) -> int:
    """The exit code, with everything told that went wrong."""
    color = False if chosen.no_color else None
    try:
        done = cli.main(prog_name="ebpfmesh", standalone_mode=False, obj=chosen, color=color)
        return int(done or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        raise
    except (Exception, KeyboardInterrupt) as error:
        if os.environ.get("EBPFMESH_TRACEBACK"):
            raise
        errors = [error, *getattr(error, "others", ())]
        told = [_told(one) for one in errors]
        more = getattr(error, "more", 0)
        if chosen.json or _asks_for_json(error):
            rows = [_row(*pair) for pair in zip(errors, told, strict=True)]
            output.line(exit_code=told[0][2], errors=rows, more=more)
        for message, hint, _ in told:
            output.complain("error:", "red", message, color=color)
            if hint:
                output.complain("hint:", "yellow", hint, color=color)
        if more:
            output.complain("error:", "red", f"and {more} more", color=color)
        return told[0][2]


def _asks_for_json(error: BaseException) -> bool:
    """Whether a line that was wrong before all of it was read asks for JSON."""
    return isinstance(error, click.UsageError) and not {"-j", "--json"}.isdisjoint(sys.argv)


def _row(error: BaseException, told: tuple[str, str, int]) -> dict[str, object]:
    """An error as it stands in JSON; a mesh file's has the file and the line."""
    message, hint, _ = told
    file, line = getattr(error, "file", None), getattr(error, "line", None)
    return {"message": message, "hint": hint, "file": file and str(file), "line": line}


def _told(error: BaseException) -> tuple[str, str, int]:
    """What to say of an error: one line, a hint or nothing, the exit code."""
    match error:
        case MeshError():
            return error.message, error.hint, error.exit_code
        case click.ClickException():
            context = getattr(error, "ctx", None)
            hint = f"{context.command_path if context else 'ebpfmesh'} --help"
            line = " ".join(error.format_message().split()).rstrip(".")
            return line[:1].lower() + line[1:], hint, error.exit_code
        case click.Abort() | KeyboardInterrupt():
            return "interrupted", "", INTERRUPTED
        case OSError():
            about = f"{error.filename}: " if error.filename else ""
            return f"{about}{error.strerror or error}", HINTS.get(error.errno or 0, ""), 1
    hint = "this should not happen; EBPFMESH_TRACEBACK=1 shows where it did"
    return f"{type(error).__name__}: {error}", hint, 1
