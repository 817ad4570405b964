# SPDX-License-Identifier: BSD-2-Clause
"""The author's text: what may not be in it, what it declares, and the text that is compiled.

Reads C as its first phases do (ISO C 5.1.1.2): lines that are joined, comments, strings; so that a
directive is found wherever the compiler finds one. This keeps other files out and the author's line
numbers true. What the program may do is not decided here but by its instructions (``check``).
"""

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ebpfmesh._abi import InjectedVerdict
from ebpfmesh.compile.source import bpf_dir, flatten
from ebpfmesh.errors import FunctionRefused

SOURCE_BYTES = 256 << 10
HEADER = "mesh_function.h"
ENTRY = "mesh_entry"
PARAMETERS = 0x6D657368  # in the text that is compiled: the number of the map of parameters
COUNTERS = "mesh_counters"
TEXT_LENGTH = 160
INDEXES = (InjectedVerdict.INDEX >> 2) + 1  # of reasons, and of targets

DIRECTIVES = {"define", "undef", "if", "ifdef", "ifndef", "elif", "else", "endif", "error", ""}
PRAGMA = re.compile(r"pragma\s+(clang\s+loop\s+)?unroll\b[\w\s()]*$")
INTEGERS = {
    f"{prefix}{sign}{bits}": (bits, sign == "s")
    for prefix in ("", "__") for sign in ("u", "s") for bits in (8, 16, 32, 64)
}  # fmt: skip
"""Types of parameters: bits, and whether they have a sign."""

DECLARATION = re.compile(
    r"\bMESH_(PARAMETER|COUNTER|REASON|TARGET|MAP|SHARED|RING|MIGRATE|FUNCTION)\b"
)
KINDS = ("hash", "lru_hash", "array", "percpu_hash", "percpu_array", "lru_percpu_hash")


@dataclass(frozen=True)
class Parameter:
    """A number that can be changed while packets flow; ``value`` is what it is at first."""

    name: str
    type: str
    value: int
    text: str
    line: int


@dataclass(frozen=True)
class Source:
    """An author's file, and what it declares by the names and numbers there.

    ``counters``, ``reasons`` and ``targets`` have texts; ``maps`` the line of each declaration,
    rings among them, ``shared`` that of those which commands read, and ``migrations`` that of each
    map's MESH_MIGRATE. Counters and parameters
    are in the order of their slots.
    """

    path: Path
    text: str
    parameters: dict[str, Parameter] = field(default_factory=dict)
    counters: dict[str, str] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    targets: dict[int, str] = field(default_factory=dict)
    maps: dict[str, int] = field(default_factory=dict)
    migrations: dict[str, int] = field(default_factory=dict)
    shared: dict[str, int] = field(default_factory=dict)

    @property
    def alias(self) -> str:
        """What the compiler calls the file."""
        return self.path.name if re.fullmatch(r"[\w.+-]+", self.path.name) else "function.c"

    def refuse(self, message: str, line: int | None, hint: str = "") -> FunctionRefused:
        """What to raise."""
        return FunctionRefused(message, file=self.path, line=line, hint=hint)

    def line_of(self, name: str) -> int | None:
        """The first line where a name stands."""
        match = re.search(rf"\b{re.escape(name)}\b", self.text)
        return self.text.count("\n", 0, match.start()) + 1 if match else None


def read(path: Path) -> Source:
    """The file, checked; FunctionRefused, or the OSError of a file that cannot be read."""
    with path.open("rb") as file:
        content = file.read(SOURCE_BYTES + 1)
    if len(content) > SOURCE_BYTES:
        raise FunctionRefused(f"larger than {SOURCE_BYTES >> 10} KiB", file=path, line=None)
    try:
        text = content.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise FunctionRefused("not UTF-8", file=path, line=line) from None
    return parse(path, text)


