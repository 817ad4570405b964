# SPDX-License-Identifier: BSD-2-Clause
"""How long a run takes: what a busy machine adds to a round is not the program's."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from ebpfmesh.inject import measure
from ebpfmesh.kernel import bpf


@pytest.mark.parametrize("hook", measure.RUNS)
def test_what_took_too_long_is_measured_again(monkeypatch: pytest.MonkeyPatch, hook: str) -> None:
    """Until it took less, or so often that it is the program's fault."""
    fewest, most, _ = measure.RUNS[hook]
    asked: list[int] = []

    def took(quick: int, slow: float = 9000) -> float:
        """Of a program whose rounds take ``slow`` nanoseconds a run before that one."""
        asked.clear()

        def run(*_: Any, repeat: int) -> SimpleNamespace:
            asked.append(repeat)
            return SimpleNamespace(duration_ns=slow if len(asked) < quick else 100)

        monkeypatch.setattr(measure.bpf, "prog_test_run", run)
        return measure._warm(cast(bpf.Fd, None), hook, b"", 500)

    assert (took(1), len(asked)) == (100, fewest)
    assert (took(most), len(asked)) == (100, most)
    assert (took(most + 1), len(asked)) == (9000, most)
    assert (took(most + 1, 60_000), len(asked)) == (60_000, fewest)  # not the machine
