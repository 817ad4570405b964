# SPDX-License-Identifier: BSD-2-Clause
"""What helps to write a mesh file: one to begin with, and the schema of all."""

import json
from pathlib import Path

import click

from ebpfmesh.cli import output
from ebpfmesh.cli.base import Command, settings
from ebpfmesh.errors import MeshError

NAME = "edge.toml"


@click.command(
    cls=Command,
    examples=(
        "ebpfmesh example >edge.toml",
        "ebpfmesh example | grep -A 9 service",
        "ebpfmesh example --json",
    ),
)
def example() -> None:
    """Print a mesh file to begin with.

    Two functions of an operator, a vendor's portal in two replicas behind one service, and the
    rule that lets one of the functions use it.
    """
    text = _file().read_text()
    if settings().json:
        output.data(name=NAME, text=text)
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


def _file() -> Path:
    """In ``examples/`` of a checkout, ``ebpfmesh/_examples`` once installed."""
    package = Path(__file__).resolve().parents[1]
    for directory in (package / "_examples", package.parent / "examples"):
        if (directory / NAME).is_file():
            return directory / NAME
    raise MeshError("the example is missing", hint="install ebpfmesh again: pip install .")


COMMANDS = (example, schema)
