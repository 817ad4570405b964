# SPDX-License-Identifier: BSD-2-Clause
"""The mesh of a mesh file, or all that is wrong with it, with files and lines."""

from collections.abc import Sequence
from pathlib import Path

from ebpfmesh.config import toml
from ebpfmesh.config.check import Check
from ebpfmesh.config.documents import Document, read
from ebpfmesh.config.file import UplinkTable
from ebpfmesh.config.mesh import build
from ebpfmesh.errors import ConfigError, MeshError
from ebpfmesh.model import Invalid, Mesh


def load(path: Path) -> Mesh:
    """The mesh of what is at ``path``; raises ``ConfigError`` for whatever is wrong with it."""
    return mesh_of(read(path))


def mesh_of(documents: Sequence[Document]) -> Mesh:
    """The mesh that they describe; raises ``ConfigError`` for whatever is wrong with them."""
    mesh, check = build([toml.parse(one.path, one.text) for one in documents], documents)
    if check.told:
        raise _fault(documents, check)
    return mesh


def _fault(documents: Sequence[Document], check: Check) -> ConfigError:
    """All that is wrong, file by file, to be raised."""
    errors: list[ConfigError] = []
    for number, document in enumerate(documents):
        own = [
            Invalid(found.message + _other(documents, found), path=found.path[1:], hint=found.hint)
            for found in check.told
            if found.path[0] == number
        ]
        errors += toml.errors(document.path, document.text, own)
    return toml.fault(errors, check.more)


def _other(documents: Sequence[Document], found: Invalid) -> str:
    """Where the other one is that something cannot be beside."""
    if not found.other:
        return ""
    number, *rest = found.other
    document, at = documents[int(number)], tuple(rest)
    line = toml.line_of(toml.lines(document.text, [at]), at)
    return f", the other at {document.path}:{line}"


def locate(error: MeshError, documents: Sequence[Document]) -> None:
    """Say where in a mesh file it stands, if an error is about a key of a function or uplink."""
    if error.about is None:
        return
    name, key = error.about
    kind = "uplink" if key in UplinkTable.model_fields.keys() - {"name"} else "function"
    for path, text in ((one.path, one.text) for one in documents):
        for number, table in enumerate(toml.parse(path, text).get(kind, ())):
            if table["name"] == (name.rpartition("-")[0] if "replicas" in table else name):
                at = kind, number, key
                line = toml.line_of(toml.lines(text, [at]), at)
                error.message = f"{path}:{line}: {error.message}"
