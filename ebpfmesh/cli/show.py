# SPDX-License-Identifier: BSD-2-Clause
"""The show command: rows of observe, as tables or JSON."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from ebpfmesh.cli import output
from ebpfmesh.cli.base import Group, settings
from ebpfmesh.cli.choose import need_read, the_mesh

if TYPE_CHECKING:
    from ebpfmesh.observe.functions import Function
    from ebpfmesh.observe.mesh import Backend, Mesh, Service
    from ebpfmesh.observe.view import View


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


@show.command("mesh", examples=_examples("mesh", "ebpfmesh show mesh --json | grep memory"))
def show_mesh() -> None:
    """The mesh as a whole."""
    from ebpfmesh.observe import mesh

    with _view() as view:
        row = mesh.read_mesh(view)
    if settings().json:
        output.data(mesh=row.name, **_without_name(row))
        return
    broken = f", {row.functions_broken} broken" if row.functions_broken else ""
    limits = ", ".join(f"{output.number(size)} {name}" for name, size in row.limits.items())
    timeouts = ", ".join(f"{name} {output.number(s)} s" for name, s in row.timeouts.items())
    state = "a change was cut short: run up or gc" if row.interrupted else "whole"
    for name, text in (
        ("mesh", row.name),
        ("state", state),
        ("functions", f"{row.functions}{broken}, of {row.tenants} tenants"),
        ("services", row.services),
        ("policies", row.policies),
        ("prefixes", ", ".join(row.prefixes)),
        ("limits", limits),
        ("timeouts", timeouts),
        ("hook", row.hook),
        ("epoch", row.epoch),
        ("maps", output.size(row.memory)),
        ("pins", row.pins),
        ("namespace", f"inode {row.netns_inode}"),
    ):
        output.echo((f"{name:<11}", "bold"), str(text))


def _without_name(row: "Mesh") -> dict[str, Any]:
    from dataclasses import asdict

    return {key: value for key, value in asdict(row).items() if key != "name"}


@show.command("functions", examples=_examples("functions"))
def show_functions() -> None:
    """Functions: addresses, whether they work, what runs in them."""
    from ebpfmesh.observe import functions

    with _view() as view:
        rows = functions.read(view)
        name = view.name
    if settings().json:
        output.data(mesh=name, functions=rows)
        return
    output.table(
        (">id", "name", "tenant", "state", "addresses", "interface", "command", "limits"),
        (
            (
                row.id, row.name, row.tenant, _state(row), " ".join(row.addresses),
                row.interface, _command(row) or None, _limits(row) or None,
            )
            for row in rows
        ),
        empty="no functions",
    )  # fmt: skip


def _state(row: "Function") -> Any:
    text = f"{row.state}, audit" if row.audit else row.state
    return output.mark(text, "red" if row.state != "up" else "yellow" if row.audit else "green")


def _command(row: "Function") -> Any:
    pids = " ".join(map(str, row.processes[:4])) + (" …" if len(row.processes) > 4 else "")
    if row.command_state == "exited":
        colour = "red" if row.exit_status else ""
        return output.mark(f"{row.command[0]} exited {row.exit_status}", colour)
    if row.command_state == "lost":
        return output.mark(f"{row.command[0]} ended", "red")
    return f"{row.command[0]} {pids}" if row.command else pids


def _limits(row: "Function") -> str:
    cpu = [f"{row.cpu_limit:g} CPU"] if row.cpu_limit else []
    return " ".join(cpu + ([output.size(row.memory_limit)] if row.memory_limit else []))


@show.command("services", examples=_examples("services"))
def show_services() -> None:
    """Services: addresses, backends and what part of all flows each gets."""
    from ebpfmesh.observe import mesh

    with _view() as view:
        rows = mesh.read_services(view)
        name = view.name
    if settings().json:
        output.data(mesh=name, services=rows)
        return
    output.table(
        (">id", "name", "addresses", "port", ">alive", "backends"),
        (
            (
                row.id or None,
                row.name,
                " ".join(row.addresses),
                _ports(row),
                output.mark(f"{row.alive}/{len(row.backends)}", "" if row.alive else "red"),
                _backends(row.backends),
            )
            for row in rows
        ),
        empty="no services",
    )


def _ports(row: "Service") -> str:
    from ebpfmesh.model import ports_text

    text = f"{row.protocol}/{ports_text(row.port, row.port + row.ports - 1)}"
    if row.target_port != row.port:
        text += f" → {ports_text(row.target_port, row.target_port + row.ports - 1)}"
    return f"{text} by source" if row.affinity == "source" else text


def _backends(backends: "tuple[Backend, ...]") -> str:
    shown = [f"{b.function} {_share(b)}" for b in backends[:6]]
    return ", ".join(shown) + (f", … {len(backends) - 6} more" if len(backends) > 6 else "")


def _share(backend: "Backend") -> str:
    if not backend.alive:
        return f"{backend.share:.1%} gone"
    return f"{backend.share:.1%}" if backend.weight else "drained"


@show.command("policies", examples=_examples("policies"))
def show_policies() -> None:
    """Rules, those that decide first before the others, and what holds without one."""
    from ebpfmesh.observe import mesh

    with _view() as view:
        rows = mesh.read_policies(view)
        name = view.name
    if settings().json:
        output.data(mesh=name, policies=rows)
        return
    output.table(
        (">id", ">priority", "from", "to", "protocol", "action"),
        (
            (
                row.id or "default",
                row.priority,
                row.source,
                row.destination,
                row.what,
                output.mark(row.action, "green" if row.action == "allow" else "red"),
            )
            for row in rows
        ),
        empty="no policies",
    )


@show.command("flows", examples=_examples("flows", "ebpfmesh show flows | grep portal"))
def show_flows() -> None:
    """Flows the programs remember: one entry for each direction.

    One that is stale was judged before the last change, and is judged again with its next packet.
    """
    from ebpfmesh.observe import flows

    with _view() as view:
        if settings().json:
            output.data(mesh=view.name, flows=list(flows.read(view)))
            return
        output.table(
            ("proto", "source", "destination", "from", "to", "way", "service", "nat", "epoch"),
            (
                (
                    row.protocol,
                    flows.endpoint(row.source, row.source_port),
                    flows.endpoint(row.destination, row.destination_port)
                    + (f" id {row.echo_id}" if row.echo_id is not None else ""),
                    row.sender,
                    row.receiver,
                    row.direction,
                    row.service or None,
                    row.nat or None,
                    "current" if row.current else output.mark("stale", "yellow"),
                )
                for row in flows.read(view)
            ),
            empty="no flows",
        )


@show.command("programs", examples=_examples("programs"))
def show_programs() -> None:
    """Programs: size, tag, and where they are attached.

    "verified" is the number of instructions the verifier followed, of the million it may.
    """
    from ebpfmesh.observe import objects

    with _view() as view:
        rows = objects.read_programs(view)
        name = view.name
    if settings().json:
        output.data(mesh=name, programs=rows)
        return
    output.table(
        (">id", "name", "type", ">JITed", ">verified", "tag", "attached"),
        (
            (
                row.id,
                row.name,
                row.type,
                f"{output.number(row.jited)} B",
                None if row.verified is None else output.number(row.verified),
                row.tag,
                ", ".join(
                    f"{count} {'interface' if count == 1 else 'interfaces'}, {hook} by {how}"
                    for (hook, how), count in _places(row.attached).items()
                ),
            )
            for row in rows
        ),
        empty="no programs",
    )


def _places(attached: Any) -> dict[tuple[str, str], int]:
    from collections import Counter

    return Counter((place.hook, place.how) for place in attached)


@show.command("maps", examples=_examples("maps"))
def show_maps() -> None:
    """Maps: entries and memory."""
    from ebpfmesh.observe import objects

    with _view() as view:
        rows = objects.read_maps(view)
        name = view.name
    if settings().json:
        output.data(mesh=name, maps=rows)
        return
    output.table(
        (">id", "name", "type", ">used", ">entries", ">memory"),
        (
            (
                row.id,
                row.name,
                row.type,
                None if row.used is None
                else output.mark(output.number(row.used), "red" if row.is_full else ""),
                output.number(row.entries),
                output.size(row.memory),
            )
            for row in rows
        ),
        empty="no maps",
    )  # fmt: skip


@show.command("meters", examples=_examples("meters"))
def show_meters() -> None:
    """What functions sent to and received from each tenant."""
    from ebpfmesh.observe import counters

    with _view() as view:
        rows = counters.read_meters(view)
        name = view.name
    if settings().json:
        output.data(mesh=name, meters=rows)
        return
    output.table(
        ("function", "peer tenant", ">sent", ">bytes", ">received", ">bytes"),
        (
            (
                row.function, row.peer_tenant, output.number(row.tx_packets),
                output.size(row.tx_bytes), output.number(row.rx_packets),
                output.size(row.rx_bytes),
            )
            for row in rows
        ),
        empty="no packets yet",
    )  # fmt: skip


@show.command("drops", examples=_examples("drops"))
def show_drops() -> None:
    """What was dropped, and why; the numbers are those of bpf/README.md."""
    from ebpfmesh.observe import counters

    with _view() as view:
        rows = counters.read_drops(view)
        name = view.name
    if settings().json:
        output.data(mesh=name, drops=rows)
        return
    output.table(
        ("function", "way", "reason", "", ">packets", ">bytes"),
        (
            (
                row.function,
                row.direction,
                f"{row.reason} ({row.number})",
                f"would drop: {row.text}" if row.audited else row.text,
                output.number(row.packets),
                output.size(row.bytes),
            )
            for row in rows
        ),
        empty="no drops",
    )


COMMANDS = (show,)
