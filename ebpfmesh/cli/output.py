# SPDX-License-Identifier: BSD-2-Clause
"""What a command says: data on stdout, as text, table or JSON; talk on stderr."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

import click

from ebpfmesh.cli.base import settings

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

SCHEMA = 1
WIDE = 4096  # columns where there is no terminal: a line stays a line
_SIGNS = {"+": "green", "-": "red", "~": "yellow"}


def data(**parts: Any) -> None:
    """Print JSON: schema 1, with these keys."""
    whole = {"schema": SCHEMA, **parts}
    click.echo(json.dumps(whole, indent=2, ensure_ascii=False, default=_plain))


def line(row: Any) -> None:
    """Print a row as one line of JSON, schema 1; for what comes one at a time."""
    whole = {"schema": SCHEMA, **asdict(row)}
    click.echo(json.dumps(whole, ensure_ascii=False, default=_plain))


def _plain(value: Any) -> Any:
    """What json cannot print by itself: rows and addresses."""
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)


def say(text: str) -> None:
    """Tell something on stderr, unless told to be quiet."""
    if not settings().quiet:
        click.echo(text, err=True)


def operations(mesh: str, done: Sequence[Any]) -> None:
    """Print the operations of a plan, or that there is nothing to do."""
    if settings().json:
        rows = [
            {"kind": o.kind, "name": getattr(o.object, "name", str(o.object)), "text": o.describe()}
            for o in done
        ]
        data(mesh=mesh, operations=rows)
        return
    for operation in done:
        line = operation.describe()
        click.secho(line, fg=_SIGNS.get(line[0]))
    if not done:
        click.echo("nothing to do")


@contextlib.contextmanager
def steps(title: str) -> Iterator[Callable[[str], None]]:
    """An ``on_step``: each step as a line with -v; else, on a terminal, one line that changes."""
    chosen = settings()
    if chosen.verbose:
        yield lambda step: click.echo(f"… {step}", err=True)
    elif chosen.quiet or not sys.stderr.isatty():
        yield lambda _step: None
    else:
        with console(stderr=True).status(title) as status:
            yield lambda step: status.update(f"{title}: {step}")


def console(*, stderr: bool = False) -> "Console":
    """A rich console that never breaks lines where there is no terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(
        stderr=stderr,
        color_system=None if settings().no_color else "auto",
        width=None if stream.isatty() else WIDE,
        highlight=False,
        emoji=False,
    )


def table(columns: Iterable[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Print a table; a column whose name begins with ``>`` is flush right.

    A cell of None is a dash. Without rows, ``empty`` is told on stderr.
    """
    from rich.table import Table
    from rich.text import Text

    printed = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        right = name.startswith(">")
        printed.add_column(
            name.removeprefix(">"), justify="right" if right else "left", overflow="fold"
        )
    for row in rows:
        printed.add_row(*(cell if isinstance(cell, Text) else _cell(cell) for cell in row))
    if printed.row_count:
        show(printed)
    else:
        say(empty)


def _cell(value: object) -> str:
    from rich.markup import escape

    return "–" if value is None else escape(str(value))


def mark(text: str, colour: str) -> Any:
    """A cell in a colour."""
    from rich.text import Text

    return Text(text, style=colour)


def show(thing: "RenderableType") -> None:
    """Print something of rich."""
    console().print(thing)


def number(value: int) -> str:
    """A count with its thousands apart."""
    return f"{value:,}".replace(",", " ")


def size(value: int) -> str:
    """Bytes for people: 512 B, 1.5 KiB, 23 MiB."""
    amount = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if unit == "B" or amount >= 10 else f"{amount:.1f} {unit}"
