# SPDX-License-Identifier: BSD-2-Clause
"""XDP in front of tc comes to what tc alone comes to, or has not touched the packet.

All functions of the lab have their packets by XDP here, so that what is established can be carried.
"""

import errno
import random
import struct
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, UDP, IPOption
from scapy.layers.l2 import Ether

from ebpfmesh import _abi
from ebpfmesh.kernel import netns
from prog import table_drop, table_error, table_extension, table_forward, table_fragment
from prog.lab import FN_XDP, TC, Lab, Seen, peer, service
from prog.rows import Row, Step, prepare
from prog.test_fuzz import SHORT, damaged
from prog.test_track import aged
from support.packets import built, sent, udp

ROWS = [
    *table_forward.ROWS,
    *table_drop.ROWS,
    *table_fragment.ROWS[::5],
    *table_extension.ROWS[::5],
    *table_error.ROWS[::5],
]
"""Of those that XDP leaves alone for what they are, some."""
A = peer("a")
UDP_ROW, UDP6_ROW = (
    Row(f"v{v}", Step(A, bytes(built(sent(A, udp(v, A, service("dns"), 1000, 53))))), "", b"", {})
    for v in (4, 6)
)


@pytest.fixture(autouse=True)
def _by_xdp(lab: Lab) -> Iterator[None]:
    """Every function has its packets by XDP, until the lab is reset."""
    table = lab.maps["mesh_function"]
    before = [(key, row) for key, row in table.filled() if row.ifindex]
    for key, row in before:
        row.flags |= _abi.FunctionFlag.XDP
        table.set(key, row)
    yield
    for key, row in before:
        row.flags &= ~_abi.FunctionFlag.XDP
        table.set(key, row)


def alone(lab: Lab, row: Row, frame: bytes) -> Seen | None:
    """What tc makes of a frame, the row's packet having been there before it; None: too short."""
    lab.forget_flows()
    prepare(lab, TC, row.given)
    lab.run(TC, row.step.function.name, row.step.frame)
    lab.forget_answers()
    try:
        return lab.run(TC, row.step.function.name, frame)
    except OSError as error:
        if error.errno != errno.EINVAL or len(frame) >= SHORT:
            raise
        return None


def behind(lab: Lab, row: Row, frame: bytes) -> tuple[Seen, bool]:
    """The same with XDP before it, and whether that carried it."""
    lab.forget_flows()
    prepare(lab, TC, row.given)
    lab.run(TC, row.step.function.name, row.step.frame)
    lab.forget_answers()
    seen = lab.run(FN_XDP, row.step.function.name, frame)
    if seen.verdict == "forward":
        return seen, True
    assert (seen.verdict, seen.frame, seen.counted) == ("pass", frame, {})
    return lab.run(TC, row.step.function.name, frame), False


def agree(lab: Lab, row: Row, frame: bytes) -> bool:
    """Both ways are the same; whether XDP carried the frame."""
    tc = alone(lab, row, frame)
    if tc is None:
        return False
    entries = outcome(lab)
    seen, carried = behind(lab, row, frame)
    about = f"{row.text}: {frame.hex()}"
    assert (seen.verdict, seen.frame, seen.counted) == (tc.verdict, tc.frame, tc.counted), about
    assert outcome(lab) == entries, about
    return carried


def outcome(lab: Lab) -> dict[bytes, tuple[int, ...]]:
    """All flow entries: what is done with their packets, and how far they have got."""
    found = lab.flows().items()
    return {key: (one.epoch, one.output, one.flags, one.meter_tx) for key, one in found}


def test_every_row(lab: Lab) -> None:
    carried = {row.text for row in ROWS if agree(lab, row, row.step.frame)}
    assert len(carried) > len(table_forward.ROWS) / 3
    assert carried <= {row.text for row in table_forward.ROWS}


def test_damaged_packets(lab: Lab) -> None:
    chosen = random.Random(7)
    carried = 0
    for _ in range(400):
        row = chosen.choice((chosen.choice(ROWS), UDP_ROW, UDP6_ROW))
        carried += agree(lab, row, damaged(chosen, row.step.frame))
    assert carried > 20


def test_what_goes_on_to_tc(lab: Lab) -> None:
    """Each is a frame of a flow that is carried otherwise."""
    good = UDP_ROW.step.frame
    assert agree(lab, UDP_ROW, good)
    partial = bytearray(good)
    pseudo = good[26:34] + struct.pack("!HH", 17, len(good) - 34)
    partial[40:42] = fold(sum(struct.unpack("!6H", pseudo))).to_bytes(2)
    none = bytes(good[:40]) + bytes(2) + good[42:]
    others = {
        "a checksum left to offload": bytes(partial),
        "the last hop": built(retold(good, ttl=1)),
        "another's MAC": good[:6] + bytes.fromhex("020000000077") + good[12:],
        "a VLAN tag": good[:12] + bytes.fromhex("81000007") + good[12:],
        "an option": built(retold(good, options=[IPOption(b"\x01\x01\x01\x00")])),
    }
    for what, frame in others.items():
        assert not agree(lab, UDP_ROW, bytes(frame)), what
    assert agree(lab, UDP_ROW, none)  # no checksum is none that is left to offload


@pytest.mark.parametrize(("age", "carried"), [(0, True), (1, True), (2, False)])
def test_a_flow_whose_time_may_be_over_goes_to_tc(lab: Lab, age: int, *, carried: bool) -> None:
    """In ticks since its last packet."""
    row = UDP_ROW

    def sent_by_xdp() -> Seen:
        return lab.run(FN_XDP, row.step.function.name, row.step.frame)

    def opened() -> None:
        prepare(lab, TC, row.given)
        lab.run(TC, row.step.function.name, row.step.frame)

    seen = aged(lab, opened, {"on": age, "back": age}, sent_by_xdp)
    assert (seen.verdict == "forward") == carried


def retold(frame: bytes, **fields: object) -> Ether:
    """The same packet with other fields of IPv4, its lengths and checksums made again."""
    packet = Ether(frame)
    for key, value in fields.items():
        setattr(packet[IP], key, value)
    for layer, names in ((IP, ("ihl", "len", "chksum")), (UDP, ("len", "chksum"))):
        for one in names:
            packet[layer].delfieldval(one)
    return packet


def fold(value: int) -> int:
    while value >> 16:
        value = (value & 0xFFFF) + (value >> 16)
    return value


def test_a_frame_longer_than_the_receiver_takes(lab: Lab) -> None:
    """It is left to tc, or the kernel would lose it."""
    long = bytes(built(sent(A, udp(4, A, service("dns"), 1000, 53, bytes(1000)))))
    assert agree(lab, UDP_ROW, long)
    mtu(lab.ifindex["b"], 900)
    try:
        assert not agree(lab, UDP_ROW, long)
    finally:
        mtu(lab.ifindex["b"], 1500)


def mtu(ifindex: int, size: int) -> None:
    with netns.rtnetlink() as ip:
        ip.link("set", index=ifindex, mtu=size)
