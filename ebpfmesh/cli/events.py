# SPDX-License-Identifier: BSD-2-Clause
"""Commands that listen to the programs: events, capture."""

import contextlib
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ebpfmesh.cli import complete, output
from ebpfmesh.cli.base import Command, settings
from ebpfmesh.cli.choose import need_change, the_mesh

if TYPE_CHECKING:
    from ebpfmesh.observe.events import Event, Stream

_COLOURS = {"drop": "red", "flow": "green", "verdict": "", "breaker": "red"}
KINDS = click.Choice(["drop", "flow", "verdict", "breaker"])
SNAP_MAX = 2048


def _limits(command: "Callable[..., None]") -> "Callable[..., None]":
    """The options that say what to listen for and when to end."""
    for option in (
        click.option("--seconds", metavar="S", type=click.FloatRange(0, min_open=True),
                     help="End after so long; else with Ctrl-C."),
        click.option("--count", metavar="N", type=click.IntRange(1), help="End after so many."),
        click.option("--function", metavar="F", shell_complete=complete.functions,
                     help="Only what F sends or gets."),
    ):  # fmt: skip
        command = option(command)
    return command


@click.command(
    cls=Command,
    examples=(
        "ebpfmesh events",
        "ebpfmesh events --reason POLICY --function camera",
        "ebpfmesh events --kind verdict --count 100 --json",
    ),
)
@click.option("--kind", "kinds", multiple=True, type=KINDS,
              help="May be repeated. Default: drop, flow and breaker.")  # fmt: skip
@click.option("--reason", metavar="R", shell_complete=complete.reasons,
              help="Only drops for this reason, such as POLICY.")  # fmt: skip
@_limits
def events(kinds: tuple[str, ...], reason: str | None, **limits: Any) -> None:
    """Print what happens to packets as they come: a line each, or a line of JSON.

    A drop is a packet that was dropped, or would have been (audit); a flow is a first packet that
    passed, or one that was judged again after a change; a verdict is any other that passed. While
    verdicts are wanted every packet goes the slow way. A breaker is that of a function injected by
    you, which opened because the function was too slow: packets pass it by.
    """
    need_change("events")
    wanted = kinds or (("drop", "flow", "breaker") if reason is None else ("drop",))
    number = 0 if reason is None else _reason(reason, wanted)

    def take(event: "Event", _frame: bytes) -> bool:
        if number not in (0, event.number):
            return False
        if settings().json:
            output.line(**asdict(event))
        else:
            output.echo(*_line(event))
        return True

    _listen(wanted, lambda stream: stream.give(take, **limits))


def _reason(name: str, kinds: tuple[str, ...]) -> int:
    from ebpfmesh import _abi, model
    from ebpfmesh.errors import UsageError

    if "drop" not in kinds:
        raise UsageError("only drops have a reason", hint="add --kind drop, or leave --kind out")
    names = [reason.name for reason in _abi.REASON_TEXT]
    if name.upper() not in names:
        hint = model.suggest(name.upper(), names)
        raise UsageError(f"there is no reason {model.show(name)}", hint=hint)
    return _abi.Reason[name.upper()]


@click.command(
    cls=Command,
    examples=(
        "ebpfmesh capture -w /tmp/phone.pcapng --function phone",
        "ebpfmesh capture -w - | tshark -r - -T fields -e frame.comment -e ip.src -e ip.dst",
        "ebpfmesh capture -w drops.pcapng --drops-only --snap 128 --seconds 60",
    ),
)
@click.option("-w", "--write", "file", metavar="FILE", required=True,
              help="Where to; - is stdout.")  # fmt: skip
@click.option("--snap", metavar="N", type=click.IntRange(14, SNAP_MAX), default=SNAP_MAX,
              show_default=True, help="Bytes of each packet.")  # fmt: skip
@click.option("--drops-only", is_flag=True, help="Only what is dropped, or would be.")
@_limits
def capture(file: str, snap: int, drops_only: bool, **limits: Any) -> None:
    """Write packets to FILE as pcapng, for Wireshark, tshark and the like.

    The comment of a packet says what became of it, why, and the names of both ends. It stands
    there once, as it met the mesh. Without --drops-only every packet goes the slow way.
    """
    need_change("capture")
    from ebpfmesh.observe.capture import Capture

    kinds = ("drop",) if drops_only else ("drop", "verdict")

    def keep(stream: "Stream") -> None:
        with Capture(file) as written:
            stream.give(written.write, **limits)

    _listen(kinds, keep, snap=snap)


def _listen(kinds: tuple[str, ...], hear: "Callable[[Stream], None]", *, snap: int = 0) -> None:
    """Have the mesh's events sent while they are heard; Ctrl-C ends it, and is no failure.

    Also one that comes when they are sent already, and nobody hears them yet.
    """
    from ebpfmesh import apply
    from ebpfmesh.kernel.ring import Ring
    from ebpfmesh.observe import events, rooms, view

    with view.opened(the_mesh()) as seen, Ring(seen.maps["mesh_events"].fd) as ring:
        stream = events.Stream(seen, ring)
        bits = sum(events.KINDS[kind] for kind in set(kinds))
        with (
            contextlib.suppress(KeyboardInterrupt),
            apply.traced(seen.name, events=bits, snap=snap),
        ):
            hear(stream)
        lost = ""
        if stream.lost:
            whose = rooms.told_of(stream.whose())
            lost = f", {stream.lost} lost: they came faster than they were read{whose}"
        output.say(f"{stream.taken} events{lost}")


def _line(event: "Event") -> tuple[output.Part, ...]:
    """An event in columns that are not much too wide for most."""
    from ebpfmesh.observe.flows import endpoint

    if event.injected:
        text = f"injected {event.injected}: {event.text}"
        return f"{event.time[11:26]}  ", (f"{event.kind:<10}", _COLOURS[event.kind]), f"  {text}"
    reason = f"{event.reason} ({event.number})" if event.reason else ""
    kind = "would drop" if event.audited and event.reason else event.kind
    kind = "rejected" if event.rejected else kind
    ends = ""
    if event.source and event.destination:
        source = endpoint(event.source, event.source_port)
        ends = f"{source} → {endpoint(event.destination, event.destination_port)}"
    parts = [
        f"{reason:<16}",
        f"{event.sender} → {event.receiver or '?'}".ljust(24),
        f"{event.protocol or '':<4}",
        ends + (f" id {event.echo_id}" if event.echo_id is not None else ""),
        f"service {event.service}" if event.service else "",
        f"rule {event.rule}: {event.rule_text}" if event.rule is not None else "",
    ]
    text = "  ".join(part for part in parts if part).rstrip()
    return f"{event.time[11:26]}  ", (f"{kind:<10}", _COLOURS[event.kind]), f"  {text}"


COMMANDS = (events, capture)
