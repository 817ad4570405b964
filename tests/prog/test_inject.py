# SPDX-License-Identifier: BSD-2-Clause
"""Functions of others, from their C file on: what they see of a packet, and what the examples do.

Everything runs at both hooks. At tc the program is put together as for a chain, and the verdict is
read where mesh_chain_end would.
"""

import ctypes
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from ebpfmesh.inject.build import Built, build
from ebpfmesh.inject.measure import packets
from ebpfmesh.kernel import bpf
from support.inject import (
    EXAMPLES,
    FUNCTIONS,
    NEXT,
    Verdict,
    counters,
    drop,
    run,
    set_parameter,
    word,
    write,
)

HOOKS = pytest.mark.parametrize("hook", ["tc", "xdp"])
VERSIONS = pytest.mark.parametrize("v", [4, 6])
HEADER = '#include "mesh_function.h"\n'
Make = Callable[..., Built]


@pytest.fixture
def make() -> Iterator[Make]:
    """Build a file; it is closed after the test."""
    with ExitStack() as stack:
        yield lambda path, **how: stack.enter_context(build(path, **how))


def ip(v: int, **fields: int) -> Packet:
    """A header from one address to another, the hop limit being 9."""
    if v == 4:
        return IP(src="198.18.0.1", dst="198.18.0.2", ttl=9, **fields)
    return IPv6(src="2001:db8::1", dst="2001:db8::2", hlim=9, **fields)


def frame(packet: Packet) -> bytes:
    return bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / packet)


@dataclass(frozen=True)
class View:
    """What struct mesh_view says of a packet."""

    source: str
    destination: str
    length: int
    version: int = 0
    dscp: int = 0
    ecn: int = 0
    ttl: int = 0
    protocol: int = 0
    fragment: int = 0
    tcp_flags: int = 0
    icmp_type: int = 0
    icmp_code: int = 0
    source_port: int = 0
    destination_port: int = 0
    payload: int = 0
    payload_length: int = 0


NUMBERS = tuple(View.__dataclass_fields__)[2:]
SHOW = (
    HEADER
    + f"struct seen {{ u32 source[4]; u32 destination[4]; u32 number[{len(NUMBERS)}]; }};\n"
    + "MESH_MAP(array, views, u32, struct seen, 1);\nMESH_FUNCTION(p)\n{\n\tu32 zero = 0;\n"
    + "\tstruct seen *seen = views.lookup(&zero);\n\n\tif (!seen)\n\t\treturn mesh_drop(1);\n"
    + "".join(
        f"\tseen->{end}[{i}] = p->{end}.word[{i}];\n"
        for end in ("source", "destination") for i in range(4)
    )
    + "".join(f"\tseen->number[{i}] = p->{name};\n" for i, name in enumerate(NUMBERS))
    + "\treturn mesh_next();\n}\n"
)  # fmt: skip


@pytest.fixture(scope="module", params=["tc", "xdp"])
def shown(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Built]:
    """A function that writes down all it sees."""
    with build(write(tmp_path_factory.mktemp("view"), SHOW), hook=request.param) as built:
        yield built


def view(built: Built, data: bytes) -> View:
    assert run(built, data) == NEXT
    raw = bpf.map_lookup(built.maps["views"].fd, bytes(4), 32 + 4 * len(NUMBERS)) or b""
    numbers = struct.unpack_from(f"={len(NUMBERS)}I", raw, 32)
    return View(raw[:16].hex(), raw[16:32].hex(), *numbers)


ADDRESSES = {
    4: ("00000000000000000000ffffc6120001", "00000000000000000000ffffc6120002"),
    6: ("20010db8000000000000000000000001", "20010db8000000000000000000000002"),
    0: ("0" * 32, "0" * 32),
}
CLASS = {4: {"tos": 46 << 2 | 1}, 6: {"tc": 46 << 2 | 1}}


