# SPDX-License-Identifier: BSD-2-Clause
"""Single frames at XDP of an uplink: whose source is denied is dropped, by any list of prefixes.

The oracle is the ipaddress module. Lists are made as `deny add` makes them, without a record.
"""

import ctypes
import random
import struct
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebpfmesh import _abi
from ebpfmesh._abi import Reason
from ebpfmesh.kernel import bpf, deny, interface
from ebpfmesh.kernel.deny import Entry
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.kernel.prefixes import block_of
from ebpfmesh.kernel.programs import DENY
from ebpfmesh.model import Address, Network
from prog.lab import NAME
from support.outside import beyond

DROP, PASS = 1, 2
ETHERNET = bytes.fromhex("0200000000010200000000990800")
IPV6 = ETHERNET[:12] + b"\x86\xdd"


class Denying:
    """The program, and the lists that it reads."""

    def __init__(self, ifindex: int, other: int) -> None:
        self.maps = Maps(Pins(NAME))
        self.program = bpf.obj_get(Pins(NAME).progs / DENY.name)
        self.ifindex, self.other = ifindex, other

    def run(self, frame: bytes, *, at: int = 0) -> int:
        """The verdict on a frame."""
        context = struct.pack("=6I", 0, len(frame), 0, at or self.ifindex, 0, 0)
        return bpf.prog_test_run(self.program, frame, context=context).verdict

    def drops(self, source: Address, *, at: int = 0) -> bool:
        return self.run(frame(source), at=at) == DROP

    def put(self, *prefixes: Network | str, own: tuple[Network | str, ...] = ()) -> None:
        """Deny these, and some at one uplink alone."""
        rows = [Entry(0, block_of(one)) for one in prefixes]
        deny.replace(self.maps, [*rows, *(Entry(self.ifindex, block_of(one)) for one in own)])

    def counted(self) -> dict[Reason, tuple[int, int]]:
        """Packets and bytes that were dropped, by reason."""
        rows = self.maps["mesh_xdp_drops"].filled()
        return {Reason(key.value): (drop.packets, drop.bytes) for key, drop in rows}


def ip4(source: object, *, total: int = 0, first: int = 0x45, rest: bytes = bytes(20)) -> bytes:
    """A packet of IPv4, from its first byte."""
    length = total or 20 + len(rest)
    packed = IPv4Address(str(source)).packed
    head = struct.pack("!BBHHHBBH4s4s", first, 0, length, 1, 0, 64, 17, 0, packed, bytes(4))
    return head + rest


def ip6(source: object, *, payload: int | None = None, first: int = 0x60) -> bytes:
    rest = bytes(20)
    length = len(rest) if payload is None else payload
    packed = IPv6Address(str(source)).packed
    return struct.pack("!B3xHBB16s16s", first, length, 17, 64, packed, bytes(16)) + rest


def frame(source: Address) -> bytes:
    return ETHERNET + ip4(source) if source.version == 4 else IPV6 + ip6(source)


@pytest.fixture(scope="module")
def denying(_lab: object) -> Iterator[Denying]:
    with beyond(0), beyond(1):
        found = interface.find("up0"), interface.find("up1")
        assert found[0]
        assert found[1]
        one = Denying(found[0], found[1])
        yield one
        deny.replace(one.maps, [])


@pytest.fixture(autouse=True)
def _nothing_counted(denying: Denying) -> None:
    for reason in Reason:
        denying.maps["mesh_xdp_drops"].set(ctypes.c_uint32(reason), _abi.Drop())


def test_nothing_is_dropped_while_nothing_is_denied(denying: Denying) -> None:
    denying.put()
    assert not denying.drops(ip_address("192.0.2.1"))
    assert not denying.drops(ip_address("2001:db8::1"))
    assert deny.current(denying.maps) == 0
    assert not denying.counted()


def around(network: Network) -> list[Address]:
    """Its first and last addresses, and those next to them."""
    first = int(network.network_address)
    last = first + network.num_addresses - 1
    kind = type(network.network_address)
    top = (1 << network.max_prefixlen) - 1
    return [kind(n) for n in (first - 1, first, last, last + 1) if 0 <= n <= top]


