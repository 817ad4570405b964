# SPDX-License-Identifier: BSD-2-Clause
"""One text of the C sources, each file in it once, each line under its own name and number."""

import re
from pathlib import Path

import pytest

from ebpfmesh.compile import source
from ebpfmesh.compile.source import bpf_dir, flatten
from ebpfmesh.errors import MeshError
from ebpfmesh.kernel.programs import MESH

MARKER = re.compile(r'^#line (\d+) "(.*)"$')
ENTRIES = ("mesh_tc.c", "mesh_carry.c")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty bpf/ that flatten() takes for the real one."""
    (tmp_path / "lib").mkdir()
    monkeypatch.setattr(source, "bpf_dir", lambda: tmp_path)
    return tmp_path


def places(text: str) -> list[tuple[str, int, str]]:
    """(file, line number, line) of every line, by the markers."""
    file, number, found = "", 0, []
    for line in text.splitlines():
        if match := MARKER.match(line):
            number, file = int(match[1]), match[2]
            continue
        found.append((file, number, line))
        number += 1
    return found


@pytest.mark.parametrize("entry", ENTRIES)
def test_markers_name_the_place_of_every_line(entry: str) -> None:
    files: dict[str, list[str]] = {}
    for file, number, line in places(flatten(bpf_dir() / entry)):
        lines = files.setdefault(file, Path(file).read_text().splitlines())
        assert lines[number - 1] == line
    assert len(files) > 10


@pytest.mark.parametrize("entry", ENTRIES)
def test_nothing_of_ours_is_included_any_more(entry: str) -> None:
    text = flatten(bpf_dir() / entry)
    assert not re.search(r'^\s*#\s*include\s+"', text, flags=re.M)
    assert text.count("enum mesh_reason {") == 1


def test_every_line_once(tree: Path) -> None:
    """A header that two files include comes where the first of them does."""
    (tree / "lib" / "base.h").write_text("int base;\n")
    (tree / "lib" / "one.h").write_text('#include "lib/base.h"\nint one;\n')
    (tree / "main.c").write_text(
        '#include <linux/types.h>\n#include "lib/one.h"\n#include "lib/base.h"\nint main;\n'
    )
    found = places(flatten(tree / "main.c"))
    assert [(Path(file).name, number, line) for file, number, line in found] == [
        ("main.c", 1, "#include <linux/types.h>"),
        ("base.h", 1, "int base;"),
        ("one.h", 2, "int one;"),
        ("main.c", 4, "int main;"),
    ]


def test_a_circle_ends(tree: Path) -> None:
    (tree / "lib" / "a.h").write_text('#include "lib/b.h"\nint a;\n')
    (tree / "lib" / "b.h").write_text('#include "lib/a.h"\nint b;\n')
    (tree / "main.c").write_text('#include "lib/a.h"\n')
    assert [line for _, _, line in places(flatten(tree / "main.c"))] == ["int b;", "int a;"]


def test_a_missing_header_is_an_error(tree: Path) -> None:
    (tree / "main.c").write_text('#include "lib/none.h"\n')
    with pytest.raises((FileNotFoundError, MeshError), match=re.escape("lib/none.h")):
        flatten(tree / "main.c")


def test_the_kernel_keeps_the_whole_name_of_a_program() -> None:
    assert [one.name for one in MESH if len(one.name) > 15] == []  # BPF_OBJ_NAME_LEN
