# SPDX-License-Identifier: BSD-2-Clause
"""The same network twice, with the mesh and with iptables, and the same packets sent into both.

    function eth0 ── veth ── host namespace ── veth ── function eth0
                                   └── veth ── eth0 outside

Nobody there answers: the namespaces drop what arrives after it was heard by a packet socket, so
that all packets are the test's. The whole process is on one CPU, where packets are forwarded in the
order they were sent; so a last packet to everybody that is known to pass says that all before it
have arrived or never will.
"""

import os
import socket
import struct
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path

from ebpfmesh import _abi, apply
from ebpfmesh.bench.topology import build_host, make_namespace
from ebpfmesh.kernel import interface, netns
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.model import Mesh, Policy
from equivalence.answers import is_prohibited
from equivalence.network import (
    FUNCTIONS,
    HOST,
    MESH,
    NAME,
    OUTSIDE_MAC,
    OUTSIDERS,
    PEERS,
    PROBE,
    UPLINK,
    UPLINKED,
    home,
    with_rules,
)
from equivalence.ruleset import MARK_INVALID, Judged, filter_table, nat_table, raw_table
from equivalence.shots import Shot, frames, tag_of
from equivalence.wrapping import ETHERNET
from support.topology import wait_until

RESTORE = {4: "iptables-nft-restore", 6: "ip6tables-nft-restore"}
SILENCE = "*raw\n:PREROUTING DROP [0:0]\n:OUTPUT DROP [0:0]\nCOMMIT\n"
HOMES = (*FUNCTIONS, PROBE, "outside")
EARS = tuple(name for name in HOMES if name != PROBE)
FENCE = b"[the end of batch %d]"
FLOWS = ("mesh_flow4", "mesh_flow6", "mesh_fragment")
ROUTER = {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
}
TRACKING = {
    # The mesh keeps no TCP windows: a segment is judged by its flags and its flow.
    "net/netfilter/nf_conntrack_tcp_be_liberal": "1",
    "net/netfilter/nf_conntrack_tcp_ignore_invalid_rst": "1",
    "net/netfilter/nf_conntrack_tcp_loose": "1",
    # Seconds to wait for the rest of a datagram: longer than a busy machine takes from one fragment
    # to the next; and no example is to see fragments of another, nor do they find no room.
    "net/ipv4/ipfrag_time": "4",
    "net/netfilter/nf_conntrack_frag6_timeout": "4",
    "net/ipv4/ipfrag_high_thresh": f"{64 << 20}",
    "net/netfilter/nf_conntrack_frag6_high_thresh": f"{64 << 20}",
}
ANSWERS = {
    # Every rejection is answered.
    "net/ipv4/icmp_ratemask": "0",
    "net/ipv6/icmp/ratemask": "255",  # a type that no message has
}
ROUTER_ADDRESSES = {"198.19.2.1": 32, "2001:db8:6::1": 128}
"""From which the host of iptables speaks for itself; that of the mesh has none."""
NETLINK_NETFILTER = 12
ETH_P_ALL = 0x0003
SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23
SO_RCVBUFFORCE = 33
ROOM = 64 << 20  # of a packet socket, for a batch

Heard = dict[Shot, tuple[bytes, ...]]
"""What arrived, from the IP header on; several packets of what was cut."""

Received = dict[str, list[bytes]]
"""Frames by whose they are."""

_Tagged = defaultdict[tuple[str, str], tuple[bytes, ...]]


