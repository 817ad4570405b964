# SPDX-License-Identifier: BSD-2-Clause
"""docs/mesh-file.md and the JSON schema say what the models say."""

import copy
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from ebpfmesh.cli.base import Settings
from ebpfmesh.cli.example import schema as command
from ebpfmesh.config import load, reference, texts
from ebpfmesh.errors import ConfigError
from support.malformed import HEAD, MALFORMED, RANGE, SERVED

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
FILES = sorted(file for file in ROOT.rglob("*.toml")
               if ".venv" not in file.parts and "\n[mesh]\n" in file.read_text())  # fmt: skip


@pytest.fixture(scope="module")
def shape() -> Any:
    """What checks values by the schema."""
    kind = pytest.importorskip("jsonschema").Draft202012Validator
    return kind(reference.schema(), format_checker=kind.FORMAT_CHECKER)


def test_the_page_is_made_from_the_models() -> None:
    assert reference.main(["--check"]) == ""


def test_a_page_of_other_models_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "docs" / "mesh-file.md"
    monkeypatch.setattr(reference, "PAGE", page)
    assert "make docs" in reference.main(["--check"])
    assert reference.main([]) == ""
    assert reference.main(["--check"]) == ""
    page.write_text(page.read_text().replace("65535", "65536"))
    assert "make docs" in reference.main(["--check"])


def test_a_key_that_nobody_explains_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    fewer = {key: value for key, value in texts.ABOUT["function"].items() if key != "cpu"}
    monkeypatch.setitem(texts.ABOUT, "function", fewer)
    with pytest.raises(SystemExit, match="function: cpu: say in"):
        reference.markdown()


def test_there_are_files_to_try() -> None:
    assert {file.name for file in FILES} >= {"edge.toml", "demo.toml"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_example_files_are_as_the_schema_says(shape: Any, file: Path) -> None:
    shape.validate(tomllib.loads(file.read_text()))
    load(file)


def _places(value: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    inner = value.items() if isinstance(value, dict) else ()
    for key, item in enumerate(value) if isinstance(value, list) else inner:
        yield (*at, key)
        yield from _places(item, (*at, key))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
@given(st.data())
def test_a_file_with_one_thing_wrong_is_refused(
    shape: Any, file: Path, data: st.DataObject
) -> None:
    values = tomllib.loads(file.read_text())
    *around, last = data.draw(st.sampled_from(list(_places(values))))
    for change in ("another type", "unknown key"):
        other = inner = copy.deepcopy(values)
        for key in around:
            inner = inner[key]
        if change == "another type":
            inner[last] = {"x": [inner[last]]}  # there is no place for such a thing
        elif isinstance(inner, dict):
            inner["unknown"] = 1
        assert shape.is_valid(other) == (other == values)


@pytest.mark.parametrize(
    ("table", "key"), [(table, key) for table, keys in texts.ABOUT.items() for key in keys]
)
def test_every_example_is_accepted(shape: Any, table: str, key: str) -> None:
    _, example = texts.ABOUT[table][key]
    base = {
        "mesh": '[mesh]\nname = "m"\n',
        "function": f'{HEAD}[[function]]\nname = "f"\n',
        "service": RANGE.replace('target_port = "9000-9099"\n', ""),
        "tenant": f'{HEAD}[[tenant]]\nname = "t"\n',
        "inject": f'{HEAD}[[inject]]\nname = "i"\nfile = "i.c"\nat = "f/egress"\n',
        "pool": f'{HEAD}[[pool]]\nname = "p"\nfunctions = ["f"]\n',
        "uplink": f'{HEAD}[[uplink]]\nname = "u"\ninterface = "eth1"\n',
        "remote": f'{HEAD}[[uplink]]\nname = "uplink0"\ninterface = "eth1"\n'
        '[[remote]]\nname = "r"\naddress = "192.0.2.7"\nuplink = "uplink0"\n',
        "policy": f'{SERVED}[[policy]]\nfrom = "any"\nto = "any"\nprotocol = "udp"\n',
    }
    values = tomllib.loads(base[table.partition(".")[0]])
    example_of = tomllib.loads(f"x = {example}")["x"]
    top, _, inner = table.partition(".")
    held = values[top][-1] if isinstance(values[top], list) else values[top]
    if inner:
        held = held.setdefault(inner, {})
    held[key] = example_of
    shape.validate(values)


def test_what_the_schema_refuses_is_refused(shape: Any, tmp_path: Path) -> None:
    """And much of what is refused, by it too: it knows nothing of names and addresses."""
    refused = 0
    for name, text, *_ in MALFORMED:
        if name == "limit is huge":  # jsonschema cannot print it
            continue
        try:
            values = tomllib.loads(text)
        except (ValueError, RecursionError):
            continue
        file = tmp_path / "mesh.toml"
        file.write_text(text)
        refused += not shape.is_valid(values)
        with pytest.raises(ConfigError):
            load(file)
    assert refused > 80


def test_the_command_prints_it() -> None:
    done = CliRunner().invoke(command, obj=Settings())
    assert json.loads(done.stdout) == reference.schema()