@VERSIONS
@pytest.mark.parametrize(
    ("transport", "found"),
    [
        (TCP(sport=1, dport=2, flags="SA") / b"data",
         {"protocol": 6, "tcp_flags": 0x12, "source_port": 1,
          "destination_port": 2, "payload": 20}),
        (TCP(sport=65535, dport=80, flags="F", options=[("MSS", 1460)]) / b"data",
         {"protocol": 6, "tcp_flags": 1, "source_port": 65535,
          "destination_port": 80, "payload": 24}),
        (UDP(sport=3, dport=4) / b"data",
         {"protocol": 17, "source_port": 3, "destination_port": 4, "payload": 8}),
        (UDP(sport=3, dport=4),
         {"protocol": 17, "source_port": 3, "destination_port": 4, "payload": 8}),
        (ICMP(type=8, code=0) / b"ping", {"protocol": 1, "icmp_type": 8, "payload": 8}),
        (ICMPv6EchoRequest() / b"ping", {"protocol": 58, "icmp_type": 128, "payload": 8}),
        (Raw(b"data"), {"protocol": 47}),
    ],
)  # fmt: skip
def test_what_a_function_sees(
    shown: Built, v: int, transport: Packet, found: dict[str, int]
) -> None:
    number = {"proto" if v == 4 else "nh": found["protocol"]}
    data = frame(ip(v, **CLASS[v], **number) / transport)
    at = 34 if v == 4 else 54
    if "payload" in found:
        length = len(data) - at - found["payload"]
        found = found | {"payload": at + found["payload"], "payload_length": length}
    ends = ADDRESSES[v]
    common = {"version": v, "dscp": 46, "ecn": 1, "ttl": 9}
    assert view(shown, data) == View(*ends, len(data), **common, **found)


CHAINS = {
    "hop": IPv6ExtHdrHopByHop(),
    "route": IPv6ExtHdrRouting(),
    "destination": IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(12))]),
    "whole": IPv6ExtHdrFragment(offset=0, m=0),
    "all": IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting() / IPv6ExtHdrDestOpt(),
    "six": IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt()
    / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt(),
}  # fmt: skip


@pytest.mark.parametrize("chain", CHAINS)
def test_extension_headers_are_walked(shown: Built, chain: str) -> None:
    data = frame(ip(6) / CHAINS[chain] / UDP(sport=3, dport=4) / b"data")
    found = view(shown, data)
    assert (found.protocol, found.source_port, found.destination_port) == (17, 3, 4)
    assert (data[found.payload :], found.payload_length) == (b"data", 4)


def test_a_chain_without_end_has_no_transport(shown: Built) -> None:
    chain = IPv6ExtHdrHopByHop()
    for _ in range(6):
        chain /= IPv6ExtHdrDestOpt()
    found = view(shown, frame(ip(6) / chain / UDP(sport=3, dport=4)))
    assert (found.version, found.source_port, found.payload) == (6, 0, 0)


@pytest.mark.parametrize("options", range(1, 11))
def test_options_are_stepped_over(shown: Built, options: int) -> None:
    header = ip(4, ihl=5 + options, options=[b"\x01" * 4 * options])
    packet = header / UDP(sport=3, dport=4) / b"data"
    found = view(shown, frame(packet))
    assert (found.source_port, found.payload) == (3, 34 + 4 * options + 8)


@pytest.mark.parametrize(
    ("packet", "fragment", "port"),
    [
        (ip(4, flags="MF") / UDP(sport=3) / bytes(8), 1, 3),
        (ip(4, frag=5) / UDP(sport=3) / bytes(8), 2, 0),
        (ip(4, frag=5, flags="MF") / UDP(sport=3) / bytes(8), 2, 0),
        (ip(4, flags="DF") / UDP(sport=3) / bytes(8), 0, 3),
        (ip(6) / IPv6ExtHdrFragment(m=1) / UDP(sport=3) / bytes(8), 1, 3),
        (ip(6) / IPv6ExtHdrFragment(offset=5) / UDP(sport=3) / bytes(8), 2, 0),
        (ip(6) / IPv6ExtHdrHopByHop() / IPv6ExtHdrFragment(offset=5, m=1) / UDP(sport=3), 2, 0),
    ],
)
def test_fragments_are_told(shown: Built, packet: Packet, fragment: int, port: int) -> None:
    found = view(shown, frame(packet))
    assert (found.fragment, found.source_port, bool(found.payload)) == (fragment, port, bool(port))