class Side:
    """One of the two networks: packet sockets at everybody's interface."""

    def __init__(self, host: Path, homes: dict[str, Path], stack: ExitStack) -> None:
        self.host = host
        self._sockets = {name: _packet_socket(path, stack) for name, path in homes.items()}

    def send(self, shots: Iterable[Shot], first: int) -> None:
        """Send packets, in this order; ``first`` is the identifier of the first, if it is cut."""
        for identifier, shot in enumerate(shots, first):
            for frame in frames(shot, identifier):
                self._sockets[home(shot.source)].send(frame)

    def fence(self, number: int) -> None:
        """Send what ends a batch to everybody."""
        for name in EARS:
            self._sockets[PROBE].send(_fence(name, number))

    def clear(self) -> None:
        """Forget what arrived and was never asked for, as after a failure."""
        for name in EARS:
            with suppress(BlockingIOError):
                while True:
                    self._sockets[name].recv(1)

    def received(self, number: int) -> Received:
        """All frames that everybody got until the fence."""
        found: Received = {name: [] for name in EARS}
        end = FENCE % number
        for name, frames_of in found.items():
            wait_until(
                lambda name=name, found=frames_of: self._drain(name, found, end),  # type: ignore[misc]
                what=f"the end of the batch is heard by {name} in {self.host.name}",
            )
        return found

    def heard(self, number: int, shots: Iterable[Shot]) -> Heard:
        """Which of these packets arrived until the fence, where they should."""
        heard: _Tagged = defaultdict(tuple)
        for name, received in self.received(number).items():
            for data in received:
                if (tag := tag_of(data)) and not is_prohibited(data[ETHERNET:]):
                    heard[name, tag] += (data[ETHERNET:],)
        places = {(home(shot.destination), shot.tag): shot for shot in shots}
        assert heard.keys() <= places.keys(), "a packet came to another than it was for"
        return {places[place]: data for place, data in heard.items()}

    def _drain(self, name: str, found: list[bytes], end: bytes) -> bool:
        """Take all that is there; whether the fence was among it."""
        receive = self._sockets[name].recv
        while True:
            try:
                data = receive(4096)
            except BlockingIOError:
                return False
            if end in data:
                return True
            found.append(data)


def _fence(name: str, number: int) -> bytes:
    from scapy.layers.inet import IP, UDP  # noqa: PLC0415
    from scapy.layers.l2 import Ether  # noqa: PLC0415

    there = PEERS["o1" if name == "outside" else name].address4
    ends = Ether(src=PEERS[PROBE].mac, dst=interface.GATEWAY_MAC) / IP(
        src=PEERS[PROBE].address4, dst=there
    )
    return bytes(ends / UDP(sport=9, dport=9) / (FENCE % number))


def _packet_socket(namespace: Path, stack: ExitStack) -> socket.socket:
    with netns.entered(namespace):
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        stack.callback(raw.close)
        raw.bind(("eth0", ETH_P_ALL))
    raw.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM)
    raw.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    raw.setblocking(False)
    return raw


def restore(namespace: Path, version: int, rules: str) -> None:
    """Replace the tables that ``rules`` names, in a namespace."""
    with netns.entered(namespace):
        done = subprocess.run(
            [RESTORE[version]], input=rules, text=True, capture_output=True, check=False
        )
    assert done.returncode == 0, f"{done.stderr}{rules}"


def _flush_conntrack(namespace: Path) -> None:
    """IPCTNL_MSG_CT_DELETE without an attribute (linux/netfilter/nfnetlink_conntrack.h)."""
    with netns.entered(namespace):
        netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    with netlink:
        request_and_ack = 1 | 4
        netlink.send(struct.pack("=IHHIIBBH", 20, 1 << 8 | 2, request_and_ack, 1, 0, 0, 0, 0))
        answer = netlink.recv(4096)
    assert struct.unpack_from("=i", answer, 16) == (0,)


class World:
    """Both sides; ``rules`` and ``send`` do the same to both."""

    def __init__(self, mesh: Side, iptables: Side) -> None:
        self.mesh, self.iptables = mesh, iptables
        self._maps = Maps(Pins(NAME))
        self._batch = self._sent = 0
        self._base = MESH

    @contextmanager
    def by_uplink(self) -> Iterator[None]:
        """For the ``with`` block the outside is behind an uplink, where services are published."""
        with ExitStack() as stack:
            for side in (self.mesh, self.iptables):
                stack.callback(_lead_outside, side.host)  # routes go with the last address
                for address, length in ((HOST[4], 32), (HOST[6], 128)):
                    where = ["ip", "-n", side.host.name, "addr"]
                    which = [f"{address}/{length}", "dev", UPLINK]
                    subprocess.run([*where, "add", *which, "nodad"], check=True)
                    stack.callback(subprocess.run, [*where, "del", *which], check=True)
            stack.callback(self._become, MESH)
            self._become(UPLINKED)
            yield

    def _become(self, base: Mesh) -> None:
        self._base = base
        with netns.entered(self.mesh.host):
            apply.edit(NAME, lambda _: base)
        for version in (4, 6):
            restore(self.iptables.host, version, nat_table(base, version))

    def set_rules(
        self, rules: tuple[Policy, ...], judged: Judged, *, show_invalid: bool = False
    ) -> Mesh:
        """Give both sides these rules and no others; the mesh that has them."""
        wanted = with_rules(rules, self._base)
        with netns.entered(self.mesh.host):
            apply.edit(NAME, lambda _: wanted)
        for version in (4, 6):
            table = filter_table(wanted, version, judged, show_invalid=show_invalid)
            restore(self.iptables.host, version, table)
        return wanted

    def forget(self) -> None:
        """Both sides forget all flows, and whom they told something."""
        for key, _ in list(self._maps["mesh_answers"].items()):
            self._maps["mesh_answers"].set(key, _abi.Answers())
        for name in FLOWS:
            table = self._maps[name]
            for key, _ in list(table.items()):
                table.delete(key)
        _flush_conntrack(self.iptables.host)

    def send(self, shots: list[Shot]) -> tuple[Heard, Heard]:
        """Send packets into both; what was heard in the mesh, and behind iptables."""
        self._send(shots)
        return self.mesh.heard(self._batch, shots), self.iptables.heard(self._batch, shots)

    def receive(self, shots: list[Shot]) -> tuple[Received, Received]:
        """Send packets into both; all that everybody got in the mesh, and behind iptables."""
        self._send(shots)
        return self.mesh.received(self._batch), self.iptables.received(self._batch)

    def _send(self, shots: list[Shot]) -> None:
        self._batch += 1
        self.mesh.clear()
        self.iptables.clear()
        for side in (self.mesh, self.iptables):
            side.send(shots, self._sent)
            side.fence(self._batch)
        self._sent += len(shots)


