# SPDX-License-Identifier: BSD-2-Clause
"""How the slots of flows are shared out among tenants."""

import pytest

from ebpfmesh._abi import RoomKind
from ebpfmesh.kernel import rooms
from ebpfmesh.kernel.rooms import KEYS, Region
from ebpfmesh.model import Limits, Share, Shares, guaranteed

KINDS = tuple(rooms.sizes(Limits()))
SMALLEST = Limits(flows=512, half_open=256, fragments=64)


def slots(region: Region) -> set[int]:
    return set(range(region.first, region.first + region.count))


@pytest.mark.parametrize("count", [0, 1, 2, 16, 24])
@pytest.mark.parametrize("limits", [Limits(), SMALLEST])
def test_regions_lie_side_by_side(limits: Limits, count: int) -> None:
    """No slot is two tenants' own, none is of two kinds, and next to none is nobody's."""
    drawn = rooms.draw(limits, range(1, count + 1))
    own = [slots(room.own) for room in drawn.values()]
    common = [slots(drawn[kind, 0].common) for kind in KINDS]
    seen = set().union(*own, *common)
    assert len(seen) == sum(map(len, own + common))
    total = sum(rooms.sizes(limits).values())
    assert seen <= set(range(total))
    if count:
        assert total - len(seen) < count * len(KINDS)


def test_a_lone_tenant_has_nearly_all() -> None:
    drawn = rooms.draw(Limits(), [3])
    for kind, size in rooms.sizes(Limits()).items():
        room = drawn[kind, 3]
        assert room.own.count + room.common.count >= size * 7 / 8


@pytest.mark.parametrize("kind", KINDS)
def test_each_tenant_has_as_much_as_any_other(kind: RoomKind) -> None:
    drawn = rooms.draw(Limits(), range(1, 17))
    (each,) = {drawn[kind, tenant].own.count for tenant in range(1, 17)}
    assert each >= rooms.sizes(Limits())[kind] // 40
    assert drawn[kind, 0].own.count >= each


def test_more_tenants_than_slots_have_some_together() -> None:
    drawn = rooms.draw(SMALLEST, range(1, 256))
    ends = rooms.sizes(SMALLEST)
    first = 0
    for kind in KINDS:
        for tenant in range(256):
            own = drawn[kind, tenant].own
            assert own.count >= 1
            assert slots(own) <= set(range(first, first + ends[kind]))
        first += ends[kind]


def test_a_guarantee_is_a_tenants_own_and_the_others_share_what_is_left() -> None:
    limits = Limits(flows=16384)
    shares = {2: Shares(flows=Share(guarantee=6000)), 4: Shares(flows=Share(guarantee=500))}
    drawn = rooms.draw(limits, range(1, 6), shares)
    own = {tenant: drawn[RoomKind.FLOW, tenant].own.count for tenant in range(6)}
    assert (own[0], own[2], own[4]) == (1024, 6000, 500)
    assert own[1] == own[3] == own[5] == 16384 // 16 // 3  # of the half less is left
    assert drawn[RoomKind.HALF, 2] == rooms.draw(limits, range(1, 6))[RoomKind.HALF, 2]


@pytest.mark.parametrize("count", [1, 5, 255])
@pytest.mark.parametrize("limits", [Limits(), SMALLEST])
def test_what_is_guaranteed_is_nobody_elses(limits: Limits, count: int) -> None:
    """As much as can be, whoever else there is; all of them have something."""
    most = {key: Share(guarantee=guaranteed(getattr(limits, key))) for key in KEYS.values()}
    drawn = rooms.draw(limits, range(1, count + 1), {count: Shares(**most)})
    for kind in KINDS:
        own = slots(drawn[kind, count].own)
        assert len(own) == most[KEYS[kind]].guarantee
        for (one, tenant), room in drawn.items():
            if one is kind and tenant != count:
                assert room.own.count
                assert own.isdisjoint(slots(room.own) | slots(room.common))


@pytest.mark.parametrize("maximum", [1, 500, 5000, 1 << 21])
def test_a_maximum_is_the_most_a_tenant_can_have(maximum: int) -> None:
    """Of two with one, neither keeps the other from the common slots that it may have."""
    limits, share = Limits(), Share(maximum=maximum)
    shares = {number: Shares(flows=share, fragments=share) for number in (1, 2)}
    drawn = rooms.draw(limits, range(1, 9), shares)
    free = rooms.draw(limits, range(1, 9))
    for kind in (RoomKind.FLOW, RoomKind.FRAGMENT):
        one, other = drawn[kind, 1], drawn[kind, 2]
        has = free[kind, 1].own.count + free[kind, 1].common.count
        assert one.own.count + one.common.count == min(maximum, has)
        assert slots(one.common) <= slots(drawn[kind, 3].common)
        if maximum == 5000 and kind is RoomKind.FLOW:
            assert slots(one.common).isdisjoint(slots(other.common))