def parse(path: Path, text: str) -> Source:
    """The same of a text that is there."""
    source = Source(path, text)
    _plain_characters(source)
    code = _Code(text)
    for line, directive in code.directives():
        _directive(source, line, directive)
    for pattern, what in WORDS:
        if found := re.search(pattern, code.bare):
            raise source.refuse(what, code.line(found.start()))
    _declarations(source, code)
    if len(entries := list(re.finditer(r"\bMESH_FUNCTION\b", code.bare))) != 1:
        second = code.line(entries[1].start()) if entries else None
        raise source.refuse(
            "there must be one MESH_FUNCTION", second, "MESH_FUNCTION(p) { return mesh_next(); }"
        )
    return source


WORDS = (
    (r"\b(asm|__asm|__asm__)\b", "no assembly"),
    (r"\b_Pragma\b", "no _Pragma"),
    (r"\b(u8|[uUL])?R\"", "no raw strings"),
    (r"\b__has_include(_next)?\b", "nothing is included but mesh_function.h"),
)


def _plain_characters(source: Source) -> None:
    for pattern, what in (
        (r"[\x00-\x08\x0b-\x1f\x7f]", "a control character"),
        (r"\?\?[=/'()!<>-]", "a trigraph"),
    ):
        if match := re.search(pattern, source.text):
            raise source.refuse(what, source.text.count("\n", 0, match.start()) + 1)


class _Code:
    """The text with joined lines, and without comments; where its characters come from.

    ``bare`` has no contents of strings either. A comment is a space, as long as it was.
    """

    def __init__(self, text: str) -> None:
        self._lines: list[int] = []
        joined: list[str] = []
        at = line = 0
        for match in re.finditer(r"\\[ \t]*\n", text):
            part = text[at : match.start()]
            joined.append(part)
            line = self._count(part, line) + 1
            at = match.end()
        joined.append(text[at:])
        self._count(text[at:], line)
        token = r"//[^\n]*|/\*.*?(?:\*/|\Z)" + r'|"(?:\\.|[^"\\\n])*"?' + r"|'(?:\\.|[^'\\\n])*'?"
        whole = "".join(joined)
        self.text = re.sub(token, self._comment, whole, flags=re.S)
        self.bare = re.sub(token, self._literal, whole, flags=re.S)

    def _count(self, part: str, line: int) -> int:
        for character in part:
            self._lines.append(line)
            line += character == "\n"
        return line

    @staticmethod
    def _comment(match: re.Match[str]) -> str:
        return " " * len(match[0]) if match[0][0] == "/" else match[0]

    @staticmethod
    def _literal(match: re.Match[str]) -> str:
        quote, length = match[0][0], len(match[0])
        return " " * length if quote == "/" else quote + "_" * (length - 2) + quote * (length > 1)

    def line(self, at: int) -> int:
        """The line of the file of a character, from 1."""
        return self._lines[at] + 1

    def directives(self) -> Iterator[tuple[int, str]]:
        """The preprocessor's lines, without what makes them one."""
        for match in re.finditer(r"^[ \t]*(?:#|%:)[ \t]*([^\n]*)$", self.text, flags=re.M):
            yield self.line(match.start(1) - 1 if match[1] else match.end() - 1), match[1].rstrip()


def _directive(source: Source, line: int, directive: str) -> None:
    name = re.match(r"\w*", directive)
    word = name[0] if name else ""
    if word == "include":
        if re.sub(r"\s+", " ", directive) not in (f'include "{HEADER}"', f'include"{HEADER}"'):
            raise source.refuse("nothing is included but mesh_function.h", line)
    elif word == "pragma":
        if not PRAGMA.match(directive):
            raise source.refuse("no #pragma but unroll", line)
    elif word not in DIRECTIVES or (not word and directive):
        raise source.refuse(f"no #{word or directive[:20]}", line)
    elif word == "define" and DECLARATION.search(directive):
        raise source.refuse("declarations of a function stand in no macro", line)


