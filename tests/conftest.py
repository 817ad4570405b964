# SPDX-License-Identifier: BSD-2-Clause
"""What all tiers share: markers, the sandbox of the kernel tiers, and the check for leftovers.

hypothesis tries the same examples each time, however long one takes.

A test's directory is its tier. The tests of all tiers but unit run in one sandbox: this process
moves into a network and a mount namespace of its own before the first of them. Where they cannot
run they are skipped with a reason; with EBPFMESH_REQUIRE_KERNEL=1 that is a failure instead.
"""

import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from ebpfmesh.kernel import netns, programs
from ebpfmesh.model import Mesh
from support import topology

TIERS = ("unit", "prog", "netns", "e2e", "equivalence")
HERE = Path(__file__).parent
LONG = (
    "netns/test_killed.py", "netns/test_lost.py", "netns/test_bench_run.py",
    "netns/test_upgrade.py", "netns/test_crash.py", "netns/test_full_run.py",
    "netns/test_stop.py", "netns/test_roll.py", "netns/test_soak.py", "netns/test_meddling.py",
    "netns/test_bench_paths.py", "netns/test_breaker.py",
    "e2e/test_chaos.py", "e2e/test_examples.py", "e2e/test_compiled.py", "e2e/test_lifecycle.py",
)  # fmt: skip
"""Files that take longest, which come first: at the end a worker would be alone with one."""
settings.register_profile(
    "steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")


def _stay_inside(event: str, details: tuple[Any, ...]) -> None:
    """No packet of ours on the machine's own interfaces: scapy asks by ARP for a MAC left out."""
    packets = event == "socket.__new__" and details[1] == socket.AF_PACKET
    if packets and topology.SESSION not in os.environ:
        sys.exit("a packet socket outside of the sandbox")  # scapy would catch an Exception


sys.addaudithook(_stay_inside)


def tier(item: pytest.Item) -> str:
    parts = item.path.relative_to(HERE).parts
    return parts[0] if parts[0] in TIERS else "unit"


def needs_kernel(item: pytest.Item) -> bool:
    return tier(item) != "unit"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(getattr(pytest.mark, tier(item)))
    turn = {HERE / name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: turn.get(item.path, len(LONG)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if needs_kernel(item) and (reason := topology.cannot_run()):
        topology.unavailable(reason)


@pytest.fixture(scope="session", autouse=True)
def _sandbox(request: pytest.FixtureRequest) -> None:
    """Enter the sandbox if a test of this session needs it; there is no way back."""
    if any(needs_kernel(item) for item in request.session.items) and not topology.cannot_run():
        os.environ[topology.SESSION] = str(os.getpid())  # marks every process we start
        netns.enter_sandbox()


@pytest.fixture(scope="module", autouse=True)
def _module_leaves_nothing(request: pytest.FixtureRequest, _sandbox: None) -> Iterator[None]:
    yield from _leaves_nothing(request.node.path)


@pytest.fixture(autouse=True)
def _test_leaves_nothing(request: pytest.FixtureRequest, _sandbox: None) -> Iterator[None]:
    """What is there after a test was there before it; a module's own mesh is."""
    yield from _leaves_nothing(request.node.path)


def _leaves_nothing(path: Path) -> Iterator[None]:
    if path.relative_to(HERE).parts[0] not in TIERS[1:] or topology.cannot_run():
        yield
        return
    before = topology.leftovers()
    yield
    left: set[str] = set()

    def clean() -> bool:
        left.clear()
        left.update(item for item in topology.leftovers() - before if _is_new(item, before))
        return not left

    if not topology.poll(clean):
        topology.clear(before)
        pytest.fail(f"left behind: {', '.join(sorted(left))}")


@pytest.fixture
def mesh_up() -> Iterator[Callable[[Mesh | str], Mesh]]:
    """Bring a mesh up, given as model or as the text of a mesh file; it is down after the test."""
    with ExitStack() as stack:
        yield lambda wanted: stack.enter_context(topology.running(wanted))


def _is_new(item: str, before: set[str]) -> bool:
    """Whether it was not there before; a process that has executed something else meanwhile was."""
    if item.startswith("process "):
        return not any(one.split()[:2] == item.split()[:2] for one in before)
    return not _of_sockets(item, before)


def _of_sockets(item: str, before: set[str]) -> bool:
    """Whether it is a pin that a mesh got with its first service, of one that was there before."""
    if not item.startswith("pin "):
        return False
    pin = Path(item.removeprefix("pin "))
    mesh = f"pin {pin.parents[1]}/"
    return pin.name in {program.name for program in programs.AT_SOCKETS} and any(
        one.startswith(mesh) for one in before
    )
