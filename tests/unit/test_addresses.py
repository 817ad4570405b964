# SPDX-License-Identifier: BSD-2-Clause
"""Which addresses functions get that were given none."""

import string
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ebpfmesh.config import assign_addresses
from ebpfmesh.model import Invalid

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("pool", [IPv4Network("198.18.0.0/16"), IPv6Network("2001:db8::/64")])
def test_a_name_moves_no_other(pool: IPv4Network | IPv6Network) -> None:
    names = [f"f-{number}" for number in range(200)]
    whole = assign_addresses(names, pool, set())
    assert len(set(whole.values())) == 200
    moved = 0
    for gone in names:
        rest = assign_addresses([name for name in names if name != gone], pool, set())
        moved += sum(rest[name] != whole[name] for name in rest)
    assert moved <= 2  # two names that want the same address
    assert assign_addresses(["f-7"], pool, set()) == {"f-7": whole["f-7"]}


def test_addresses_do_not_change() -> None:
    """Meshes that are up keep their addresses across releases."""
    assert assign_addresses(["decode-0"], IPv4Network("198.18.0.0/16"), ()) == {
        "decode-0": IPv4Address("198.18.4.31")
    }
    assert assign_addresses(["decode-0"], IPv6Network("2001:db8::/64"), ()) == {
        "decode-0": IPv6Address("2001:db8::ea4b:a59b")
    }


@given(
    st.integers(24, 32),
    st.sets(st.integers(0, 255), max_size=255),
    st.lists(st.text(string.ascii_lowercase, min_size=1), unique=True, max_size=260),
)
@settings(max_examples=60, deadline=None)
@example(30, set(), ["a", "b", "c"])
@example(24, set(range(1, 250)), list("abcde"))
def test_assigned_are_free(length: int, taken: set[int], names: list[str]) -> None:
    pool = IPv4Network(f"198.18.7.0/{length}")
    used = {IPv4Address("198.18.7.0") + offset for offset in taken}
    used |= {ip_address("2001:db8::1")}
    free = set(pool.hosts()) - used - {pool.network_address}
    if len(names) > len(free):
        with pytest.raises(Invalid, match=f"no address of {pool} is left") as caught:
            assign_addresses(names, pool, used)
        assert caught.value.path[0] in names
        return
    got = assign_addresses(names, pool, used)
    assert set(got) == set(names)
    assert len(set(got.values())) == len(names)
    assert set(got.values()) <= free


def test_full_pool_is_quick() -> None:
    pool = IPv4Network("198.18.0.0/16")
    used = {pool[offset] for offset in range(1, 40_000)}
    got = assign_addresses([f"f-{n}" for n in range(65_534 - len(used))], pool, used)
    assert len(set(got.values()) | used) == 65_534
