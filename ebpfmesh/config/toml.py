# SPDX-License-Identifier: BSD-2-Clause
"""A TOML file: its values by tomllib, the lines of its parts by a second look.

The second look is made only once something is wrong and a line is wanted. Both take time and
memory in proportion to the text, whatever it holds.
"""

import re
import sys
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ebpfmesh.errors import ConfigError
from ebpfmesh.model import Invalid, Location, show

MAX_BYTES = 4 << 20
"""The largest mesh file that is read."""
MAX_NESTED = 1 << 17
"""The most tables and dots in keys: tomllib takes a kilobyte for each."""
MAX_WORD = 1 << 14
"""The most characters of a key or a number: tomllib takes a hundred bytes for each."""
_DEEPEST = 64  # brackets inside one another

_TEXTS = (
    r'"""(?:[^"\\]++|\\[\s\S]|"{1,2}(?!"))*+"{3,5}',
    r"'''(?:[^']++|'{1,2}(?!'))*+'{3,5}",
    r'"(?:[^"\\\n]++|\\.)*+"',
    r"'[^'\n]*+'",
)
_TEXT = "|".join(_TEXTS)
_PART = rf"(?:[A-Za-z0-9_-]++|{_TEXTS[2]}|{_TEXTS[3]})"
_ENDS = r"\s\[\]{}\"'\#,="  # what no bare key or number goes on after
_KEY = rf"{_PART}(?:[ \t]*+\.[ \t]*+{_PART})*+"

_LONG_KEY = re.compile(rf"(?<![A-Za-z0-9_-])(?:{_PART}[ \t]*+\.[ \t]*+){{64}}")
_OPAQUE = re.compile(rf"{_TEXT}|\#[^\n]*+")
_NESTED = re.compile(r"\.|^[ \t]*+\[(?!\[)", re.MULTILINE)
_BLANK = re.compile(r"(?:[ \t\r\n]++|\#[^\n]*+)*+")
_HEADER = re.compile(rf"(\[\[?)[ \t]*+({_KEY})[ \t]*+\]\]?")
_PAIR = re.compile(rf"({_KEY})[ \t]*+=[ \t]*+")
_PARTS = re.compile(_PART)
_SCALAR = re.compile(rf"{_TEXT}|[^,\]}}\n#]*+")
_FLAT = re.compile(rf"(?:[^\[\]{{}}\"'\#]++|{_TEXT}|\#[^\n]*+)*+")
_MARK = re.compile(rf"(?:{_TEXT}|\#[^\n]*+)|([\[\]{{}}\"'])|([0-9_]{{4096}})")
_LONG_WORD = re.compile(rf"(?<![^{_ENDS}])[^{_ENDS}]{{{MAX_WORD}}}")


def read(path: Path, room: int = MAX_BYTES) -> str:
    """The text of the file at ``path``, ``-`` for standard input; raises ``ConfigError``.

    ``room`` is what others have left of the bytes that there may be.
    """
    try:
        if path == Path("-"):
            path = Path("<stdin>")
            data = sys.stdin.buffer.read(room + 1)
        else:
            with path.open("rb") as file:
                data = file.read(room + 1)
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or str(error)
        hint = "give the path of a file that can be read"
        raise ConfigError(f"cannot read it: {what}", file=path, line=None, hint=hint) from None
    if len(data) > room:
        hint = "is it a mesh file? functions that are alike can be replicas of one"
        others = "" if room == MAX_BYTES else "with the files before it "
        what = f"{others}it is larger than {MAX_BYTES >> 20} MiB"
        raise ConfigError(what, file=path, line=None, hint=hint)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        what = f"byte {data[error.start]:#04x} is not UTF-8"
        raise ConfigError(what, file=path, line=line, hint="save it as UTF-8") from None


def parse(path: Path, text: str) -> dict[str, Any]:
    """The values of a TOML ``text``; raises ``ConfigError`` in the name of ``path``."""
    refused = _costly(text)
    if refused:
        what, line, hint = refused
        raise ConfigError(what, file=path, line=line, hint=hint)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        what, line = _syntax_error(text, error)
    hint = "https://toml.io shows how TOML is written"
    raise ConfigError(what, file=path, line=line, hint=hint)


