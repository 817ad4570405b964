# SPDX-License-Identifier: BSD-2-Clause
"""How the slots of flows are shared out among tenants."""

import pytest

from ebpfmesh._abi import RoomKind
from ebpfmesh.kernel import rooms
from ebpfmesh.kernel.rooms import Region
from ebpfmesh.model import Limits

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
