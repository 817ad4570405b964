# SPDX-License-Identifier: BSD-2-Clause
"""What a command says: data on stdout, as text, table or JSON; talk on stderr.

Nothing else prints. What others named (functions, commands, interfaces, files) may hold control
characters, which a terminal would obey: they are shown as escapes.
"""

import contextlib
import json
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import click

from ebpfmesh.cli import interrupt
from ebpfmesh.cli.base import settings

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment
    from rich.text import Text

    from ebpfmesh.operation import Operation
    from ebpfmesh.plan import Told

Part: TypeAlias = str | tuple[str, str]
"""A piece of a line: a text, or one and its style: a colour, ``bold``, or nothing."""

SCHEMA = 1
WIDE = 4096  # columns where there is no terminal: a line stays a line
GAP = 2  # blanks between columns
_SIGNS = {"+": "green", "-": "red", "~": "yellow"}
_CONTROL = re.compile("[\x7f-\x9f]")  # those that json leaves as they are


def data(**parts: Any) -> None:
    """Print JSON: schema 1, with these keys."""
    _echo_json({"schema": SCHEMA, **parts}, indent=2)


def line(**parts: Any) -> None:
    """Print a line of JSON, schema 1, with these keys; for what comes one at a time."""
    _echo_json({"schema": SCHEMA, **parts}, indent=None)


def _echo_json(whole: dict[str, Any], indent: int | None) -> None:
    text = json.dumps(whole, indent=indent, ensure_ascii=False, default=_plain)
    click.echo(_CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def _plain(value: Any) -> Any:
    """What json cannot print by itself: rows and addresses."""
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)


def printable(text: str) -> str:
    """A text with control characters as escapes, such as ``\\x1b``: one line, and harmless.

    Spaces of any width (Zs) stay: numbers have narrow ones between their thousands.
    """
    if text.isprintable():
        return text
    return "".join(
        c
        if c.isprintable() or unicodedata.category(c) == "Zs"
        else c.encode("unicode_escape").decode()
        for c in text
    )


def echo(*parts: Part) -> None:
    """Print a line."""
    click.echo("".join(_styled(part) for part in parts))


def text(whole: str) -> None:
    """Print a text of several lines, with its tabs."""
    for row in whole.removesuffix("\n").split("\n"):
        click.echo("\t".join(map(printable, row.split("\t"))))


def _styled(part: Part) -> str:
    if isinstance(part, str):
        return printable(part)
    text, style = part
    if style == "bold":
        return click.style(printable(text), bold=True)
    return click.style(printable(text), fg=style) if style else printable(text)


def done(text: str) -> None:
    """Print what was done, unless told to be quiet; a sign at its beginning gives a colour."""
    if not settings().quiet:
        step(text)


def step(text: str) -> None:
    """Print a step that is planned or done: ``+``, ``-`` or ``~``, and of what."""
    echo((text, _SIGNS.get(text[0], "")))


def say(text: str) -> None:
    """Print to stderr, unless -q is set."""
    if not settings().quiet:
        click.echo(printable(text), err=True)


def complain(word: str, colour: str, text: str, *, color: bool | None) -> None:
    """Print to stderr what went wrong, or what to do about it."""
    line = f"{click.style(word, fg=colour, bold=True)} {printable(text)}"
    click.echo(line, err=True, color=color)


def operations(
    mesh: str,
    found: "Iterable[Operation]",
    tell: Callable[[str], None] = done,
    *,
    warnings: Iterable[str] = (),
) -> None:
    """Print the operations that were done, or with ``step`` those that would be.

    ``warnings`` tell of what is allowed and hardly meant.
    """
    from ebpfmesh.plan import told

    steps = list(told(found))
    warnings = list(warnings)
    if settings().json:
        data(mesh=mesh, operations=[_row(step) for step in steps], warnings=warnings)
        return
    for text in warnings:
        warn(text)
    for one in steps:
        tell(one.text)
    if not steps:
        tell("nothing to do")


def warn(text: str) -> None:
    """Warn of what is allowed and hardly meant, unless -q is set."""
    if not settings().quiet:
        complain("warning:", "yellow", text, color=False if settings().no_color else None)


def _row(step: "Told") -> dict[str, Any]:
    fields = {key: {"before": old, "after": new} for key, (old, new) in step.fields.items()}
    operation = step.operation
    return {
        "kind": operation.kind, "name": operation.name, "text": step.text, "action": step.action,
        "fields": fields,
    }  # fmt: skip


@contextlib.contextmanager
def steps(title: str) -> Iterator[Callable[[str], None]]:
    """An ``on_step``: each step as a line with -v; else, on a terminal, one line that changes."""
    with _shown_steps(title) as show_step:

        def on_step(step: str) -> None:
            show_step(step)
            interrupt.check()

        yield on_step


@contextlib.contextmanager
def _shown_steps(title: str) -> Iterator[Callable[[str], None]]:
    chosen = settings()
    if chosen.verbose:
        yield lambda step: say(f"… {step}")
    elif chosen.quiet or not sys.stderr.isatty():
        yield lambda _step: None
    else:
        from rich.text import Text

        with console(stderr=True).status(title) as status:
            yield lambda step: status.update(Text(printable(f"{title}: {step}")))


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


@dataclass(frozen=True)
class Column:
    """A column of a table: its title, and its cell of a row.

    Where there is no room for all, the columns with the highest ``drop`` are left out first.
    """

    title: str
    cell: Callable[[Any], object]
    right: bool = False
    drop: int = 0


