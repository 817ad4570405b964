# SPDX-License-Identifier: BSD-2-Clause
"""The doctor command."""

import click

from ebpfmesh.cli import output
from ebpfmesh.cli.base import Command, settings

_COLOURS = {"ok": "green", "note": "yellow", "missing": "red", "unknown": "yellow"}


@click.command(
    cls=Command,
    examples=("ebpfmesh doctor", "ebpfmesh doctor --json", "ebpfmesh doctor --mesh edge"),
)
def doctor() -> None:
    """Tell what this machine has and lacks for a mesh, and whether meshes are well.

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
        output.table(
            ("what", "", "", "hint"),
            ((c.topic, output.mark(c.status, _COLOURS[c.status]), c.text, c.hint) for c in found),
            empty="",
        )
    if any(check.status == "missing" for check in found):
        click.get_current_context().exit(1)


COMMANDS = (doctor,)