_TEXT = r'((?:"(?:\\["\\]|[^"\\\n])*"\s*)+)'
_NUMBER = r"(-?(?:0[xX][0-9a-fA-F]+|\d+)[uUlL]*)"
_SHAPES = {
    "PARAMETER": (rf"(\w+)\s*,\s*([A-Za-z]\w*)\s*,\s*{_NUMBER}\s*,\s*{_TEXT}\s*\)",
                  'MESH_PARAMETER(u32, rate, 1000, "packets a second")'),
    "COUNTER": (rf"([A-Za-z]\w*)\s*,\s*{_TEXT}\s*\)", 'MESH_COUNTER(seen, "packets that came by")'),
    "REASON": (rf"{_NUMBER}\s*,\s*{_TEXT}\s*\)", 'MESH_REASON(0, "over its rate")'),
    "TARGET": (rf"{_NUMBER}\s*,\s*{_TEXT}\s*\)", 'MESH_TARGET(0, "cache")'),
    "MAP": (r"(\w+)\s*,\s*([A-Za-z]\w*)\s*,", "MESH_MAP(hash, flows, u32, u64, 1024)"),
    "SHARED": (r"([A-Za-z]\w*)\s*,", "MESH_SHARED(load, u64, 256)"),
    "RING": (r"([A-Za-z]\w*)\s*,", "MESH_RING(samples, 65536)"),
    "MIGRATE": (r"([A-Za-z]\w*)\s*,\s*[A-Za-z_][\w\s]*,\s*[A-Za-z]\w*\s*,\s*[A-Za-z]\w*\s*\)\s*\{",
                "MESH_MIGRATE(flows, struct flow_v1, old, new) { … return 1; }"),
}  # fmt: skip


def _declarations(source: Source, code: _Code) -> None:
    for match in DECLARATION.finditer(code.bare):
        if match[1] not in _SHAPES:
            continue
        word, line = match[1], code.line(match.start())
        shape, example = _SHAPES[word]
        found = re.compile(rf"\s*\(\s*{shape}").match(code.text, match.end())
        if not found:
            raise source.refuse(f"MESH_{word} is read as it is written", line, f"as in {example}")
        _DECLARE[word](source, line, *found.groups())


def _parameter(source: Source, line: int, kind: str, name: str, value: str, text: str) -> None:
    if kind not in INTEGERS:
        raise source.refuse(f"a parameter's type is one of {', '.join(INTEGERS)}", line)
    bits, signed = INTEGERS[kind]
    number = _number(value)
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    if not low <= number <= high:
        raise source.refuse(f"{number} is no {kind}", line)
    _once(source, line, name, source.parameters)
    source.parameters[name] = Parameter(name, kind, number, _text(source, line, text), line)


def _counter(source: Source, line: int, name: str, text: str) -> None:
    _once(source, line, name, source.counters)
    source.counters[name] = _text(source, line, text)


def _indexed(source: Source, line: int, into: dict[int, str], number: str, text: str) -> None:
    index = _number(number)
    if not 0 <= index < INDEXES:
        raise source.refuse(f"{index} is not below {INDEXES}", line)
    _once(source, line, index, into)
    into[index] = _text(source, line, text)


def _map(source: Source, line: int, kind: str, name: str) -> None:
    if kind not in KINDS:
        raise source.refuse(f"a map's kind is one of {', '.join(KINDS)}", line)
    _ring(source, line, name)


def _ring(source: Source, line: int, name: str) -> None:
    _once(source, line, name, source.maps)
    source.maps[name] = line


def _shared(source: Source, line: int, name: str) -> None:
    _ring(source, line, name)
    source.shared[name] = line


def _migration(source: Source, line: int, name: str) -> None:
    _once(source, line, name, source.migrations)
    if name not in source.maps:
        hint = f"MESH_MAP(…, {name}, …) stands before it"
        raise source.refuse(f"there is no map {name} to migrate", line, hint)
    if name in source.shared:
        hint = "only its program writes it; give the new one another name"
        raise source.refuse(f"map {name} is shared, and cannot migrate", line, hint)
    source.migrations[name] = line


_DECLARE: dict[str, Callable[..., None]] = {
    "PARAMETER": _parameter,
    "COUNTER": _counter,
    "REASON": lambda source, line, *rest: _indexed(source, line, source.reasons, *rest),
    "TARGET": lambda source, line, *rest: _indexed(source, line, source.targets, *rest),
    "MAP": _map,
    "SHARED": _shared,
    "RING": _ring,
    "MIGRATE": _migration,
}


