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
    return table(backends, maglev.size_of(maglev.rows_for([1] * len(backends))))


def table(backends: tuple[str, ...], size: int) -> tuple[int, ...]:
    """The table of backends that are all alike."""
    return maglev.table(backends, (1,) * len(backends), size)


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


def moved(backends: tuple[str, ...], gone: str) -> float:
    """What part of the others' slots changes its owner when one backend goes."""
    rest = tuple(name for name in backends if name != gone)
    size = maglev.size_of(maglev.rows_for([1] * len(backends)))
    before, after = table(backends, size), table(rest, size)
    pairs = [(backends[a], rest[b]) for a, b in zip(before, after, strict=True)]
    others = [a != b for a, b in pairs if a != gone]
    return sum(others) / len(others)


@given(NAMES.filter(lambda names: len(names) > 1), st.data())
@settings(deadline=None)
def test_who_goes_takes_few_with_it(backends: tuple[str, ...], data: st.DataObject) -> None:
    """Slots of those that stay keep their owner, but for a part, however bad the luck."""
    assert moved(backends, data.draw(st.sampled_from(backends))) <= 1 / len(backends) + 0.1


@pytest.mark.parametrize("number", [2, 3, 7, 10, 31, 63])
def test_disruption_on_average(number: int) -> None:
    """Of n backends one goes: on average about 1/n of the others' flows move, or fewer."""
    backends = tuple(f"decode-{i}" for i in range(number))
    parts = [moved(backends, gone) for gone in backends]
    assert sum(parts) / number <= 1 / number + 0.03


WEIGHTS = st.lists(st.integers(0, 100), min_size=1, max_size=12)


@given(WEIGHTS)
@settings(deadline=None)
def test_shares_are_as_weights(weights: list[int]) -> None:
    backends = tuple(f"decode-{i}" for i in range(len(weights)))
    rows = maglev.rows_for(weights)
    slots = maglev.table(backends, tuple(weights), maglev.size_of(rows))
    counted = Counter(slots)
    assert bool(slots) == any(weights)
    for backend, weight in enumerate(weights):
        due = len(slots) * weight / (sum(weights) or 1)
        assert abs(counted[backend] - due) <= 1.5 + len(weights) / 2
        assert bool(counted[backend]) == bool(weight)


def test_a_weight_that_changes_moves_few() -> None:
    """Drained or halved, a backend gives its slots away; the others keep most of theirs."""
    backends = tuple(f"decode-{i}" for i in range(5))
    size = maglev.size_of(1)
    before = maglev.table(backends, (2, 2, 2, 2, 2), size)
    for weight in (0, 1):
        after = maglev.table(backends, (weight, 2, 2, 2, 2), size)
        others = [a != b for a, b in zip(before, after, strict=True) if a]
        assert sum(others) / len(others) < 0.2


@given(NAMES)
def test_the_same_names_make_the_same_table(backends: tuple[str, ...]) -> None:
    maglev.table.cache_clear()
    first = slots(backends)
    maglev.table.cache_clear()
    assert slots(backends) == first


def test_no_backend_no_slot() -> None:
    assert table((), 251) == ()


@given(st.integers(1, 20000))
def test_a_table_is_prime_and_fits_its_rows(backends: int) -> None:
    rows = maglev.rows_for([1] * backends)
    size = maglev.size_of(rows)
    assert size <= rows * MAGLEV_ROW
    assert size >= maglev.SLOTS_PER_BACKEND * backends
    assert all(size % divisor for divisor in range(2, int(size**0.5) + 1))
    assert rows == 1 or maglev.size_of(rows // 2) < maglev.SLOTS_PER_BACKEND * backends
