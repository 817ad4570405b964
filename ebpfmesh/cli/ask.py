# SPDX-License-Identifier: BSD-2-Clause
"""The policy test command."""

from typing import TYPE_CHECKING, Any

import click

from ebpfmesh.cli import complete, output
from ebpfmesh.cli.base import Command, settings
from ebpfmesh.cli.choose import need_read, the_mesh

if TYPE_CHECKING:
    from ebpfmesh.observe.dryrun import Answer

PORT = click.IntRange(1, 65535)


@click.command(
    "test",
    cls=Command,
    examples=(
        "ebpfmesh policy test phone portal",
        "ebpfmesh policy test function:camera function:web-0 --protocol tcp --port 8080",
        "ebpfmesh policy test outside:192.0.2.7 uplink0:80 --json",
    ),
)
@click.argument("source", metavar="FROM", shell_complete=complete.parties)
@click.argument("destination", metavar="TO", shell_complete=complete.ends)
@click.option("--protocol", type=click.Choice(["tcp", "udp", "icmp"]),
              help="Default: the service's; else tcp with --port, icmp without.")  # fmt: skip
@click.option("--port", metavar="P", type=PORT, help="Of TO. Default: the service's.")
@click.option("--source-port", metavar="P", type=PORT, default=49152, show_default=True,
              help="Of FROM.")  # fmt: skip
@click.option("--uplink", metavar="U", default="", shell_complete=complete.uplinks,
              help="What is from outside comes in by it, not by the stack.")  # fmt: skip
@click.option("-6", "six", is_flag=True, help="Over IPv6. Default: IPv4 if both have it.")
def policy_test(source: str, destination: str, six: bool, **flow: Any) -> None:
    """Ask whether FROM may open a flow to TO, and which rule says so.

    FROM and TO are function:NAME, service:NAME (TO alone), outside or outside:ADDRESS, or a plain
    name or address; of replicas with one name it is the first. TO is UPLINK:PORT for a port of the
    host's address there, as in publish. A packet is put to the programs as they are loaded, which
    judge it as the first of a flow and keep nothing; of what comes in by an uplink the deny list is
    asked first. Exit code 1 if they would drop it.
    """
    from ebpfmesh.observe import dryrun, view

    need_read("policy test")
    with view.opened(the_mesh()) as seen:
        ends = dryrun.party(seen, source), dryrun.party(seen, destination)
        answer = dryrun.ask(seen, *ends, version=6 if six else None, **flow)
        name = seen.name
    if settings().json:
        output.data(mesh=name, **vars(answer))
    else:
        _tell(answer, str(ends[0]), str(ends[1]))
    if answer.verdict == "drop":
        click.get_current_context().exit(1)


def _tell(answer: "Answer", source: str, destination: str) -> None:
    from ebpfmesh.observe.flows import endpoint

    colour = "red" if answer.verdict == "drop" else "yellow" if answer.audited else "green"
    if answer.verdict == "host":
        colour = "yellow"
    why = f"{answer.reason} ({answer.number}): {answer.text}" if answer.reason else ""
    verdict = f"{answer.verdict}, would drop" if answer.audited else answer.verdict
    verdict += ", rejected" if answer.rejected else ""
    verdict += ": it is not for the mesh, and goes on to its stack" * (answer.verdict == "host")
    ends = (
        endpoint(answer.source, answer.source_port),
        endpoint(answer.destination, answer.destination_port),
    )
    port = f" port {answer.target_port}" if answer.target_port else ""
    rule = f"{answer.rule}: {answer.rule_text}" if answer.rule else "none; the default holds"
    asked = answer.verdict != "host" and (answer.rule or answer.reason in ("", "POLICY"))
    rows: list[tuple[str, output.Part]] = [
        ("verdict", (f"{verdict} {why}".rstrip(), colour)),
        ("from", source),
        ("to", destination),
        ("packet", f"{answer.protocol} {ends[0]} → {ends[1]}"),
        ("uplink", answer.uplink),
        ("denied", answer.denied),
        ("service", answer.service),
        ("receiver", f"{answer.receiver}{port}" if answer.verdict == "pass" or asked else ""),
        ("rule", rule if asked else ""),
    ]
    for name, text in rows:
        if text:
            output.echo((f"{name:<10}", "bold"), text)
