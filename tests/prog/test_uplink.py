# SPDX-License-Identifier: BSD-2-Clause
"""Single packets at an uplink: what is the mesh's, and what goes on to the host untouched.

    client 198.19.210.2 ─ up0, host 198.19.210.1 ─ web: 8080, published at port 80; 53 of UDP

The client may open what is published, and nothing else but ICMP to the function.
"""

import contextlib
import struct
from collections.abc import Callable, Iterator

import pytest
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet

from ebpfmesh import apply
from ebpfmesh._abi import Direction, FunctionFlag, Reason
from ebpfmesh.apply.programs import load_sources
from ebpfmesh.kernel import bpf, interface, netns
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.kernel.programs import BOTH, CARRY, by_file
from support import meshes
from support.meshes import function, mesh_file, rule, service
from support.outside import beyond
from support.packets import Peer, built, dissect, error, fragments, ping, reset, sent, tcp, udp
from support.topology import drops, mesh_of, meters, running

MESH = mesh_file(
    "edge",
    function("own", address=["198.18.7.1", "2001:db8::7:1"]),
    meshes.uplink(),
    service("web", 80, "own", target_port=8080, publish=["u0:80"]),
    service("dns", 53, "own", number=2, protocol="udp", publish=["u0:53"]),
    rule("outside", "service:web"),
    rule("outside", "service:dns"),
    rule("outside", "function:own", protocol="icmp"),
    reject=True,
)
HOST, DROPPED, SENT = -1, 2, 7
"""TC_ACT_UNSPEC, SHOT and REDIRECT."""
XDP_DROP, XDP_PASS, XDP_REDIRECT = 1, 2, 4
ALIAS = "ebpfmesh:edge/own"
CLIENT = Peer("client", "198.19.210.2", "2001:db8:d0::2", "02:00:00:00:00:99")
OWN = Peer("host", "198.19.210.1", "2001:db8:d0::1")
WEB = Peer("web", "198.18.7.1", "2001:db8::7:1")
SERVICE = Peer("service", "198.19.0.1", "2001:db8:1::1")
NOBODY = Peer("nobody", "198.19.240.1", "2001:db8:f0::1")
Case = tuple[str, Callable[[int], Packet], int, Reason | None]

CASES: tuple[Case, ...] = (
    ("a published port", lambda v: tcp(v, CLIENT, OWN, 1000, 80), SENT, None),
    ("a published port of UDP", lambda v: udp(v, CLIENT, OWN, 1000, 53), SENT, None),
    ("the same of TCP", lambda v: tcp(v, CLIENT, OWN, 1000, 53), HOST, None),
    ("the host's ssh", lambda v: tcp(v, CLIENT, OWN, 1000, 22), HOST, None),
    ("an answer to the host", lambda v: tcp(v, CLIENT, OWN, 443, 1000, "SA"), HOST, None),
    ("an echo to the host", lambda v: ping(v, CLIENT, OWN), HOST, None),
    ("through the host", lambda v: tcp(v, CLIENT, NOBODY, 1000, 80), HOST, None),
    ("an echo to a function", lambda v: ping(v, CLIENT, WEB), SENT, None),
    ("denied", lambda v: tcp(v, CLIENT, WEB, 1000, 8080), DROPPED, Reason.POLICY),
    ("no flow", lambda v: tcp(v, CLIENT, WEB, 1000, 80, "SA"), DROPPED, Reason.NO_FLOW),
    ("a close of none", lambda v: tcp(v, CLIENT, OWN, 4000, 80, "F"), DROPPED, Reason.NO_FLOW),
    ("not published", lambda v: tcp(v, CLIENT, SERVICE, 1, 80), DROPPED, Reason.NO_SERVICE),
    ("as a function", lambda v: tcp(v, WEB, OWN, 1000, 80), DROPPED, Reason.SPOOF_IP),
    ("as a function, to ssh", lambda v: tcp(v, WEB, OWN, 1000, 22), DROPPED, Reason.SPOOF_IP),
    ("as a service", lambda v: udp(v, SERVICE, NOBODY, 1, 1), DROPPED, Reason.SPOOF_IP),
    (
        "an error about no flow",
        lambda v: error(v, CLIENT, OWN, tcp(v, OWN, CLIENT, 80, 4000, "A")),
        DROPPED,
        Reason.NO_FLOW,
    ),
    (
        "an error about the host's",
        lambda v: error(v, CLIENT, OWN, tcp(v, OWN, CLIENT, 22, 1000, "A")),
        HOST,
        None,
    ),
    (
        "a later fragment of nobody's",
        lambda v: fragments(udp(v, CLIENT, OWN, 1, 53, b"x" * 64), 16)[1],
        HOST,
        None,
    ),
    (
        "the same for a function",
        lambda v: fragments(udp(v, CLIENT, WEB, 1, 53, b"x" * 64), 16)[1],
        HOST,
        None,
    ),
)


