# SPDX-License-Identifier: BSD-2-Clause
"""Commands that change services, policies and limits of a mesh that is up."""

from typing import TYPE_CHECKING, Any

import click

from ebpfmesh.cli import ask, complete, output
from ebpfmesh.cli.base import Command, Group
from ebpfmesh.cli.choose import need_change, the_mesh
from ebpfmesh.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ebpfmesh.model import Mesh, Policy, Scope


def _ports(_context: click.Context, _option: click.Parameter, text: str | None) -> str | None:
    """A port or a range as it was given, now that it is known to be one."""
    from ebpfmesh.model import Invalid, parse_ports

    try:
        parse_ports(text) if text is not None else None
    except Invalid as error:
        raise click.BadParameter(f"{error.message}; {error.hint}") from None
    return text


FUNCTIONS = click.option(
    "--function",
    "functions",
    metavar="F",
    multiple=True,
    shell_complete=complete.backends,
    help="A backend; may be repeated.",
)
TARGET = click.option(
    "--target-port",
    metavar="P",
    callback=_ports,
    help="The backends' own port, or a range as long as the port's.",
)
PROTOCOL = click.Choice(["tcp", "udp"])
NONE = "none"
"""The limit of what has none."""
AFFINITY = click.Choice(["none", "source"])


def _weights(
    _context: click.Context, _option: click.Parameter, texts: "Sequence[str]"
) -> dict[str, int]:
    found = {}
    for text in texts:
        name, equals, number = text.partition("=")
        if not (name and equals and number.isascii() and number.isdecimal() and int(number) <= 100):
            raise click.BadParameter(f"{text!r} is not NAME=N with N from 0 to 100.")
        found[name] = int(number)
    return found


WEIGHT = click.option(
    "--weight", "weights", metavar="NAME=N", multiple=True, callback=_weights,
    help="Part of new flows a backend gets, 0 to 100; 1 if not given, 0 drains it.",
)  # fmt: skip


def apply_edit(
    what: str,
    change: "Callable[[Mesh], Mesh]",
    scope: "Scope | None",
    warnings: "Sequence[str]" = (),
) -> None:
    """Apply a change of the model and tell the operations it came to.

    ``warnings`` of what is new are known once the change is made.
    """
    from ebpfmesh import apply

    mesh = the_mesh()
    with output.steps(what) as step:
        done = apply.edit(mesh, change, step, scope=scope)
    output.operations(mesh, done, warnings=warnings)


PUBLISH = click.option(
    "--publish", metavar="U:P", multiple=True,
    help="A port of an uplink, or a range, at which the outside reaches it; may be repeated.",
)  # fmt: skip


@click.group(
    cls=Group,
    examples=(
        "ebpfmesh service add redis --address 198.19.0.9 --port 6379 --function cache",
        "ebpfmesh service set redis --port 6380",
        "ebpfmesh service del redis",
    ),
)
def service() -> None:
    """Services: an address and port in front of functions."""


@service.command(
    "add",
    examples=(
        "ebpfmesh service add redis --address 198.19.0.9 --port 6379 --function cache",
        "ebpfmesh service add dns --address 198.19.0.53 --port 53 --protocol udp",
        "ebpfmesh service add media --address 198.19.0.2 --port 8000-8099 --affinity source",
    ),
)
@click.argument("name")
@click.option("--address", "addresses", metavar="A", multiple=True, required=True,
              help="Its address; one of each family.")  # fmt: skip
@click.option("--port", metavar="P", callback=_ports, required=True,
              help="The port clients use, or a range: 8000-8099.")  # fmt: skip
@TARGET
@click.option("--protocol", type=PROTOCOL, default="tcp", show_default=True, help="Its protocol.")
@FUNCTIONS
@WEIGHT
@click.option("--affinity", type=AFFINITY, default="none", show_default=True,
              help="source: a client keeps its backend, whatever its port.")  # fmt: skip
