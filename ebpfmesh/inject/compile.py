# SPDX-License-Identifier: BSD-2-Clause
"""From an author's text to instructions, in a process that can do no harm (see ``compiler``)."""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ebpfmesh.errors import FunctionRefused, MeshError, MissingPrivilege, Unsupported
from ebpfmesh.inject.source import ENTRY, Source, assemble

NO_BCC = 5  # exit code of the compiler
SECONDS = 60
WORDS = 300  # of a message, whatever the author makes the compiler say
FLAGS = {"tc": (), "xdp": ("-DMESH_XDP",)}
"""What tells the header of the hook; the keys are the hooks there are."""

_ERROR = re.compile(r"^(?P<file>[^:\n]+):(?P<line>\d+):\d+: (?:fatal )?error: (?P<what>.*)$", re.M)


@dataclass(frozen=True)
class Table:
    """A map as the compiler would create it; ``number`` is what instructions call it.

    ``key`` and ``value`` are BCC's descriptions: a type's name, or
    [name, [[field, type], …], kind].
    """

    name: str
    number: int
    kind: int
    key_size: int
    value_size: int
    entries: int
    flags: int
    key: Any
    value: Any


@dataclass(frozen=True)
class Compiled:
    """A program that nobody has checked, ``lines`` of the author's file by instruction.

    ``migrations`` are further programs, by the map of each MESH_MIGRATE; their two tables are not
    the author's but of old and of new values (``source.MIGRATION``).
    """

    instructions: bytes
    lines: tuple[int | None, ...]
    tables: tuple[Table, ...]
    migrations: dict[str, "Compiled"] = field(default_factory=dict)

    def line(self, at: int) -> int | None:
        """Where in the author's file an instruction comes from."""
        return self.lines[at] if 0 <= at < len(self.lines) else None


def compiled(source: Source, hook: str) -> Compiled:
    """The program of a source for a hook, "tc" or "xdp".

    Raises FunctionRefused with what clang says of which line; Unsupported without BCC.
    """
    request = {
        "parent": os.getpid(),
        "text": assemble(source),
        "entries": [ENTRY, *(f"mesh_migration_{name}" for name in source.migrations)],
        "flags": FLAGS[hook],
    }
    return asked(source, request)


def asked(source: Source, request: dict[str, Any]) -> Compiled:
    """The same of what the compiler is asked for."""
    code, answer, said = _run(json.dumps(request).encode())
    if code != 0:
        raise _error(source, code, said)
    return _compiled(source, json.loads(answer), said)