class Uplink:
    """The program of an uplink, and that of the function behind it."""

    def __init__(self) -> None:
        with netns.rtnetlink() as ip:
            (link,) = ip.get_links(ifname="up0")
        self.mac = link.get_attr("IFLA_ADDRESS")
        self.ifindex = link["index"]

    def run(self, frame: bytes, *, program: str = "mesh_uplink_fn", at: int = 0) -> bpf.TestRun:
        """What becomes of a frame."""
        skb = bytearray(192)
        struct.pack_into("=I", skb, 40, at or self.ifindex)
        with bpf.obj_get(Pins("edge").progs / program) as opened:
            return bpf.prog_test_run(opened, frame, context=bytes(skb))

    def early(self, frame: bytes, program: str) -> bpf.TestRun:
        """What becomes of a frame at XDP in front of it."""
        context = struct.pack("=6I", 0, len(frame), 0, self.ifindex, 0, 0)
        with bpf.obj_get(Pins("edge").progs / program) as opened:
            return bpf.prog_test_run(opened, frame, context=context)

    def frame(self, packet: Packet, *, to: str = "") -> bytes:
        """The frame in which the client sends a packet."""
        return bytes(built(Ether(src=CLIENT.mac, dst=to or self.mac) / packet))


@pytest.fixture(scope="module", params=["true", "false"])
def wanted(request: pytest.FixtureRequest) -> str:
    return MESH.replace("reject = true", f"reject = {request.param}")


@pytest.fixture(scope="module")
def uplink(wanted: str) -> Iterator[Uplink]:
    with beyond(), running(mesh_of(wanted)):
        yield Uplink()


def verdict(value: int) -> int:
    return value - (1 << 32) if value >> 31 else value


def counted(before: dict, mesh: str) -> dict:  # type: ignore[type-arg]
    """Drops since then, but for what the function's own stack sends to many."""
    now = drops(mesh_of(mesh))
    moved = {key: n - before.get(key, 0) for key, n in now.items() if n != before.get(key, 0)}
    return {key: n for key, n in moved.items() if key[2] != Reason.MULTICAST}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_verdicts(uplink: Uplink, wanted: str, case: Case, version: int) -> None:
    _, make, expected, reason = case
    before, frame = drops(mesh_of(wanted)), uplink.frame(make(version))
    seen = uplink.run(frame)
    rejected = "reject = true" in wanted and reason in (Reason.POLICY, Reason.NO_SERVICE)
    assert verdict(seen.verdict) == (SENT if rejected else expected)
    if rejected:
        assert built(Ether(seen.packet)).payload == built(reset(make(version)))
    elif expected != SENT:
        assert seen.packet == frame
    drop = {("outside", Direction.FROM_UPLINK, reason): 1} if reason else {}
    assert counted(before, wanted) == drop


@pytest.mark.parametrize("version", [4, 6])
def test_both_ways_are_rewritten(uplink: Uplink, version: int) -> None:
    opened = uplink.run(uplink.frame(tcp(version, CLIENT, OWN, 2000, 80, ttl=9)))
    there = built(tcp(version, CLIENT, WEB, 2000, 8080, ttl=8))
    assert dissect(bytes(opened.packet)[14:]) == dissect(bytes(there))
    with netns.rtnetlink() as ip:
        row = next(
            link["index"] for link in ip.get_links() if link.get_attr("IFLA_IFALIAS") == ALIAS
        )
    mac = interface.mac_of("edge", "own")
    answer = sent(Peer("web", "", "", mac), tcp(version, WEB, CLIENT, 8080, 2000, "SA", ttl=64))
    back = uplink.run(bytes(answer), program="mesh_from_fn", at=row)
    assert verdict(back.verdict) == SENT
    wanted = built(tcp(version, OWN, CLIENT, 80, 2000, "SA", ttl=63))
    assert dissect(bytes(back.packet)[14:]) == dissect(bytes(wanted))


@pytest.mark.parametrize("version", [4, 6])
def test_fragments_of_what_is_published(uplink: Uplink, version: int) -> None:
    first, later = fragments(udp(version, CLIENT, OWN, 7, 53, b"x" * 64), 32, identifier=version)
    assert [uplink.run(uplink.frame(one)).verdict for one in (first, later)] == [SENT, SENT]