@VERSIONS
def test_what_is_cut_short_ends_there(shown: Built, v: int) -> None:
    """Each length: nothing is seen that is not there. At tc the kernel wants a whole IP header."""
    least = 14 if shown.hook == "xdp" else 34 if v == 4 else 54
    whole = frame(ip(v) / TCP(sport=1, dport=2, flags="S") / b"data")
    for length in range(least, len(whole)):
        assert view(shown, whole[:length]) == View(*ADDRESSES[0], length)
    assert view(shown, whole).source_port == 1


@pytest.mark.parametrize(
    "packet",
    [
        ARP(),
        ip(4, version=5) / UDP(),
        ip(4, ihl=4) / UDP(),
        ip(4, len=19) / UDP(),
        ip(4, len=500) / UDP(),
        ip(6, version=7) / UDP(),
        ip(6, plen=500) / UDP(),
    ],
)
def test_what_makes_no_sense_is_nothing(shown: Built, packet: Packet) -> None:
    data = frame(packet)
    assert view(shown, data) == View(*ADDRESSES[0], len(data))


@pytest.mark.parametrize("dataofs", [4, 15])
def test_a_tcp_header_that_does_not_fit_is_nothing(shown: Built, dataofs: int) -> None:
    found = view(shown, frame(ip(4) / TCP(sport=1, dport=2, dataofs=dataofs)))
    assert (found.protocol, found.source_port, found.payload) == (6, 0, 0)


@HOOKS
def test_a_function_that_does_nothing_is_two_instructions(
    make: Make, tmp_path: Path, hook: str
) -> None:
    built = make(write(tmp_path, "MESH_FUNCTION(p)\n{\n\treturn mesh_next();\n}\n"), hook=hook)
    assert built.figures.instructions == 2
    assert (built.maps, built.figures.map_bytes) == ({}, 0)


@HOOKS
@pytest.mark.parametrize(
    ("verdict", "wanted"),
    [
        ("mesh_next()", NEXT),
        ("mesh_drop(15)", drop(15)),
        ("mesh_redirect(3)", Verdict(2, 3)),
        ("mesh_next_dscp(46)", Verdict(0, 0, 46)),
        ("mesh_set_dscp(mesh_redirect(15), 63)", Verdict(2, 15, 63)),
        ("mesh_set_dscp(mesh_next_dscp(63), 0)", Verdict(0, 0, 0)),
        ("mesh_mark_ce(mesh_next_dscp(1))", Verdict(0, 0, 1, ce=True)),
        ("mesh_write(mesh_next(), 0, 0, 1)", Verdict(0, write=True)),
        (
            "mesh_write(mesh_set_dscp(mesh_drop(15), 63), -1, -1, -1)",
            Verdict(1, 15, 63, write=True),
        ),
        ("mesh_drop(16)", drop(0)),
        ("mesh_next_dscp(64)", Verdict(0, 0, 0)),
    ],
)
def test_verdicts(make: Make, tmp_path: Path, hook: str, verdict: str, wanted: Verdict) -> None:
    text = f"MESH_FUNCTION(p)\n{{\n\treturn {verdict};\n}}\n"
    assert run(make(write(tmp_path, text), hook=hook), frame(ip(4) / UDP())) == wanted


@HOOKS
def test_a_function_hashes_by_flow(make: Make, tmp_path: Path, hook: str) -> None:
    text = "MESH_FUNCTION(p)\n{\n\treturn mesh_drop(mesh_hash(p));\n}\n"
    built = make(write(tmp_path, text), hook=hook)
    flows = [ip(v) / UDP(sport=port) for v in (4, 6) for port in range(200)]
    found = [word(built, frame(flow)) for flow in flows]
    assert found == [word(built, frame(flow / b"x")) for flow in flows]
    assert len(set(found)) == 16
    assert max(found.count(one) for one in set(found)) < 60  # of 25 that are wanted


@HOOKS
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_cost_what_they_may(make: Make, path: Path, hook: str) -> None:
    """Every packet has a verdict that means something, garbage too; figures are there."""
    built = make(path, hook=hook)
    for _, data in packets():
        run(built, data)
    assert 0 < built.figures.instructions <= built.figures.verified
    assert built.figures.map_bytes > 0
    assert set(built.source.reasons) <= set(range(16))