@PUBLISH
def service_add(name: str, **values: Any) -> None:
    """Add service NAME; the target port is its port if left out."""
    from ebpfmesh.config import edit

    need_change("service add")
    scope = edit.scope_of_service(
        name,
        **{key: values[key] for key in ("addresses", "functions", "publish")},
    )
    apply_edit(f"service {name}", lambda mesh: edit.add_service(mesh, name, **values), scope)


@service.command(
    "set",
    examples=(
        "ebpfmesh service set redis --port 6380",
        "ebpfmesh service set api --weight web-0=0 --weight web-1=3",
        "ebpfmesh service set dns --address 198.19.1.53 --protocol tcp",
    ),
)
@click.argument("name", shell_complete=complete.services)
@click.option("--address", "addresses", metavar="A", multiple=True, help="Instead of those it has.")
@click.option(
    "--port", metavar="P", callback=_ports, help="The port clients use, or a range: 8000-8099."
)
@TARGET
@click.option("--protocol", type=PROTOCOL, help="Its protocol.")
@FUNCTIONS
@WEIGHT
@click.option("--affinity", type=AFFINITY, help="source: a client keeps its backend.")
@PUBLISH
@click.option("--no-publish", is_flag=True, help="The outside reaches it no more.")
@click.option(
    "--no-functions",
    is_flag=True,
    help="Leave it none: new flows are dropped, or rejected if the mesh rejects.",
)
def service_set(name: str, no_functions: bool, no_publish: bool, **values: Any) -> None:
    """Change service NAME: what is given replaces what it has, a weight that of one backend.

    Connections keep their backend as long as it lives, be it one of the service's or no longer.
    """
    from ebpfmesh.config import edit

    need_change("service set")
    given = {key: value for key, value in values.items() if value or key == "addresses"}
    given |= {"functions": ()} if no_functions else {}
    given |= {"publish": ()} if no_publish else {}
    scope = edit.scope_of_service(
        name,
        **{key: values[key] for key in ("addresses", "functions", "publish")},
    )
    apply_edit(f"service {name}", lambda mesh: edit.set_service(mesh, name, **given), scope)


