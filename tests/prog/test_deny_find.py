# SPDX-License-Identifier: BSD-2-Clause
"""The entry that `policy test` finds is the one by which the data path drops, and none else is."""

import random

import pytest

from ebpfmesh import _abi
from ebpfmesh.kernel import deny
from ebpfmesh.kernel.deny import Entry
from ebpfmesh.model import Address
from prog.test_deny import Denying, around, prefix_of
from prog.test_deny import denying as denying  # noqa: PLC0414  (a fixture)


def counts_for(denying: Denying, address: Address, at: int) -> set[Entry]:
    """The entries for which a packet from there is counted as dropped."""
    before = deny.counts(denying.maps)
    dropped = denying.drops(address, at=at)
    counted = {one for one, n in deny.counts(denying.maps).items() if n != before[one]}
    assert dropped == bool(counted)
    return counted


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("count", [1, _abi.DENY_LENGTHS, _abi.DENY_LENGTHS + 3])
def test_it_is_the_one_that_counts(denying: Denying, version: int, count: int) -> None:
    """With so many lengths, each a part of the one before where that can be."""
    rng = random.Random(version * 100 + count)
    top = 32 if version == 4 else 128
    for _ in range(8):
        lengths = sorted(rng.sample(range(4, top + 1), count))
        last = prefix_of(rng, version, lengths[-1])
        nested = [last.supernet(new_prefix=length) for length in lengths]
        everywhere, own = nested[::2], nested[1::2] + nested[:1]
        denying.put(*everywhere, own=tuple(own))
        for address in around(nested[-1]) + around(nested[0]):
            for at in (denying.ifindex, denying.other):
                found = deny.find(denying.maps, at, address)
                assert counts_for(denying, address, at) == ({found} if found else set())


@pytest.mark.parametrize("version", [4, 6])
def test_where_nothing_is_denied_nothing_is_found(denying: Denying, version: int) -> None:
    denying.put()
    address = around(prefix_of(random.Random(1), version, 20))[0]
    assert deny.find(denying.maps, denying.ifindex, address) is None
    other = prefix_of(random.Random(1), 10 - version, 0)
    denying.put(other)
    assert deny.find(denying.maps, denying.ifindex, address) is None
