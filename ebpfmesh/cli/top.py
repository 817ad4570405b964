# SPDX-License-Identifier: BSD-2-Clause
"""The top command: what all functions do, live, or a table or line of JSON a time."""

import contextlib
import gc
import itertools
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from ebpfmesh.cli import complete, interrupt, output
from ebpfmesh.cli.base import Command, settings
from ebpfmesh.cli.choose import need_read, the_mesh
from ebpfmesh.cli.output import Column, mark, rate, size

if TYPE_CHECKING:
    from ebpfmesh.observe.top import Rates, Sum

UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0}
SHORTEST, LONGEST = 0.1, 3600.0
STEPS = ("", "k", "M", "G", "T")
LINES = 3  # of the live table besides its rows: what it is of, and its titles
SORTS: dict[str, Callable[[Any], float]] = {
    "cpu": lambda row: row.cpu or 0,
    "memory": lambda row: row.memory or 0,
    "packets": lambda row: (row.tx_packets_per_second or 0) + (row.rx_packets_per_second or 0),
    "bits": lambda row: (row.tx_bits_per_second or 0) + (row.rx_bits_per_second or 0),
    "drops": lambda row: sum((row.drops_per_second or {}).values()),
}


def short(value: float) -> str:
    """A rate for people, three digits: 0, 0.5, 12, 1.23k, 45.6M."""
    step = 0
    while value >= 999.5 and step < len(STEPS) - 1:
        value, step = value / 1000, step + 1
    if not value or (not step and value >= 10):
        return f"{value:.0f}"
    digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2 if step else 1
    return f"{value:.{digits}f}{STEPS[step]}"


def percent(value: float | None) -> str | None:
    """Of one CPU."""
    return None if value is None else f"{value:.1%}"


def _rate(name: str) -> Callable[[Any], str | None]:
    def cell(row: Any) -> str | None:
        value = getattr(row, name)
        return None if value is None else short(value)

    return cell


def drops(row: Any) -> object:
    """All drops a second, and the reason of most."""
    found = row.drops_per_second
    if found is None:
        return None
    if not found:
        return "0"
    most = max(found, key=lambda reason: (found[reason], reason))
    return mark(f"{short(sum(found.values()))} {most}", "red")


def state_of(row: "Rates") -> str:
    """What a function does: its interface's state, or else why nothing answers."""
    if row.state == "up" and row.command_state == "exited":
        return f"exited {row.exit_status}"
    if row.state == "up" and row.command_state in ("stopped", "lost"):
        return row.command_state
    return row.state if row.ready or row.state != "up" else "not ready"


def _state(row: "Rates") -> object:
    text = state_of(row)
    return mark(text, "green" if text == "up" else "yellow" if text == "stopped" else "red")


def _memory(row: Any) -> str | None:
    return None if row.memory is None else size(row.memory)


def _oom(row: Any) -> object:
    return mark(str(row.oom_kills), "red") if row.oom_kills else row.oom_kills


COMMON = (
    Column("CPU", lambda row: percent(row.cpu), right=True),
    Column("throttled", lambda row: percent(row.throttled), right=True, drop=6),
    Column("kernel", lambda row: percent(row.kernel), right=True, drop=4),
    Column("memory", _memory, right=True),
)
"""Of functions and of tenants."""
COUNTED = (
    Column("OOM", _oom, right=True, drop=7),
    Column("procs", lambda row: row.processes, right=True, drop=9),
    Column("sent/s", _rate("tx_packets_per_second"), right=True, drop=2),
    Column("got/s", _rate("rx_packets_per_second"), right=True, drop=2),
    Column("sent b/s", _rate("tx_bits_per_second"), right=True, drop=3),
    Column("got b/s", _rate("rx_bits_per_second"), right=True, drop=3),
    Column("drops/s", drops, drop=1),
)
FLOWS = Column("flows", lambda row: row.flows, right=True, drop=5)
FUNCTIONS = (
    Column("name", lambda row: row.name),
    Column("tenant", lambda row: row.tenant, drop=10),
    Column("state", _state, drop=11),
    *COMMON,
    Column("limit", lambda row: size(row.memory_limit) if row.memory_limit else None, right=True,
           drop=8),
    Column("restarts", lambda row: row.restarts or None, right=True, drop=7),
    Column("rate", lambda row: rate(row.rate_limit) if row.rate_limit else None, drop=7),
    *COUNTED,
)  # fmt: skip
TENANTS = (
    Column("tenant", lambda row: row.tenant),
    Column("functions", lambda row: row.functions, right=True, drop=8),
    *COMMON,
    *COUNTED,
)