def _run(request: bytes) -> tuple[int, str, str]:
    """Exit code, answer and what was said; the code is None when the time was over."""
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as said:
        process = subprocess.Popen(  # -P: no module of the working directory
            [sys.executable, "-P", "-m", "ebpfmesh.inject.compiler"],
            stdin=subprocess.PIPE,
            stdout=answer,
            stderr=said,
            env={"PATH": os.defpath},
        )
        try:
            process.communicate(request, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            process.kill()
            process.wait()
        return process.returncode, _text(answer), _text(said)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def keep_log(source: Source, text: str) -> Path:
    """Keep what compiler or verifier said; the file's path."""
    with tempfile.NamedTemporaryFile(
        "w", prefix=f"ebpfmesh-{source.path.stem}-", suffix=".log", delete=False
    ) as file:
        file.write(text)
    return Path(file.name)


def _error(source: Source, code: int, said: str) -> MeshError:
    last = said.strip().rsplit("\n", 1)[-1]
    if code == NO_BCC:
        return Unsupported(last, hint="apt install python3-bpfcc (PyPI's bcc is something else)")
    if "CAP_SYS_ADMIN" in last:
        return MissingPrivilege(last, hint="run as root")
    line, what = _first_error(source, said)
    hint = ""
    if "BPF stack limit" in said:
        what = "more than 512 bytes of stack"
    elif not what and "Assertion" in said:
        what = "the compiler breaks down over it"
        hint = "ringbuf_output() is given the address of a variable: &record"
    elif not what and (code < 0 or "out of memory" in said or "bad_alloc" in said):
        what = f"the compiler takes more than {SECONDS} s or 1 GiB for it"
    absent = re.search(r"'mesh_old_type_(\w+)'", what)
    if not line and absent and absent[1] in source.migrations:
        what, line, hint = _not_compiled(source, absent[1])
    what = what or last.removeprefix("refused: ") or "the compiler says nothing"
    if "refused: " in last:
        line = line or _named_in(source, said)
    log = keep_log(source, said)
    return FunctionRefused(what[:WORDS], file=source.path, line=line, log=log, hint=hint)


def _named_in(source: Source, said: str) -> int | None:
    """The line of the map that BCC says it could not open."""
    found = re.search(r"could not open bpf map: (\w+)", said)
    return source.line_of(found[1]) if found else None


def _first_error(source: Source, said: str) -> tuple[int | None, str]:
    """Line and text of the first error; of one outside of the author's file, who led there."""
    for match in _ERROR.finditer(said):
        if match["file"] == source.alias:
            return int(match["line"]), match["what"]
        notes = said[match.end() :].split(" error: ", 1)[0]
        if found := re.search(rf"^{re.escape(source.alias)}:(\d+):\d+: note:", notes, re.M):
            return int(found[1]), match["what"]
        return None, match["what"]
    found = re.search(r"\berror: (.*)", said)
    return None, found[1] if found else ""


def _compiled(source: Source, answer: dict[str, Any], said: str) -> Compiled:
    """The answer, as far as it can be right: it comes from a process that read the text."""
    if answer["refused"]:
        line = _named_in(source, said) or source.line_of("BPF_TABLE_PINNED")
        raise source.refuse(f"it {answer['refused'][0]}", line)
    tables = {}
    for one in answer["tables"]:
        if one["created"] is None:
            raise source.refuse(f"map {one['name']} is not its own", source.line_of(one["name"]))
        kind, key_size, value_size, entries, flags = one["created"]
        sizes = {"key_size": key_size, "value_size": value_size, "entries": entries}
        tables[one["name"]] = Table(
            one["name"], one["number"], kind, **sizes, flags=flags,
            key=one["key"], value=one["value"],
        )  # fmt: skip
    between = {name: _between(source, tables, name) for name in source.migrations}
    (code, lines), *others = (_program(source, one, said) for one in answer["programs"])
    further = zip(others, between.items(), strict=True)
    migrations = {name: Compiled(*program, pair) for program, (name, pair) in further}
    return Compiled(code, lines, tuple(tables.values()), migrations)


def _between(source: Source, tables: dict[str, Table], name: str) -> tuple[Table, ...]:
    """Of old and of new values of a map that migrates; they are taken out."""
    names = f"mesh_old_{name}", f"mesh_new_{name}"
    if not tables.keys() >= {*names}:
        raise source.refuse(*_not_compiled(source, name))
    return tuple(tables.pop(one) for one in names)


def _not_compiled(source: Source, name: str) -> tuple[str, int, str]:
    """What is wrong with a migration that is only in the text."""
    return f"MESH_MIGRATE of {name} is not compiled", source.migrations[name], "is it in an #if?"


def _program(
    source: Source, answer: dict[str, Any], said: str
) -> tuple[bytes, tuple[int | None, ...]]:
    """Instructions, and the line of each."""
    code = bytes.fromhex(answer["instructions"])
    if not code:
        log = keep_log(source, said)
        raise FunctionRefused("no program came out of it", file=source.path, line=None, log=log)
    return code, _lines(len(code) // 8, list(_places(source, answer["places"], said)))


_PUT_IN = re.compile(r'(__attribute__\(\((always_inline|section\("\.bpf\.fn\.\w+"\))\)\))?')
"""What BCC puts in, before functions (bcc/src/cc/frontends/clang/b_frontend_action.cc)."""


def _places(
    source: Source, places: Sequence[tuple[int, str, int, int]], said: str
) -> Iterator[tuple[int, int | None]]:
    """(Instruction, the author's line) of the compiler's, which count what BCC has put in."""
    changed = said.partition(f'\n#line 1 "{source.alias}"\n')[2].rpartition('\n#line 1 "entry"\n')[
        0
    ]
    lines, original = [0], source.text.split("\n")
    for line in changed.split("\n"):
        before = lines[-1]
        wanted = original[before] if before < len(original) else ""
        ours = line != wanted and _PUT_IN.fullmatch(line)
        lines.append(before if ours else before + 1)
    for at, file, number, _ in places:
        inside = file == source.alias and 0 < number < len(lines)
        put_in = inside and lines[number] == lines[number - 1]
        yield at, lines[number] + put_in if inside else None


def _lines(count: int, places: Sequence[tuple[int, int | None]]) -> tuple[int | None, ...]:
    """The line of each instruction: of one that is ours, the author's before it, or the next."""
    lines: list[int | None] = [None] * count
    for at, line in places:
        if 0 <= at < count and line:
            lines[at] = line
    latest: int | None = None
    for at in range(count):
        latest = lines[at] = lines[at] or latest
    first = next((line for line in lines if line), None)
    return tuple(line or first for line in lines)


def remove(log: Path | None) -> None:
    """Remove a log that nobody was told of."""
    if log:
        with contextlib.suppress(FileNotFoundError):
            log.unlink()
