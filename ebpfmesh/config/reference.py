# SPDX-License-Identifier: BSD-2-Clause
"""What a mesh file may hold, for people and for editors, from the models that read it.

``markdown`` is docs/mesh-file.md: ``python -m ebpfmesh.config.reference`` writes it, with
``--check`` it only tells whether it is as it should be. ``schema`` is a JSON schema. Types,
defaults and bounds are the models'; what a key is for is in ``texts``, for each key there is.
"""

import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ebpfmesh.config import texts
from ebpfmesh.config.explain import keys_of
from ebpfmesh.config.file import MeshFile

SCHEMA = "https://json-schema.org/draft/2020-12/schema"
PAGE = Path(__file__).parents[2] / "docs" / "mesh-file.md"
_WHERE = "https://toml.io; docs/mesh-file.md tells more"
_INTRODUCTION = """<!-- Made by `make docs` from the models in ebpfmesh/config/file.py. -->
# The mesh file

A mesh is a [TOML](https://toml.io) file of at most 4 MiB: one table `[mesh]`, and a table for each
function, service, uplink, remote and policy. `ebpfmesh plan FILE` tells all that is wrong with it,
with lines and hints, and what `ebpfmesh up FILE` would do; `ebpfmesh example` prints one to begin
with, `ebpfmesh export` the mesh that runs. `-` for FILE is standard input. All `*.toml` of a
directory are one mesh, as if they stood in one file in the order of their names: one of them has
`[mesh]`.

Editors check a file while it is written, if they know its schema: `ebpfmesh schema
>mesh.schema.json`, and `#:schema ./mesh.schema.json` in the first line of the file.

Keys, tables or values that are not listed here are refused, and so are names that lead nowhere,
two of one name, and addresses and ports that are taken.
"""


def tables() -> Iterator[tuple[str, type[BaseModel]]]:
    """The tables of a file by name, each with its model."""
    for name, field in keys_of(MeshFile).items():
        (model,) = (
            kind
            for kind in (field.annotation, *get_args(field.annotation))
            if isinstance(kind, type) and issubclass(kind, BaseModel)
        )
        yield name, model
        for key, inner in keys_of(model).items():
            for kind in (inner.annotation, *get_args(inner.annotation)):
                if isinstance(kind, type) and issubclass(kind, BaseModel):
                    yield f"{name}.{key}", kind


def markdown() -> str:
    """The page about mesh files."""
    lines = [_INTRODUCTION]
    for name, model in tables():
        lines += [f"## {_title(name)}", "", texts.TABLES[name], "", *_table(name, model), ""]
    return "\n".join(lines)


def _title(name: str) -> str:
    table, _, key = name.partition(".")
    return (
        f"`[{name}]`"
        if table == "mesh"
        else f"`{key}` of `[[{table}]]`"
        if key
        else f"`[[{name}]]`"
    )


def _keys(name: str, model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo, str, str]]:
    """Each key of a table, with its field, what it is for, and an example."""
    keys, about = keys_of(model), texts.ABOUT[name]
    if keys.keys() != about.keys():
        wrong = ", ".join(sorted(keys.keys() ^ about.keys()))
        raise SystemExit(f"{name}: {wrong}: say in {texts.__file__} what each key is for")
    for key, (text, example) in about.items():
        yield key, keys[key], text, example


def _table(name: str, model: type[BaseModel]) -> Iterator[str]:
    yield "| key | what it is for | allowed | without it | example |"
    yield "|---|---|---|---|---|"
    for key, field, about, example in _keys(name, model):
        without = texts.WITHOUT.get((name, key)) or _default(field)
        yield f"| `{key}` | {about} | {_allowed(field)} | {without} | `{key} = {example}` |"


def _allowed(field: FieldInfo) -> str:
    return (field.description or "").replace("|", "\\|")


def _default(field: FieldInfo) -> str:
    """What holds where a key is left out."""
    if field.is_required():
        return "**it is needed**"
    value = field.get_default()
    if isinstance(value, BaseModel):
        return "as below"
    return f"`{json.dumps(value)}`" if isinstance(value, (str, int)) else "none"


def schema() -> dict[str, Any]:
    """A JSON schema of mesh files."""
    made = MeshFile.model_json_schema()
    for name, model in tables():
        properties = made["$defs"][model.__name__]["properties"]
        made["$defs"][model.__name__]["description"] = texts.TABLES[name].replace("`", "")
        for key, field in keys_of(model).items():
            about, example = texts.ABOUT[name][key]
            allowed = f"{about} Allowed: {field.description}.".replace("`", "")
            given = tomllib.loads(f"x = {example}")["x"]
            properties[key] = _given(properties[key]) | {
                "description": allowed,
                "examples": [given],
            }
    properties = made["properties"]
    made["properties"] = {key: _given(properties[key]) for key in properties}
    return {"$schema": SCHEMA, **made, "title": "A mesh file of ebpfmesh", "description": _WHERE}


def _given(part: dict[str, Any]) -> dict[str, Any]:
    """The schema of a key that is there: TOML has no null, and what is left out has no title."""
    empty = part.get("default") in (None, [], {})
    gone = {"title", "ge", "le", *(("default",) if empty else ())}
    part = {key: value for key, value in part.items() if key not in gone}
    ways = [way for way in part.pop("anyOf", ()) if way != {"type": "null"}]
    return part | (ways[0] if len(ways) == 1 else {"anyOf": ways} if ways else {})


def main(arguments: list[str]) -> str:
    """Write the page, or say what is wrong with the one there is."""
    if "--check" not in arguments:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(markdown())
    elif not PAGE.exists() or PAGE.read_text() != markdown():
        return f"{PAGE} is not as the models are: make docs"
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) or 0)
