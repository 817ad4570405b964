# SPDX-License-Identifier: BSD-2-Clause
"""The doctor command."""

import click

from ebpfmesh.cli import output
from ebpfmesh.cli.base import Command, settings
from ebpfmesh.cli.output import Column, mark

_COLOURS = {"ok": "green", "note": "yellow", "missing": "red", "unknown": "yellow"}
_COLUMNS = (
    Column("what", lambda check: check.topic),
    Column("", lambda check: mark(check.status, _COLOURS[check.status])),
    Column("", lambda check: check.text),
    Column("hint", lambda check: check.hint),
)


@click.command(
    cls=Command,
    examples=("ebpfmesh doctor", "ebpfmesh doctor --json", "ebpfmesh doctor --mesh edge"),
)
def doctor() -> None:
    """Report what this machine has and lacks for a mesh, and whether meshes are healthy.

    Exit code 1 if something is missing.
    """
    from ebpfmesh.observe import health, machine, privilege, view

    found = list(machine.check())
    if not privilege.missing(privilege.READ):
        meshes = [settings().mesh] if settings().mesh else view.left()
        found += [check for name in meshes for check in health.check(name)]
    if settings().json:
        output.data(checks=found)
    else:
        output.table(_COLUMNS, found, empty="")
    if any(check.status == "missing" for check in found):
        click.get_current_context().exit(1)


COMMANDS = (doctor,)
