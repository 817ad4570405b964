# SPDX-License-Identifier: BSD-2-Clause
"""Commands about remotes: machines beyond an uplink that are backends of services."""

from typing import TYPE_CHECKING

import click

from ebpfmesh.cli import complete
from ebpfmesh.cli.base import Group
from ebpfmesh.cli.choose import need_change
from ebpfmesh.cli.edit import apply_edit

if TYPE_CHECKING:
    from ebpfmesh.model import Mesh


@click.group(
    cls=Group,
    examples=(
        "ebpfmesh remote add db-0 --address 192.0.2.20 --uplink uplink0",
        "ebpfmesh service set api --function db-0 --publish uplink0:80",
        "ebpfmesh remote del db-0",
    ),
)
def remote() -> None:
    """Remotes: machines beyond an uplink that services and rules name as functions.

    What they answer must come back through this host, which keeps the client's address.
    """


@remote.command(
    "add",
    examples=(
        "ebpfmesh remote add db-0 --address 192.0.2.20 --uplink uplink0",
        "ebpfmesh remote add db-1 --address 192.0.2.21 --address 2001:db8:2::21 --uplink uplink0",
        "ebpfmesh remote add db-2 --address 192.0.2.22 --uplink uplink0 --tenant vendor",
    ),
)
@click.argument("name")
@click.option("--address", "addresses", metavar="A", multiple=True, required=True,
              help="Its address; one of each family.")  # fmt: skip
@click.option("--uplink", metavar="U", required=True, shell_complete=complete.uplinks,
              help="The uplink that it is beyond.")  # fmt: skip
@click.option("--tenant", metavar="T", default="default", show_default=True,
              shell_complete=complete.tenants, help="Its tenant.")  # fmt: skip
def add(name: str, addresses: tuple[str, ...], uplink: str, tenant: str) -> None:
    """Have NAME be a machine beyond an uplink, for services and rules."""
    from ebpfmesh.config import edit

    need_change("remote add")
    scope = edit.scope_of_function(name, addresses=addresses)

    def added(mesh: "Mesh") -> "Mesh":
        return edit.add_remote(mesh, name, addresses=addresses, uplink=uplink, tenant=tenant)

    apply_edit(f"remote {name}", added, scope)


@remote.command(
    "del",
    examples=(
        "ebpfmesh remote del db-0",
        "ebpfmesh remote del db-1 --mesh edge",
        "ebpfmesh --json remote del db-2",
    ),
)
@click.argument("name", shell_complete=complete.remotes)
def delete(name: str) -> None:
    """Remove remote NAME; services lose it as a backend, rules about it go."""
    from ebpfmesh.config import edit

    need_change("remote del")
    apply_edit(f"remote {name}", lambda mesh: edit.delete_remote(mesh, name), None)


COMMANDS = (remote,)
