# SPDX-License-Identifier: BSD-2-Clause
"""Programs that are kept between meshes, where EBPFMESH_COMPILED says."""

import os
import subprocess
from pathlib import Path

import pytest

from command import complaint, ebpfmesh
from topology import leftovers

TEXT = """
[mesh]
name = "kept"
[[function]]
name = "one"
[[function]]
name = "two"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "kept.toml"
    file.write_text(TEXT)
    return file


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Where programs are kept; no directory yet."""
    return tmp_path / "compiled"


def carried(file: Path, kept: Path) -> None:
    """A mesh with such a directory carries, and goes."""
    ebpfmesh("up", file, EBPFMESH_COMPILED=str(kept))
    try:
        ebpfmesh("exec", "one", "--", "ping", "-c", "1", "-W", "2", "two")
    finally:
        ebpfmesh("down")


def test_the_next_mesh_takes_what_was_kept(file: Path, kept: Path) -> None:
    """What does not load is named; without it the programs are compiled and kept again."""
    before = leftovers()
    carried(file, kept)
    first = sorted(kept.rglob("mesh_*"))
    assert {"mesh_slow_fn", "mesh_from_fn"} < {one.name for one in first}
    times = [one.stat().st_mtime_ns for one in first]
    carried(file, kept)
    assert [one.stat().st_mtime_ns for one in sorted(kept.rglob("mesh_*"))] == times
    (slow,) = kept.rglob("mesh_slow_fn")
    slow.write_bytes(bytes(8))
    error, hint = complaint("up", file, code=1, EBPFMESH_COMPILED=str(kept))
    assert error.startswith(f"mesh_slow.c was refused: remove {slow}, it does not load: ")
    Path(hint.rpartition(" ")[2]).unlink()
    assert leftovers() == before
    slow.unlink()
    carried(file, kept)
    assert sorted(kept.rglob("mesh_*")) == first


@pytest.mark.parametrize(("mode", "owner"), [(0o757, 0), (0o775, 0), (0o755, 65534)])
def test_nothing_is_kept_where_others_may_write(
    file: Path, kept: Path, mode: int, owner: int
) -> None:
    before = leftovers()
    kept.mkdir()
    kept.chmod(mode)
    os.chown(kept, owner, 0)
    error, hint = complaint("up", file, code=2, EBPFMESH_COMPILED=str(kept))
    assert error == f"EBPFMESH_COMPILED={kept}: others may write there"
    assert hint == f"chown root {kept}; chmod go-w {kept}"
    assert leftovers() == before
    assert list(kept.iterdir()) == []


def test_a_file_is_no_place_to_keep_programs(file: Path) -> None:
    before = leftovers()
    error, hint = complaint("up", file, code=2, EBPFMESH_COMPILED=str(file))
    assert error == f"EBPFMESH_COMPILED={file}: not a directory"
    assert hint == "one that is not there yet is made"
    assert leftovers() == before


def test_what_cannot_be_kept_is_compiled(file: Path, kept: Path) -> None:
    kept.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,mode=755", "none", kept], check=True)
    try:
        carried(file, kept)
        assert list(kept.iterdir()) == []
    finally:
        subprocess.run(["umount", kept], check=True)
