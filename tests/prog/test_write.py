# SPDX-License-Identifier: BSD-2-Clause
"""Writes into a payload that a function asks for: exactly those bytes, and right checksums.

The function writes what its parameters say. What a packet should have become is what scapy builds,
with every checksum of its own.
"""

import ctypes
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from ebpfmesh import _abi, apply
from ebpfmesh._abi import Direction, InjectedAction, InjectedVerdict, Unwritten
from ebpfmesh.compile import compiled
from ebpfmesh.compile.build import instructions
from ebpfmesh.compile.source import bpf_dir
from ebpfmesh.inject.build import Built, build, load
from ebpfmesh.inject.instructions import may_write
from ebpfmesh.kernel import bpf, libc
from ebpfmesh.kernel.pins import Pins
from prog.lab import NAME, TC, Lab, peer
from support.inject import FUNCTIONS, counters, set_parameter, write
from support.packets import built, dissect, error, fragments, ip, sent, tcp, udp

A, B = peer("a"), peer("b")
HEAD = 16 + _abi.CHAIN_MAX
BPF, NET_ADMIN = 39, 12  # linux/include/uapi/linux/capability.h
VERSIONS = pytest.mark.parametrize("v", [4, 6])
WRITER = """
MESH_PARAMETER(u32, offset, 0, "of the payload");
MESH_PARAMETER(u64, value, 0, "what is written there");
MESH_PARAMETER(u32, bytes, 0, "how many");
MESH_PARAMETER(u32, verdict, 0, "what else becomes of the packet");
MESH_FUNCTION(p)
{
	return mesh_write(mesh_get(verdict), mesh_get(offset), mesh_get(value), mesh_get(bytes));
}
"""
CLAIMS = """
MESH_FUNCTION(p)
{
	if (p->length == 7)
		return mesh_write(mesh_next(), 0, 0x41424344, 4);
	return 0x4000;
}
"""
"""Says that it wants something written, and does not say what."""


@dataclass
class Chain:
    """Writers in the way of what a sends; ``refused`` of the last packet, by program."""

    lab: Lab
    ends: dict[bool, bytes]
    refused: dict[int, list[int]]

    def put(self, *functions: Built) -> None:
        """One behind the other, with ids from 1 on."""
        table = self.lab.maps["mesh_injected"]
        for place, one in enumerate(functions):
            slot = HEAD - place
            following = slot - 1 if one is not functions[-1] else 0
            with load(one, self.ends[may_write(one.code)], number=place + 1,
                      following=following, tables=self.lab.injected) as program:  # fmt: skip
                table.set(ctypes.c_uint32(slot), ctypes.c_uint32(program.fileno()))
        self.head(HEAD)

    def head(self, slot: int) -> None:
        """Where packets that a sends begin; 0: nowhere."""
        row = _abi.Chain()
        row.head[Direction.FROM_FN] = slot
        self.lab.maps["mesh_chain"].set(ctypes.c_uint32(self.lab.ids["a"]), row)
        with apply.opened(NAME) as live:
            live.control.commit()

    def clear(self) -> None:
        self.head(0)
        for slot in range(HEAD - 4, HEAD + 1):
            self.lab.maps["mesh_injected"].delete(ctypes.c_uint32(slot))

    def send(self, frame: bytes, segment: int = 0) -> bytes:
        """What becomes of a frame that a sends; of ``segment`` bytes each, if GSO is to cut it."""
        length = len(frame)
        segments = length // segment if segment else 0
        context = TC.context(self.lab.ifindex["a"], length, segments, segment)
        done = self.lab.try_run(TC, frame, context)
        rows = self.lab.maps["mesh_refused"]
        self.refused = {}
        for key, _ in list(rows.items()):
            self.refused.setdefault(key.program, []).append(key.index)
            rows.delete(key)
        return done


@pytest.fixture(scope="module")
def ends(_lab: Lab) -> Iterator[dict[bool, bytes]]:
    """What stands behind a function, by whether it may write."""
    with ExitStack() as stack:
        defines = compiled.defines(Pins(NAME).maps, count_flows=False)
        found = {}
        for name, writes in (("mesh_chain_end", False), ("mesh_chain_write", True)):
            code, held = instructions(bpf_dir() / "mesh_chain.c", name, defines=defines)
            for one in held:
                stack.enter_context(one)
            found[writes] = code
        yield found