def prefix_of(rng: random.Random, version: int, length: int) -> Network:
    size = 32 if version == 4 else 128
    number = rng.getrandbits(length) << size - length if length else 0
    packed = number.to_bytes(size // 8)
    return ip_network((packed, length))


@pytest.mark.parametrize("count", [_abi.DENY_LENGTHS, 33])
def test_each_length_by_hashes_and_by_a_trie(denying: Denying, count: int) -> None:
    """So many lengths in a list, one after the other until all have been there."""
    rng = random.Random(count)
    lengths = {4: list(range(33)), 6: list(range(129))}
    for start in range(0, 129, count):
        listed = [
            prefix_of(rng, version, length)
            for version, known in lengths.items()
            for length in known[start : start + count]
        ]
        denying.put(*listed)
        for network in listed:
            for address in around(network):
                wanted = any(address in one for one in listed if one.version == address.version)
                assert denying.drops(address) == wanted, (address, network, listed)


PREFIXES4 = st.builds(
    lambda number, length: ip_network((number >> 32 - length << 32 - length, length)),
    st.integers(0, (1 << 32) - 1),
    st.integers(0, 32),
)
PREFIXES6 = st.builds(
    lambda number, length: ip_network(
        ((number >> 128 - length << 128 - length).to_bytes(16), length)
    ),
    st.integers(1 << 96, (1 << 128) - 1),
    st.integers(0, 128),
)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    everywhere=st.lists(st.one_of(PREFIXES4, PREFIXES6), max_size=12),
    own=st.lists(st.one_of(PREFIXES4, PREFIXES6), max_size=4),
    others=st.lists(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), max_size=8),
)
def test_any_lists_as_ipaddress_has_it(
    denying: Denying,
    everywhere: list[Network],
    own: list[Network],
    others: list[Address],
) -> None:
    denying.put(*set(everywhere), own=tuple(set(own)))
    asked = [address for network in (*everywhere, *own) for address in around(network)]
    for address in (*asked, *others):
        same = [one for one in everywhere if one.version == address.version]
        all_of = any(address in one for one in same)
        here = all_of or any(address in one for one in own if one.version == address.version)
        assert denying.drops(address) == here, address
        assert denying.drops(address, at=denying.other) == all_of, address


SOURCE, SOURCE6 = "192.0.2.7", "2001:db8::7"
TAG = ETHERNET[:12] + b"\x81\x00\x00\x05\x08\x00"
Case = tuple[str, Callable[[str, str], bytes], int, Reason | None]
CASES: tuple[Case, ...] = (
    ("a packet", lambda four, _: ETHERNET + ip4(four), DROP, Reason.DENIED),
    ("one of IPv6", lambda _, six: IPV6 + ip6(six), DROP, Reason.DENIED),
    ("with options", lambda four, _: ETHERNET + ip4(four, first=0x4F, rest=bytes(60)), DROP,
     Reason.DENIED),
    ("a fragment", lambda four, _: ETHERNET + ip4(four)[:6] + b"\x20\xb9" + ip4(four)[8:], DROP,
     Reason.DENIED),
    ("with padding", lambda four, _: ETHERNET + ip4(four) + bytes(40), DROP, Reason.DENIED),
    ("with a tag", lambda four, _: TAG + ip4(four), PASS, None),
    ("with two", lambda four, _: TAG[:12] + b"\x88\xa8\0\1" + TAG[12:] + ip4(four), PASS, None),
    ("ARP of it", lambda four, _: ETHERNET[:12] + b"\x08\x06" + ip4(four), PASS, None),
    ("a length of none", lambda _, __: ETHERNET[:12] + b"\x00\x20" + bytes(32), PASS, None),
)  # fmt: skip
MALFORMED: tuple[tuple[str, bytes], ...] = (
    ("no header", ETHERNET),
    ("half a header", ETHERNET + ip4("198.51.100.1")[:19]),
    ("a short header", ETHERNET + ip4("198.51.100.1", first=0x44)),
    ("another version", ETHERNET + ip4("198.51.100.1", first=0x65)),
    ("longer than its frame", ETHERNET + ip4("198.51.100.1", total=41)),
    ("shorter than its header", ETHERNET + ip4("198.51.100.1", total=19)),
    ("shorter than its options", ETHERNET + ip4("198.51.100.1", first=0x46, total=20)),
    ("no header of IPv6", IPV6),
    ("half of one", IPV6 + ip6("2001:db8:f::")[:39]),
    ("IPv4 as IPv6", IPV6 + ip6("2001:db8:f::", first=0x40)),
    ("longer IPv6", IPV6 + ip6("2001:db8:f::", payload=21)),
)