@HOOKS
def test_template(make: Make, hook: str) -> None:
    built = make(FUNCTIONS / "template.c", hook=hook)
    packet = frame(ip(4) / UDP() / bytes(100))
    assert run(built, packet) == NEXT
    set_parameter(built, "limit", len(packet) - 1)
    assert run(built, packet) == drop(0)
    set_parameter(built, "limit", len(packet))
    assert run(built, packet) == NEXT
    assert counters(built) == {"seen": 3}


@HOOKS
@VERSIONS
def test_token_bucket(make: Make, hook: str, v: int) -> None:
    built = make(FUNCTIONS / "token_bucket.c", hook=hook)
    one, other = (frame(ip(v) / UDP(sport=n) / bytes(100)) for n in (1, 2))
    set_parameter(built, "rate", 1)  # no packet's worth comes back meanwhile
    set_parameter(built, "burst", 3 * len(one))
    assert [run(built, one) for _ in range(5)] == [NEXT] * 3 + [drop(0)] * 2
    assert [run(built, other) for _ in range(4)] == [NEXT] * 3 + [drop(0)]
    assert counters(built) == {"passed": 6, "dropped": 3}
    set_parameter(built, "rate", 0)
    assert run(built, one) == NEXT


@HOOKS
@VERSIONS
def test_dscp(make: Make, hook: str, v: int) -> None:
    built = make(FUNCTIONS / "dscp.c", hook=hook)
    bpf.map_update(built.maps["classes"].fd, struct.pack("=H", 5060), b"\x2e")
    assert run(built, frame(ip(v) / UDP(dport=5060))).dscp == 46
    assert run(built, frame(ip(v) / TCP(dport=80))).dscp == 0
    set_parameter(built, "other", 8)
    assert run(built, frame(ip(v) / TCP(dport=80))).dscp == 8
    assert run(built, frame(ARP())) == NEXT
    assert counters(built) == {"marked": 1}


@HOOKS
def test_sampler(make: Make, hook: str) -> None:
    built = make(FUNCTIONS / "sampler.c", hook=hook)
    found: list[bytes] = []

    def take(_: object, data: int, size: int) -> int:
        found.append(ctypes.string_at(data, size))
        return 0

    callback = bpf.RING_CALLBACK(take)
    reader = bpf.ring_new(built.maps["samples"].fd, callback)
    try:
        sent = [frame(ip(4) / UDP() / bytes(range(size))) for size in (0, 10, 200)]
        set_parameter(built, "every", 0)
        assert [run(built, one) for one in sent] == [NEXT] * 3
        set_parameter(built, "every", 1)
        assert [run(built, one) for one in sent] == [NEXT] * 3
        bpf.ring_consume(reader)
    finally:
        bpf.ring_free(reader)
    rows = [struct.unpack("=QII64s", one) for one in found]
    assert [length for _, length, _, _ in rows] == [len(one) for one in sent]
    assert [captured for _, _, captured, _ in rows] == [32, 32, 64]
    assert [bytes_[:n] for _, _, n, bytes_ in rows] == [
        one[:n] for one, n in zip(sent, (32, 32, 64), strict=True)
    ]
    assert counters(built) == {"sampled": 3}


@HOOKS
@VERSIONS
def test_limiter(make: Make, hook: str, v: int) -> None:
    built = make(FUNCTIONS / "limiter.c", hook=hook)
    set_parameter(built, "limit", 2)

    def send(port: int, flags: str) -> Verdict:
        return run(built, frame(ip(v) / TCP(sport=port, dport=80, flags=flags)))

    assert [send(port, "S") for port in (1, 2, 3)] == [NEXT, NEXT, drop(0)]
    assert send(1, "S") == NEXT  # again, as its answer was lost
    assert [send(4, flags) for flags in ("A", "SA", "R")] == [NEXT] * 3  # was there before
    assert send(3, "S") == drop(0)
    assert [send(1, "FA"), send(3, "S"), send(5, "S")] == [NEXT, NEXT, drop(0)]
    assert run(built, frame(ip(v) / UDP())) == NEXT
    assert counters(built) == {"opened": 3, "refused": 3}