def _costly(text: str) -> tuple[str, int | None, str] | None:
    """What no mesh file needs and tomllib takes quadratic time or much memory for."""
    many = text.count(".") + text.count("[") > MAX_NESTED
    if not (many or _LONG_KEY.search(text) or _LONG_WORD.search(text)):
        return None
    text = _plain(text)
    nested = sum(1 for _ in _NESTED.finditer(text))
    if nested > MAX_NESTED:
        what = f"it has {nested} tables and dots in keys, more than {MAX_NESTED}"
        return what, None, "functions that are alike can be replicas of one"
    if match := _LONG_KEY.search(text):
        hint = "no key of a mesh file has more than three"
        return "a key has more than 64 parts", _line(text, match.start()), hint
    if match := _LONG_WORD.search(text):
        what = f"a key or a number has more than {MAX_WORD} characters"
        return what, _line(text, match.start()), "is it a mesh file?"
    return None


def _plain(text: str) -> str:
    """A text without what strings and comments hold."""
    return _OPAQUE.sub(lambda opaque: '""' + "\n" * opaque[0].count("\n"), text)


def check_nested(texts: Sequence[tuple[Path, str]]) -> None:
    """Raise ConfigError if files are together what ``parse`` refuses of one."""
    if sum(text.count(".") + text.count("[") for _, text in texts) <= MAX_NESTED:
        return
    total = 0
    for path, text in texts:
        total += sum(1 for _ in _NESTED.finditer(_plain(text)))
        if total > MAX_NESTED:
            what = f"with the files before it it has more than {MAX_NESTED} tables and dots in keys"
            hint = "functions that are alike can be replicas of one"
            raise ConfigError(what, file=path, line=None, hint=hint)


def lines(text: str, wanted: Collection[Location] | None = None) -> dict[Location, int]:
    """The line of each key, table and array element of ``text``, where it is first given.

    Of those that are ``wanted``, and what is around them, if only some are.
    """
    around = None if wanted is None else {at[:n] for at in wanted for n in range(len(at) + 1)}
    inside = None if wanted is None else {at[:n] for at in wanted for n in range(len(at))}
    first: dict[Location, int] = {(): 1}
    line, counted = 1, 0
    for at, start, _ in _places(text, inside):
        if around is None or at in around:
            line += text.count("\n", counted, start)
            counted = start
            first.setdefault(at, line)
            if around is not None and len(first) == len(around):
                break
    return first


def line_of(known: Mapping[Location, int], at: Location) -> int:
    """The line of what is ``at``, or of the nearest thing around it."""
    around = (at[:length] for length in range(len(at), 0, -1))
    return next((known[part] for part in around if part in known), 1)


def fault(errors: Sequence[ConfigError], more: int = 0) -> ConfigError:
    """All ``errors`` as one to be raised; ``more`` are left out."""
    first, *others = errors
    first.others, first.more = tuple(others), more
    return first


def errors(path: Path, text: str, faults: Sequence[Invalid]) -> list[ConfigError]:
    """The ``faults`` of a file's values, with their lines."""
    known = lines(text, [found.path for found in faults])
    # A key that is missing comes last: often it is there, misspelt.
    order = sorted(
        ((_missing(found, known), line_of(known, found.path), found) for found in faults),
        key=lambda row: row[:2],
    )
    return [
        ConfigError(found.message, file=path, line=line, hint=found.hint)
        for _, line, found in order
    ]


def _missing(found: Invalid, known: Mapping[Location, int]) -> bool:
    return bool(found.path) and isinstance(found.path[-1], str) and found.path not in known


def _syntax_error(text: str, error: Exception) -> tuple[str, int]:
    """What tomllib's ``error`` says, and the line of its cause."""
    if isinstance(error, RecursionError):
        return "values are nested too deeply", _line(text, _deep(text))
    if not isinstance(error, tomllib.TOMLDecodeError):  # int() refuses to read it
        long = (match.start() for match in _MARK.finditer(text) if match[2])
        return "an integer has too many digits", _line(text, next(long, 0))
    what, _, where = str(error).removesuffix(")").rpartition(" (at ")
    what = re.sub(r"\('(.*?)',?\)", lambda key: key[1].replace("', '", "."), what)
    row = re.match(r"line (\d+), column (\d+)", where)
    end = _offset(text, int(row[1]), int(row[2])) if row else len(text)
    if what == "Cannot overwrite a value" and (twice := _twice(text[:end])):
        return twice
    if row and not what.startswith("Unclosed"):
        return f"not TOML: {what}", int(row[1])
    return f"not TOML: {what}", _line(text, _open(text[:end]))


