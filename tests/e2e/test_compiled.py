# SPDX-License-Identifier: BSD-2-Clause
"""Programs that are kept between meshes: beside the installation, or where a variable says."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpfmesh.compile import compiled
from support.command import complaint, data, ebpfmesh, lines
from support.topology import leftovers, poll

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


@contextlib.contextmanager
def mounted(place: Path, options: str) -> Iterator[None]:
    """An empty file system, in the mount namespace of the tests."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The place beside the installation, with nothing there."""
    monkeypatch.delenv(compiled.VARIABLE, raising=False)
    with mounted(compiled.BESIDE.parent, "mode=755"):
        yield compiled.BESIDE


def carried(file: Path, **environment: str) -> None:
    """A mesh with such an environment carries, and goes."""
    ebpfmesh("up", file, **environment)
    try:
        ebpfmesh("exec", "one", "--", "ping", "-c", "1", "-W", "20", "two")
    finally:
        ebpfmesh("down")


def test_the_next_mesh_takes_what_was_kept(file: Path, kept: Path) -> None:
    """What does not load is named; without it the programs are compiled and kept again."""
    before = leftovers()
    carried(file, EBPFMESH_COMPILED=str(kept))
    first = sorted(kept.rglob("mesh_*"))
    assert {"mesh_slow_fn", "mesh_from_fn"} < {one.name for one in first}
    times = [one.stat().st_mtime_ns for one in first]
    carried(file, EBPFMESH_COMPILED=str(kept))
    assert [one.stat().st_mtime_ns for one in sorted(kept.rglob("mesh_*"))] == times
    (slow,) = kept.rglob("mesh_slow_fn")
    slow.write_bytes(bytes(8))
    error, hint = complaint("up", file, code=1, EBPFMESH_COMPILED=str(kept))
    assert error.startswith(f"mesh_slow.c was refused: remove {slow}, it does not load: ")
    Path(hint.rpartition(" ")[2]).unlink()
    assert poll(lambda: leftovers() == before), leftovers() ^ before
    slow.unlink()
    carried(file, EBPFMESH_COMPILED=str(kept))
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
    assert poll(lambda: leftovers() == before), leftovers() ^ before
    assert list(kept.iterdir()) == []


def test_a_file_is_no_place_to_keep_programs(file: Path) -> None:
    before = leftovers()
    for words in (("up", file), ("compile",)):
        error, hint = complaint(*words, code=2, EBPFMESH_COMPILED=str(file))
        assert error == f"EBPFMESH_COMPILED={file}: not a directory"
        assert hint == "one that is not there yet is made"
    assert poll(lambda: leftovers() == before), leftovers() ^ before


def test_what_cannot_be_kept_is_compiled(file: Path, kept: Path) -> None:
    with mounted(kept, "ro,mode=755"):
        carried(file, EBPFMESH_COMPILED=str(kept))
        assert list(kept.iterdir()) == []


def test_whatever_the_umask_nobody_else_may_write(file: Path, kept: Path) -> None:
    mask = os.umask(0)
    try:
        for _ in range(2):
            carried(file, EBPFMESH_COMPILED=str(kept))
    finally:
        os.umask(mask)


def test_programs_are_compiled_ahead(file: Path, beside: Path) -> None:
    """All that a mesh loads, once; every ``up`` takes them, and compiles where there are none."""
    before = leftovers()
    carried(file)
    assert not beside.exists(), "nobody asked for it"
    *programs, place = lines("compile")
    assert place == f"kept in {beside}"
    wanted = ("mesh_slow_fn", "mesh_from_fn", "mesh_chain_end", "mesh_chain_leave_write")
    assert {f"+ program {name}" for name in wanted} < set(programs)
    assert lines("compile") == [f"nothing to do: all are kept in {beside}"]
    counting = file.with_name("counting.toml")
    counting.write_text(TEXT.replace("[mesh]", "[mesh]\ncount_flows = true"))
    for text in (file, counting):
        kept = sorted(beside.rglob("*"))
        carried(text)
        assert sorted(beside.rglob("*")) == kept
    both = list(beside.rglob("mesh_slow_fn"))
    assert len(both) == 2, "one counts flows"
    for slow in both:
        slow.write_bytes(bytes(8))
    refused = set()
    for text in (file, counting):
        error, hint = complaint("up", text, code=1)
        refused |= {slow for slow in both if f": remove {slow}, it does not load: " in error}
        Path(hint.rpartition(" ")[2]).unlink()
    assert refused == set(both)
    for slow in both:
        slow.unlink()
    assert data("compile") == {"directory": str(beside), "compiled": ["mesh_slow_fn"]}
    assert poll(lambda: leftovers() == before), leftovers() ^ before


def test_programs_can_be_compiled_for_nowhere(kept: Path) -> None:
    error, hint = complaint("compile", code=2, EBPFMESH_COMPILED="")
    assert error == "EBPFMESH_COMPILED is empty: programs are kept nowhere"
    assert hint == "unset it, or have it name a directory"
    with mounted(kept, "size=8k,mode=755"):
        error, hint = complaint("compile", code=1, EBPFMESH_COMPILED=str(kept))
        assert error.startswith(f"{kept}: the programs of mesh_slow.c, ")
        assert error.endswith(" could not be kept")
        assert hint == "is it full, or read-only?"


def test_without_a_compiler_no_place_is_made(kept: Path, tmp_path: Path) -> None:
    (tmp_path / "bcc.py").write_text('raise ImportError("not on this machine")')
    words = {"EBPFMESH_COMPILED": str(kept), "PYTHONPATH": str(tmp_path)}
    error, hint = complaint("compile", code=5, **words)
    assert error == "BCC is not installed: not on this machine"
    assert "python3-bpfcc" in hint
    assert not kept.exists()
    kept.mkdir()
    complaint("compile", code=5, **words)
    assert kept.exists(), "it was there before"