@pytest.fixture(scope="module")
def writer(_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    with build(write(tmp_path_factory.mktemp("writer"), WRITER)) as built:
        yield built


@pytest.fixture
def chain(lab: Lab, ends: dict[bool, bytes]) -> Iterator[Chain]:
    found = Chain(lab, ends, {})
    yield found
    found.clear()


@dataclass
class Writes:
    """A function that writes, in the way of what a sends."""

    chain: Chain
    built: Built

    def __call__(
        self, frame: bytes, offset: int, value: int, count: int, segment: int = 0
    ) -> tuple[bytes, list[int]]:
        """The frame as it comes out, and why nothing was written."""
        for name, number in (("offset", offset), ("value", value), ("bytes", count)):
            set_parameter(self.built, name, number)
        out = self.chain.send(frame, segment)
        return out, self.chain.refused.get(1, [])


@pytest.fixture
def writes(chain: Chain, writer: Built) -> Writes:
    chain.put(writer)
    set_parameter(writer, "verdict", 0)
    return Writes(chain, writer)


# ---- Packets and what they should become


def headers(v: int, *, more: bool) -> Packet:
    """An IP header from a to b, with options or extension headers."""
    if v == 4:
        options = [Raw(b"\x94\x04\x00\x00\x01\x01\x01\x00")] if more else []
        return IP(src=A.address4, dst=B.address4, options=options)
    head = IPv6(src=A.address6, dst=B.address6)
    return head / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() if more else head


TRANSPORTS = {
    "tcp": TCP(sport=1000, dport=80, flags="PA"),
    "tcp with options": TCP(sport=1000, dport=80, flags="PA", options=[("Timestamp", (1, 2))]),
    "udp": UDP(sport=1000, dport=53),
    "udp without checksum": UDP(sport=1000, dport=53, chksum=0),
    "echo": None,
}


def packet(v: int, transport: str, payload: bytes, *, more: bool) -> bytes:
    """The frame in which a sends it."""
    layer = TRANSPORTS[transport]
    if layer is None:
        layer = ICMP(id=7) if v == 4 else ICMPv6EchoRequest(id=7)
    return bytes(sent(A, headers(v, more=more) / layer.copy() / Raw(payload)))


def opened(lab: Lab, v: int) -> None:
    """A TCP flow from a to b is established."""
    for source, ends, flags in ((A, (1000, 80), "S"), (B, (80, 1000), "SA"), (A, (1000, 80), "A")):
        to = B if source is A else A
        lab.run(TC, source.name, bytes(sent(source, tcp(v, source, to, *ends, flags))))


def checked(frame: bytes) -> bytes:
    """The frame with checksums of scapy's; UDP without one has none."""
    found = Ether(frame)
    for layer, field in ((TCP, "chksum"), (UDP, "chksum"), (ICMP, "chksum"),
                         (ICMPv6EchoRequest, "cksum"), (IP, "chksum")):  # fmt: skip
        if layer in found and (layer is not UDP or found[UDP].chksum):
            delattr(found[layer], field)
    return bytes(found)


def written(frame: bytes, payload: bytes, offset: int, value: int, count: int) -> bytes:
    """What a frame that ends in this payload should have become."""
    at = len(frame) - len(payload) + offset
    low = (value & (1 << 8 * count) - 1).to_bytes(count, "big")
    return checked(frame[:at] + low + frame[at + count :])


def agree(found: bytes, wanted: bytes) -> None:
    assert found == wanted, f"{dissect(found)}\nand not\n{dissect(wanted)}"


PAYLOAD = bytes(range(0x30, 0x30 + 21))
VALUE = 0x8191A1B1C1D1E1F1


@VERSIONS
@pytest.mark.parametrize("more", [False, True], ids=["plain", "options"])
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("length", [20, 21])
def test_every_place_of_a_payload(
    lab: Lab, writes: Writes, v: int, transport: str, more: bool, length: int
) -> None:
    """Even and odd, of every length, up to the last byte; and no further."""
    payload = PAYLOAD[:length]
    if transport.startswith("tcp"):
        opened(lab, v)
    frame = packet(v, transport, payload, more=more)
    writes(frame, 0, 0, 0)
    before, why = writes(frame, 0, 0, 0)
    assert (why, before) == ([Unwritten.BOUNDS], checked(before))
    assert before[-length:] == payload
    for count in range(1, 9):
        for offset in range(length - count + 1):
            found, why = writes(frame, offset, VALUE, count)
            assert why == []
            agree(found, written(before, payload, offset, VALUE, count))
        assert writes(frame, length - count + 1, VALUE, count) == (before, [Unwritten.BOUNDS])


@VERSIONS
def test_a_checksum_that_comes_out_as_nothing(writes: Writes, v: int) -> None:
    """A computed 0 is sent as 0xffff (RFC 768)."""
    frame = packet(v, "udp", bytes(4), more=False)
    value = Ether(frame)[UDP].chksum
    before, _ = writes(frame, 0, 0, 0)
    found, why = writes(frame, 2, value, 2)
    assert (why, Ether(found)[UDP].chksum) == ([], 0xFFFF)
    agree(found, written(before, bytes(4), 2, value, 2))
    back, why = writes(frame, 2, 0, 2)
    assert (back, why) == (before, []), "what is there already"


U32 = st.integers(0, 2**32 - 1)
NEAR = st.integers(0, 40)
FAR = st.sampled_from([2**32 - 1, 2**31, 2**31 - 1, 2**32 - 8, 2**32 - 42, 0xFFFF, 0x10000])


@VERSIONS
def test_it_is_written_or_counted(lab: Lab, writes: Writes, v: int) -> None:
    """Whatever is asked for: exactly those bytes, or nothing and the reason."""
    opened(lab, v)

    @settings(max_examples=300, deadline=None, database=None)
    @given(
        transport=st.sampled_from(list(TRANSPORTS)),
        payload=st.binary(max_size=32),
        offset=NEAR | FAR | U32,
        count=st.integers(0, 9) | FAR | U32,
        value=st.integers(0, 2**64 - 1),
        more=st.booleans(),
    )
    def holds(
        transport: str, payload: bytes, offset: int, count: int, value: int, more: bool
    ) -> None:
        frame = packet(v, transport, payload, more=more)
        before, _ = writes(frame, 0, 0, 0)
        found, why = writes(frame, offset, value, count)
        if 1 <= count <= 8 and offset + count <= len(payload):
            assert why == []
            agree(found, written(before, payload, offset, value, count))
        else:
            assert (found, why) == (before, [Unwritten.BOUNDS])

    holds()


# ---- What is no payload


@VERSIONS
def test_what_udp_does_not_know_of_is_not_written(writes: Writes, v: int) -> None:
    """Bytes behind the datagram, within IP's length: no checksum is over them."""

    def padded(payload: bytes, ttl: int) -> bytes:
        datagram = bytes(built(udp(v, A, B, 1000, 53, payload))[UDP])
        head = ip(v, A, B, ttl=ttl)
        setattr(head, "proto" if v == 4 else "nh", 17)
        return bytes(head / Raw(datagram + b"tail"))

    frame = bytes(sent(A, udp(v, A, B, 1000, 53)))[:14]
    found, why = writes(frame + padded(b"data", 64), 4, VALUE, 1)
    assert (why, found[14:]) == ([Unwritten.BOUNDS], padded(b"data", 63))
    found, why = writes(frame + padded(b"data", 64), 3, 0x7A, 1)
    assert (why, found[14:]) == ([], padded(b"datz", 63))


@VERSIONS
def test_fragments(writes: Writes, v: int) -> None:
    """The first has the header and the sum of all; a later one has neither."""
    payload = bytes(range(64))
    whole = udp(v, A, B, 1000, 53, payload)
    first, later = (bytes(sent(A, one)) for one in fragments(whole, 24))
    plain, why = writes(first, 16, VALUE, 1)
    assert why == [Unwritten.BOUNDS], "the 16 bytes that this fragment has"
    found, why = writes(first, 9, 0x1234, 2)
    assert why == []
    changed = udp(v, A, B, 1000, 53, payload[:9] + b"\x12\x34" + payload[11:], ttl=63)
    wanted = bytes(fragments(changed, 24)[0])
    assert found[14:] == wanted
    assert plain[-16:] == payload[:16]
    before = writes(later, 0, 0, 0)
    assert before[1] == [Unwritten.PAYLOAD]
    assert writes(later, 0, VALUE, 1) == before


@VERSIONS
def test_what_an_error_quotes_is_not_written(lab: Lab, writes: Writes, v: int) -> None:
    asked = udp(v, B, A, 53, 1000)
    lab.run(TC, "b", bytes(sent(B, asked)))
    frame = bytes(sent(A, error(v, A, B, udp(v, B, A, 53, 1000, ttl=63))))
    before = writes(frame, 0, 0, 0)
    assert before[1] == [Unwritten.PAYLOAD]
    assert writes(frame, 0, VALUE, 4) == before


@VERSIONS
def test_gso(lab: Lab, writes: Writes, v: int) -> None:
    """TCP's first segment; several datagrams are not one."""
    opened(lab, v)
    payload = bytes(range(100))
    frame = packet(v, "tcp", payload, more=False)
    before, _ = writes(frame, 0, 0, 0, 40)
    for offset, count in ((0, 8), (32, 8), (39, 1)):
        found, why = writes(frame, offset, VALUE, count, 40)
        assert why == []
        agree(found, written(before, payload, offset, VALUE, count))
    for offset, count in ((33, 8), (40, 1), (99, 1)):
        assert writes(frame, offset, VALUE, count, 40) == (before, [Unwritten.SEGMENTS])
    frame = packet(v, "udp", payload, more=False)
    before, _ = writes(frame, 0, 0, 0, 40)
    assert writes(frame, 0, VALUE, 1, 40) == (before, [Unwritten.SEGMENTS])


# ---- With other verdicts, and without saying what


@VERSIONS
def test_with_other_edits(writes: Writes, v: int) -> None:
    """DSCP is given besides, and what is dropped is counted as before."""
    payload = b"payload"
    frame = packet(v, "udp", payload, more=False)
    set_parameter(writes.built, "verdict", InjectedVerdict.SET_DSCP | 46 << 6)
    found, why = writes(frame, 1, VALUE, 3)
    assert why == []
    before, _ = writes(frame, 0, 0, 0)
    agree(found, written(before, payload, 1, VALUE, 3))
    assert (found[15] if v == 4 else int.from_bytes(found[14:16], "big") >> 4 & 0xFF) == 46 << 2
    set_parameter(writes.built, "verdict", InjectedAction.DROP | 5 << 2)
    assert writes(frame, 1, VALUE, 3)[1] == [5]


@VERSIONS
def test_all_of_a_chain_write(chain: Chain, writer: Built, tmp_path: Path, v: int) -> None:
    """Each sees what was written before; who does not say what, writes nothing of another's."""
    reads = """
    MESH_FUNCTION(p)
    {
        u32 seen = 0;

        if (mesh_read(p, p->payload, &seen, sizeof(seen)))
            return mesh_drop(1);
        return mesh_write(mesh_next(), 4, bpf_ntohl(seen), 4);
    }
    """
    frame = packet(v, "udp", b"0123456789", more=False)
    with (
        build(write(tmp_path, CLAIMS, "claims.c")) as claims,
        build(write(tmp_path, reads, "reads.c")) as reader,
    ):
        chain.put(writer, claims, reader)
        set_parameter(writer, "verdict", 0)
        found, why = Writes(chain, writer)(frame, 0, int.from_bytes(b"abcd", "big"), 4)
        assert (why, chain.refused) == ([], {2: [Unwritten.BOUNDS]})
        assert found[-10:] == b"abcdabcd89"
        assert checked(found) == found


def test_who_has_no_write_asks_for_none(chain: Chain, tmp_path: Path) -> None:
    """The bit alone means nothing where the text cannot say what."""
    frame = packet(4, "udp", b"0123456789", more=False)
    text = "MESH_FUNCTION(p)\n{\n\treturn 0x4000;\n}\n"
    with build(write(tmp_path, text)) as built:
        assert not may_write(built.code)
        chain.put(built)
        found = chain.send(frame)
        assert (found[-10:], chain.refused) == (b"0123456789", {})


@pytest.mark.parametrize("hook", ["tc", "xdp"])
def test_the_place_means_the_same_at_both_hooks(hook: str, tmp_path: Path) -> None:
    """The same file is taken, may write, and says so in its verdict."""
    with build(write(tmp_path, WRITER), hook=hook) as built:
        assert may_write(built.code)
        done = bpf.prog_test_run(
            built.alone,
            bytes(sent(A, udp(4, A, B, 1, 2))),
            **({"context": bytes(192)} if hook == "tc" else {}),
        )
        word = done.verdict
        if hook == "tc":
            word = struct.unpack_from("=I", done.context, 48 + 4 * _abi.ChainWord.VERDICT)[0]
        assert word == InjectedVerdict.WRITE


def test_it_needs_no_right_to_addresses(chain: Chain, writer: Built) -> None:
    """What writes is verified without CAP_PERFMON, place of the write and all."""
    had = libc.set_effective(1 << BPF | 1 << NET_ADMIN)
    try:
        tables = chain.lab.injected
        with load(writer, chain.ends[True], number=1, following=7, tables=tables) as program:
            assert bpf.fdinfo(program)["verified_insns"]
    finally:
        libc.set_effective(had)


@VERSIONS
@pytest.mark.parametrize("summed", [False, True], ids=["no checksum", "checksum"])
def test_a_tunnel_is_put_into_a_qos_flow(chain: Chain, v: int, summed: bool) -> None:
    """The QFI of a PDU session container and nothing else; flags beside it stay."""

    def user(qfi: int, ttl: int) -> Packet:
        header = struct.pack("!BBHIHBBBBBx", 0x34, 255, 28, 7, 0, 0, 0x85, 1, 0, qfi)
        checksum = None if summed else 0
        return udp(v, A, B, 2152, 2152, header + bytes(20), ttl=ttl, checksum=checksum)

    with build(FUNCTIONS / "qfi.c") as built:
        bpf.map_update(built.maps["flows"].fd, struct.pack("=I", 7), b"\x05")
        chain.put(built)
        for _ in range(2):
            found = chain.send(bytes(sent(A, user(0x80 | 9, 64))))
            assert (chain.refused, found[14:]) == ({}, bytes(user(0x80 | 5, 63)))
        assert counters(built) == {"changed": 2}
