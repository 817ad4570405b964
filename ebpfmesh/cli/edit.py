# SPDX-License-Identifier: BSD-2-Clause
"""Commands that change services and policies of a mesh that is up."""

from typing import TYPE_CHECKING, Any

import click

from ebpfmesh.cli import output
from ebpfmesh.cli.base import Group
from ebpfmesh.cli.choose import need_change, the_mesh

if TYPE_CHECKING:
    from collections.abc import Callable

    from ebpfmesh.model import Mesh, Policy

PORT = click.IntRange(1, 65535)
FUNCTIONS = click.option(
    "--function", "functions", metavar="F", multiple=True, help="A backend; may be repeated."
)
TARGET = click.option("--target-port", metavar="P", type=PORT, help="The backends' own port.")
PROTOCOL = click.Choice(["tcp", "udp"])


def _edit(what: str, change: "Callable[[Mesh], Mesh]") -> None:
    """Apply a change of the model and tell the operations it came to."""
    from ebpfmesh import apply

    mesh = the_mesh()
    with output.steps(what) as step:
        done = apply.edit(mesh, change, step)
    output.operations(mesh, done)


@click.group(
    cls=Group,
    examples=(
        "ebpfmesh service add cache --address 198.19.0.9 --port 6379 --function cache",
        "ebpfmesh service set cache --port 6380",
        "ebpfmesh service del cache",
    ),
)
def service() -> None:
    """Services: an address and port in front of functions."""


@service.command(
    "add",
    examples=(
        "ebpfmesh service add cache --address 198.19.0.9 --port 6379 --function cache",
        "ebpfmesh service add dns --address 198.19.0.53 --port 53 --protocol udp",
        "ebpfmesh service add api --address 198.19.0.2 --port 80 --target-port 8080",
    ),
)
@click.argument("name")
@click.option("--address", "addresses", metavar="A", multiple=True, required=True,
              help="Its address; one of each family.")  # fmt: skip
@click.option("--port", metavar="P", type=PORT, required=True, help="The port clients use.")
@TARGET
@click.option("--protocol", type=PROTOCOL, default="tcp", show_default=True, help="Its protocol.")
@FUNCTIONS
def service_add(name: str, **values: Any) -> None:
    """Add service NAME; the target port is its port if left out."""
    from ebpfmesh.config import edit

    need_change("service add")
    _edit(f"service {name}", lambda mesh: edit.add_service(mesh, name, **values))


@service.command(
    "set",
    examples=(
        "ebpfmesh service set cache --port 6380",
        "ebpfmesh service set api --function web-1",
        "ebpfmesh service set dns --address 198.19.1.53 --protocol tcp",
    ),
)
@click.argument("name")
@click.option("--address", "addresses", metavar="A", multiple=True, help="Instead of those it has.")
@click.option("--port", metavar="P", type=PORT, help="The port clients use.")
@TARGET
@click.option("--protocol", type=PROTOCOL, help="Its protocol.")
@FUNCTIONS
@click.option("--no-functions", is_flag=True, help="Leave it without backends: it refuses.")
def service_set(name: str, no_functions: bool, **values: Any) -> None:
    """Change service NAME: what is given replaces what it has.

    Connections keep their backend as long as it is one of the service's and lives.
    """
    from ebpfmesh.config import edit

    need_change("service set")
    given = {key: value for key, value in values.items() if value or key == "addresses"}
    given |= {"functions": ()} if no_functions else {}
    _edit(f"service {name}", lambda mesh: edit.set_service(mesh, name, **given))


@service.command(
    "del",
    examples=(
        "ebpfmesh service del cache",
        "ebpfmesh service del api --mesh edge",
        "ebpfmesh --json service del dns",
    ),
)
@click.argument("name")
def service_del(name: str) -> None:
    """Remove service NAME, and the rules about it."""
    from ebpfmesh.config import edit

    need_change("service del")
    _edit(f"service {name}", lambda mesh: edit.delete_service(mesh, name))


@click.group(
    cls=Group,
    examples=(
        "ebpfmesh policy add function:phone service:portal --protocol tcp --port 80",
        "ebpfmesh policy add tenant:guest any --action deny --priority 10",
        "ebpfmesh policy del tenant:guest any",
    ),
)
def policy() -> None:
    """Policies: who may open a flow to whom; answers need no rule.

    FROM and TO are any, outside, function:NAME, tenant:NAME and, for TO, service:NAME. Of the
    rules that match the lowest priority decides, deny before allow.
    """


MATCH = (
    click.argument("source", metavar="FROM"),
    click.argument("destination", metavar="TO"),
    click.option("--protocol", type=click.Choice(["any", "tcp", "udp", "icmp"]), default="any",
                 show_default=True, help="What it is about."),
    click.option("--port", metavar="P", type=PORT, default=None,
                 help="Of TO: the service's, or the receiver's own."),
)  # fmt: skip


def _matching(command: "Callable[..., None]") -> "Callable[..., None]":
    for decorate in reversed(MATCH):
        command = decorate(command)
    return command


def _policy(values: dict[str, Any]) -> "Policy":
    from ebpfmesh import config, model

    return config.make(model.Policy, **values | {"port": values["port"] or 0})


@policy.command(
    "add",
    examples=(
        "ebpfmesh policy add function:phone service:portal --protocol tcp --port 80",
        "ebpfmesh policy add tenant:guest any --action deny --priority 10",
        "ebpfmesh policy add any tenant:operator --protocol icmp",
    ),
)
@_matching
@click.option("--action", type=click.Choice(["allow", "deny"]), default="allow",
              show_default=True, help="What it says.")  # fmt: skip
@click.option("--priority", metavar="N", type=click.IntRange(0, 65535), default=100,
              show_default=True, help="The lowest decides.")  # fmt: skip
def policy_add(**values: Any) -> None:
    """Let FROM open flows to TO, or forbid it.

    Takes the place of the rule about the same flows, if there is one.
    """
    from ebpfmesh.config import edit

    need_change("policy add")
    rule = _policy(values)
    _edit(f"policy {rule}", lambda mesh: edit.add_policy(mesh, rule))


@policy.command(
    "del",
    examples=(
        "ebpfmesh policy del function:phone service:portal --protocol tcp --port 80",
        "ebpfmesh policy del tenant:guest any",
        "ebpfmesh policy del any tenant:operator --protocol icmp",
    ),
)
@_matching
def policy_del(**values: Any) -> None:
    """Remove the rule about these flows, whatever it says."""
    from ebpfmesh.config import edit

    need_change("policy del")
    rule = _policy(values)
    _edit("policy", lambda mesh: edit.delete_policy(mesh, rule))


COMMANDS = (service, policy)