@contextmanager
def world() -> Iterator[World]:
    """Both networks, up for the ``with`` block."""
    with ExitStack() as stack:
        stack.enter_context(_one_cpu())
        yield World(_mesh(stack), _iptables(stack))


@contextmanager
def _one_cpu() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _mesh(stack: ExitStack) -> Side:
    host = make_namespace("eqv-mesh", stack)
    stack.callback(_down, host)
    homes = {"outside": _plug_outside("eqv-mesh", host, stack)}
    with netns.entered(host):
        _write(ROUTER)
        apply.up(MESH)
    homes |= {f.name: netns.RUN / netns.name_of(NAME, f.name) for f in MESH.functions}
    return _side(host, homes, stack)


def _down(host: Path) -> None:
    with netns.entered(host):
        apply.down(NAME)


def _iptables(stack: ExitStack) -> Side:
    built = build_host("eqv-iptables", MESH, stack)
    homes = {name: member.netns for name, member in built.members.items()}
    homes["outside"] = _plug_outside("eqv-iptables", built.netns, stack)
    with netns.entered(built.netns):
        names = {
            name: socket.if_indextoname(member.ifindex) for name, member in built.members.items()
        }
    names["outside"] = UPLINK
    macs = {name: member.mac for name, member in built.members.items()}
    for version in (4, 6):
        restore(built.netns, version, raw_table(MESH, version, names, macs))
        restore(built.netns, version, MARK_INVALID)
    with netns.entered(built.netns), netns.rtnetlink() as ip:
        _write(TRACKING | ANSWERS)  # which are there since a table asked for them
        for address, length in ROUTER_ADDRESSES.items():
            ip.addr("add", index=interface.LOOPBACK, address=address, prefixlen=length)
    return _side(built.netns, homes, stack)


def _side(host: Path, homes: dict[str, Path], stack: ExitStack) -> Side:
    for path in homes.values():
        for version in (4, 6):
            restore(path, version, SILENCE)
    return Side(host, homes, stack)


def _write(settings: dict[str, str]) -> None:
    for name, value in settings.items():
        (Path("/proc/sys") / name).write_text(value)


def _lead_outside(host: Path) -> None:
    """Have the host's routes and neighbours lead there."""
    with netns.entered(host):
        index = socket.if_nametoindex(UPLINK)
        for party in OUTSIDERS:
            addresses = tuple(ip_address(PEERS[party].at(version)) for version in (4, 6))
            interface.configure_host(index, OUTSIDE_MAC, addresses)


def _plug_outside(name: str, host: Path, stack: ExitStack) -> Path:
    """A namespace beside the functions', for all parties that are outside."""
    outside = make_namespace(f"{name}.outside", stack)
    with netns.entered(host), netns.rtnetlink() as ip, outside.open() as target:
        peer = {"ifname": "eth0", "net_ns_fd": target.fileno(), "address": OUTSIDE_MAC}
        ip.link("add", ifname=UPLINK, kind="veth", address=interface.GATEWAY_MAC, peer=peer)
    _lead_outside(host)
    with netns.rtnetlink(outside) as ip:
        ip.link("set", index=ip.link_lookup(ifname="eth0")[0], state="up")
    return outside