@HOOKS
@VERSIONS
def test_gtp(make: Make, hook: str, v: int) -> None:
    built = make(FUNCTIONS / "gtp.c", hook=hook)

    def send(teid: int, kind: int = 255, flags: int = 0x30) -> Verdict:
        header = struct.pack("!BBHI", flags, kind, 20, teid)
        return run(built, frame(ip(v) / UDP(sport=2152, dport=2152) / header / bytes(20)))

    def traffic(teid: int) -> int:
        cpus = bpf.possible_cpus()
        raw = bpf.map_lookup(built.maps["tunnels"].fd, struct.pack("=I", teid), 16 * cpus)
        return sum(struct.unpack(f"={2 * cpus}Q", raw)[::2]) if raw else 0

    assert [send(7), send(7), send(8)] == [NEXT] * 3
    assert (traffic(7), traffic(8), traffic(9)) == (2, 1, 0)
    set_parameter(built, "strict", 1)
    assert [send(8), send(9), send(9, kind=1)] == [NEXT, drop(0), NEXT]
    assert send(7, flags=0x50) == drop(1)
    short = frame(ip(v) / UDP(dport=2152) / b"\x30\xff")
    assert run(built, short) == drop(1)
    assert run(built, frame(ip(v) / UDP(dport=2153))) == NEXT
    assert traffic(9) == 0
    assert counters(built) == {"tunnelled": 4, "signalling": 1, "unknown": 1}


@HOOKS
@VERSIONS
def test_qfi(make: Make, hook: str, v: int) -> None:
    """What it wants written; that it is, test_write.py sees."""
    built = make(FUNCTIONS / "qfi.c", hook=hook)

    def send(teid: int, qfi: int = 9, kind: int = 255, flags: int = 0x34) -> Verdict:
        header = struct.pack("!BBHIHBBBBBx", flags, kind, 28, teid, 0, 0, 0x85, 1, 0, qfi)
        return run(built, frame(ip(v) / UDP(sport=2152, dport=2152) / header / bytes(20)))

    written = Verdict(0, write=True)
    bpf.map_update(built.maps["flows"].fd, struct.pack("=I", 7), b"\x05")
    assert [send(7), send(8), send(7, 0xC5), send(7, 0xC6)] == [written, NEXT, NEXT, written]
    set_parameter(built, "other", 9)
    assert [send(7), send(8), send(8, 10)] == [written, NEXT, written]
    assert [send(7, kind=1), send(7, flags=0x30), send(7, flags=0x54)] == [NEXT] * 3
    assert run(built, frame(ip(v) / UDP(dport=2152) / b"\x34\xff")) == NEXT
    assert counters(built) == {"changed": 4, "bare": 1}


@HOOKS
def test_maps_are_taken_over_where_they_are_the_same(make: Make, tmp_path: Path, hook: str) -> None:
    text = (
        'MESH_PARAMETER(u32, limit, 5, "limit");\nMESH_COUNTER(seen, "seen");\n'
        "MESH_MAP(hash, same, u32, u64, 16);\nMESH_MAP(hash, other, u32, u64, 16);\n"
        "MESH_FUNCTION(p)\n{\n\tu32 key = p->length;\n\tu64 one = 1;\n\n\tmesh_count(seen);\n"
        "\tsame.update(&key, &one);\n\tother.update(&key, &one);\n"
        "\treturn mesh_drop(mesh_get(limit));\n}\n"
    )
    old = make(write(tmp_path, text), hook=hook)
    packet = frame(ip(4) / UDP())
    set_parameter(old, "limit", 7)
    assert run(old, packet) == drop(7)
    changed = text.replace("other, u32, u64, 16", "other, u32, u64, 32")
    new = make(write(tmp_path, changed), hook=hook, reuse=old.maps)
    assert new.shared == {"same", "mesh_parameters", "mesh_counters"}
    assert run(new, packet) == drop(7)
    assert counters(new) == counters(old) == {"seen": 2}
    more = make(write(tmp_path, text + 'MESH_COUNTER(more, "more");\n'), hook=hook, reuse=old.maps)
    assert more.shared == {"same", "other", "mesh_parameters"}
    assert (more.digest != old.digest, more.tag) == (True, more.tag)


@HOOKS
def test_measuring_touches_no_map_that_is_kept(make: Make, hook: str) -> None:
    built = make(FUNCTIONS / "template.c", hook=hook)
    assert counters(built) == {}
    other = make(FUNCTIONS / "template.c", hook=hook, reuse=built.maps)
    assert counters(other) == {}