def _interval(_context: click.Context, _option: click.Parameter, text: str) -> float:
    """Seconds: N, Nms, Ns or Nm."""
    unit = next((unit for unit in UNITS if text.endswith(unit)), "")
    with contextlib.suppress(ValueError):
        found = float(text.removesuffix(unit)) * UNITS.get(unit, 1.0)
        if SHORTEST <= found <= LONGEST:
            return found
    raise click.BadParameter(f"{text!r} is no time from 100ms to 60m, such as 1s.")


@click.command(
    cls=Command,
    examples=(
        "ebpfmesh top --sort drops --count 2",
        "ebpfmesh top --tenant operator --filter phone --count 1",
        "ebpfmesh top --sums --interval 500ms --count 3 --json",
    ),
)
@click.option("--sort", "order", type=click.Choice([*SORTS, "name"]), default="cpu",
              show_default=True, help="Which come first.")  # fmt: skip
@click.option("--tenant", metavar="T", shell_complete=complete.tenants, help="Only functions of T.")
@click.option("--filter", "text", metavar="TEXT", default="",
              help="Only those that have TEXT in their name, tenant or state.")  # fmt: skip
@click.option("--sums", is_flag=True, help="What the functions of each tenant do together.")
@click.option("--flows", is_flag=True, help="Count flows, too: 50 ms of CPU a sample with 60 000.")
@click.option("--interval", metavar="TIME", default="1s", show_default=True, callback=_interval,
              help="From one sample to the next.")  # fmt: skip
@click.option("--count", metavar="N", type=click.IntRange(1), help="End after N samples.")
def top(
    order: str, interval: float, count: int | None, *, tenant: str | None, text: str, sums: bool,
    flows: bool,
) -> None:  # fmt: skip
    """What functions do, each second: on a terminal a live table, which q or Ctrl-C ends.

    Elsewhere, or with --json, a table or line of JSON a sample. CPU, throttled time and "kernel",
    the time of the mesh's programs for a function's packets, are percents of one CPU; bits are of
    frames. docs/top.md says where each column comes from.
    """
    need_read("top")
    from ebpfmesh.observe import top as observed

    with contextlib.suppress(KeyboardInterrupt), observed.Sampler(the_mesh(), flows=flows) as found:
        _check_tenant(found.view.record.names("tenant").values(), tenant)
        with _screen() as screen:
            before = found.sample()
            gc.freeze()  # what is loaded by now stays: collections need not look at it
            for _ in itertools.count() if count is None else range(count):
                interrupt.check()  # of a signal that C code swallowed
                if not screen.wait(before.when + interval):
                    return
                now = found.sample()
                rows = [row for row in observed.rates(before, now) if _is_wanted(row, tenant, text)]
                columns = TENANTS if sums else FUNCTIONS
                screen.show(
                    _Page(
                        mesh=found.view.name,
                        interval=now.when - before.when,
                        total=observed.total(rows),
                        noun="tenants" if sums else "functions",
                        columns=(*columns, FLOWS) if flows else columns,
                        rows=ordered(observed.sums(rows) if sums else rows, order),
                    )
                )
                before = now


def _check_tenant(known: Collection[str], tenant: str | None) -> None:
    from ebpfmesh.errors import NotFound
    from ebpfmesh.model import suggest

    if tenant is not None and tenant not in known:
        raise NotFound(f"no function is of tenant {tenant}", hint=suggest(tenant, known))


