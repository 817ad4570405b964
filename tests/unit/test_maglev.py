# SPDX-License-Identifier: BSD-2-Clause
"""The table of a service: full, fair, and as good as the same after a change."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebpfmesh._abi import MAGLEV_ROW
from ebpfmesh.kernel import maglev

NAMES = st.lists(
    st.from_regex(r"\A[a-z][a-z0-9-]{0,20}[a-z0-9]\Z"), min_size=1, max_size=31, unique=True
).map(tuple)


def shares(backends: tuple[str, ...]) -> Counter[str]:
    """How many slots each backend has."""
    return Counter(backends[slot] for slot in slots(backends))


def slots(backends: tuple[str, ...]) -> tuple[int, ...]:
    """The table of the size that a service with so many backends has."""
    return maglev.table(backends, maglev.size_of(maglev.rows_for(len(backends))))


@given(NAMES)
def test_shares_differ_by_one_slot(backends: tuple[str, ...]) -> None:
    """They take turns, so nobody has more than a slot more than another."""
    counted = shares(backends)
    assert set(counted) == set(backends)
    assert max(counted.values()) - min(counted.values()) <= 1


@pytest.mark.parametrize("number", [32, 100, 500])
def test_shares_of_many(number: int) -> None:
    counted = shares(tuple(f"decode-{i}" for i in range(number)))
    assert len(counted) == number
    assert max(counted.values()) - min(counted.values()) <= 1
    assert min(counted.values()) >= maglev.SLOTS_PER_BACKEND


@given(NAMES.filter(lambda names: len(names) > 1), st.data())
@settings(deadline=None)
def test_who_goes_takes_few_with_it(backends: tuple[str, ...], data: st.DataObject) -> None:
    """Most slots of those that stay keep their owner, however bad the luck."""
    gone = data.draw(st.sampled_from(backends))
    rest = tuple(name for name in backends if name != gone)
    size = maglev.size_of(1)
    before, after = maglev.table(backends, size), maglev.table(rest, size)
    stayed = [(backends[a], rest[b]) for a, b in zip(before, after, strict=True)]
    moved = sum(1 for a, b in stayed if a not in (gone, b))
    assert moved < 0.5 * size


def test_disruption_on_average() -> None:
    """Of ten backends one goes: on average few of the other nine's slots move."""
    backends = tuple(f"decode-{i}" for i in range(10))
    size = maglev.size_of(1)
    before, moved = maglev.table(backends, size), 0
    for gone in backends:
        rest = tuple(name for name in backends if name != gone)
        after = maglev.table(rest, size)
        pairs = [(backends[a], rest[b]) for a, b in zip(before, after, strict=True)]
        moved += sum(1 for a, b in pairs if a not in (gone, b))
    assert moved / (10 * size) < 0.1


@given(NAMES)
def test_the_same_names_make_the_same_table(backends: tuple[str, ...]) -> None:
    maglev.table.cache_clear()
    first = slots(backends)
    maglev.table.cache_clear()
    assert slots(backends) == first


def test_no_backend_no_slot() -> None:
    assert maglev.table((), 251) == ()


@given(st.integers(1, 20000))
def test_a_table_is_prime_and_fits_its_rows(backends: int) -> None:
    rows = maglev.rows_for(backends)
    size = maglev.size_of(rows)
    assert size <= rows * MAGLEV_ROW
    assert size >= maglev.SLOTS_PER_BACKEND * backends
    assert all(size % divisor for divisor in range(2, int(size**0.5) + 1))
    assert rows == 1 or maglev.size_of(rows // 2) < maglev.SLOTS_PER_BACKEND * backends
