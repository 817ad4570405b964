# SPDX-License-Identifier: BSD-2-Clause
"""A signal ends a change at its next step at the latest, and never its undo."""

import ctypes
import os
import signal
from collections.abc import Iterator

import click
import pytest

from ebpfmesh.cli import interrupt, output
from ebpfmesh.cli.base import Settings

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def _handled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in interrupt.SIGNALS}
    monkeypatch.setattr(interrupt, "_seen", [])
    interrupt.install()
    with click.Context(click.Command("test"), obj=Settings(quiet=True)):
        yield
    for number, handler in before.items():
        signal.signal(number, handler)


@ctypes.CFUNCTYPE(None)
def swallowing() -> None:
    """C calls this, and does not care what it raises."""
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_it_is_raised_at_once(number: int, error: type[BaseException]) -> None:
    with pytest.raises(error):
        os.kill(os.getpid(), number)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_one_that_was_swallowed_is_raised_by_the_next_step() -> None:
    with output.steps("a change") as step:
        step("first")
        swallowing()
        with pytest.raises(KeyboardInterrupt):
            step("second")


def test_the_undo_is_not_interrupted() -> None:
    done = []
    with output.steps("a change") as step:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            for name in ("undo", "more"):
                os.kill(os.getpid(), signal.SIGINT)
                step(name)
                done.append(name)
    assert done == ["undo", "more"]