def table(columns: Sequence[Column], rows: Iterable[Any], *, empty: str) -> None:
    """Print a table; a cell of None is a dash. Without rows, ``empty`` is told on stderr.

    Lines break between words only, so that an address stays whole: what does not fit is left out,
    and told on stderr.
    """
    from rich.table import Table

    if not (rows := list(rows)):
        say(empty)
        return
    printer = console()
    if not printer.is_terminal:
        click.echo("\n".join(plain_lines(columns, rows)))
        return
    cells = cells_of(columns, rows)
    chosen, widths = fit(columns, cells, printer.width)
    printed = Table(box=None, pad_edge=False, header_style="bold")
    for index in chosen:
        justify: Literal["left", "right"] = "right" if columns[index].right else "left"
        printed.add_column(columns[index].title, justify=justify, width=widths[index])
    for row in cells:
        printed.add_row(*(row[index] for index in chosen))
    printer.width = max(printer.width, _total(chosen, widths))  # else rich cuts it
    printer.print(printed)
    if left := [column.title for index, column in enumerate(columns) if index not in chosen]:
        say(f"no room for {', '.join(left)}: use a wider terminal, or --json")


def cells_of(columns: Sequence[Column], rows: Iterable[Any]) -> "list[list[Text]]":
    """What a table of these rows says."""
    return [[_cell(column.cell(row)) for column in columns] for row in rows]


def plain_lines(columns: Sequence[Column], rows: Sequence[Any]) -> Iterator[str]:
    """A table for files and pipes: all of it, without colours. Thousands of cells a millisecond."""
    made = []
    for column in columns:
        cells = [column.title, *(_cell_text(column.cell(row)) for row in rows)]
        width = max(map(_width, cells))
        pad = str.rjust if column.right else str.ljust
        made.append([pad(cell, width - _width(cell) + len(cell)) for cell in cells])
    return ((" " * GAP).join(row).rstrip() for row in zip(*made, strict=True))


def _cell_text(value: object) -> str:
    if value is None:
        return "–"
    text = str(value)  # of rich's, too
    return text if text.isprintable() else printable(text)


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def lines_of(columns: Sequence[Column], rows: Iterable[Any], room: int) -> "Text":
    """A table as one text, a line a row, which is drawn in a tenth of the time of a table.

    What there is no room for is left out, or cut.
    """
    from rich.cells import cell_len, set_cell_size
    from rich.text import Text

    cells = cells_of(columns, rows)
    chosen, widths = fit(columns, cells, room)
    titles = [Text(column.title, style="bold") for column in columns]
    made = Text(no_wrap=True, overflow="crop")
    for row in (titles, *cells):
        made.append("\n" if made else "")
        for index in chosen:
            text, width = row[index].plain, widths[index]
            blanks = " " * (width - cell_len(text))
            right = columns[index].right
            cut = set_cell_size(text, min(width, cell_len(text)))
            made.append(blanks if right else "")
            made.append(cut, style=row[index].style)
            made.append(("" if right else blanks) + " " * GAP)
    return made


def fit(
    columns: Sequence[Column], cells: Sequence[Sequence["Text"]], room: int
) -> tuple[list[int], list[int]]:
    """Indices of the columns there is room for, and the width of each column.

    A column is as wide as its longest cell, or less where there is no room for that: down to its
    longest word.
    """
    from rich.cells import cell_len

    texts = [[column.title] + [row[index].plain for row in cells]
             for index, column in enumerate(columns)]  # fmt: skip
    widths = [max(map(cell_len, column)) for column in texts]
    least = [max(map(cell_len, " ".join(column).split()), default=0) for column in texts]
    chosen = list(range(len(columns)))
    while _total(chosen, least) > room and any(columns[index].drop for index in chosen):
        chosen.remove(max(chosen, key=lambda index: (columns[index].drop, index)))
    while _total(chosen, widths) > room:
        spare = [index for index in chosen if widths[index] > least[index]]
        if not spare:
            break
        widths[max(spare, key=lambda index: widths[index])] -= 1
    return chosen, widths


def _total(chosen: Sequence[int], widths: Sequence[int]) -> int:
    """How wide a table of these columns is."""
    return sum(widths[index] for index in chosen) + GAP * (len(chosen) - 1)


def _cell(value: object) -> "Text":
    from rich.text import Text

    if isinstance(value, Text):
        return value
    return Text("–" if value is None else printable(str(value)))


def mark(text: str, colour: str) -> "Text":
    """A cell in a colour."""
    from rich.text import Text

    return Text(printable(text), style=colour)


def show(thing: "RenderableType") -> None:
    """Print something of rich."""
    console().print(_Printable(thing))


class _Printable:
    """Something of rich without control characters in its texts."""

    def __init__(self, thing: "RenderableType") -> None:
        self._thing = thing

    def __rich_console__(
        self, console: "Console", options: "ConsoleOptions"
    ) -> "Iterator[Segment]":
        for segment in console.render(self._thing, options):
            ended = segment.text.endswith("\n")
            text = printable(segment.text.removesuffix("\n")) + "\n" * ended
            yield segment._replace(text=text)


def now() -> str:
    """The time it is, for what is counted or reckoned from now: UTC."""
    return datetime.now(UTC).isoformat()


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


def rate(numbers: Mapping[str, int]) -> str:
    """A rate for people: 100M, or send=10M receive_pps=5k."""
    from ebpfmesh.model import Rate

    return str(Rate.model_validate(dict(numbers))).replace(",", " ")
