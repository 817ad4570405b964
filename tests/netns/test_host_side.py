# SPDX-License-Identifier: BSD-2-Clause
"""What the host sends meets mesh_to_fn or nothing; and grace periods, expedited for a change."""

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from ebpfmesh import apply
from ebpfmesh.kernel import links, rcu
from ebpfmesh.model import Mesh
from ebpfmesh.observe import machine
from support import topology
from support.meshes import function, mesh_file, rule
from support.outside import addressed
from support.topology import in_fn, mesh_of, running

MESH = mesh_file("side", function("a"), rule("outside", "function:a"))
EXPEDITED = MESH.replace('name = "side"', 'name = "side"\nexpedited = true')


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    """With addresses of the host's own, which it sends from."""
    with addressed("198.19.0.9", "2001:db8:9::9"), running(MESH) as mesh:
        yield mesh


def host_link() -> str:
    with apply.opened("side") as live:
        row = live.record.function("a")
        assert row is not None
        return row.attachment.interface


def reaches(mesh: Mesh, wait: str = "20") -> list[bool]:
    return [
        subprocess.run(
            ["ping", "-c", "1", "-W", wait, str(address)], capture_output=True, check=False
        ).returncode == 0
        for address in mesh.function("a").addresses
    ]  # fmt: skip


def heard(mesh: Mesh) -> int:
    """Echo requests that the function's stack took for its own, answered or not."""
    shown = in_fn(mesh, "a", ["cat", "/proc/net/snmp", "/proc/net/snmp6"]).stdout
    names, values, *_ = [row.split() for row in shown.splitlines() if row.startswith("Icmp: ")]
    six = next(row.split()[1] for row in shown.splitlines() if row.startswith("Icmp6InEchos "))
    return int(values[names.index("InEchos")]) + int(six)


def test_without_its_program_the_hosts_packets_are_another_ones(mesh: Mesh) -> None:
    """Whoever deletes the qdisc of the filter opens nothing; `up` brings it back."""
    assert reaches(mesh) == [True, True]
    subprocess.run(["tc", "qdisc", "del", "dev", host_link(), "clsact"], check=True)
    before = heard(mesh)
    assert reaches(mesh, "0.3") == [False, False]
    assert heard(mesh) == before
    with apply.opened("side") as live:
        assert live.functions.broken() == ["a"]
    apply.up(mesh)
    assert reaches(mesh) == [True, True]


def test_packets_of_functions_are_on_a_link(mesh: Mesh) -> None:
    if not links.has_tcx():
        topology.unavailable("the kernel has no TCX")
    with apply.opened("side") as live:
        row = live.record.function("a")
        assert row is not None
        there = list(links.programs(live.ip, row.attachment.ifindex))
    assert [(one.name, one.how) for one in there] == [
        ("mesh_from_fn", "TCX link"),
        ("mesh_to_fn", "clsact filter"),
    ]
    in_fn(mesh, "a", ["ping", "-c", 1, "-W", 20, "a"])


def expedited() -> bool:
    return rcu.SETTING.read_text().strip() == "1"


def test_expedited_for_the_length_of_a_change() -> None:
    seen: list[bool] = []
    mesh = mesh_of(EXPEDITED)
    assert not expedited()
    apply.up(mesh, lambda _step: seen.append(expedited()))
    assert any(seen)
    assert not expedited()
    seen.clear()
    apply.down(mesh.name, lambda _step: seen.append(expedited()))
    assert any(seen)
    assert not expedited()
    assert not rcu.KEPT.exists()


@pytest.mark.parametrize("mend", ["gc", "up"])
def test_a_kill_leaves_nothing_expedited(mend: str) -> None:
    mesh = mesh_of(EXPEDITED)

    def die(_step: str) -> None:
        if expedited():
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        apply.up(mesh, die)
        os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert expedited()
    [hint] = [check.hint for check in machine.check() if "rcu_expedited" in check.text]
    assert "gc" in hint
    if mend == "gc":
        assert "expedited grace periods" in apply.gc()
    else:
        apply.up(mesh)
    assert not expedited()
    assert not rcu.is_left()
    apply.down(mesh.name)


def test_another_that_still_wants_it_keeps_it() -> None:
    with rcu.expedited(True):
        with rcu.expedited(True):
            assert expedited()
        assert expedited()
        assert not rcu.is_left()
        assert not rcu.put_back()
    assert not expedited()
    with rcu.expedited(False):
        assert not expedited()
