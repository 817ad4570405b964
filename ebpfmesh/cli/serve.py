# SPDX-License-Identifier: BSD-2-Clause
"""The serve command: the daemon, in the foreground, as systemd likes it."""

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ebpfmesh.cli import output
from ebpfmesh.cli.base import Command, settings
from ebpfmesh.cli.choose import need_change

if TYPE_CHECKING:
    from ebpfmesh.serve import Event

UNIT = """\
[Unit]
Description=Functions of ebpfmesh are looked after
Documentation=https://www.freedesktop.org/software/systemd/man/systemd.service.html

[Service]
Type=notify
ExecStart={command} serve
Restart=always
WatchdogSec=120
# Functions run on when it ends.
KillMode=process

[Install]
WantedBy=multi-user.target
"""


@click.command(
    cls=Command,
    examples=(
        "ebpfmesh serve",
        "ebpfmesh serve --mesh edge --json",
        "ebpfmesh serve --unit >ebpfmesh-serve.service",
    ),
)
@click.option("--unit", is_flag=True, help="Print a unit for systemd that runs it, and end.")
def serve(unit: bool) -> None:
    """Look at functions all the time: start commands again when they end, keep services well.

    Of one mesh, or of all that are up here or come up later. Commands start again as their
    `restart` in the mesh file says, the first time after a tenth of a second, then twice as long
    each time up to 30 s, until a run of 10 s; `show functions` counts. What somebody stopped stays
    stopped.

    Services send nothing new to a function whose command does not run, is not ready yet, or whose
    `health` in the mesh file is not well; what they have sent goes on. It gets new flows again as
    soon as it answers, without anybody's help.

    It keeps nothing to itself: without it packets flow and functions run as before. If it is killed
    nothing is lost, and another starts nothing that runs. SIGTERM ends it.
    """
    if unit:
        text = UNIT.format(command=_self())
        output.data(text=text) if settings().json else output.text(text)
        return
    from ebpfmesh.serve import Supervisor

    need_change("serve")
    supervisor = Supervisor(settings().mesh, _tell)
    if settings().mesh:
        supervisor.enter_or_fail()
    supervisor.run()


def _self() -> str:
    """How this program is called from anywhere."""
    found = shutil.which(sys.argv[0])
    if found and Path(found).name == "ebpfmesh":
        return shlex.quote(str(Path(found).resolve()))
    return f"{shlex.quote(sys.executable)} -m ebpfmesh"


def _tell(event: "Event") -> None:
    if settings().json:
        output.line(time=output.now(), **vars(event))
        return
    name = f"{event.mesh}/{event.function}"
    match event.what:
        case "failed":
            output.complain("error:", "red", f"{name}: {event.error}", color=None)
        case "started":
            how = "was lost" if event.status is None else f"exited {event.status}"
            output.echo(f"{name} {how}, and was started again")
        case "unready":
            output.echo(f"{name} is not ready: {event.why}")
        case "ready":
            output.echo(f"{name} is ready")


COMMANDS = (serve,)
