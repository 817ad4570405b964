# SPDX-License-Identifier: BSD-2-Clause
"""The show command: rows of observe, as tables or JSON."""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import click

from ebpfmesh.cli import complete, output
from ebpfmesh.cli.base import Group, settings
from ebpfmesh.cli.choose import need_read, the_mesh
from ebpfmesh.cli.output import Column, number, size

if TYPE_CHECKING:
    from ebpfmesh.observe.canary import Comparison
    from ebpfmesh.observe.flows import Order
    from ebpfmesh.observe.injected import Injected
    from ebpfmesh.observe.mesh import Mesh
    from ebpfmesh.observe.view import View
from ebpfmesh.cli.tables import (
    COUNTED,
    FLOWS,
    INJECTED,
    MESHES,
    TABLES,
    Table,
    breaker,
    live_text,
)


@click.group(
    cls=Group,
    examples=(
        "ebpfmesh show functions",
        "ebpfmesh show drops --json",
        "ebpfmesh --mesh edge show flows",
    ),
)
def show() -> None:
    """What there is, and what was counted."""


@contextlib.contextmanager
def _view() -> "Iterator[View]":
    from ebpfmesh.observe import view

    need_read("show")
    with view.opened(the_mesh()) as seen:
        yield seen


def _examples(noun: str, third: str = "") -> tuple[str, str, str]:
    return (
        f"ebpfmesh show {noun}",
        f"ebpfmesh show {noun} --mesh edge",
        third or f"ebpfmesh show {noun} --json",
    )


def _add(table: Table) -> None:
    @show.command(table.noun, help=table.help, examples=_examples(table.noun))
    def _show() -> None:
        with _view() as view:
            table.tell(view)


for _table in TABLES:
    _add(_table)


@show.command(
    "flows",
    examples=(
        "ebpfmesh show flows",
        "ebpfmesh show flows --function phone --protocol tcp --port 80",
        "ebpfmesh show flows --service portal --sort idle --json",
    ),
)
@click.option("--function", metavar="F", shell_complete=complete.parties,
              help="Only what F sends or gets.")  # fmt: skip
@click.option("--peer", metavar="P", shell_complete=complete.parties,
              help="Only where P is at the other end.")  # fmt: skip
@click.option("--service", metavar="S", shell_complete=complete.services,
              help="Only what goes through S.")  # fmt: skip
@click.option("--protocol", type=click.Choice(["tcp", "udp", "icmp"]), help="Only of this one.")
@click.option("--port", metavar="N", type=click.IntRange(1, 65535),
              help="Only with this port at either end, translated or not.")  # fmt: skip
@click.option("--sort", "order", type=click.Choice(["bytes", "age", "idle"]),
              help="Most bytes, oldest, or least idle first.")  # fmt: skip
def show_flows(order: "Order | None", **wanted: Any) -> None:
    """Flows the programs remember: one entry for each direction.

    "state" is TCP's of this direction, "idle" how long ago its last packet was. One that is stale
    was judged before the last change, and is judged again with its next packet. F and P may be
    "outside".

    With count_flows = true under [mesh] there are packets and bytes that passed, and how long ago
    the flow began. Any mesh counts them by function: `show meters`.
    """
    from ebpfmesh.observe.flows import HOW_TO_COUNT, Wanted

    with _view() as view:
        counted = view.maps.count_flows
        table = replace(FLOWS, columns=(*FLOWS.columns, *COUNTED)) if counted else FLOWS
        table.tell(view, wanted=Wanted(**wanted), order=order)
    if not counted and not settings().json:
        output.say(f"packets and bytes of flows are not counted: {HOW_TO_COUNT}")


@show.command(
    "injected",
    examples=(
        "ebpfmesh show injected",
        "ebpfmesh show injected greeter",
        "ebpfmesh show injected --json",
    ),
)
@click.argument("name", required=False, shell_complete=complete.injected)
def show_injected(name: str | None) -> None:
    """What is injected, in the order in which packets meet it; all that is known of NAME.

    "ns" is the median cost of a packet, above that of a function that does nothing, as it was
    measured when it was compiled; "live ns" is what packets took of late, of which one in 128 is
    looked at. Where their median is above what it may be for five seconds, the circuit breaker
    opens: packets pass it by, until `rollback`, `swap` or `inject reset`.
    """
    from ebpfmesh.observe import injected

    with _view() as view:
        if name is None:
            INJECTED.tell(view)
            return
        row = injected.one(view, name)
    if settings().json:
        output.data(mesh=view.name, time=output.now(), injected=[row])
    else:
        _tell_injected(row)


@show.command(
    "canary",
    examples=(
        "ebpfmesh show canary greeter",
        "ebpfmesh show canary greeter --json",
        "ebpfmesh show canary greeter --mesh edge",
    ),
)
@click.argument("name", shell_complete=complete.injected)
def show_canary(name: str) -> None:
    """A canary beside what it is to replace: what each dropped, counted and costs.

    The intervals have 95 %. They take packets for independent, which those of one flow are not:
    look at them when many flows were seen.
    """
    from ebpfmesh.observe import canary

    with _view() as view:
        row = canary.read_canary(view, name)
    if settings().json:
        output.data(mesh=view.name, time=output.now(), canary=row)
    else:
        _tell_canary(row)


