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


def change(old: tuple[str, ...], after: dict[str, int], size: int) -> tuple[str, ...]:
    """Who owns the slots that ``old`` owned, once these are the backends and their weights."""
    names, weights = tuple(after), tuple(after.values())
    fresh = maglev.table(names, weights, size)
    found = maglev.nearest([names.index(n) if n in after else -1 for n in old], fresh, weights)
    return tuple(names[slot] for slot in found)


def owners(backends: dict[str, int], size: int) -> tuple[str, ...]:
    names = tuple(backends)
    return tuple(names[slot] for slot in maglev.table(names, tuple(backends.values()), size))


@pytest.mark.parametrize("number", [2, 3, 7, 10, 31, 63, 200, 1000])
def test_who_goes_takes_nobody_elses_slots(number: int) -> None:
    """Only flows that it had move; when it comes back it has them again, but for a slot."""
    backends = {f"decode-{i}": 1 for i in range(number)}
    size = maglev.size_of(maglev.rows_for([1] * number))
    before = owners(backends, size)
    for gone in list(backends)[:: max(number // 10, 1)]:
        rest = {name: 1 for name in backends if name != gone}
        after = change(before, rest, size)
        assert [a for a in before if a != gone] == [
            b for a, b in zip(before, after, strict=True) if a != gone
        ]
        counted = Counter(after)
        assert max(counted.values()) - min(counted.values()) <= 1
        back = change(after, backends, size)
        assert sum(a != b for a, b in zip(before, back, strict=True)) <= 1


@given(
    st.lists(st.dictionaries(st.sampled_from("abcdefghij"), st.integers(0, 5), min_size=1)
             .filter(lambda weights: any(weights.values())), min_size=2, max_size=6)
)  # fmt: skip
@settings(deadline=None)
def test_no_slot_moves_that_need_not(steps: list[dict[str, int]]) -> None:
    """However a service changes: each backend has its part, and gives away no more than it must."""
    size = maglev.size_of(1)
    now = owners(steps[0], size)
    for after in steps[1:]:
        then = change(now, after, size)
        had, has = Counter(now), Counter(then)
        wanted = owners(after, size)
        shares = {
            w: sorted(Counter(wanted)[n] for n in after if after[n] == w)
            for w in set(after.values())
        }
        for weight, counts in shares.items():
            assert sorted(has[n] for n in after if after[n] == weight) == counts
        for name in had:
            kept = sum(a == b == name for a, b in zip(now, then, strict=True))
            assert kept == min(had[name], has[name])
        now = then


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
