# SPDX-License-Identifier: BSD-2-Clause
"""What helps to write a mesh file: one to begin with, and the schema of all."""

import json
import re
import sys
from pathlib import Path

import click

from ebpfmesh.cli import output
from ebpfmesh.cli.base import Command, settings
from ebpfmesh.errors import MeshError

MESHES = ("edge", "servers")
UNIT = "ebpfmesh.service"


@click.command(
    cls=Command,
    examples=(
        "ebpfmesh example >edge.toml",
        "ebpfmesh example servers >servers.toml",
        "ebpfmesh example --unit >ebpfmesh.service",
    ),
)
@click.argument("name", type=click.Choice(MESHES), default=MESHES[0])
@click.option("--unit", is_flag=True, help="Print a unit of systemd instead.")
def example(*, name: str, unit: bool) -> None:
    """Print a mesh file to begin with, or what has systemd bring meshes up.

    edge: two functions of an operator, a vendor's portal in two replicas behind one service, and
    the rule that lets one of the functions use it. servers: nginx, redis, PostgreSQL, sshd, dnsmasq
    and iperf3 with what each of them needs; docs/servers.md says how to use it.

    In /etc/systemd/system/ebpfmesh.service the unit runs `ebpfmesh up` at boot, for all that
    /etc/ebpfmesh describes, again with `systemctl reload`, and `ebpfmesh down --all` at stop.
    """
    file = UNIT if unit else f"{name}.toml"
    text = _file(file).read_text()
    if unit:
        text = re.sub("(?m)^(Exec[A-Za-z]+)=ebpfmesh ", rf"\1={_program()} ", text)
    if settings().json:
        output.data(name=file, text=text)
    else:
        for line in text.splitlines():
            output.echo(line)


@click.command(
    cls=Command,
    examples=(
        "ebpfmesh schema >mesh.schema.json",
        "ebpfmesh schema | python3 -m json.tool | less",
        "ebpfmesh schema | grep -c examples",
    ),
)
def schema() -> None:
    """Print a JSON schema of mesh files, for editors.

    With `#:schema ./mesh.schema.json` in its first line an editor checks a file while you write
    it, and tells what each key is for. docs/mesh-file.md is the same for people.
    """
    from ebpfmesh.config import reference

    for line in json.dumps(reference.schema(), indent=2).splitlines():
        output.echo(line)


def _program() -> str:
    """How systemd, which knows no PATH of ours, starts this installation."""
    script = Path(sys.executable).with_name("ebpfmesh")
    return str(script) if script.exists() else f"{sys.executable} -m ebpfmesh"


def _file(name: str) -> Path:
    """In ``examples/`` of a checkout, ``ebpfmesh/_examples`` once installed."""
    package = Path(__file__).resolve().parents[1]
    for directory in (package / "_examples", package.parent / "examples"):
        if (directory / name).is_file():
            return directory / name
    raise MeshError("the example is missing", hint="install ebpfmesh again: pip install .")


COMMANDS = (example, schema)