@service.command(
    "del",
    examples=(
        "ebpfmesh service del redis",
        "ebpfmesh service del api --mesh edge",
        "ebpfmesh --json service del dns",
    ),
)
@click.argument("name", shell_complete=complete.services)
def service_del(name: str) -> None:
    """Remove service NAME, and the rules about it."""
    from ebpfmesh.config import edit

    need_change("service del")
    scope = edit.scope_of_service(name)
    apply_edit(f"service {name}", lambda mesh: edit.delete_service(mesh, name), scope)


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

    FROM and TO are any, outside, outside:PREFIX, function:NAME, tenant:NAME and, for TO,
    service:NAME; or the plain name of a function, a group or a service. Of the rules that match
    the lowest priority decides, deny before reject before allow.
    """


MATCH = (
    click.argument("source", metavar="FROM", shell_complete=complete.parties),
    click.argument("destination", metavar="TO", shell_complete=complete.ends),
    click.option("--protocol", type=click.Choice(["any", "tcp", "udp", "icmp"]), default="any",
                 show_default=True, help="What it is about."),
    click.option("--port", metavar="P", callback=_ports, default=None,
                 help="Of TO: the service's, or the receiver's own; or a range: 8000-8099."),
    click.option("--icmp-type", metavar="T", type=click.IntRange(0, 255), default=None,
                 help="With --protocol icmp; an echo request is 8, of IPv6 too."),
)  # fmt: skip


def _matching(command: "Callable[..., None]") -> "Callable[..., None]":
    for decorate in reversed(MATCH):
        command = decorate(command)
    return command


def _policy(source: str, destination: str, **values: Any) -> "Policy":
    """The rule that is meant, whose ends may be plain names and addresses."""
    from ebpfmesh.config import edit
    from ebpfmesh.observe import view

    with view.opened(the_mesh()) as seen:
        ends = seen.identity(source), seen.identity(destination)
    return edit.rule(*ends, **values)


@policy.command(
    "add",
    examples=(
        "ebpfmesh policy add phone portal",
        "ebpfmesh policy add tenant:guest any --action reject --priority 10",
        "ebpfmesh policy add outside:192.0.2.0/24 function:web --protocol tcp --port 8000-8099",
    ),
)
@_matching
@click.option("--action", type=click.Choice(["allow", "deny", "reject"]), default="allow",
              show_default=True, help="What it says; who is rejected is told.")  # fmt: skip
@click.option("--priority", metavar="N", type=click.IntRange(0, 65535), default=100,
              show_default=True, help="The lowest decides.")  # fmt: skip
def policy_add(**values: Any) -> None:
    """Let FROM open flows to TO, or forbid it.

    Takes the place of the rule about the same flows, if there is one.
    """
    from ebpfmesh.config import edit
    from ebpfmesh.model import idle_rules

    need_change("policy add")
    rule = _policy(**values)
    warnings: list[str] = []

    def add(mesh: "Mesh") -> "Mesh":
        changed = edit.add_policy(mesh, rule)
        new = changed.policies[-1]
        warnings[:] = [text for one, text in idle_rules(changed) if one == new]
        return changed

    apply_edit(f"policy {rule}", add, edit.scope_of_policy(rule), warnings)


@policy.command(
    "del",
    examples=(
        "ebpfmesh policy del function:phone service:portal --protocol tcp --port 80",
        "ebpfmesh policy del tenant:guest any",
        "ebpfmesh policy del outside:192.0.2.0/24 function:web --protocol tcp --port 8000-8099",
    ),
)
@_matching
def policy_del(**values: Any) -> None:
    """Remove the rule about these flows, whatever it says."""
    from ebpfmesh.config import edit

    need_change("policy del")
    rule = _policy(**values)
    apply_edit("policy", lambda mesh: edit.delete_policy(mesh, rule), edit.scope_of_policy(rule))


policy.add_command(ask.policy_test)


def _limit(
    _context: click.Context, option: click.Parameter, text: str | None
) -> str | float | None:
    """A limit as the model takes it: a number, or a text; None stays what was not given."""
    if text is None or text == NONE or option.name != "cpu":
        return text
    try:
        return float(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither a number nor {NONE}.") from None


def _rate(
    _context: click.Context, _option: click.Parameter, text: str | None
) -> str | dict[str, str] | None:
    """A rate as the model takes it: a text, or a table; None stays what was not given."""
    if text is None or "=" not in text:
        return text
    pairs = [part.partition("=") for part in text.split(",")]
    return {key.strip(): value.strip() for key, _, value in pairs}


@click.command(
    "set",
    cls=Command,
    examples=(
        "ebpfmesh set phone --cpu 0.5 --memory 64M",
        "ebpfmesh set web --rate send=100M,receive=1G,receive_pps=50k",
        "ebpfmesh set phone --cpu none --memory none --rate none",
    ),
)
@click.argument("name", shell_complete=complete.functions_and_groups)
@click.option("--cpu", metavar="N|none", callback=_limit, help="CPUs it may use, such as 0.5.")
@click.option("--memory", metavar="SIZE|none", callback=_limit,
              help="Bytes it may use: 64M, 1G, or a number.")  # fmt: skip
@click.option("--rate", metavar="RATE|none", callback=_rate,
              help="Bits it may send and get a second, such as 100M; or KEY=NUMBER,…")  # fmt: skip
def set_(name: str, **limits: str | float | dict[str, str] | None) -> None:
    """Change the limits of function NAME, or of all replicas of that name, while they run.

    CPU and memory hold for what ebpfmesh starts in it: a container of podman's has its own. Less
    memory than is in use is refused. Keys of a rate are those of a mesh file: send, receive,
    send_pps, receive_pps. `up` with an edited file does the same.
    """
    from ebpfmesh.config import edit
    from ebpfmesh.model import Scope

    need_change("set")
    given = {key: None if one == NONE else one for key, one in limits.items() if one is not None}
    if not given:
        hint = "give --cpu, --memory or --rate"
        raise UsageError(f"it is not said what of {name} is to change", hint=hint)
    scope = Scope(functions=(name,))
    apply_edit(f"function {name}", lambda mesh: edit.set_limits(mesh, name, **given), scope)


COMMANDS = (service, policy, set_)