def _tell_canary(row: "Comparison") -> None:
    both = (row.stable, row.canary)
    reasons = sorted({*row.stable.dropped, *row.canary.dropped})
    names = sorted({*row.stable.counters, *row.canary.counters})
    lines = [
        ("file", *(one.file for one in both)),
        ("packets", *(number(one.packets) for one in both)),
        *((f"dropped: {r}", *(number(one.dropped.get(r, 0)) for one in both)) for r in reasons),
        ("share dropped", *(_share_text(one.share, one.interval) for one in both)),
        *((f"counter {n}", *(number(one.counters.get(n, 0)) for one in both)) for n in names),
        ("ns a packet", *(f"{one.ns_median:.0f}, worst {one.ns_worst:.0f}" for one in both)),
        ("live", *(live_text(one.live) for one in both)),
        ("breaker", *(breaker(one.live) for one in both)),
        ("instructions", *(number(one.instructions) for one in both)),
    ]
    titles = ("", "now", f"canary, {row.percent} % of flows")
    columns = tuple(Column(title, itemgetter(at)) for at, title in enumerate(titles))
    output.table(columns, lines, empty="")
    output.echo(f"difference {_share_text(row.difference, row.interval)}: {row.judgement}")


def _share_text(share: float, interval: tuple[float, float]) -> str:
    return f"{share:.2%} ({interval[0]:.2%} to {interval[1]:.2%})"


def _tell_injected(row: "Injected") -> None:
    cost = f"{row.ns_median:.0f} ns a packet, worst {row.ns_worst:.0f}; "
    cost += f"{row.instructions} instructions, verified {row.verified}"
    for title, text in (
        ("name", row.name),
        ("at", f"{row.at}, place {row.place}"),
        ("file", row.file),
        ("canary", row.canary or "none"),
        ("rollback", "there is one" if row.before else "none"),
        ("cost", cost),
        ("live", live_text(row.live)),
    ):
        output.echo(f"{title:<10} {text}")
    output.echo(f"{'breaker':<10} ", (row.live.breaker, "red" if row.live.open else ""))
    for title, numbers in (("parameter", row.parameters), ("counter", row.counters),
                           ("dropped", row.refused), ("unwritten", row.unwritten)):  # fmt: skip
        for key, value in numbers.items():
            output.echo(f"{title:<10} {key} = {number(value)}  {row.texts.get(key, '')}".rstrip())
    for key, found in row.migrated.items():
        words = (f"{number(value)} {what.replace('_', ' ')}" for what, value in found.items())
        output.echo(f"{'migrated':<10} {key}: {', '.join(words)}")


@show.command("mesh", examples=_examples("mesh", "ebpfmesh show mesh --json | grep memory"))
def show_mesh() -> None:
    """The mesh as a whole; without --mesh, and if there are several, a line for each."""
    from ebpfmesh.observe import mesh, view

    need_read("show")
    names = [settings().mesh] if settings().mesh else view.meshes()
    if len(names) > 1:
        rows = list(mesh.read_meshes(names))
        if settings().json:
            output.data(time=output.now(), meshes=[_without_name(row) for row in rows])
        else:
            output.table(MESHES, rows, empty="")
        return
    with _view() as seen:
        row = mesh.read_mesh(seen)
    if settings().json:
        output.data(time=output.now(), **_without_name(row))
    else:
        _tell_mesh(row)


def _without_name(row: "Mesh") -> dict[str, Any]:
    return {"mesh": row.name} | {key: value for key, value in asdict(row).items() if key != "name"}


def _tell_mesh(row: "Mesh") -> None:
    broken = f", {row.functions_broken} broken" if row.functions_broken else ""
    limits = ", ".join(f"{number(size)} {name}" for name, size in row.limits.items())
    timeouts = ", ".join(f"{name} {number(s)} s" for name, s in row.timeouts.items())
    state = "a change was cut short: run up or gc" if row.interrupted else "whole"
    for name, text in (
        ("mesh", row.name),
        ("state", state),
        ("functions", f"{row.functions}{broken}, of {row.tenants} tenant{'s'[: row.tenants != 1]}"),
        ("services", row.services),
        ("policies", row.policies),
        ("prefixes", ", ".join(row.prefixes)),
        ("limits", limits),
        ("timeouts", timeouts),
        ("hook", row.hook),
        ("host", "its processes reach services" if row.host else "its processes reach none"),
        ("epoch", row.epoch),
        ("maps", size(row.memory)),
        ("pins", row.pins),
        ("namespace", f"inode {row.netns_inode}"),
    ):
        output.echo((f"{name:<11}", "bold"), str(text))


COMMANDS = (show,)
