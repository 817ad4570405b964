# SPDX-License-Identifier: BSD-2-Clause
"""Commands about the deny list: sources of which nothing comes in by an uplink."""

import contextlib
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from ebpfmesh.cli import complete, output
from ebpfmesh.cli.base import Group, settings
from ebpfmesh.cli.choose import need_change, need_read, the_mesh
from ebpfmesh.cli.output import Column, number
from ebpfmesh.errors import NotFound, UsageError

if TYPE_CHECKING:
    from ebpfmesh.apply.denied import Changed
    from ebpfmesh.model import Network

STDIN = "-"


@click.group(
    cls=Group,
    examples=(
        "ebpfmesh deny add 192.0.2.0/24 2001:db8:bad::/48",
        "ebpfmesh deny show --counters",
        "ebpfmesh deny del --all",
    ),
)
def deny() -> None:
    """The deny list: sources of which nothing comes in by an uplink.

    It is dropped at XDP, before the host's stack or the mesh see it. The list is state, as an ipset
    is: it lasts until `down`, and no mesh file has it. A list for one uplink holds beside the one
    for all of them.
    """


UPLINK = click.option(
    "--uplink", metavar="NAME", default="", shell_complete=complete.uplinks,
    help="Of the list of this uplink alone.",
)  # fmt: skip
FILES = click.option(
    "-f", "--file", "files", metavar="FILE", multiple=True,
    type=click.Path(allow_dash=True),
    help="A prefix a line, # begins a comment; - is stdin.",
)  # fmt: skip
PREFIXES = click.argument("prefixes", metavar="[PREFIX]...", nargs=-1)


def _read(prefixes: tuple[str, ...], files: tuple[str, ...]) -> "set[Network]":
    """All that was given; all wrong lines of a file are told."""
    from ebpfmesh.config import denied, parse_denied, read_denied

    found = {parse_denied(text) for text in prefixes}
    for name in files:
        with contextlib.ExitStack() as stack:
            lines = sys.stdin
            if name != STDIN:
                lines = stack.enter_context(_opened(Path(name)))
            whole = iter(partial(lines.readline, denied.LONGEST + 1), "")
            found |= read_denied(whole, Path("stdin" if name == STDIN else name))
    return found


def _opened(file: Path) -> TextIO:
    try:
        return file.open(errors="backslashreplace")
    except OSError as error:
        raise UsageError(
            f"{file}: cannot read it: {error.strerror}",
            hint="give the path of a file that can be read, or - for stdin",
        ) from error


def _warnings(mesh: str, found: "set[Network]", uplink: str) -> list[str]:
    """What of the host's own is shut out; told when it is done, before the line may be dead."""
    from ebpfmesh.observe import deny as observed
    from ebpfmesh.observe.view import opened

    with opened(mesh) as view:
        return list(observed.shut_out(view, found, uplink))


def _tell(mesh: str, done: "Changed", uplink: str, warnings: list[str]) -> None:
    if settings().json:
        output.data(mesh=mesh, uplink=uplink or None, **done._asdict(), warnings=warnings)
        return
    where = f" at uplink {uplink}" if uplink else ""
    for sign, count in (("+", done.added), ("-", done.removed)):
        if count:
            output.done(f"{sign} {_prefixes(count)}{where}")
    left = f"{_prefixes(done.denied)} denied in all"
    output.say(left if done.added or done.removed else f"nothing to do: {left}")


def _prefixes(count: int) -> str:
    return f"{number(count)} prefix{'' if count == 1 else 'es'}"


@deny.command(
    "add",
    examples=(
        "ebpfmesh deny add 192.0.2.7 198.51.100.0/24 2001:db8:bad::/48",
        "ebpfmesh deny add --uplink uplink0 203.0.113.0/24",
        "ebpfmesh deny add --replace -f list.txt",
    ),
)
@PREFIXES
@FILES
@UPLINK
@click.option("--replace", is_flag=True, help="In the place of all of that list.")
def add(prefixes: tuple[str, ...], files: tuple[str, ...], uplink: str, replace: bool) -> None:
    """Deny PREFIXes, and addresses, of either family: packets from there are dropped.

    All at once: no packet meets half of a change, and none of others is lost. Connections that are
    there end, too. Where a prefix holds a gateway, an address of the host's or who is logged in by
    ssh, that is warned of and done.
    """
    from ebpfmesh import apply

    need_change("deny add")
    found = _read(prefixes, files)
    if not (found or files):
        raise UsageError("it is not said what to deny", hint="give prefixes, or -f FILE")
    mesh = the_mesh()
    warnings = _warnings(mesh, found, uplink)
    for text in () if settings().json else warnings:
        output.warn(text)
    with output.steps("deny list") as step:
        done = apply.deny(mesh, found, uplink=uplink, replace=replace, on_step=step)
    _tell(mesh, done, uplink, warnings)


@deny.command(
    "del",
    examples=(
        "ebpfmesh deny del 192.0.2.7",
        "ebpfmesh deny del --if-exists -f list.txt",
        "ebpfmesh deny del --all --uplink uplink0",
    ),
)
@PREFIXES
@FILES
@UPLINK
@click.option(
    "--all", "everything", is_flag=True, help="All of that list; without --uplink, all lists."
)
@click.option("--if-exists", is_flag=True, help="What is not denied is passed over.")
def delete(
    prefixes: tuple[str, ...],
    files: tuple[str, ...],
    uplink: str,
    everything: bool,
    if_exists: bool,
) -> None:
    """Deny PREFIXes no more, as they were given: a part of one is not an entry.

    With the last one at an uplink XDP goes there, too.
    """
    from ebpfmesh import apply

    need_change("deny del")
    found = _read(prefixes, files)
    if everything == bool(prefixes or files):
        what = "--all has them in it" if everything else "it is not said what to deny no more"
        raise UsageError(what, hint="give prefixes, or --all alone")
    mesh = the_mesh()
    with output.steps("deny list") as step:
        done = apply.allow(
            mesh, None if everything else found, uplink=uplink, missing_ok=if_exists, on_step=step
        )
    _tell(mesh, done, uplink, [])


def _columns(counters: bool) -> list[Column]:
    columns = [
        Column("prefix", lambda row: row.prefix),
        Column("uplink", lambda row: row.uplink or "all"),
    ]
    if counters:
        columns.append(Column("dropped", lambda row: number(row.packets), right=True))
    return columns


@deny.command(
    "show",
    examples=(
        "ebpfmesh deny show",
        "ebpfmesh deny show --counters --uplink uplink0",
        "ebpfmesh deny show --plain >list.txt",
    ),
)
@UPLINK
@click.option("--counters", is_flag=True, help="And what was dropped for each.")
@click.option("--plain", is_flag=True, help="Prefixes alone, as -f of `deny add` reads them.")
def show(uplink: str, counters: bool, plain: bool) -> None:
    """Show what is denied. What was dropped altogether `show drops` has, under DENIED."""
    from ebpfmesh.observe import deny as observed
    from ebpfmesh.observe.view import opened

    need_read("deny show")
    with opened(the_mesh()) as view:
        if uplink and view.record.uplink(uplink) is None:
            raise NotFound(f"there is no uplink {uplink}", hint="ebpfmesh show uplinks")
        rows = observed.read_denied(view, uplink=uplink, counters=counters)
        if settings().json:
            output.data(mesh=view.name, time=output.now(), denied=rows)
        elif plain and rows:
            output.text("\n".join(row.prefix for row in rows))
        else:
            output.table(_columns(counters), rows, empty="nothing is denied")


COMMANDS = (deny,)
