# SPDX-License-Identifier: BSD-2-Clause
"""Hostile sources: each refused for what it does, at its line, and nothing stays behind."""

import gc
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpfmesh.errors import FunctionRefused
from ebpfmesh.inject.budget import Budget
from ebpfmesh.inject.build import build
from prog.table_hostile import FRIENDLY, HOSTILE, Row
from support.inject import write

MARK = "//!"


def held() -> set[str]:
    """Descriptors of this process: a map or program that nobody holds, and no pin, is gone."""
    return {path.name for path in Path("/proc/self/fd").iterdir()}


@pytest.fixture
def _nothing_left(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Logs are in a directory of its own: others refuse sources of that name at the same time."""
    logs = tmp_path_factory.mktemp("logs")
    monkeypatch.setattr(tempfile, "tempdir", str(logs))
    gc.collect()  # what others left is closed by now
    before = held()
    yield
    assert held() == before
    assert list(logs.iterdir()) == []


@pytest.mark.usefixtures("_nothing_left")
@pytest.mark.parametrize("row", HOSTILE, ids=lambda row: row.name.replace(" ", "-"))
def test_it_is_refused(tmp_path: Path, row: Row) -> None:
    file = write(tmp_path, row.text)
    lines = file.read_text().splitlines()
    marked = [number for number, line in enumerate(lines, 1) if line.endswith(MARK)]
    with pytest.raises(FunctionRefused) as error, build(file, hook=row.hook):
        pass
    refused = error.value
    if refused.log:
        assert f"the whole log is in {refused.log}" in refused.hint
        assert refused.log.read_text()
        refused.log.unlink()
    assert row.why in refused.message
    if marked:
        assert refused.message.startswith(f"{file}:{marked[-1]}: ")
    assert len(refused.message) < 600
    assert "root:" not in refused.message


@pytest.mark.parametrize("hook", ["tc", "xdp"])
@pytest.mark.parametrize("name", FRIENDLY)
@pytest.mark.usefixtures("_nothing_left")
def test_a_friend_is_taken(tmp_path: Path, name: str, hook: str) -> None:
    """Whatever time it takes: on a busy machine some take more than they may."""
    patient = Budget(ns_median=100_000, ns_worst=100_000)
    with build(write(tmp_path, FRIENDLY[name]), hook=hook, budget=patient) as built:
        assert built.figures.verified
