# SPDX-License-Identifier: BSD-2-Clause
"""What README and docs print works: command lines, parts of mesh files, links, figures."""

import re
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from ebpfmesh.config import load
from support.parsed import calls, parse

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [*GUIDES, ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("*/README.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
SHELL = ("", "sh", "console")


def blocks(page: Path, *kinds: str) -> Iterator[tuple[int, str]]:
    """(Line, text) of the page's fences of these kinds."""
    text = page.read_text()
    for found in FENCE.finditer(text):
        if found[1] in kinds:
            yield text.count("\n", 0, found.start()) + 2, found[2]


def prose(page: Path) -> str:
    """The page without its fences, on as many lines."""
    return FENCE.sub(lambda found: "\n" * found[0].count("\n"), page.read_text())


def typed(page: Path) -> Iterator[tuple[int, str, bool]]:
    """(Line, text, whether it is whole) of what a reader would type, in fences and backquotes."""
    for first, block in blocks(page, *SHELL):
        for number, line in enumerate(block.splitlines(), start=first):
            yield number, line.removeprefix("# "), True
    text = prose(page)
    for found in re.finditer(r"`([^`]+)`", text):
        yield text.count("\n", 0, found.start()) + 1, " ".join(found[1].split()), False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_command_lines_are_those_of_the_command(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # whatever files there are elsewhere
    wrong = []
    for number, line, whole in typed(page):
        for words in calls(line) if "ebpfmesh " in line else ():
            try:
                parse(words)
            except click.exceptions.Exit:  # --help
                pass
            except click.ClickException as error:
                if whole or not isinstance(error, click.MissingParameter):
                    wrong.append(f"{page.name}:{number}: {line}: {error.format_message()}")
    assert not wrong, "\n".join(wrong)


FRAGMENTS = {f"{page.name}:{line}": text for page in GUIDES for line, text in blocks(page, "toml")}


@pytest.mark.parametrize("text", FRAGMENTS.values(), ids=FRAGMENTS)
def test_a_part_of_a_mesh_file_loads(text: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "examples/packet/echo.c", tmp_path)
    file = tmp_path / "mesh.toml"
    file.write_text(completed(text))
    load(file)


def completed(text: str) -> str:
    """A whole mesh file: what a part of one speaks of, and does not have, is added."""
    if not text.lstrip().startswith("["):  # keys of a function
        text = f'[[function]]\nname = "some"\ncommand = ["true"]\n{text}'
    given = tomllib.loads(text)
    added = [] if "mesh" in given else ['[mesh]\nname = "some"\n']
    known = {one["name"] for key in ("function", "remote") for one in given.get(key, ())}
    for name, tenant in spoken_of(given):
        if name not in known and name.rpartition("-")[0] not in known:
            known.add(name)
            added.append(
                f'[[function]]\nname = "{name}"\ntenant = "{tenant}"\nreplicas = 2\n'
                'command = ["true"]\n'
            )
    names = {one["name"] for one in given.get("uplink", ())}
    beyond = [one["uplink"] for one in given.get("remote", ())]
    for name in {*beyond, *(place.partition(":")[0] for place in published(given))} - names:
        added.append(f'[[uplink]]\nname = "{name}"\ninterface = "i-{name}"\n')
    served = {one["name"] for one in given.get("service", ())}
    for number, name in enumerate(sorted(set(named(given, "service")) - served)):
        added.append(
            f'[[service]]\nname = "{name}"\naddress = "198.19.77.{number}"\nport = 80\n'
            "functions = []\n"
        )
    return "\n".join([*added, text])


def spoken_of(given: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Functions that services, pools and policies name, and their tenant."""
    for key in ("pool", "service"):
        for one in given.get(key, ()):
            yield from ((name, one.get("tenant", "default")) for name in one["functions"])
    yield from ((name, "default") for name in named(given, "function"))


def published(given: dict[str, Any]) -> Iterator[str]:
    for one in given.get("service", ()):
        yield from one.get("publish", ())


def named(given: dict[str, Any], kind: str) -> Iterator[str]:
    """What policies name of a kind."""
    for one in given.get("policy", ()):
        for end in (one["from"], one["to"]):
            if end.startswith(f"{kind}:"):
                yield end.partition(":")[2]


def anchors(page: Path) -> set[str]:
    """What leads to the page's headings, as GitHub makes it of their text."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        there = page.parent / path if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            wrong.append(target)
    assert not wrong


def test_the_index_has_every_page() -> None:
    index = (ROOT / "docs/README.md").read_text()
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert set(re.findall(r"^\| \[([\w-]+\.md)\]\(\1\) \|", index, re.M)) == pages


def test_pictures_are_shown() -> None:
    shown = {
        (page.parent / target).resolve()
        for page in GUIDES
        for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text())
    }
    assert shown == set((ROOT / "docs").glob("*.svg"))


def rows(text: str) -> Iterator[list[str]]:
    for line in re.findall(r"^\|(.*)\|$", text, re.M):
        yield [cell.strip() for cell in line.split("|")]


def test_the_figures_of_the_readme_are_those_of_the_page() -> None:
    """README has some of the columns of the table in docs/figures.md."""
    part = (ROOT / "README.md").read_text().partition("## How fast\n")[2].partition("\n## ")[0]
    head, _, *few = rows(part)
    whole = list(rows((ROOT / "docs/figures.md").read_text()))
    titles = whole[0]
    assert len(few) > 3
    for row in few:
        (same,) = (one for one in whole if one[:2] == row[:2])
        assert row == [same[titles.index(title or "figure")] for title in head]
