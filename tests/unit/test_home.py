# SPDX-License-Identifier: BSD-2-Clause
"""Which meshes are described where boot finds them."""

from pathlib import Path

import pytest

from ebpfmesh.config import home
from ebpfmesh.errors import NotFound, UsageError

pytestmark = pytest.mark.unit


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One mesh in a file, one in a directory, and what is neither."""
    for name in ("edge.toml", "core/a.toml", "functions/greeter.c", "notes.txt", ".x.toml"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv(home.OTHER, str(tmp_path))
    return tmp_path


def test_files_and_directories_are_meshes(etc: Path) -> None:
    assert home.described() == {"core": etc / "core", "edge": etc / "edge.toml"}
    assert home.described("core") == {"core": etc / "core"}


def test_one_that_is_not_described(etc: Path) -> None:
    with pytest.raises(NotFound, match=f"{etc} describes no mesh egde") as told:
        home.described("egde")
    assert told.value.hint == 'did you mean "edge"?'


@pytest.mark.parametrize("place", [".", "edge.toml", "core", "core/a.toml"])
def test_one_that_others_may_write(etc: Path, place: str) -> None:
    (etc / place).chmod(0o777)
    with pytest.raises(UsageError, match="others may write there"):
        home.described("edge")


def test_one_that_is_described_twice(etc: Path) -> None:
    (etc / "core.toml").touch()
    with pytest.raises(UsageError, match="are mesh core"):
        home.described("edge")


@pytest.mark.parametrize("there", [True, False])
def test_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setenv(home.OTHER, str(tmp_path if there else tmp_path / "none"))
    with pytest.raises(UsageError, match="no FILE is given") as told:
        home.described()
    assert str(tmp_path) in told.value.hint


def test_it_is_called_as_the_mesh_is(etc: Path) -> None:
    home.check_name(etc / "edge.toml", "edge")
    home.check_name(etc / "core", "core")
    for path in (etc / "edge.toml", etc / "core"):
        with pytest.raises(UsageError, match=r"is about mesh other, not (edge|core)"):
            home.check_name(path, "other")