@pytest.mark.parametrize(("name", "make", "verdict", "reason"), CASES, ids=[c[0] for c in CASES])
def test_frames(
    denying: Denying,
    name: str,
    make: Callable[[str, str], bytes],
    verdict: int,
    reason: Reason | None,
) -> None:
    denying.put("192.0.2.0/24", "2001:db8::/48")
    for source, source6, wanted in (
        (SOURCE, SOURCE6, verdict),
        ("192.0.3.7", "2001:db8:f::7", PASS),
    ):
        assert denying.run(make(source, source6)) == wanted, name
    size = len(make(SOURCE, SOURCE6))
    assert denying.counted() == ({reason: (1, size)} if reason else {})


@pytest.mark.parametrize(("name", "sent"), MALFORMED, ids=[case[0] for case in MALFORMED])
def test_what_no_stack_takes_is_malformed(denying: Denying, name: str, sent: bytes) -> None:
    assert denying.run(sent) == DROP, name
    assert denying.counted() == {Reason.MALFORMED: (1, len(sent))}


def test_a_frame_in_fragments_is_counted_whole(denying: Denying) -> None:
    denying.put("192.0.2.0/24")
    whole = ETHERNET + ip4(SOURCE, rest=bytes(9000))
    assert denying.run(whole) == DROP
    assert denying.counted() == {Reason.DENIED: (1, len(whole))}
    assert denying.run(ETHERNET + ip4("192.0.3.7", rest=bytes(9000))) == PASS
    assert denying.run(ETHERNET + ip4("192.0.3.7", rest=bytes(9000), total=9021)) == DROP
    assert denying.counted()[Reason.MALFORMED] == (1, len(whole))


def test_a_packet_above_64_kib_has_no_length(denying: Denying) -> None:
    """As IPv4 GSO has it (iph_totlen() in linux/include/linux/ip.h)."""
    sent = bytearray(ETHERNET + ip4("192.0.3.7"))
    sent[16:18] = bytes(2)
    assert denying.run(bytes(sent)) == PASS


@pytest.mark.parametrize("lengths", [(24, 16), (24, 16, 12, 10, 9)], ids=["hash", "trie"])
def test_each_prefix_counts_its_own(denying: Denying, lengths: tuple[int, ...]) -> None:
    networks = [ip_network(f"{10 + n}.0.0.0/{length}") for n, length in enumerate(lengths)]
    denying.put(*networks)
    for number, network in enumerate(networks):
        for _ in range(number + 1):
            assert denying.drops(network.network_address)
    found = {entry.block.prefix: n for entry, n in deny.counts(denying.maps).items()}
    assert found == {network: n + 1 for n, network in enumerate(networks)}
    counted = deny.replace(denying.maps, [Entry(0, block_of(networks[0]))])
    assert {entry.block.prefix: n for entry, n in counted.items()} == found
    assert set(deny.counts(denying.maps).values()) == {0}


def test_the_filter_keeps_most_others_from_a_look_up(denying: Denying) -> None:
    """As many bits are set as it was reckoned with: few look-ups are in vain."""
    rng = random.Random(1)
    denying.put(*{prefix_of(rng, 4, 24) for _ in range(20_000)})
    slot = denying.maps["mesh_deny"].get(ctypes.c_uint32(0))
    assert slot is not None
    number = denying.maps["mesh_deny_bits"].get(slot)
    assert number is not None
    with bpf.map_by_id(number.value) as words:
        values = [value for _, value in bpf.map_items(words, 4, 8)]
    share = sum(int.from_bytes(value).bit_count() for value in values) / (64 * len(values))
    assert 0 < share < 0.25
