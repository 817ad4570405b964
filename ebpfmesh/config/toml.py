# SPDX-License-Identifier: BSD-2-Clause
"""A TOML file: its values by tomllib, the lines of its parts by tree-sitter.

The second parse is made only once something is wrong and a line is wanted.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import tree_sitter
import tree_sitter_toml

from ebpfmesh.errors import ConfigError
from ebpfmesh.model import Invalid, Location, show

MAX_BYTES = 4 << 20
"""The largest mesh file that is read."""

_PART = r"""(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')"""
_LONG_KEY = re.compile(rf"(?<![A-Za-z0-9_-])(?:{_PART}[ \t]*+\.[ \t]*+){{64}}")


def read(path: Path) -> str:
    """The text of the file at ``path``; raises ``ConfigError``."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or str(error)
        hint = "give the path of a file that can be read"
        raise ConfigError(f"cannot read it: {what}", file=path, line=None, hint=hint) from None
    if len(data) > MAX_BYTES:
        hint = "is it a mesh file? functions that are alike can be replicas of one"
        what = f"it is larger than {MAX_BYTES >> 20} MiB"
        raise ConfigError(what, file=path, line=None, hint=hint)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        what = f"byte {data[error.start]:#04x} is not UTF-8"
        raise ConfigError(what, file=path, line=line, hint="save it as UTF-8") from None


def parse(path: Path, text: str) -> dict[str, Any]:
    """The values of a TOML ``text``; raises ``ConfigError`` in the name of ``path``."""
    if match := _LONG_KEY.search(text):  # tomllib takes quadratic time and memory for these
        line = text.count("\n", 0, match.start()) + 1
        hint = "no key of a mesh file has more than three"
        raise ConfigError("a key has more than 64 parts", file=path, line=line, hint=hint)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        what, line = _syntax_error(text, error)
    hint = "https://toml.io shows how TOML is written"
    raise ConfigError(what, file=path, line=line, hint=hint)


def lines(text: str) -> dict[Location, int]:
    """The line of each key, table and array element of ``text``, where it is first given."""
    first: dict[Location, int] = {}
    for at, line, _ in _places(text):
        first.setdefault(at, line)
    return first


def line_of(known: Mapping[Location, int], at: Location) -> int:
    """The line of what is ``at``, or of the nearest thing around it."""
    around = (at[:length] for length in range(len(at), 0, -1))
    return next((known[part] for part in around if part in known), 1)


def fault(path: Path, text: str, faults: Sequence[Invalid]) -> ConfigError:
    """The first of the ``faults`` of a file's values, with its line, to be raised."""
    known = lines(text)
    # A key that is missing comes last: often it is there, misspelt.
    order = [(_missing(found, known), line_of(known, found.path)) for found in faults]
    first = order.index(min(order))
    found = faults[first]
    return ConfigError(found.message, file=path, line=order[first][1], hint=found.hint)


def _missing(found: Invalid, known: Mapping[Location, int]) -> bool:
    return bool(found.path) and isinstance(found.path[-1], str) and found.path not in known


def _syntax_error(text: str, error: Exception) -> tuple[str, int]:
    """What tomllib's ``error`` says, and the line of its cause."""
    if isinstance(error, RecursionError):
        return "values are nested too deeply", _row(_deep(text))
    if not isinstance(error, tomllib.TOMLDecodeError):  # int() refuses to read it
        numbers = (node for node in _nodes(text) if node.type == "integer")
        long = (node for node in numbers if node.end_byte - node.start_byte > 4096)
        return "an integer has too many digits", _row(next(long, None))
    what, _, where = str(error).removesuffix(")").rpartition(" (at ")
    what = re.sub(r"\('(.*?)',?\)", lambda key: key[1].replace("', '", "."), what)
    if what == "Cannot overwrite a value" and (twice := _twice(text)):
        return twice
    line = re.match(r"line (\d+)", where)
    if line and not what.startswith("Unclosed"):
        return f"not TOML: {what}", int(line[1])
    broken = next((node for node in _nodes(text) if node.is_error or node.is_missing), None)
    while broken and broken.parent and broken.type != "pair":
        if broken.parent.type not in ("pair", "array", "inline_table"):
            break
        broken = broken.parent
    return f"not TOML: {what}", _row(broken) if broken else text.count("\n") + 1


def _twice(text: str) -> tuple[str, int] | None:
    """What to say of the first key that is given a second time, and its line."""
    seen: set[Location] = set()
    for at, line, is_key in _places(text):
        if is_key and at in seen:
            return f"key {show(str(at[-1]))} is given twice", line
        seen.add(at)
    return None


def _deep(text: str) -> tree_sitter.Node | None:
    """The first bracket inside 64 others."""
    steps = {"[": 1, "[[": 2, "{": 1, "]": -1, "]]": -2, "}": -1}
    depth = 0
    for node in _nodes(text):
        depth += steps.get(node.type, 0)
        if depth > 64:
            return node
    return None


def _nodes(text: str) -> Iterator[tree_sitter.Node]:
    """The nodes of the syntax tree of ``text``, in the order of the text."""
    language = tree_sitter.Language(tree_sitter_toml.language())
    stack = [tree_sitter.Parser(language).parse(text.encode()).root_node]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(node.children))


def _row(node: tree_sitter.Node | None) -> int:
    return node.start_point.row + 1 if node else 1


def _places(text: str) -> Iterator[tuple[Location, int, bool]]:
    """(Where, line, whether it is the key of a value) of all keys, tables and array elements."""
    elements: dict[Location, int] = {}  # index of the last [[table]] of each array of tables
    stack: list[tuple[tree_sitter.Node, Location]] = [(next(_nodes(text)), ())]
    while stack:
        node, at = stack.pop()
        line = _row(node)
        inner = [child for child in node.named_children if child.type not in ("comment", "ERROR")]
        if node.type in ("table", "table_array_element", "pair") and inner:
            *parents, last = _key(inner.pop(0))
            for part in parents:
                at = (*at, part)
                yield at, line, False
                at = (*at, elements[at]) if at in elements else at
            at = (*at, last)
            yield at, line, node.type == "pair"
            if node.type == "table_array_element":
                elements[at] = elements.get(at, -1) + 1
                at = (*at, elements[at])
        if node.type != "pair":
            yield at, line, False
        if node.type == "array":
            stack.extend((inner[index], (*at, index)) for index in reversed(range(len(inner))))
        else:
            stack.extend((child, at) for child in reversed(inner))


def _key(node: tree_sitter.Node) -> list[str]:
    """The parts of a bare, quoted or dotted key."""
    if node.type == "dotted_key":
        return [part for child in node.named_children for part in _key(child)]
    text = (node.text or b"").decode()
    if node.type == "quoted_key":
        with suppress(tomllib.TOMLDecodeError):
            return list(tomllib.loads(f"{text}=0"))
    return [text]
