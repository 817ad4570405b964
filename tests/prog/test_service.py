# SPDX-License-Identifier: BSD-2-Clause
"""Which function of a service a new flow goes to."""

import ctypes
from collections import Counter

import pytest

from ebpfmesh import _abi
from ebpfmesh.kernel import maglev
from ebpfmesh.kernel.control import service_keys
from ebpfmesh.kernel.maps import maglev_rows
from packets import sent, tcp
from prog import changes
from prog.lab import MESH, TC, XDP_FN, Hook, Lab, peer, policy, service

A, WEB = peer("a"), service("web")
MACS = {peer(name).mac: name for name in "abcde"}
HOOKS = pytest.mark.parametrize("hook", [TC, XDP_FN], ids=["tc", "xdp"])


def chosen(lab: Lab, hook: Hook, v: int, port: int) -> str:
    """The function that a flow from this port reaches."""
    seen = lab.run(hook, "a", bytes(sent(A, tcp(v, A, WEB, port, 80))))
    assert seen.verdict == "forward"
    return MACS[seen.frame[:6].hex(":")]


@HOOKS
@pytest.mark.parametrize("v", [4, 6])
def test_flows_spread_evenly(lab: Lab, hook: Hook, v: int) -> None:
    """Each of three has a third, five standard deviations either way."""
    lab.change(changes.policies(policy("any", "service:web")))
    lab.change(changes.set_service("web", functions=("b", "c", "d")))
    flows = 450
    shares = Counter(chosen(lab, hook, v, 1024 + port) for port in range(flows))
    assert set(shares) == {"b", "c", "d"}
    assert all(abs(share - flows / 3) < 5 * (flows * 2 / 9) ** 0.5 for share in shares.values())


@HOOKS
def test_both_programs_choose_the_same(lab: Lab, hook: Hook) -> None:
    lab.change(changes.policies(policy("any", "service:web")))
    lab.change(changes.set_service("web", functions=("b", "c", "d")))
    first = [chosen(lab, TC, 4, port) for port in range(2000, 2050)]
    lab.forget_flows()
    assert [chosen(lab, hook, 4, port) for port in range(2000, 2050)] == first


@HOOKS
def test_a_function_more_takes_its_share_and_no_other(lab: Lab, hook: Hook) -> None:
    """New flows as the old ones: who does not move to the new function stays where it was."""
    lab.change(changes.policies(policy("any", "service:web")))
    lab.change(changes.set_service("web", functions=("b", "c")))
    before = {port: chosen(lab, hook, 4, port) for port in range(2000, 2200)}
    lab.change(changes.set_service("web", functions=("b", "c", "d")))
    lab.forget_flows()
    after = {port: chosen(lab, hook, 4, port) for port in before}
    assert "d" in after.values()
    moved = [port for port in before if after[port] not in (before[port], "d")]
    assert len(moved) < len(before) * 0.1


@HOOKS
def test_a_table_of_several_rows(lab: Lab, hook: Hook) -> None:
    """Slots past the first row are found in the next: a row of b, and a row of c."""
    lab.change(changes.policies(policy("any", "service:web")))
    rows = 2
    first = maglev_rows(MESH.limits) - rows
    for number, name in enumerate(("b", "c")):
        row = _abi.MaglevRow()
        row.function[:] = [lab.ids[name]] * _abi.MAGLEV_ROW
        lab.maps["mesh_maglev"].set(ctypes.c_uint32(first + number), row)
    for key in service_keys(MESH.service("web")):
        value = lab.maps["mesh_service"].get(key)
        value.row, value.size = first, maglev.size_of(rows)
        lab.maps["mesh_service"].set(key, value)
    shares = Counter(chosen(lab, hook, 4, port) for port in range(2000, 2200))
    lab.change(changes.set_service("web", functions=("c",)))  # its own table again
    assert set(shares) == {"b", "c"}
    assert min(shares.values()) > 60