def _is_wanted(row: "Rates", tenant: str | None, text: str) -> bool:
    return tenant in (None, row.tenant) and any(
        text in one for one in (row.name, row.tenant, state_of(row))
    )


def ordered(rows: "Sequence[Rates | Sum]", order: str) -> "list[Rates | Sum]":
    """Most of it first; what has as much is as it was, which is by name."""
    return sorted(rows, key=SORTS[order], reverse=True) if order in SORTS else list(rows)


@dataclass(frozen=True)
class _Page:
    """What is shown of two samples, ``interval`` seconds apart; ``total`` is of all functions."""

    mesh: str
    interval: float
    total: "Sum"
    noun: str
    columns: Sequence[Column]
    rows: "Sequence[Rates | Sum]"

    def title(self) -> str:
        """All in a line."""
        all_ = self.total
        packets = all_.tx_packets_per_second + all_.rx_packets_per_second
        bits = all_.tx_bits_per_second + all_.rx_bits_per_second
        return (
            f"{self.mesh}  {output.now()[11:19]}  {all_.functions} functions"
            f"  CPU {percent(all_.cpu)}  kernel {percent(all_.kernel)}"
            f"  {short(packets)} packets/s  {short(bits)}b/s"
            f"  {short(sum(all_.drops_per_second.values()))} drops/s"
        )


class _Lines:
    """Pages one after the other: tables, or lines of JSON."""

    def wait(self, until: float) -> bool:
        """Wait for a time of the monotonic clock; whether to go on."""
        time.sleep(max(0.0, until - time.monotonic()))
        return True

    def show(self, page: _Page) -> None:
        """Print it."""
        if settings().json:
            output.line(
                mesh=page.mesh,
                time=output.now(),
                interval=page.interval,
                **{page.noun: [row._asdict() for row in page.rows]},
            )
            return
        output.echo((page.title(), "bold"))
        output.table(page.columns, page.rows, empty=f"no {page.noun}")
        output.echo("")


class _Live:
    """The terminal's other screen, with as much of a page as there is room for."""

    def __init__(self) -> None:
        from rich.live import Live

        self._console = output.console()
        self._live = Live(console=self._console, screen=True, auto_refresh=False)
        self._keys = select.poll()

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Show it for the ``with`` block; keys come one by one, and are not shown."""
        with contextlib.ExitStack() as stack:
            if sys.stdin.isatty():
                before = termios.tcgetattr(sys.stdin)
                stack.callback(termios.tcsetattr, sys.stdin, termios.TCSADRAIN, before)
                tty.setcbreak(sys.stdin)
                self._keys.register(sys.stdin, select.POLLIN)
            stack.enter_context(self._live)
            yield

    def wait(self, until: float) -> bool:
        """Wait for a time of the monotonic clock; False once q was typed, or nobody is there."""
        while (left := until - time.monotonic()) > 0:
            if self._keys.poll(left * 1e3):
                typed = os.read(sys.stdin.fileno(), 64)
                if not typed or b"q" in typed.lower():
                    return False
        return True

    def show(self, page: _Page) -> None:
        """Show it in the place of the last one."""
        from rich.console import Group
        from rich.text import Text

        width, height = self._console.size
        shown = page.rows[: max(1, height - LINES)]
        made = output.lines_of(page.columns, shown, width)
        title = Text(output.printable(page.title()), style="bold", no_wrap=True, overflow="crop")
        more = len(page.rows) - len(shown)
        end = Text(f"{more} more, q: quit" if more else "q: quit", style="dim", no_wrap=True)
        self._live.update(Group(title, made, end), refresh=True)


@contextlib.contextmanager
def _screen() -> "Iterator[_Lines | _Live]":
    if settings().json or not output.console().is_terminal or output.console().is_dumb_terminal:
        yield _Lines()
        return
    screen = _Live()
    with screen.opened():
        yield screen


COMMANDS = (top,)
