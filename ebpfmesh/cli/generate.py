# SPDX-License-Identifier: BSD-2-Clause
"""`ebpfmesh bench generate`: the packet generator, for whoever has a path of their own to load."""

import contextlib
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ebpfmesh.cli import output
from ebpfmesh.cli.base import Command, settings
from ebpfmesh.cli.choose import need_change
from ebpfmesh.cli.output import Column

if TYPE_CHECKING:
    from ebpfmesh.bench.packets.hooks import Place
    from ebpfmesh.bench.packets.send import Outcome
    from ebpfmesh.bench.workload import Target
    from ebpfmesh.model import Address

PROGRESS_AFTER = 2.0
"""Seconds after which there is something to see."""
MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
MAX_COUNT, MAX_SECONDS, MAX_RATE = 100_000_000, 600, 4_000_000


def _mac(_context: click.Context, _option: click.Parameter, text: str | None) -> str | None:
    if text is not None and not MAC.fullmatch(text):
        raise click.BadParameter(f"{text} is no MAC address")
    return text


@click.command(
    "generate",
    cls=Command,
    examples=(
        "ebpfmesh bench generate --dev v1 --from 198.18.0.1 --to 198.18.0.2:5201 --check b:eth0",
        "ebpfmesh bench generate --dev v1 --from 2001:db8::1 --to [2001:db8::2]:80 --syn --json",
        "ebpfmesh bench generate --netns lab --dev v1 --from 198.18.0.1 --to 198.18.0.2:9 --rate 9",
    ),
)
@click.option("--netns", "namespace", metavar="N",
              help="Namespace of --dev, by name or path. Default: this one.")  # fmt: skip
@click.option("--dev", "device", metavar="IFACE", required=True,
              help="Where frames enter, as if its NIC had received them: the host side of a"
                   " sender's veth.")  # fmt: skip
@click.option("--from", "source", metavar="ADDR", required=True, help="Source address.")
@click.option("--to", "target", metavar="ADDR:PORT", required=True,
              help="Destination; IPv6 as [ADDR]:PORT.")  # fmt: skip
@click.option("--flows", metavar="N", type=click.IntRange(1, 1_000_000), default=1,
              show_default=True, help="50 000 differ in their source port; more go to the ports"
              " after PORT.")  # fmt: skip
@click.option("--size", metavar="B", type=click.IntRange(64),
              help="Bytes of a frame, Ethernet header included; up to the MTU. Default: 64, or the"
                   " least that can be checked.")  # fmt: skip
@click.option("--syn", is_flag=True, help="TCP SYNs instead of UDP.")
@click.option("--count", metavar="N", type=click.IntRange(1, MAX_COUNT), default=1_000_000,
              show_default=True, help="Frames at most.")  # fmt: skip
@click.option("--seconds", metavar="S", type=click.FloatRange(0, MAX_SECONDS, min_open=True),
              default=10.0, show_default=True, help="Time at most.")  # fmt: skip
@click.option("--rate", metavar="PPS", type=click.FloatRange(0.1, MAX_RATE),
              help="Frames per second, in bursts a millisecond apart. Default: as fast as it"
              " goes.")  # fmt: skip
@click.option("--src-mac", "source_mac", metavar="MAC", callback=_mac,
              help="Default: that of --dev's other end.")  # fmt: skip
@click.option("--dst-mac", "target_mac", metavar="MAC", callback=_mac,
              help="Default: that of --dev.")  # fmt: skip
@click.option("--redirect", metavar="IFACE",
              help="Send them out of IFACE at once, as an XDP program on --dev would.")  # fmt: skip
@click.option("--check", "checks", metavar="NETNS:IFACE", multiple=True,
              help="Look at what arrives there, and end it; may be repeated. :IFACE is in this"
                   " namespace.")  # fmt: skip
@click.option("--check-port", metavar="PORT", type=click.IntRange(1, 65535),
              help="Where they arrive, if translated. Default: that of --to.")  # fmt: skip
@click.option("--force", is_flag=True, help="Also into an interface of the machine itself.")
def bench_generate(
    namespace: str | None, source: str, target: str, checks: tuple[str, ...], syn: bool, **rest: Any
) -> None:
    """Send numbered frames from the kernel and see what becomes of them.

    Ends after --count frames or --seconds, whichever is first. With --check each frame is looked
    for at its receivers, by flow and number, and goes no further there. The first frames over a
    way that nobody has used yet may be lost while the kernel asks for the neighbour (ARP, ND).
    """
    from ebpfmesh.bench.packets.send import Request, generate
    from ebpfmesh.kernel import netns

    address = _address("--from", source)
    request = Request(
        netns=netns.find(namespace) if namespace else None,
        source=address,
        target=_target(target),
        protocol="syn" if syn else "udp",
        check=tuple(_place(check) for check in checks),
        **rest,
    )
    need_change("bench generate")
    with _progress() as tell:
        outcome = generate(request, tell)
    _show(outcome)


def _address(option: str, text: str) -> "Address":
    from ipaddress import ip_address

    try:
        return ip_address(text)
    except ValueError as error:
        raise click.BadParameter(f"{text} is no IP address", param_hint=option) from error


def _target(text: str) -> "Target":
    from ebpfmesh.bench.workload import Target

    address, colon, port = text.rpartition(":")
    bracketed = address.startswith("[") and address.endswith("]")
    if not colon or not port.isdigit() or (":" in address and not bracketed):
        raise click.BadParameter(f"{text} is not ADDR:PORT or [ADDR]:PORT", param_hint="--to")
    return Target(_address("--to", address.strip("[]")), int(port))


def _place(text: str) -> "Place":
    from ebpfmesh.kernel import netns

    name, colon, device = text.rpartition(":")
    if not colon or not device:
        raise click.BadParameter(f"{text} is not NETNS:IFACE", param_hint="--check")
    return (netns.find(name) if name else netns.OWN, device)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """A line that changes, on a terminal, once it has taken a while."""
    begin, wanted = time.monotonic(), sys.stderr.isatty() and not settings().quiet
    with contextlib.ExitStack() as stack:
        shown: Any = None

        def tell(text: str) -> None:
            nonlocal shown
            if not wanted or time.monotonic() - begin < PROGRESS_AFTER:
                return
            if shown is None:
                shown = stack.enter_context(output.console(stderr=True).status(text))
            shown.update(text)

        yield tell


def _show(outcome: "Outcome") -> None:
    found = outcome.report
    if settings().json:
        parts = asdict(outcome)
        report = parts.pop("report") or {}
        report.pop("sent", None)
        output.data(**parts, check=report or None)
        return
    ns = outcome.ns_per_frame
    rows: list[tuple[str, object]] = [
        ("frames sent", output.number(outcome.sent)),
        ("bytes of a frame", outcome.size),
        ("seconds", f"{outcome.seconds:.3f}"),
        ("ns per frame", None if ns is None else f"{ns:.0f}"),
    ]
    if found:
        rows += [
            ("arrived", output.number(found.arrived)),
            ("lost", output.number(found.lost)),
            ("duplicated", output.number(found.duplicated)),
            ("reordered", output.number(found.reordered)),
            ("late or duplicated", output.number(found.old)),
            ("not ours", output.number(found.foreign)),
            ("flows seen", output.number(found.flows)),
            ("longest gap, ms", f"{found.longest_gap_ns / 1e6:.3f}"),
        ]
    columns = (
        Column("what", lambda row: row[0]),
        Column("figure", lambda row: row[1], right=True),
    )
    output.table(columns, rows, empty="")
    if found and not found.arrived:
        output.say("nothing arrived: is the way there open, and are the addresses and MACs right?")
