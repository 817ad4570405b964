# SPDX-License-Identifier: BSD-2-Clause
"""The logs command: what commands of functions said."""

import contextlib
import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from ebpfmesh.cli import complete, interrupt, output
from ebpfmesh.cli.base import Command, settings
from ebpfmesh.cli.choose import need_read, the_mesh

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ebpfmesh.runtime.logs import Line

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
FORMS = "is neither as 90s, 10m, 2h or 1d, nor a time such as 2027-01-31T12:00"


def _since(_context: click.Context, _option: click.Parameter, text: str | None) -> float:
    """Unix time of what was asked for; 0: all there is."""
    if text is None:
        return 0.0
    if found := re.fullmatch(r"([0-9]{1,9})([smhd])", text):
        return time.time() - int(found[1]) * UNITS[found[2]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{text!r} {FORMS}.") from None


@click.command(
    cls=Command,
    examples=(
        "ebpfmesh logs web-0",
        "ebpfmesh logs web -n 20 --since 10m --times",
        "ebpfmesh --json logs web-1 -n 1",
    ),
)
@click.argument("name", shell_complete=complete.functions_and_groups)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("-n", "--lines", "last", metavar="N", type=click.IntRange(0),
              help="Only the last N that there are.")  # fmt: skip
@click.option("--since", metavar="T", callback=_since,
              help="Only what came in the last 90s, 10m, 2h or 1d, or since a time.")  # fmt: skip
@click.option("-t", "--times", is_flag=True, help="Begin each line with its time.")
def logs(name: str, follow: bool, last: int | None, since: float, times: bool) -> None:
    """Print what the command of function NAME said, on both of its outputs.

    Of a group, what all its replicas said in one, by time and with their names. The last output is
    kept, half a mebibyte at least: of this run, and as much of the run before. What is followed
    goes on through restarts, and ends with the function.
    """
    from ebpfmesh.observe import logs, view
    from ebpfmesh.runtime.logs import read

    need_read("logs")
    with view.opened(the_mesh()) as seen, contextlib.suppress(KeyboardInterrupt):
        names = seen.named(name)
        found = [logs.log(seen, one) for one in names]
        many = len(names) > 1
        _print(read(found, since=since, last=last, rest=not follow), many=many, times=times)
        for lines in logs.follow(seen, found) if follow else ():
            interrupt.check()  # of a signal that C code swallowed
            _print(lines, many=many, times=times)


def _print(lines: "Iterable[Line]", *, many: bool, times: bool) -> None:
    for line in lines:
        moment = datetime.fromtimestamp(line.time, UTC)
        if settings().json:
            output.line(time=moment.isoformat(), function=line.function, text=line.text)
            continue
        begin = f"{moment.isoformat(timespec='milliseconds')}  " if times else ""
        output.text(f"{begin}{line.function}  {line.text}" if many else f"{begin}{line.text}")


COMMANDS = (logs,)
