# SPDX-License-Identifier: BSD-2-Clause
"""The port command: containers of others get their packets in mapped memory."""

import contextlib
from pathlib import Path

import click

from ebpfmesh.cli import complete, output
from ebpfmesh.cli.base import Command, settings
from ebpfmesh.cli.choose import need_change, the_mesh


@click.command(
    cls=Command,
    examples=(
        "ebpfmesh port relay relay.sock",
        "mkdir -p relay && ebpfmesh port relay relay/port.sock --mesh edge",
        "ebpfmesh port relay relay.sock --json",
    ),
)
@click.argument("name", shell_complete=complete.functions)
@click.argument("socket", type=click.Path(path_type=Path))
@click.option("--once", is_flag=True, help="End when one process was handed it.")
def port(name: str, socket: Path, once: bool) -> None:
    """Hand function NAME its packets in mapped memory, each time it asks at the path SOCKET.

    For containers that others started, and that were attached with `--datapath af_xdp`: give them
    the directory of SOCKET (podman run --volume) and the path that it has inside as EBPFMESH_PORT.
    Only who is in the function's network namespace is handed anything; one process at a time has
    it, and the next begins with memory of zeros. It needs no privilege there.

    Ends with --once, or when it is stopped; what was handed over stays.
    """
    from ebpfmesh import apply

    need_change("port")
    mesh = the_mesh()

    def tell(process: int, refused: str) -> None:
        if settings().json:
            output.line(time=output.now(), mesh=mesh, function=name, process=process, why=refused)
        elif refused:
            output.complain("refused:", "yellow", f"process {process}: {refused}", color=None)
        else:
            output.done(f"{name} is handed to process {process}")

    with contextlib.suppress(KeyboardInterrupt):
        apply.serve_port(mesh, name, socket, tell, once=once)


COMMANDS = (port,)