def _once(source: Source, line: int, name: object, names: Collection[object]) -> None:
    if name in names:
        raise source.refuse(f"{name} was declared before", line)
    if isinstance(name, str) and name.lower().startswith("mesh_"):
        raise source.refuse("names that begin with mesh_ are the mesh's own", line)


def _number(literal: str) -> int:
    digits = literal.rstrip("uUlL")
    octal = re.fullmatch(r"-?0\d+", digits)
    return int(digits, 8 if octal else 0)


def _text(source: Source, line: int, literal: str) -> str:
    parts = re.findall(r'"((?:\\.|[^"\\])*)"', literal)
    text = re.sub(r"\\(.)", r"\1", "".join(parts))
    if not 0 < len(text) <= TEXT_LENGTH or not text.isprintable():
        raise source.refuse(f"a text has 1 to {TEXT_LENGTH} printable characters", line)
    return text


def assemble(source: Source) -> str:
    """The text that is compiled: declarations, the header, the author's lines, and the entry."""
    own = re.sub(r"^([ \t]*(?:#|%:)[ \t]*include\b)", r"// \1", source.text, flags=re.M)
    return "\n".join(
        [
            '#line 1 "declarations"',
            *_generated(source),
            flatten(bpf_dir() / "include" / HEADER),
            f'#line 1 "{source.alias}"',
            own,
            "",  # in case that the last line wants to be joined with one more
            '#line 1 "entry"',
            f"int {ENTRY}(VIEW_CTX *ctx)",
            "{",
            "\tstruct mesh_view view = {};",
            "\tmesh_view_packet(ctx, &view);",
            "\treturn mesh_author(&view);",
            "}",
            *(MIGRATION.format(name=name) for name in source.migrations),
            "",
        ]
    )


MIGRATION = """
BPF_TABLE("array", __u32, mesh_old_type_{name}, mesh_old_{name}, 1);
struct mesh_made_{name} {{
	__u64 word;
	mesh_new_type_{name} value;
}};
BPF_TABLE("array", __u32, struct mesh_made_{name}, mesh_new_{name}, 1);
int mesh_migration_{name}(VIEW_CTX *ctx)
{{
	__u32 at = 0;
	mesh_old_type_{name} *old;
	struct mesh_made_{name} *made = mesh_new_{name}.lookup(&at);

	if (!made)
		return 0;
	at = ++made->word;
	old = mesh_old_{name}.lookup(&at);
	made = mesh_new_{name}.lookup(&at);
	if (old && made)
		made->word = !!mesh_migrate_{name}(old, &made->value);
	return 0;
}}"""
"""One more program out of the text: each run of it makes the next new value of an old one.

Word 0 of the new ones counts the runs, those of the others say whether they are kept (``migrate``).
"""


IP = ("source", "destination", "version", "dscp", "ecn", "ttl")
TRANSPORT = (
    "protocol", "fragment", "tcp_flags", "icmp_type", "icmp_code", "source_port",
    "destination_port", "transport", "payload", "payload_length", "mesh_hash",
)  # fmt: skip
"""What there is of struct mesh_view only for a text that has one of these words."""


def _generated(source: Source) -> Iterator[str]:
    words = set(re.findall(r"\w+", _Code(source.text).bare))
    if not words.isdisjoint(IP + TRANSPORT):
        yield "#define MESH_VIEW_IP"
    if not words.isdisjoint(TRANSPORT):
        yield "#define MESH_VIEW_TRANSPORT"
    if source.parameters:
        yield f"#define MESH_PARAMETERS {PARAMETERS:#x}"
        yield "struct mesh_parameters {"
        for one in source.parameters.values():
            yield f"\t{one.type} {one.name} __attribute__((aligned(8)));"
        yield "};"
    if source.counters:
        yield f"#define MESH_COUNTERS {len(source.counters)}"
        yield "enum { " + ", ".join(f"MESH_COUNTER_{name}" for name in source.counters) + " };"