@pytest.mark.parametrize("version", [4, 6])
def test_what_is_cut_short_is_told_where_it_is_the_meshs(
    uplink: Uplink, wanted: str, version: int
) -> None:
    for peer, expected in ((WEB, DROPPED), (OWN, HOST)):
        before = drops(mesh_of(wanted))
        frame = uplink.frame(tcp(version, CLIENT, peer, 1000, 80))
        length = 14 + (20 if version == 4 else 40) + 10
        cut = bytearray(frame[:length])
        at = 16 if version == 4 else 18
        cut[at : at + 2] = (length - 14 - (0 if version == 4 else 40)).to_bytes(2)
        assert verdict(uplink.run(bytes(cut)).verdict) == expected
        key = ("outside", Direction.FROM_UPLINK, Reason.MALFORMED)
        assert counted(before, wanted) == ({key: 1} if expected == DROPPED else {})


def test_what_is_no_packet_for_this_host(uplink: Uplink) -> None:
    published = tcp(4, CLIENT, OWN, 1000, 80)
    frames = (
        uplink.frame(published, to="02:00:00:00:00:77"),
        uplink.frame(published, to="ff:ff:ff:ff:ff:ff"),
        uplink.frame(Dot1Q(vlan=7) / published),
        uplink.frame(ARP(psrc=WEB.address4, pdst=OWN.address4)),
    )
    for frame in frames:
        seen = uplink.run(frame)
        assert (verdict(seen.verdict), seen.packet) == (HOST, frame)


@pytest.fixture(scope="module")
def by_xdp(uplink: Uplink) -> Iterator[Uplink]:
    """The function has its packets by XDP, and the programs for that are loaded."""
    load_sources(Pins("edge"), by_file((CARRY, BOTH)))
    with contextlib.closing(Maps(Pins("edge"))) as maps:
        table = maps["mesh_function"]
        ((key, row),) = (item for item in table.filled() if item[1].ifindex)
        row.flags |= FunctionFlag.XDP
        table.set(key, row)
        yield uplink
        row.flags &= ~FunctionFlag.XDP
        table.set(key, row)


@pytest.mark.parametrize("program", [CARRY.name, BOTH.name])
def test_xdp_in_front_leaves_alone_what_opens(by_xdp: Uplink, program: str) -> None:
    for what, make, *_ in CASES:
        for version in (4, 6):
            frame = by_xdp.frame(make(version))
            seen = by_xdp.early(frame, program)
            assert (seen.verdict, seen.packet) == (XDP_PASS, frame), what


@pytest.mark.parametrize("program", [CARRY.name, BOTH.name])
@pytest.mark.parametrize("version", [4, 6])
def test_xdp_in_front_carries_as_tc_would(
    by_xdp: Uplink, wanted: str, version: int, program: str
) -> None:
    frame = by_xdp.frame(udp(version, CLIENT, OWN, 3000, 53))
    before = meters(mesh_of(wanted)).get(("own", "outside"))
    assert by_xdp.early(frame, program).verdict == XDP_PASS
    assert by_xdp.run(frame).verdict == SENT  # and the flow has the MAC it was sent to
    tc, xdp = by_xdp.run(frame), by_xdp.early(frame, program)
    assert (tc.verdict, xdp.verdict) == (SENT, XDP_REDIRECT)
    assert xdp.packet == tc.packet != frame
    now = meters(mesh_of(wanted))["own", "outside"]
    assert now.rx_packets - (before.rx_packets if before else 0) == 3
    for other in (
        by_xdp.frame(udp(version, CLIENT, OWN, 3000, 53), to="02:00:00:00:00:77"),
        by_xdp.frame(udp(version, CLIENT, OWN, 3000, 53, ttl=1)),
        by_xdp.frame(Dot1Q(vlan=7) / udp(version, CLIENT, OWN, 3000, 53)),
    ):
        seen = by_xdp.early(other, program)
        assert (seen.verdict, seen.packet) == (XDP_PASS, other)
    apply.edit("edge", lambda mesh: mesh.model_copy(update={"policies": mesh.policies[:-1]}))
    apply.edit("edge", lambda _: mesh_of(wanted))
    assert by_xdp.early(frame, program).verdict == XDP_PASS  # of another epoch


@pytest.mark.parametrize("program", [CARRY.name, BOTH.name])
@pytest.mark.parametrize("version", [4, 6])
def test_xdp_in_front_ends_what_is_malformed(by_xdp: Uplink, version: int, program: str) -> None:
    """As its header says it is longer; what is for the host's own ports, too."""
    for port in (53, 22):
        whole = by_xdp.frame(udp(version, CLIENT, OWN, 3000, port, bytes(40)))
        seen = by_xdp.early(whole[:-1], program)
        assert (seen.verdict, seen.packet) == (XDP_DROP, whole[:-1])
        assert by_xdp.early(whole, program).verdict != XDP_DROP
