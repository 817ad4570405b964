# SPDX-License-Identifier: BSD-2-Clause
"""What people write into deny lists, and what they are told of lines that are wrong."""

from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfmesh.config import denied, parse_denied, read_denied
from ebpfmesh.errors import ConfigError
from ebpfmesh.kernel.deny import Entry, stamp
from ebpfmesh.kernel.prefixes import Block, block_of
from ebpfmesh.model import Invalid

FILE = Path("list.txt")
NETWORKS = st.one_of(
    st.tuples(st.integers(0, (1 << 32) - 1), st.integers(0, 32)).map(
        lambda both: ip_network((both[0] >> 32 - both[1] << 32 - both[1], both[1]))
    ),
    st.tuples(st.integers(1 << 64, (1 << 128) - 1), st.integers(0, 128)).map(
        lambda both: ip_network(((both[0] >> 128 - both[1] << 128 - both[1]).to_bytes(16), both[1]))
    ),
)


def test_a_list_as_it_is_published() -> None:
    lines = [
        "# from a feed\n",
        "\n",
        "192.0.2.7\n",
        "  198.51.100.0/24 # SBL1\r\n",
        "2001:db8::/32",
    ]
    wanted = {"192.0.2.7/32", "198.51.100.0/24", "2001:db8::/32"}
    assert {str(one) for one in read_denied(lines, FILE)} == wanted


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("example.com", '"example.com" is neither an address nor a prefix', "192.0.2.0/24"),
        ("192.0.2.0/33", "neither", "2001:db8::/32"),
        ("192.0.2", "neither", ""),
        ("192.0.2.1 192.0.2.2", "neither", ""),
        ("192.0.2.0-192.0.2.9", "neither", ""),
        ("192.0.2.7/24", "has bits after the prefix", 'mean "192.0.2.0/24", or "192.0.2.7"'),
        ("2001:db8::1/32", "has bits after the prefix", '"2001:db8::/32"'),
        ("::ffff:192.0.2.1", "IPv4-mapped", "as IPv4"),
        ("::ffff:0:0/96", "IPv4-mapped", "as IPv4"),
        ("\x1b[31m", "neither", ""),
    ],
)
def test_what_is_no_prefix_is_told_with_a_hint(text: str, message: str, hint: str) -> None:
    with pytest.raises(Invalid) as wrong:
        parse_denied(text)
    assert message in wrong.value.message
    assert hint in wrong.value.hint
    assert "\x1b" not in wrong.value.message
    with pytest.raises(ConfigError) as told:
        read_denied(["192.0.2.1\n", f"{text}\n"], FILE)
    assert told.value.message.startswith("list.txt:2: ")
    assert (told.value.exit_code, told.value.line) == (2, 2)


def test_all_lines_that_are_wrong_are_told_up_to_a_number() -> None:
    with pytest.raises(ConfigError) as told:
        read_denied(["x", "192.0.2.1", *(["y"] * 30)], FILE)
    lines = [told.value.line, *(one.line for one in told.value.others)]  # type: ignore[attr-defined]
    assert lines == [1, *range(3, 2 + denied.TOLD)]
    assert told.value.more == 31 - denied.TOLD


def test_what_is_too_long_or_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError) as told:
        read_denied(iter(lambda: "1" * 5000, ""), FILE)  # without an end
    assert "more than 4096 characters" in told.value.others[0].message  # type: ignore[attr-defined]
    monkeypatch.setattr(denied, "DENIED", 3)
    read_denied(["192.0.2.1"] * 9, FILE)
    with pytest.raises(ConfigError, match=r"list.txt:4: more than 3 prefixes"):
        read_denied((f"192.0.2.{n}" for n in range(1000)), FILE)
    monkeypatch.setattr(denied, "LINES", 3)
    with pytest.raises(ConfigError, match=r"list.txt:4: more than 3 lines"):
        read_denied(["#"] * 9, FILE)


@given(NETWORKS)
def test_a_prefix_comes_back_from_its_block(network: object) -> None:
    block = block_of(network)  # type: ignore[arg-type]
    assert block.prefix == network
    assert block.is4 == (network.version == 4)  # type: ignore[attr-defined]
    assert parse_denied(str(network)) == network


def test_lists_differ_by_their_stamps() -> None:
    one, other = (Entry(0, block_of(text)) for text in ("192.0.2.0/24", "192.0.2.0/25"))
    there = Entry(7, Block(*one.block))
    stamps = [stamp(rows) for rows in ([], [one], [other], [there], [one, other], [one, there])]
    assert len(set(stamps)) == len(stamps)
    assert 0 not in stamps
