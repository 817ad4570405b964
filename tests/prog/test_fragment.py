# SPDX-License-Identifier: BSD-2-Clause
"""What is remembered of fragments, and how long: until the kernel makes room for others."""

import pytest

from ebpfmesh._abi import Count
from prog import table_fragment
from prog.lab import LIMITS, TC, Lab, peer
from prog.rows import check
from support.packets import fragments, sent, udp

A, B = peer("a"), peer("b")


def test_a_datagram_of_one_fragment_leaves_nothing(lab: Lab) -> None:
    rows = [row for row in table_fragment.ROWS if "atomic" in row.text]
    for row in rows:
        check(lab, TC, row)
    assert len(rows) == 4
    assert lab.maps["mesh_fragment"].count() == 0


@pytest.mark.parametrize("v", [4, 6])
def test_a_first_fragment_is_remembered_once(lab: Lab, v: int) -> None:
    before = lab.counts()[Count.FRAGMENT_MADE]
    for part in fragments(udp(v, A, B, 1000, 53, bytes(2000)), 1024, 1480):
        assert lab.run(TC, "a", bytes(sent(A, part))).verdict == "forward"
    assert lab.maps["mesh_fragment"].count() == 1
    assert lab.counts()[Count.FRAGMENT_MADE] == before + 1


def test_many_datagrams_at_a_time(lab: Lab) -> None:
    """A flood of first fragments ends none of its flows, and the last ones are complete."""
    whole = udp(4, A, B, 1000, 53, bytes(2000))
    for number in range(3 * LIMITS.fragments):
        first, last = fragments(whole, 1480, identifier=number)
        assert lab.run(TC, "a", bytes(sent(A, first))).verdict == "forward"
        assert lab.run(TC, "a", bytes(sent(A, last))).verdict == "forward"
    assert 0 < lab.maps["mesh_fragment"].count() <= LIMITS.fragments