def _line(text: str, offset: int) -> int:
    return text.count("\n", 0, offset) + 1


def _offset(text: str, line: int, column: int) -> int:
    """Where a line and column of tomllib's are, which has no CR at the end of a line."""
    start = 0
    for _ in range(line - 1):
        start = text.index("\n", start) + 1
    return start + column - 1


def _twice(text: str) -> tuple[str, int] | None:
    """What to say of the first key that is given a second time, and its line."""
    seen: set[Location] = set()
    for at, start, is_key in _places(text):
        if is_key and at in seen:
            return f"key {show(str(at[-1]))} is given twice", _line(text, start)
        if isinstance(at[-1], str):
            seen.add(at)
    return None


def _deep(text: str) -> int:
    """Where the first bracket inside 64 others is."""
    depth = 0
    for match in _MARK.finditer(text):
        depth += (match[1] in ("[", "{")) - (match[1] in ("]", "}"))
        if depth > _DEEPEST:
            return match.start()
    return 0


def _open(text: str) -> int:
    """Where the string, or the outermost bracket, begins that does not end."""
    around: list[int] = []
    for match in _MARK.finditer(text):
        if match[1] in ('"', "'"):
            return match.start()
        if match[1] in ("[", "{"):
            around.append(match.start())
        elif match[1] and around:
            around.pop()
    return around[0] if around else len(text)


def _places(
    text: str, inside: Collection[Location] | None = None
) -> Iterator[tuple[Location, int, bool]]:
    """(Where, offset, whether it is the key of a value) of all keys, tables and array elements.

    ``text`` is TOML. Values that are not ``inside`` are passed over.
    """
    elements: dict[Location, int] = {}  # index of the last [[table]] of each array of tables
    table: Location = ()
    stack: list[tuple[Location, int]] = []  # arrays: index of the next element; tables: -1
    start = 0
    while (start := _blank(text, start)) < len(text):
        around, index = stack[-1] if stack else (table, -1)
        if stack and text[start] in "]},":
            start += 1
            if text[start - 1] != ",":
                stack.pop()
            continue
        if not stack and (header := _HEADER.match(text, start)):
            places = _header(header, elements)
            yield from ((at, start, False) for at in places)
            table, start = places[-1], header.end()
            continue
        if index >= 0:
            at = (*around, index)
            stack[-1] = around, index + 1
            yield at, start, False
        else:
            at, pair = around, _PAIR.match(text, start)
            if pair is None:
                return
            *parents, last = _parts(pair[1])
            for part in parents:
                at = (*at, part)
                yield at, start, False
            at = (*at, last)
            yield at, start, True
            start = pair.end()
        if text[start] in "[{" and (inside is None or at in inside):
            stack.append((at, 0 if text[start] == "[" else -1))
            start += 1
        else:
            start = _past(text, start)


def _header(header: re.Match[str], elements: dict[Location, int]) -> list[Location]:
    """The tables that a header names, from the outermost on; the last is the one it begins."""
    at: Location = ()
    places = []
    for part in _parts(header[2]):
        at = (*at, elements[at], part) if at in elements else (*at, part)
        places.append(at)
    if header[1] == "[[":
        elements[at] = elements.get(at, -1) + 1
        places.append((*at, elements[at]))
    return places


def _parts(key: str) -> list[str]:
    """The parts of a bare, quoted or dotted key."""
    return [_part(text) for text in _PARTS.findall(key)]


def _part(text: str) -> str:
    if text[0] == '"' and "\\" in text:
        with suppress(tomllib.TOMLDecodeError):
            return next(iter(tomllib.loads(f"{text}=0")))
    return text[1:-1] if text[0] in "\"'" else text


def _blank(text: str, start: int) -> int:
    """Where blanks and comments end."""
    match = _BLANK.match(text, start)
    return match.end() if match else start


def _past(text: str, start: int) -> int:
    """Where a value ends."""
    if text[start] not in "[{":
        match = _SCALAR.match(text, start)
        return match.end() if match else start
    depth = 0
    while True:
        depth += 1 if text[start] in "[{" else -1
        start += 1
        if not depth:
            return start
        match = _FLAT.match(text, start)
        start = match.end() if match else start
