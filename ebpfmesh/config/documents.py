# SPDX-License-Identifier: BSD-2-Clause
"""What is read of the disk: the texts that are a mesh file together, and programs they name."""

from dataclasses import dataclass
from pathlib import Path

from ebpfmesh.config import toml
from ebpfmesh.errors import ConfigError
from ebpfmesh.model import Invalid
from ebpfmesh.model.function import SOURCE_CHARACTERS

STDIN = Path("-")
"""The path that stands for what is read from standard input."""
FILES = 256
"""The most files of a directory that are one mesh."""


@dataclass(frozen=True)
class Document:
    """A text that is a mesh file, or one of several that are a mesh together.

    ``path`` is what it is called in errors; what it names is searched from ``beside`` on.
    """

    path: Path
    text: str
    beside: Path


def read(path: Path) -> tuple[Document, ...]:
    """The file at ``path``, ``-`` for standard input, or all ``*.toml`` of a directory.

    Raises ``ConfigError``; together they are no larger than one may be.
    """
    if path == STDIN:
        return (Document(Path("<stdin>"), toml.read(path), Path()),)
    if not path.is_dir():
        return (Document(path, toml.read(path), path.parent),)
    found = [one for one in path.glob("*.toml") if one.is_file() and one.name[0] != "."]
    if not 0 < len(found) <= FILES:
        what = f"it has more than {FILES} files" if found else "no *.toml is in it"
        hint = "give a mesh file, or a directory of files that are one mesh"
        raise ConfigError(what, file=path, line=None, hint=hint)
    documents: list[Document] = []
    room = toml.MAX_BYTES
    for one in sorted(found):
        documents.append(Document(one, toml.read(one, room), path))
        room -= len(documents[-1].text.encode())
    toml.check_nested([(one.path, one.text) for one in documents])
    return tuple(documents)


def read_source(path: Path) -> str:
    """The text of a program that is to be injected; raises ``Invalid``."""
    try:
        if path.exists() and not path.is_file():  # a FIFO would keep us waiting
            raise Invalid(f"{path}: not a regular file", hint="name a C file")
        with path.open("rb") as file:
            content = file.read(SOURCE_CHARACTERS + 1)
    except OSError as error:
        raise Invalid(f"{path}: {error.strerror}", hint="name a C file") from error
    if len(content) > SOURCE_CHARACTERS:
        raise Invalid(f"{path}: larger than {SOURCE_CHARACTERS >> 10} KiB", hint="split it")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise Invalid(f"{path}: no text", hint="it must be UTF-8") from None
